"""Atomic writes: complete or not there, whatever happens; and the plan and the lock of a run's folder."""

import contextlib
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from motivnet import storage
from motivnet.errors import CheckpointError, ConfigError, OutputError
from motivnet.storage import (
    LOCK_NAME,
    LockedError,
    atomic_file,
    atomic_folder,
    atomic_path,
    check_same,
    differences,
    end_on_sigterm,
    is_temporary,
    locked,
    remove_leftovers,
    stored_json,
    temporary_name,
    write_bytes,
    write_json,
    write_text,
)

posix = pytest.mark.skipif(os.name == "nt", reason="permissions and signals of POSIX")
ENDINGS = [ValueError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail(*_: object) -> Any:
    raise FULL


def write_half(place: BinaryIO | Path, error: BaseException | None) -> None:
    """Write something into a file or a folder, and fail."""
    if isinstance(place, Path):
        (place / "half").touch()
    else:
        place.write(b"half")
    if error:
        raise error


class TestFile:
    def test_appears_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(b"old")
        with atomic_path(path) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".png"
            assert not temporary.exists()
            temporary.write_bytes(b"new")
            assert path.read_bytes() == b"old"
        assert path.read_bytes() == b"new"
        assert names(tmp_path) == ["a.png"]

    def test_text_bytes_and_json(self, tmp_path: Path) -> None:
        write_text(tmp_path / "text", "ä\r\n\n")
        assert (tmp_path / "text").read_bytes() == b"\xc3\xa4\r\n\n"
        write_bytes(tmp_path / "new" / "deep" / "bytes", b"\0", parents=True)
        assert (tmp_path / "new" / "deep" / "bytes").read_bytes() == b"\0"
        write_json(tmp_path / "json", {"b": "ä", "a": [1]})
        assert (tmp_path / "json").read_text() == '{\n  "b": "\\u00e4",\n  "a": [\n    1\n  ]\n}\n'
        write_json(tmp_path / "json", "ä", ensure_ascii=False)
        assert (tmp_path / "json").read_text(encoding="utf-8") == '"ä"\n'

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_nothing_is_left_of_a_failure(self, tmp_path: Path, ending: type[BaseException]) -> None:
        write_text(tmp_path / "a", "old")
        with pytest.raises(OutputError if ending is OSError else ending), atomic_file(tmp_path / "a") as file:
            write_half(file, ending())
        assert names(tmp_path) == ["a"]
        assert (tmp_path / "a").read_text() == "old"

    @pytest.mark.parametrize("step", ["fsync", "write"])
    def test_a_full_disk_is_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        if step == "fsync":
            monkeypatch.setattr(os, "fsync", fail)
        error = FULL if step == "write" else None
        with pytest.raises(OutputError) as raised, atomic_file(tmp_path / "a", advice="; free some") as file:
            write_half(file, error)
        assert str(raised.value) == f"{tmp_path / 'a'}: cannot be written: No space left on device; free some"
        assert names(tmp_path) == []

    @posix
    def test_short_writes_are_noticed(self, tmp_path: Path) -> None:
        """The system writes a part of the bytes up to the limit, and says so only in the number."""
        code = (
            "import resource, sys; from pathlib import Path; from motivnet import storage\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
            "storage.write_bytes(Path(sys.argv[1]), bytes(20_000))"
        )
        write_text(tmp_path / "a", "old")
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True)
        assert "OutputError" in done.stderr
        assert "a: cannot be written: File too large" in done.stderr
        assert names(tmp_path) == ["a"]
        assert (tmp_path / "a").read_text() == "old"

    def test_errors_of_a_library(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="a: cannot be written: two lines"):  # noqa: SIM117
            with atomic_path(tmp_path / "a", also=(ZeroDivisionError,)):
                raise ZeroDivisionError("two\nlines")
        with pytest.raises(BrokenPipeError), atomic_path(tmp_path / "a"):
            raise BrokenPipeError
        with pytest.raises(CheckpointError), atomic_path(tmp_path / "a"):
            raise CheckpointError

    def test_impossible_places(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        write_text(tmp_path / "file", "")
        for place in ("folder", "absent/a", "file/a"):
            with pytest.raises(OutputError, match="cannot be written"):
                write_text(tmp_path / place, "")
        with pytest.raises(OutputError, match="cannot be written"):
            write_text(tmp_path / "file" / "a", "", parents=True)
        assert names(tmp_path) == ["file", "folder"]

    @posix
    def test_permissions(self, tmp_path: Path) -> None:
        path, old = tmp_path / "a", os.umask(0o027)
        try:
            write_text(path, "")
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
            path.chmod(0o604)
            write_text(path, "new")
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604

    @posix
    def test_a_link_is_replaced(self, tmp_path: Path) -> None:
        write_text(tmp_path / "target", "old")
        (tmp_path / "link").symlink_to("target")
        write_text(tmp_path / "link", "new")
        assert not (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_text() == "old"


class TestFolder:
    def write(self, folder: Path, content: str = "new") -> None:
        for name in ("a", "b", "c"):
            (folder / name).write_text(content)

    def test_appears_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "folder"
        with atomic_folder(path) as temporary:
            self.write(temporary)
            assert not path.exists()
        assert names(path) == ["a", "b", "c"]
        with atomic_folder(path) as temporary:
            (temporary / "d").mkdir()
            (temporary / "d" / "e").touch()
            assert names(path) == ["a", "b", "c"]
        assert names(path) == ["d"]
        assert names(path.parent) == ["folder"]

    @pytest.mark.parametrize("merge", [False, True])
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_nothing_is_left_of_a_failure(self, tmp_path: Path, ending: type[BaseException], merge: bool) -> None:
        for there in (False, True):
            with pytest.raises(OutputError if ending is OSError else ending):  # noqa: SIM117
                with atomic_folder(tmp_path / "x", merge=merge) as temporary:
                    write_half(temporary, ending())
            assert names(tmp_path) == ["x"] * there
            (tmp_path / "x").mkdir(exist_ok=True)
            assert names(tmp_path / "x") == []

    def test_the_old_one_comes_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, replace = tmp_path / "x", Path.replace
        path.mkdir()
        self.write(path, "old")

        def failing(self: Path, target: Path) -> Path:
            return fail() if self.is_dir() and (self / "new").exists() else replace(self, target)

        monkeypatch.setattr(Path, "replace", failing)
        with pytest.raises(OutputError, match="x: cannot be written: No space"), atomic_folder(path) as temporary:
            (temporary / "new").touch()
        assert names(tmp_path) == ["x"]
        assert (path / "a").read_text() == "old"

    def test_merging(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, publish = tmp_path / "x", storage._publish
        path.mkdir()
        self.write(path, "old")
        order = []
        monkeypatch.setattr(storage, "_publish", lambda one, other: (order.append(other.name), publish(one, other)))
        with atomic_folder(path, merge=True, last="a") as temporary:
            (temporary / "a").write_text("new")
            (temporary / "d").write_text("new")
        assert order == ["d", "a"]
        found = {name: (path / name).read_text() for name in names(path)}
        assert found == dict(zip("abcd", ("new", "old", "old", "new"), strict=True))

    def test_below_a_file(self, tmp_path: Path) -> None:
        write_text(tmp_path / "file", "")
        for place in ("file", "file/a"):
            with pytest.raises(OutputError, match=f"{place}: cannot be written"), atomic_folder(tmp_path / place):
                pass
        assert names(tmp_path) == ["file"]

    @posix
    def test_a_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "target").mkdir()
        (tmp_path / "link").symlink_to("target")
        with atomic_folder(tmp_path / "link") as temporary:
            self.write(temporary)
        assert names(tmp_path) == ["link", "target"]
        assert names(tmp_path / "target") == ["a", "b", "c"]


def test_leftovers(tmp_path: Path) -> None:
    assert temporary_name("a.json") != temporary_name("a.json")
    for name in ("a.json", "b", ".c.tar.gz"):
        assert is_temporary(temporary_name(name))
        (tmp_path / temporary_name(name)).touch()
    (tmp_path / temporary_name("a.json")).mkdir()
    for name in ("a.json", ".a.json.tmp", ".hidden"):
        assert not is_temporary(name)
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "a.json")
    assert sum(map(is_temporary, names(tmp_path))) == 2
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".a.json.tmp", ".hidden", "a.json"]
    remove_leftovers(tmp_path / "absent")


