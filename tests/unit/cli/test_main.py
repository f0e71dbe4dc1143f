"""What becomes of mistakes, full disks and closed streams: a line on stderr and exit code 2."""

import errno
import os
import subprocess
import sys

import pytest

from motivnet.cli import main as program
from motivnet.errors import MAX_MESSAGE, MotivNetError, for_terminal, one_line

PROGRAM = f"{sys.executable} -m motivnet"
posix = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")


def complaint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a verb that has to fail, and return its line."""
    monkeypatch.setattr(sys, "argv", ["motivnet", *arguments])
    with pytest.raises(SystemExit) as ended:
        program.main()
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out, shown.err.count("\n")) == (2, "", 1), shown.err
    return shown.err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MotivNetError("of\n ours"), "motivnet: of ours\n"),
        (MemoryError(), "motivnet: not enough memory\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "name"), "motivnet: name: File name too long\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "motivnet: No space left on device\n"),
        (MotivNetError("\x1b]0;title\x07 \x9b31m"), "\\x1b]0;title\\x07 \\x9b31m\n"),
        (MotivNetError("\u202egpj \udcff ä"), "\\u202egpj \\udcff ä\n"),
    ],
)
def test_errors_are_a_line(monkeypatch, capsys, error, line):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(program, "app", fail)
    assert complaint(monkeypatch, capsys).endswith(line)


def test_a_long_message_keeps_its_beginning_and_its_end():
    text = one_line(f"file, row 3: {'x' * 100_000}. Allowed: words")
    assert len(text) == MAX_MESSAGE + len(" ... ")
    assert text.startswith("file, row 3: xxx")
    assert text.endswith("xxx. Allowed: words")
    assert for_terminal("two\nlines") == "two\nlines"


@posix
@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "NAME"),
        ("predict", "x.jpg", "--out", "NAME.csv"),
        ("bulk", "NAME", "out"),
        ("data", "inspect", "folder:NAME"),
        ("weights", "inspect", "NAME"),
    ],
)
def test_a_name_of_5000_letters_is_a_line(monkeypatch, capsys, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jpg").write_bytes(b"")
    said = complaint(monkeypatch, capsys, *(text.replace("NAME", "n" * 5000) for text in arguments))
    assert len(said) < MAX_MESSAGE + 100


@pytest.mark.parametrize(
    "verb",
    [
        *("train nano-fer2013", "pretrain mae", "ablate head --out x", "distil --teacher nano --out x"),
        *("evaluate --out x", "calibrate x", "quantize x"),
    ],
)
def test_one_data_set_is_one_and_not_the_last_of_two(monkeypatch, capsys, verb):
    said = complaint(monkeypatch, capsys, *verb.split(), "--data", "folder:a", "--data", "folder:b")
    assert said == "motivnet: --data: given 2 times. Allowed: once\n"


def test_options_that_take_several_values_and_flags_may_be_repeated(monkeypatch, capsys):
    said = complaint(monkeypatch, capsys, "train", "absent", "--set", "a=1", "--set", "b=2", "--show", "--show")
    assert "absent" in said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")  # noqa: PTH110
@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("--version > /dev/full", 2, "motivnet: No space left on device\n"),
        ("--version > /dev/full 2> /dev/full", 2, ""),
        ("predict absent.jpg 2>&-", 2, ""),
        ("predict absent.jpg 2> /dev/full", 2, ""),
        ("--version 2>&- >&-", 0, ""),
    ],
)
def test_streams_that_cannot_be_written(redirected, code, said):
    done = subprocess.run(f"{PROGRAM} {redirected}", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)
