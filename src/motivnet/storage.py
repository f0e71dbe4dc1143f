"""Atomic writes, and the folder of a run: its plan, the differences to another plan, and a lock.

Everything that is written takes its name only when it is complete and on the disk; until then it has a hidden name
beside its place, which no other process uses. What fails or is interrupted leaves nothing behind, and what was there
before stays. Only `kill -9` and power failures leave a temporary file, which `remove_leftovers` recognises.
"""

import contextlib
import csv
import json
import os
import re
import secrets
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from motivnet.config import parse_json, to_json
from motivnet.errors import ConfigError, MotivNetError, OutputError, reraised

# From the standard library on both systems, so that the core install needs no filelock; the system releases the lock
# when the process ends, however it ends.
if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# What comes with the package.
ASSETS = Path(__file__).parent / "assets"
SIGTERM_EXIT_CODE = 128 + signal.SIGTERM
NUM_DIFFERENCES = 8
# First characters of the cells that spreadsheets calculate.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
LOCK_NAME = ".lock"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp(\.[^.]*)?")

Errors = tuple[type[Exception], ...]


class LockedError(OutputError):
    """Another process holds the lock."""


@contextlib.contextmanager
def atomic_path(path: Path, *, parents: bool = False, also: Errors = (), advice: str = "") -> Iterator[Path]:
    """Give a temporary path to write to, and rename it to `path` at the end of the block.

    For libraries that open files themselves. The temporary file does not exist yet, and has the suffix of `path`. It
    must be closed before the block ends.

    Args:
        path: replaced if it exists, its permissions kept. A symbolic link is replaced, not followed.
        parents: make the folder of `path` and those above it.
        also: exceptions of the library, besides OSError, that mean that the file cannot be written.
        advice: added to the error message, with its own separator.

    Raises:
        OutputError: if it cannot be written.
    """
    temporary = path.with_name(temporary_name(path.name))
    with explained(path, also=also, advice=advice):
        try:
            if parents:
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _publish(temporary, path)
        finally:
            # It may be a folder that nothing can be removed from.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path, *, parents: bool = False, also: Errors = (), advice: str = "") -> Iterator[BinaryIO]:
    """Open a binary file for writing that becomes `path` at the end of the block; arguments as for `atomic_path`."""
    with atomic_path(path, parents=parents, also=also, advice=advice) as temporary, temporary.open("xb") as file:
        yield file


def write_bytes(path: Path, data: bytes, *, parents: bool = False) -> None:
    """Write a file atomically; OutputError if it cannot be written."""
    with atomic_file(path, parents=parents) as file:
        file.write(data)


def write_text(path: Path, text: str, *, parents: bool = False) -> None:
    """Write UTF-8 text atomically, line ends unchanged; OutputError if it cannot be written."""
    write_bytes(path, text.encode(), parents=parents)


def write_json(path: Path, plain: Any, *, ensure_ascii: bool = True, parents: bool = False) -> None:
    """Write plain data as indented JSON with a final newline, atomically; OutputError if it cannot be written."""
    write_text(path, to_json(plain, indent=2, ensure_ascii=ensure_ascii) + "\n", parents=parents)


