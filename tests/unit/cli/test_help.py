"""`--help` of every command: an example that is accepted, nothing cut off in 80 columns, options under headings."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from motivnet.cli.main import app

PROGRAM: Any = typer.main.get_command(app)


def commands(group: Any, *words: str) -> Iterator[tuple[str, ...]]:
    for name, below in group.commands.items():
        yield from commands(below, *words, name) if hasattr(below, "commands") else [(*words, name)]


ALL = sorted(commands(PROGRAM))


def help_of(words: tuple[str, ...], columns: int) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"})
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_example_is_one_of_this_command_and_is_accepted(words):
    (example,) = re.findall(r"Example: (motivnet .*)", help_of(words, 300))
    name, *arguments = shlex.split(example)
    context = PROGRAM.make_context(name, arguments)
    for expected in words:
        found, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert found == expected
        # An option that does not exist, or an argument too few, is an error here.
        context = command.make_context(found, rest, parent=context)


@pytest.mark.parametrize("words", [(), *ALL], ids=" ".join)
def test_nothing_is_cut_off_in_80_columns(words):
    shown = help_of(words, 80)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_many_options_stand_under_several_headings(words):
    shown = help_of(words, 100)
    headings = re.findall(r"^╭─ (.+?) ─+╮$", shown, re.MULTILINE)
    options = [line for line in shown.splitlines() if re.match(r"│ [* ] +--", line)]
    assert len(options) <= 14 or len(set(headings) - {"Arguments"}) > 1, headings


def test_a_shell_completes_verbs_and_options():
    def complete(line: str) -> set[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_MOTIVNET_COMPLETE": "complete_bash"}
        done = subprocess.run(
            [sys.executable, "-m", "motivnet"], env=os.environ | words, capture_output=True, text=True, check=True
        )
        return set(done.stdout.split())

    assert complete("motivnet ev") == {"evaluate"}
    assert complete("motivnet audit --gr") == {"--groups-csv"}
