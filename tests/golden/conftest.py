"""Golden files: what the program answers, writes and offers must not change by accident.

`pytest tests/golden --renew` rewrites the files that no longer match, and only the lines in them that differ. Read the
difference (`git diff tests/golden/files`) before committing it: every line is a change that a user can see.

Golden text holds one thing per line. Numbers with a decimal point are compared within a tolerance, all else exactly.
"""

import difflib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.testing

from motivnet.cli.main import app

FILES = Path(__file__).parent / "files"
COMMAND = "pytest tests/golden --renew"
FLOAT = re.compile(r"-?\b\d+(?:\.\d+(?:e[+-]\d+)?|e[+-]\d+)\b")
# Lines up to 120 columns, no colours, the same on any terminal or none.
PLAIN = {"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="rewrite the golden files that no longer match")


def probability_or_pixel(value: float) -> float:
    """Tolerance of answers: 1e-4 for probabilities and other numbers up to 1, half a pixel for larger ones."""
    return 1e-4 if abs(value) <= 1 else 0.5


class Golden:
    """The golden files, read or renewed."""

    def __init__(self, *, renew: bool) -> None:
        self.renew = renew

    def check(self, name: str, text: str, tolerance: Callable[[float], float] = probability_or_pixel) -> None:
        """Compare a text with a golden file; `tolerance` gives the allowed difference from a number in that file."""
        path = FILES / name
        golden = path.read_text(encoding="utf-8") if path.is_file() else ""
        found = settle(text, golden, tolerance)
        if found == golden:
            return
        if self.renew:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found, encoding="utf-8", newline="\n")
            return
        lines = difflib.unified_diff(
            golden.splitlines(), found.splitlines(), f"files/{name}", "today", lineterm="", n=1
        )
        pytest.fail(f"differs from its golden file; if on purpose: {COMMAND}\n" + "\n".join(lines), pytrace=False)

    def check_names(self, folder: str, names: set[str]) -> None:
        """Check that a folder holds files of these names and no others."""
        stale = {path.name for path in (FILES / folder).iterdir()} - names
        if self.renew:
            for name in stale:
                (FILES / folder / name).unlink()
        else:
            assert not stale, f"golden files of what is gone; if on purpose: {COMMAND}"


def settle(text: str, golden: str, tolerance: Callable[[float], float]) -> str:
    """Replace each line by the golden one that agrees with it within the tolerance, so that only changes differ."""
    found, old = [line.rstrip() for line in text.splitlines()], golden.splitlines()
    words, old_words = ([FLOAT.sub("#", line) for line in lines] for lines in (found, old))
    matcher = difflib.SequenceMatcher(None, words, old_words, autojunk=False)
    for at, old_at, size in matcher.get_matching_blocks():
        for here, there in zip(range(at, at + size), range(old_at, old_at + size), strict=True):
            pairs = zip(FLOAT.findall(found[here]), map(float, FLOAT.findall(old[there])), strict=True)
            if all(abs(float(number) - expected) <= tolerance(expected) for number, expected in pairs):
                found[here] = old[there]
    return "".join(f"{line}\n" for line in found)


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(renew=bool(request.config.getoption("--renew", default=False)))


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a command in this process; give what it prints on stdout."""

    def run(*arguments: object, exit_code: int = 0) -> str:
        done = typer.testing.CliRunner().invoke(app, list(map(str, arguments)), env=PLAIN, prog_name="motivnet")
        assert done.exit_code == exit_code, done.output or done.exception
        return done.stdout

    return run
