"""Options that are derived from settings dataclasses, as typer sees them and as the verb receives them."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from motivnet.cli.options import Fields, derive_options
from motivnet.config import check_bounds, setting
from motivnet.errors import ConfigError
from motivnet.inference.predictor_config import PredictorConfig, parse_size
from motivnet.server.settings import ServerSettings


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    num_things: int = setting(3, "How many things.", min=1, max=9)
    fast: bool = setting(False, "Be fast.")
    shown: bool = setting(True, "Show them.")
    size: tuple[int, int] | None = setting(None, "The size.", metavar="HxW", parse=parse_size)
    names: tuple[str, ...] = setting((), "A name; may be repeated.", flag="name")
    kind: Literal["ddp", "fsdp"] = setting("ddp", "The kind.")
    part: Literal["head", "all"] | None = setting(None, "The part.")
    place: Path | None = setting(None, "A folder.", metavar="DIR")
    rate: float | None = setting(None, "The rate.")
    secret: str = setting("none", "Never typed.", flag=None)
    undocumented: int = 7

    def __post_init__(self) -> None:
        check_bounds(self)


def run(verb: Any, *arguments: str) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(verb)
    return CliRunner().invoke(app, arguments)


def built(fields: Fields, *arguments: str) -> Settings:
    """Parse arguments into settings."""
    found: list[Settings] = []

    @derive_options
    def verb(
        inputs: Annotated[list[str], typer.Argument()],
        top: Annotated[int, typer.Option(help="Of the verb.")] = 1,
        *,
        settings: Annotated[Settings, fields],
    ) -> None:
        """Do it."""
        assert (inputs, top) == (["in"], 1)
        found.append(settings)

    result = run(verb, "in", *arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return found[0]


def test_without_options_the_defaults_are_built() -> None:
    assert built(Fields()) == Settings()


def test_every_kind_of_field_has_an_option() -> None:
    typed = "--num-things 5 --fast --no-shown --size 64x96 --name a --name b --kind fsdp --part head --place d --rate 2"
    assert built(Fields(), *typed.split()) == Settings(
        num_things=5,
        fast=True,
        shown=False,
        size=(64, 96),
        names=("a", "b"),
        kind="fsdp",
        part="head",
        place=Path("d"),
        rate=2.0,
    )


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--kind dpp", "kind: 'dpp' is not allowed. Allowed: 'ddp', 'fsdp'"),
        ("--size 64", "Allowed: HEIGHTxWIDTH"),
    ],
)
def test_wrong_values_are_named(typed: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(Fields(), *typed.split())


def test_fields_can_be_chosen_and_changed() -> None:
    changed = Fields(leave_out=("fast",), change={"num_things": {"default": 4, "help": "Fewer things."}})
    assert built(changed) == Settings(num_things=4)

    @derive_options
    def verb(*, settings: Annotated[Settings, Fields(only=("num_things", "secret"), change=changed.change)]) -> None:
        """Do it."""
        assert settings == Settings(num_things=2, secret="told")

    assert run(verb, "--num-things", "2", "--secret", "told").exit_code == 0
    shown = run(verb, "--help").output
    assert "Fewer things." in shown
    assert "Do it." in shown
    assert not any(flag in shown for flag in ("--fast", "--undocumented", "--settings"))
    for refused in (["--num-things", "0"], ["--num-things", "10"], ["--fast"]):
        assert run(verb, *refused).exit_code == 2
    with pytest.raises(ValueError, match=r"Settings: no settings \['undocumented'\]"):
        Fields(only=("undocumented",)).of(Settings)


def test_bounds_hold_in_python_too() -> None:
    with pytest.raises(ConfigError, match="num_things 0: must be at least 1"):
        Settings(num_things=0)
    with pytest.raises(ConfigError, match="num_things 10: must be at most 9"):
        Settings(num_things=10)


def test_the_projects_settings_are_built() -> None:
    @derive_options
    def verb(*, predictor: PredictorConfig, settings: ServerSettings) -> None:
        """Do it."""
        assert predictor == PredictorConfig(abstain_below="stored", image_size=(96, 64), device="cpu", threads=1)
        assert settings == ServerSettings(batch_wait_ms=0, cors_origins=("*",), allow_urls=True)

    typed = (
        "--abstain-below stored --size 96x64 --device cpu --threads 1 --batch-wait-ms 0 --cors-origin * --allow-urls"
    )
    result = run(verb, *typed.split())
    assert result.exit_code == 0, result.exception


def test_the_docstring_of_a_verb_has_the_help_of_its_options():
    def verb(inputs: Annotated[list[str], typer.Argument()], top: int = 1, fast: bool = False) -> None:
        """Do it.

        Options:
            inputs: What it is
                done with: all of it.
            top: How many.
        """

    shown = run(derive_options(verb), "--help").output
    assert "What it is done with: all of it." in shown
    assert "How many." in shown
    assert "Options:" not in shown


def test_help_for_a_parameter_that_does_not_exist_is_refused():
    def verb(top: int = 1) -> None:
        """Do it.

        Options:
            topp: How many.
        """

    with pytest.raises(ValueError, match="topp"):
        derive_options(verb)


def test_the_docstring_of_settings_has_the_help_that_their_fields_leave_out():
    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Documented:
        """Settings.

        Args:
            speed: How fast.
            size: Of the class.
        """

        speed: int = setting(3)
        size: int = setting(3, "Of the field.")

    found = Fields().of(Documented)
    assert [how["help"] for how in found.values()] == ["How fast.", "Of the field."]
