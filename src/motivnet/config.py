"""Strict conversion between frozen dataclasses and plain data for JSON.

Every setting of the project is a field of a frozen dataclass, defined next to the code that it configures. An unknown
key is an error with a suggestion.
"""

import dataclasses
import enum
import hashlib
import json
import math
import operator
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from motivnet.errors import ConfigError, OutputError, require, reraised, unknown_name

T = TypeVar("T")
MAX_NESTING = 100
# Bounds of a field: the words of a message, and what must hold; NaN holds nowhere.
RULES = {
    "min": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "max": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def setting(default: Any, help: str | None = None, **option: Any) -> Any:
    """Declare a field of a settings dataclass that the command line offers as an option.

    Args:
        default: default of the field.
        help: meaning of the field, for `--help` and the reader of the class; None, if the class's docstring states it.
        option: `flag`, the option's name if it is not the field's, or None for no option at all; `parse`, a function
            that reads the option's text; and arguments of `typer.Option`, such as `metavar`, `min` and `max`.
    """
    return dataclasses.field(default=default, metadata={"help": help, **option})


def bounded(
    low: float | None = None,
    high: float | None = None,
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare a field that has no option, with bounds that `check_bounds` checks; `above` and `below` are excluded."""
    return dataclasses.field(default=default, metadata={"min": low, "max": high, "above": above, "below": below})


def check_bounds(settings: Any) -> None:
    """Check the fields of a dataclass against the bounds that they were declared with.

    Raises:
        ConfigError: if a value, or one of a tuple, is out of range; None always passes.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        for rule, (words, holds) in RULES.items():
            bound = field.metadata.get(rule)
            if bound is not None and not all(holds(number, bound) for number in numbers):
                raise ConfigError(f"{field.name} {value!r}: must be {words} {bound}")


class Settings:
    """Base of dataclasses whose values are checked against the bounds that their fields were declared with."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Check the bounds; ConfigError."""
        check_bounds(self)


def replace(settings: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of a dataclass with some fields changed.

    Raises:
        ConfigError: if a name is not a field, with a suggestion.
    """
    names = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    for name in changes:
        if name not in names:
            raise ConfigError(unknown_name("option", name, names))
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def to_plain(value: Any) -> Any:
    """Convert a dataclass, recursively, to dicts, lists, numbers, strings and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def from_plain(cls: type[T], data: Any, where: str = "") -> T:
    """Build the dataclass `cls` from plain data.

    Args:
        cls: a dataclass.
        data: a mapping of its field names to plain values.
        where: dotted path of `data` in the settings, for messages.

    Raises:
        ConfigError: if a key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where or cls.__name__}: expected settings of {cls.__name__}, found {data!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in fields:
            raise ConfigError(f"{where + ': ' if where else ''}{unknown_name('setting', str(key), fields)}")
    values = {key: _convert(hints[key], item, f"{where}.{key}".lstrip(".")) for key, item in data.items()}
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    require(not missing, f"{where or cls.__name__}: missing {', '.join(missing)}")
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where}: {value!r} is not allowed. Allowed: {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a mapping, found {value!r}")
        return {key: _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_plain(hint, value, where)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in [member.value for member in hint]:
            raise ConfigError(f"{where}: {unknown_name('value', str(value), [str(m.value) for m in hint])}")
        return hint(value)
    return _convert_scalar(hint, value, where)


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in args:
        return None
    candidates = [arg for arg in args if arg is not types.NoneType]
    for candidate in candidates[:-1]:
        try:
            return _convert(candidate, value, where)
        except ConfigError:
            continue
    return _convert(candidates[-1], value, where)


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, found {value!r}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    require(len(value) == len(args), f"{where}: expected {len(args)} values, found {len(value)}")
    return tuple(_convert(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: the number is too large") from None
    if hint is Any:
        return value
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, found {value}")
    return value


def parse_json(text: str) -> Any:
    """Parse JSON that somebody else may have written.

    Raises:
        ValueError: if it is no JSON, has a number that is not finite, or is nested too deeply.
    """
    level: list[Any]
    try:
        level = [data := json.loads(text, parse_float=_finite, parse_constant=_finite)]
    except RecursionError:
        raise ValueError(f"nested more than {MAX_NESTING} deep") from None
    for _ in range(MAX_NESTING):
        level = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [inner for item in level if isinstance(item, list) for inner in item]
        if not level:
            return data
    raise ValueError(f"nested more than {MAX_NESTING} deep")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text!r} is no finite number")
    return value


def to_json(plain: Any, **options: Any) -> str:
    """Write plain data as JSON, with options of `json.dumps`; the one place that does.

    Raises:
        OutputError: at NaN or an infinity, which JSON does not have.
    """
    with reraised(OutputError, "a result cannot be written as JSON", ValueError):
        return json.dumps(plain, allow_nan=False, **options)  # noqa: TID251


def override(settings: T, assignments: list[str]) -> T:
    """Return `settings` with `dotted.name=value` assignments applied; values are read as JSON, else as text.

    Raises:
        ConfigError: if an assignment has no `=`, a name is unknown, or a value has the wrong type.
    """
    data = to_plain(settings)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(
                f"{assignment!r} is not an assignment. Allowed: name=value, such as optimizer.head_lr=1e-4"
            )
        try:
            value = parse_json(text)
        except ValueError:
            value = text
        *parents, last = name.strip().split(".")
        node = data
        for parent in parents:
            node = _child(node, parent, name)
        _child(node, last, name)
        node[last] = value
    return from_plain(type(settings), data)


def _child(node: Any, key: str, name: str) -> Any:
    if not isinstance(node, dict):
        raise ConfigError(f"{name}: {key!r} has no settings inside")
    if key not in node:
        raise ConfigError(f"{name}: {unknown_name('setting', key, node)}")
    return node[key]


def flatten(plain: Any, where: str = "") -> dict[str, Any]:
    """Flatten plain settings to dotted names, as `--set` accepts them."""
    if not isinstance(plain, dict):
        return {where: plain}
    return {
        name: value
        for key, item in plain.items()
        for name, value in flatten(item, f"{where}.{key}".lstrip(".")).items()
    }


def fingerprint(settings: Any, *, added: Collection[str] = ()) -> str:
    """Return the letter `p` and the first 12 hex digits of the SHA-256 of the settings in canonical JSON.

    The letter keeps pandas and Excel from reading one like `22228679e344` as a number.

    Args:
        settings: a dataclass.
        added: settings that were added later, and are left out where they are off, so that older fingerprints stay.
    """
    # Reading the settings back turns 1 into 1.0 for a float, as the two are equal.
    canonical = from_plain(type(settings), to_plain(settings))
    plain = {name: value for name, value in to_plain(canonical).items() if value or name not in added}
    text = to_json(plain, sort_keys=True, separators=(",", ":"))
    return "p" + hashlib.sha256(text.encode()).hexdigest()[:12]
