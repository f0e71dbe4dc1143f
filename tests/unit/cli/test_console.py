"""Progress on a terminal, results in a file."""

import contextlib
import os
import subprocess
import sys

import pytest

from motivnet.cli.console import open_bar, track, waiting

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
SHOW = """
from motivnet.cli.console import track, waiting

with waiting("getting ready"):
    print("first")
for number in track(range(3), total=3, what="numbers"):
    print("result", number)
"""


def read_all(terminal: int) -> str:
    """Read what its other end, which is closed, has written: the slower it was, the more pieces it comes in."""
    shown = b""
    # Linux ends with an error, others with nothing.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 100_000):
            shown += piece
    return shown.decode()


def test_a_bar_is_drawn_on_the_terminal_and_results_reach_the_file():
    terminal, its_end = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SHOW], stdout=subprocess.PIPE, stderr=its_end, text=True, check=True, env=os.environ
    )
    os.close(its_end)
    shown = read_all(terminal)
    os.close(terminal)
    assert done.stdout == "first\nresult 0\nresult 1\nresult 2\n"
    assert "getting ready" in shown
    assert "numbers" in shown
    assert "result" not in shown


def test_without_a_terminal_nothing_is_shown(capsys):
    with waiting("anything"), open_bar() as show:
        assert show is None
        assert list(track("abc", total=3, what="letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