# It sleeps again and again: Python would notice a signal that comes just before a read only after the read.
WRITES = """
import sys, time
from pathlib import Path
from motivnet import storage
with storage.end_on_sigterm(), {writer}(Path(sys.argv[1])) as it:
    {write}
    while True:
        time.sleep(0.01)
"""


@posix
class TestSigterm:
    @pytest.mark.parametrize(
        ("writer", "write"),
        [("storage.atomic_file", "it.write(b'half')"), ("storage.atomic_folder", "(it / 'a').touch()")],
    )
    def test_nothing_is_left(self, tmp_path: Path, writer: str, write: str) -> None:
        code = WRITES.format(writer=writer, write=write)
        with subprocess.Popen([sys.executable, "-c", code, tmp_path / "a"]) as process:
            while not names(tmp_path):
                assert process.poll() is None
            process.terminate()
            assert process.wait() == storage.SIGTERM_EXIT_CODE == 143
        assert names(tmp_path) == []

    def test_the_first_one_counts_and_the_handler_returns(self) -> None:
        before, cleaned = signal.getsignal(signal.SIGTERM), []
        cleanup = contextlib.ExitStack()
        cleanup.callback(cleaned.append, "all of it")
        cleanup.callback(signal.raise_signal, signal.SIGTERM)
        with pytest.raises(SystemExit, match="143"), end_on_sigterm(), cleanup:
            signal.raise_signal(signal.SIGTERM)
        assert cleaned == ["all of it"]
        assert signal.getsignal(signal.SIGTERM) == before

    def test_a_forked_child_dies_as_ever(self) -> None:
        code = (
            "import os, signal; from motivnet import storage\n"
            "with storage.end_on_sigterm():\n"
            "    child = os.fork()\n"
            "    if not child: signal.raise_signal(signal.SIGTERM)\n"
            "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_in_another_thread_nothing_changes(self) -> None:
        found = []

        def look() -> None:
            with end_on_sigterm():
                found.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert found == [signal.getsignal(signal.SIGTERM)]


class TestPlan:
    def test_differences(self) -> None:
        then = {"a": {"b": 1, "c": [1, 2]}, "d": None}
        assert differences(then, then) == []
        assert differences(then, {"a": {"b": 1, "c": [1, 3]}, "e": 2}) == [
            "a.c was [1, 2], is [1, 3]",
            "e was None, is 2",
        ]

    def test_another_plan_is_refused(self) -> None:
        check_same("s3://x", {"a": [1]}, {"a": (1,)}, allowed="nothing")
        with pytest.raises(ConfigError) as raised:
            check_same("s3://x", {"a": {"b": 1}}, {"a": {"b": 2}}, kind="ablation", allowed="another folder")
        assert str(raised.value) == "s3://x: holds another ablation: a.b was 1, is 2. Allowed: another folder"
        then = {str(number): number for number in range(10)}
        with pytest.raises(OutputError, match=r"7 was 7, is 8; and 2 more\. Allowed: x$"):
            check_same("y", then, {name: value + 1 for name, value in then.items()}, allowed="x", error=OutputError)

    def test_what_a_run_states(self, tmp_path: Path) -> None:
        file = tmp_path / "new" / "run" / "recipe.json"
        assert stored_json(file, CheckpointError) is None
        write_json(file, {"a": 1}, parents=True)
        assert json.loads(file.read_text()) == stored_json(file, CheckpointError) == {"a": 1}
        file.write_text("{")
        with pytest.raises(CheckpointError, match=r"recipe\.json: cannot be read"):
            stored_json(file, CheckpointError)

    def test_the_lock(self, tmp_path: Path) -> None:
        file = tmp_path / LOCK_NAME
        for _ in range(2):
            with locked(file, "run"), pytest.raises(LockedError, match=r"out\.csv: another process is working on it"):  # noqa: SIM117
                with locked(file, "out.csv"):
                    pass
        absent = tmp_path / "absent"
        with (
            pytest.raises(OutputError, match="absent: cannot be locked: No such file"),
            locked(absent / LOCK_NAME, absent),
        ):
            pass

    @posix
    def test_the_lock_ends_with_its_process(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from motivnet.storage import locked\n"
            "with locked(Path(sys.argv[1]), 'x'): print('held', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, tmp_path / "lock"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            with pytest.raises(LockedError), locked(tmp_path / "lock", "x"):
                pass
            process.kill()
        with locked(tmp_path / "lock", "x"):
            pass


def test_the_import_is_light() -> None:
    code = "import sys, motivnet.storage; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "pyarrow", "fsspec", "filelock", "motivnet.cli"} & set(loaded)
