import dataclasses
import enum
import json
import math
import os
import re
import subprocess
import sys
from typing import Any, Literal

import pytest

from motivnet.config import fingerprint, flatten, from_plain, override, to_plain
from motivnet.errors import ConfigError


class Color(enum.StrEnum):
    RED = "red"
    GREEN = "green"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    head_lr: float
    weight_decay: float = 0.05
    name: Literal["adamw", "sgd"] = "adamw"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    optimizer: Optimizer
    epochs: int = 10
    ema: bool = True
    title: str = "untitled"
    color: Color = Color.RED
    size: tuple[int, int] = (96, 96)
    mean: tuple[float, ...] = (127.5,)
    limit: int | None = None
    amount: float | str = 1.0
    second: Optimizer | None = None
    scores: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


FULL = Recipe(
    optimizer=Optimizer(head_lr=1e-3, name="sgd"),
    color=Color.GREEN,
    size=(1024, 768),
    mean=(1.0, 2.0, 3.0),
    limit=7,
    amount="all",
    second=Optimizer(head_lr=2.0),
    scores={"FER-2013": {"war": 0.7}},
    notes={"who": ["a", {"b": None}]},
)
MINIMAL = {"optimizer": {"head_lr": 0.1}}


# Both ways


@pytest.mark.parametrize("recipe", [Recipe(optimizer=Optimizer(head_lr=0.1)), FULL])
def test_there_and_back_through_json(recipe):
    assert from_plain(Recipe, json.loads(json.dumps(to_plain(recipe)))) == recipe


def test_plain_data_is_what_json_can_say():
    plain = to_plain(FULL)
    assert plain["color"] == "green"
    assert type(plain["color"]) is str
    assert plain["size"] == [1024, 768]
    assert plain["optimizer"] == {"head_lr": 1e-3, "weight_decay": 0.05, "name": "sgd"}
    assert plain["notes"] == {"who": ["a", {"b": None}]}
    assert json.loads(json.dumps(plain)) == plain


def test_defaults_fill_what_is_not_said():
    assert from_plain(Recipe, MINIMAL) == Recipe(optimizer=Optimizer(head_lr=0.1))


def test_values_get_the_type_of_their_setting():
    recipe = from_plain(Recipe, {"optimizer": {"head_lr": 1}, "mean": [1, 2], "size": [3, 4], "color": "green"})
    assert type(recipe.optimizer.head_lr) is float
    assert [type(value) for value in recipe.mean] == [float, float]
    assert recipe.size == (3, 4)
    assert recipe.color is Color.GREEN


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'"),
        ({"zzz": 3}, "unknown setting 'zzz'. Allowed: amount, color, ema"),
        ({5: 3}, "unknown setting '5'"),
        (
            {"optimizer": {"head_lr": 1.0, "head_lrr": 2.0}},
            "^optimizer: unknown setting 'head_lrr'; did you mean 'head_lr'",
        ),
        ({"optimizer": {}}, "^optimizer: missing head_lr"),
        ({"optimizer": 3}, "^optimizer: expected settings of Optimizer, found 3"),
        ({"optimizer": None}, "^optimizer: expected settings of Optimizer"),
        ({"second": {"head_lr": "fast"}}, "^second.head_lr: expected float, found 'fast'"),
        (
            {"optimizer": {"head_lr": 1.0, "name": "adam"}},
            "^optimizer.name: 'adam' is not allowed. Allowed: 'adamw', 'sgd'",
        ),
        ({"epochs": 3.0}, "^epochs: expected int, found 3.0"),
        ({"epochs": True}, "^epochs: expected int, found True"),
        ({"epochs": None}, "^epochs: expected int, found None"),
        ({"epochs": "3"}, "^epochs: expected int, found '3'"),
        ({"ema": 1}, "^ema: expected bool, found 1"),
        ({"title": 3}, "^title: expected str, found 3"),
        ({"color": "gren"}, "^color: unknown value 'gren'; did you mean 'green'"),
        ({"color": ["red"]}, "^color: unknown value"),
        ({"size": [1]}, "^size: expected 2 values, found 1"),
        ({"size": [1, 2, 3]}, "^size: expected 2 values, found 3"),
        ({"size": [1, "b"]}, r"^size\[1\]: expected int, found 'b'"),
        ({"size": 96}, "^size: expected a list, found 96"),
        ({"size": "96"}, "^size: expected a list, found '96'"),
        ({"mean": [1, None]}, r"^mean\[1\]: expected float, found None"),
        ({"limit": "many"}, "^limit: expected int, found 'many'"),
        ({"amount": None}, "^amount: expected str, found None"),
        ({"scores": [1]}, "^scores: expected a mapping"),
        ({"scores": {"a": 1}}, "^scores.a: expected a mapping, found 1"),
        ({"scores": {"a": {"war": "high"}}}, "^scores.a.war: expected float, found 'high'"),
        ({"mean": [10**400]}, r"^mean\[0\]: the number is too large"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change, message):
    with pytest.raises(ConfigError, match=message):
        from_plain(Recipe, MINIMAL | change)


