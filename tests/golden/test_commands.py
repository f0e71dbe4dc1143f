"""What the program offers: every command with its options and defaults, and the text of its help.

The options are an interface, and stand in a file of their own: `options.json`. The text of the help may be reworded.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from motivnet.cli.main import app


def walk(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give all commands of a tree, each with the words that call it."""
    yield names, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from walk(below, *names, name)


COMMANDS = dict(walk(typer.main.get_command(app)))


def describe(option: Any) -> dict[str, Any]:
    """Describe an option or argument as plain data: what a caller can rely on, and no words."""
    # Older versions of typer keep the range with the type.
    kind = getattr(option, "type", option)
    ends = {name: getattr(kind, name, None) for name in ("min", "max")}
    marks = {name: True for name in ("required", "multiple", "is_flag", "hidden") if getattr(option, name, False)}
    usual = {"nargs": 1, "envvar": None}
    others = {name: getattr(option, name) for name, value in usual.items() if getattr(option, name) != value}
    return (
        {"default": plain(option.default)}
        | {name: value for name, value in ends.items() if value is not None}
        | marks
        | others
    )


def plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | list) else str(value)


def flags(option: Any) -> str:
    """Spell the names of an option; those that switch it off stand after a slash."""
    return " / ".join(", ".join(names) for names in (option.opts, option.secondary_opts) if names)


def interface(command: Any) -> dict[str, dict[str, Any]]:
    """Describe the arguments of a command in their order, then its options by name."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = sorted((each for each in command.params if each.param_type_name == "option"), key=flags)
    numbered = {f"argument {number}": describe(each) for number, each in enumerate(arguments, 1)}
    return numbered | {flags(each): describe(each) for each in options}


def test_options_and_defaults(golden):
    # One line per option, so that a difference shows which.
    blocks = []
    for words, command in COMMANDS.items():
        lines = [f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in interface(command).items()]
        body = "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"
        blocks.append(f"  {json.dumps(' '.join(['motivnet', *words]))}: {body}")
    text = "{\n" + ",\n".join(blocks) + "\n}\n"
    assert json.loads(text)
    golden.check("options.json", text, tolerance=lambda _: 0)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help(words, golden, run):
    golden.check(f"help/{'_'.join(['motivnet', *words])}.txt", run(*words, "--help"), tolerance=lambda _: 0)


def test_no_help_of_commands_that_are_gone(golden):
    golden.check_names("help", {f"{'_'.join(['motivnet', *words])}.txt" for words in COMMANDS})