def read_json(path: Path, max_bytes: int = 1_000_000) -> Any:
    """Read a JSON file that somebody else may have written.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no regular file, too large, or `parse_json` refuses it.
    """
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"has more than {max_bytes} bytes")
    return parse_json(data.decode())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a table that comes with the package."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def atomic_folder(
    path: Path, *, merge: bool = False, last: str | None = None, also: Errors = (), advice: str = ""
) -> Iterator[Path]:
    """Give an empty temporary folder to write to, and rename it to `path` at the end of the block.

    A folder that exists is replaced as a whole: callers check first whether it may be. With `merge`, its other files
    stay, and each new file is renamed into it.

    Args:
        path: made with its parents if it does not exist. A symbolic link is followed.
        merge: keep what else an existing folder holds; the new files must not be folders.
        last: name of the file that appears last when merging, as a sign that the others are there.
        also: as for `atomic_path`.
        advice: as for `atomic_path`.

    Raises:
        OutputError: if it cannot be written.
    """
    place = path.resolve()
    # Inside an existing folder, which may be a mount of its own; else beside it, to be renamed.
    temporary = (place if merge and place.is_dir() else place.parent) / temporary_name(place.name)
    with explained(path, also=also, advice=advice):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if merge and place.is_dir():
                for file in sorted(temporary.iterdir(), key=lambda file: (file.name == last, file.name)):
                    _publish(file, place / file.name)
            else:
                _swap(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def not_formula(cell: Any) -> Any:
    """Return a cell of a CSV file, text that a spreadsheet would calculate with an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def temporary_name(name: str) -> str:
    """Give a hidden name for what will be called `name`, unique across processes and hosts, with the same suffix."""
    return f".{name}.{secrets.token_hex(8)}.tmp{Path(name).suffix}"


def is_temporary(name: str) -> bool:
    """Tell whether `temporary_name` gave this name."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders that killed processes left in a folder.

    Only for places that no other process is writing to, such as a folder whose lock is held.

    Args:
        folder: which need not exist.
        name: final name whose leftovers to remove; None removes those of all names.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        found = _TEMPORARY.fullmatch(path.name)
        if found and name in (None, found["name"]):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Raise SystemExit(143) in the block at SIGTERM, so that `finally` and `with` clean up; the first one counts.

    `main` of the command line runs its app in it: `with end_on_sigterm(): app()`. The previous handler returns after
    the block. Code that handles SIGTERM itself (uvicorn, Lightning) may set its own handler inside. Forked children
    die of SIGTERM as ever. Outside the main thread, which alone can handle signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # another one must not interrupt the cleanup
        raise SystemExit(SIGTERM_EXIT_CODE)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def stored_json(file: Path, error: type[MotivNetError] = ConfigError) -> Any:
    """Return what a file of a run states as JSON; None if there is none. Raises `error` if it cannot be read."""
    with reraised(error, f"{file}: cannot be read", OSError, ValueError):
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None


def differences(then: Any, now: Any, where: str = "") -> list[str]:
    """Name the settings in which plain data differ: `optimizer.head_lr was 0.001, is 0.01`."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted(then.keys() | now.keys())
        return [line for key in keys for line in differences(then.get(key), now.get(key), f"{where}.{key}".lstrip("."))]
    return [] if then == now else [f"{where} was {then!r}, is {now!r}"]


def check_same(
    where: object, then: Any, now: Any, *, kind: str = "run", allowed: str, error: type[MotivNetError] = ConfigError
) -> None:
    """Refuse to go on with a run under another plan.

    Args:
        where: the folder, a path or a URL.
        then: the plan that it holds, as JSON gives it back.
        now: the plan of the run that would go on, plain data.
        kind: what the folder holds, for the message.
        allowed: what the user may do instead, without a full stop.
        error: the class to raise.

    Raises:
        MotivNetError: of class `error`, naming the first differences.
    """
    found = differences(then, json.loads(to_json(now)))
    if found:
        more = f"; and {len(found) - NUM_DIFFERENCES} more" if len(found) > NUM_DIFFERENCES else ""
        named = "; ".join(found[:NUM_DIFFERENCES])
        raise error(f"{where}: holds another {kind}: {named}{more}. Allowed: {allowed}")


@contextlib.contextmanager
def locked(file: Path, where: object) -> Iterator[None]:
    """Hold an exclusive lock during a block, without waiting for it. The lock file stays: removing it would be a race.

    Args:
        file: of the lock; its folder must exist.
        where: what is locked, for messages.

    Raises:
        LockedError: if another process holds it.
        OutputError: if the file system has no locks, or the file cannot be written.
    """
    with explained(where, "cannot be locked"):
        opened = file.open("ab")
    with opened:
        with explained(where, "cannot be locked"):
            try:
                if sys.platform == "win32":
                    msvcrt.locking(opened.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise LockedError(f"{where}: another process is working on it") from None
        yield


@contextlib.contextmanager
def explained(where: object, what: str = "cannot be written", *, also: Errors = (), advice: str = "") -> Iterator[None]:
    """Turn an OSError inside `with` into an OutputError that names where it was, and the system's reason.

    Args:
        where: such as a file.
        what: cannot be done.
        also: as for `atomic_path`.
        advice: as for `atomic_path`.
    """
    try:
        yield
    except BrokenPipeError:  # of the standard output, not of a file
        raise
    except (OSError, *also) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise OutputError(f"{where}: {what}: {reason}{advice}") from None


def _publish(temporary: Path, path: Path) -> None:
    """Rename a complete file, in place of another one, whose permissions it keeps."""
    if path.is_file() and not path.is_symlink():
        # Not all file systems have permissions, nor may everyone change them.
        with contextlib.suppress(OSError):
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
    _sync(temporary)
    temporary.replace(path)
    _sync_folder(path.parent)


def _swap(temporary: Path, path: Path) -> None:
    """Rename a complete folder, in place of another one, which stays if that fails."""
    for file in temporary.rglob("*"):
        if file.is_file():
            _sync(file)
    old = path.with_name(temporary_name(path.name))
    try:
        if path.is_dir():
            path.replace(old)
        temporary.replace(path)
    finally:
        if old.exists():
            shutil.rmtree(old, ignore_errors=True) if path.exists() else old.replace(path)
    _sync_folder(path.parent)


def _sync(path: Path) -> None:
    """Have the system write a file to the disk, and report what it could not write yet."""
    # Windows refuses it for files that are open for reading only.
    number = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sync_folder(path: Path) -> None:
    # Windows cannot open folders, and some file systems cannot sync them.
    with contextlib.suppress(OSError):
        _sync(path)
