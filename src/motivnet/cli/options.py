"""Options of the verbs: those derived from settings dataclasses, and those that several verbs have."""

import collections
import contextlib
import copy
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperOption

from motivnet import config
from motivnet.cli.console import waiting
from motivnet.errors import ConfigError


def option(metavar: str, *names: str, **others: Any) -> Any:
    """Declare an option with a value, which `metavar` stands for in the help."""
    return typer.Option(*names, metavar=metavar, **others)


def flag(name: str, help: str | None = None) -> Any:
    """Declare an option without a value."""
    return typer.Option(name, help=help)


def argument(metavar: str, help: str | None = None) -> Any:
    """Declare an argument, which has no name but `metavar`."""
    return typer.Argument(metavar=metavar, help=help)


MODEL_HELP = "Embedded model, folder of a bundle, released file, or name from `motivnet weights list`."
Model = Annotated[str, typer.Option(help=MODEL_HELP)]
# Fields of `PredictorConfig` about face detection.
DETECTION = ("detector", "min_score", "min_face", "long_side")
# Verbs that may take seconds and count nothing.
WITHOUT_STEPS = ("agree", "build", "convert", "explain", "export", "sample", "tabulate", "verify")
Excel = Annotated[bool, flag("--excel", "Mark a .csv file as UTF-8 by a byte order mark, which Excel needs.")]
Overwrite = Annotated[bool, flag("--overwrite", "Replace output that exists already.")]


class OnceCommand(TyperCommand):
    """A verb that refuses an option given twice, of which only the last value would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; ConfigError at an option with a value that is repeated, unless it takes several."""
        given = collections.Counter(self.make_parser(ctx).parse_args(list(args))[2])
        for option, times in given.items():
            if times > 1 and isinstance(option, TyperOption) and not (option.multiple or option.is_flag):
                raise ConfigError(f"{option.opts[-1]}: given {times} times. Allowed: once")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; those without progress of their own show that they are at work."""
        with waiting(ctx.command_path) if self.name in WITHOUT_STEPS else contextlib.nullcontext():
            return super().invoke(ctx)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """Which fields of a settings dataclass a verb offers: `Annotated[PredictorConfig, Fields(only=("device",))]`.

    Args:
        only: names of the fields, in the order of `--help`; None takes all that were declared with `config.setting`.
        leave_out: names of fields to skip.
        change: name of a field -> what is different in this verb: `default`, `help` or any argument of `setting`.
    """

    only: Sequence[str] | None = None
    leave_out: Sequence[str] = ()
    change: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def of(self, settings: type) -> dict[str, dict[str, Any]]:
        """Return the names of the chosen fields with how they are declared, and their help.

        Raises:
            ValueError: at a name that is not such a field.
        """
        declared = {field.name: field.metadata for field in dataclasses.fields(settings) if field.metadata}
        unknown = {*(self.only or ()), *self.leave_out, *self.change} - declared.keys()
        if unknown:
            raise ValueError(f"{settings.__name__}: no settings {sorted(unknown)}. Allowed: {', '.join(declared)}")
        offered = self.only or [name for name in declared if declared[name].get("flag", name)]
        texts = collections.ChainMap(*(_split_docstring(cls, "Args")[1] for cls in settings.__mro__))
        defaults = {field.name: field.default for field in dataclasses.fields(settings)}
        return {
            name: {
                "default": defaults[name],
                **declared[name],
                "help": declared[name].get("help") or texts.get(name),
                **self.change.get(name, {}),
            }
            for name in offered
            if name not in self.leave_out
        }


def derive_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb one option per field of each parameter that is a settings dataclass, and help for the others.

    typer sees the options; the verb is called with the dataclasses that are built from them.

    Args:
        verb: a function for typer; its settings are keyword-only, annotated with the dataclass or, to choose fields,
            with `Annotated[dataclass, Fields(...)]`. The help of its other parameters is the section `Options` at the
            end of its docstring, which is written as the section `Args` of other functions.

    Raises:
        ValueError: at help for a parameter that does not exist.
    """
    about, texts = _split_docstring(verb, "Options")
    hints = typing.get_type_hints(verb, include_extras=True)
    parameters, settings = [], {}
    for parameter in inspect.signature(verb).parameters.values():
        hint = hints[parameter.name]
        cls, *extras = typing.get_args(hint) or (hint,)
        if isinstance(cls, type) and dataclasses.is_dataclass(cls):
            (fields,) = extras or (Fields(),)
            declared, types_of = fields.of(cls), typing.get_type_hints(cls)
            panel = re.sub("(Config|Settings|Options)$", "", cls.__name__)
            for name, how in declared.items():
                own = "Face detection" if name in DETECTION else panel
                parameters.append(_option(name, types_of[name], **{"rich_help_panel": own, **how}))
            settings[parameter.name] = cls, {name: how.get("parse") for name, how in declared.items()}
        else:
            hint = _with_help(hint, texts.pop(parameter.name, None))
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))
    if texts:
        raise ValueError(f"{verb.__name__}: help for {sorted(texts)}, which are no parameters")

    @functools.wraps(verb)
    def run(**values: Any) -> None:
        for name, (cls, parsers) in settings.items():
            given = {field: values.pop(field) for field in parsers}
            for field, parse in parsers.items():
                if parse and given[field] is not None:
                    given[field] = parse(given[field])
            values[name] = config.from_plain(cls, given)
        verb(**values)

    run.__doc__ = about
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _split_docstring(documented: Any, title: str) -> tuple[str, dict[str, str]]:
    """Return what is before the last section of a docstring, which has this title, and its entries: name -> text.

    Own code, as docstring-parser would be one more dependency of the core for a single pattern, and knows no section
    `Options`.
    """
    about, _, listed = inspect.cleandoc(documented.__doc__ or "").partition(f"\n\n{title}:\n")
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", listed, re.MULTILINE)
    return about, {name: " ".join(text.split()) for name, text in entries}


def _with_help(hint: Any, text: str | None) -> Any:
    if text is None:
        return hint
    kind, info = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint, typer.Option())
    info = copy.copy(info)
    info.help = text
    return Annotated[kind, info]


def _option(
    name: str, hint: Any, *, default: Any, flag: str | None = None, parse: Any = None, **stated: Any
) -> inspect.Parameter:
    """Return the parameter that typer turns into an option."""
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kind = typing.get_args(hint)[0] if optional else hint
    if parse:
        hint = str | None
    elif typing.get_origin(kind) is Literal:
        # Older versions of typer have no Literal; `from_plain` checks the value.
        stated = {"metavar": "|".join(typing.get_args(kind)), **stated}
        hint = str | None if optional else str
    elif typing.get_origin(kind) is tuple and typing.get_args(kind)[-1] is Ellipsis:
        hint, default = list[typing.get_args(kind)[0]], list(default)
    flag = flag or name.replace("_", "-")
    names = f"--{flag}/--no-{flag}" if default is True else f"--{flag}"
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
        annotation=Annotated[hint, typer.Option(names, **stated)],
    )