@pytest.mark.parametrize("data", [None, 3, [], "x", FULL.optimizer])
def test_what_is_no_mapping(data):
    with pytest.raises(ConfigError, match=r"^Recipe: expected settings of Recipe"):
        from_plain(Recipe, data)


def test_every_missing_setting_is_named():
    @dataclasses.dataclass(frozen=True)
    class Two:
        first: int
        second: int
        third: int = 0

    with pytest.raises(ConfigError, match=r"Two: missing first, second$"):
        from_plain(Two, {})


# Overriding


@pytest.mark.parametrize(
    ("assignment", "place", "value"),
    [
        ("optimizer.head_lr=1e-4", ("optimizer", "head_lr"), 1e-4),
        ("optimizer.name=adamw", ("optimizer", "name"), "adamw"),
        ("epochs=3", ("epochs",), 3),
        (" epochs =3", ("epochs",), 3),
        ("ema=false", ("ema",), False),
        ("limit=null", ("limit",), None),
        ("title=a=b", ("title",), "a=b"),
        ("title=", ("title",), ""),
        ('title="5"', ("title",), "5"),
        ("size=[224, 224]", ("size",), (224, 224)),
        ("color=red", ("color",), Color.RED),
        ('second={"head_lr": 3}', ("second",), Optimizer(head_lr=3.0)),
        ("second.head_lr=4", ("second", "head_lr"), 4.0),
        ("second=null", ("second",), None),
    ],
)
def test_override(assignment, place, value):
    changed = override(FULL, [assignment])
    found = changed
    for name in place:
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)
    assert dataclasses.replace(changed, **{place[0]: getattr(FULL, place[0])}) == FULL


def test_the_last_assignment_counts_and_the_original_stays():
    changed = override(FULL, ["epochs=3", "optimizer.weight_decay=0", "epochs=4"])
    assert (changed.epochs, changed.optimizer.weight_decay) == (4, 0.0)
    assert FULL.epochs == 10
    assert override(FULL, []) == FULL


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs", "'epochs' is not an assignment. Allowed: name=value"),
        ("", "'' is not an assignment"),
        ("=3", "unknown setting ''"),
        ("epoch=3", "epoch: unknown setting 'epoch'; did you mean 'epochs'"),
        ("optimizer.head_l=3", "optimizer.head_l: unknown setting 'head_l'; did you mean 'head_lr'"),
        ("optimiser.head_lr=3", "unknown setting 'optimiser'; did you mean 'optimizer'"),
        ("epochs.x=3", "epochs.x: 'x' has no settings inside"),
        ("size.0=3", "has no settings inside"),
        ("epochs=three", "epochs: expected int, found 'three'"),
        ("optimizer=sgd", "optimizer: expected settings of Optimizer, found 'sgd'"),
        ("optimizer.name=adam", "Allowed: 'adamw', 'sgd'"),
        ("epochs=" + "9" * 5000, "epochs: expected int"),
    ],
)
def test_override_refuses(assignment, message):
    with pytest.raises(ConfigError, match=message):
        override(FULL, [assignment])


# Fingerprints


def test_a_fingerprint_depends_on_the_values_only():
    assert fingerprint(FULL) == fingerprint(from_plain(Recipe, to_plain(FULL)))
    assert re.fullmatch("p[0-9a-f]{12}", fingerprint(FULL))
    assert fingerprint(FULL) != fingerprint(override(FULL, ["epochs=11"]))
    assert fingerprint(FULL) != fingerprint(override(FULL, ["mean=[2.0, 1.0, 3.0]"]))


def test_equal_settings_have_equal_fingerprints_however_they_were_written():
    whole, decimal = Optimizer(head_lr=1), Optimizer(head_lr=1.0)
    assert whole == decimal
    assert fingerprint(whole) == fingerprint(decimal)
    one, other = {"b": 1, "a": 2}, {"a": 2, "b": 1}
    recipes = [Recipe(optimizer=decimal, notes=notes) for notes in (one, other)]
    assert fingerprint(recipes[0]) == fingerprint(recipes[1])


def test_the_smallest_difference_of_a_number_counts():
    assert fingerprint(Optimizer(head_lr=0.1)) != fingerprint(Optimizer(head_lr=math.nextafter(0.1, 1)))


def test_fingerprints_do_not_depend_on_the_process():
    code = (
        "from motivnet.config import fingerprint; from motivnet.preprocess import PREPROCESSINGS;"
        "print({name: fingerprint(item) for name, item in PREPROCESSINGS.items()})"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1")
    }
    assert len(runs) == 1


def test_flatten_gives_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": [2, 3]}, "d": None}) == {"a.b": 1, "a.c": [2, 3], "d": None}
