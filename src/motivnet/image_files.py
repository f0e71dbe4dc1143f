"""Image files: the one walk through a folder, and the bytes of a file. Imports nothing heavy."""

import collections
import os
import re
import select
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from motivnet.errors import DataError, ImageError

# Suffixes of the images in folders. A single file may have any name.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jp2", ".jpe", ".jpeg"),
    *(".jpg", ".mpo", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
# Time in which a pipe or a device that was named has to give all its bytes.
PIPE_TIMEOUT_S = 10.0
HIDDEN = "hidden"
# Reasons that `describe_skipped` names.
MAX_NAMED = 8
_SUFFIX = re.compile(r"\.[a-z]\w{0,9}", re.ASCII)

Skipped = collections.Counter[str]


def is_special(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a pipe, a socket or a device: something that may never end."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError):  # there is no such file, or it may not be asked for
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def walk_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> tuple[list[Path], Skipped]:
    """Find the images, or the files with other suffixes, in a folder and its subfolders, without hidden ones.

    Linked folders are followed, each once; a link to a folder above leads nowhere. A broken link is an input, which
    will be unreadable. Nothing is opened.

    Returns:
        The images, sorted by path, and how many entries were passed over, by suffix or reason.
    """
    images: list[Path] = []
    skipped: Skipped = collections.Counter()
    pending = collections.deque([folder])
    seen = {_identity(above) for above in folder.resolve().parents}
    while pending:
        inside = pending.popleft()
        try:
            if (identity := _identity(inside)) in seen:
                skipped["linked folder that was read already"] += 1
                continue
            seen.add(identity)
            with os.scandir(inside) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            skipped[f"unreadable folder {inside} ({error.strerror})"] += 1
            continue
        for entry in entries:
            reason = skip_reason(entry.name, suffixes)
            if reason != HIDDEN and _is_folder(entry):
                # Links come last, so that a folder keeps its own name.
                (pending.append if entry.is_symlink() else pending.appendleft)(Path(entry.path))
            elif reason or is_special(entry.path):
                skipped[reason or "pipe or device"] += 1
            else:
                images.append(Path(entry.path))
    return sorted(images), skipped


def skip_reason(name: str, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> str:
    """Return why a file of this name is passed over in a folder: its suffix or `hidden`; empty if it is not."""
    if name.startswith(".") or name == "__MACOSX":
        return HIDDEN
    if name.lower().endswith(tuple(suffixes)):
        return ""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return suffix if _SUFFIX.fullmatch(suffix) else "of other names"


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Describe what was passed over: `skipped 3 .txt, 1 pipe or device`; empty if nothing was."""
    commonest = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))[:MAX_NAMED]
    named = [f"{number:,} {reason}" for reason, number in commonest]
    more = [f"{len(skipped) - MAX_NAMED} other kinds"] if len(skipped) > MAX_NAMED else []
    return f"skipped {', '.join(named + more)}" if named else ""


def no_images(folder: object, skipped: Mapping[str, int], layout: str = "") -> DataError:
    """Return the error for a folder without images, in this layout where there has to be one."""
    reason = f" ({describe_skipped(skipped)})" if skipped else ""
    return DataError(f"{folder}: no images in this folder{reason}. Allowed: {layout}{', '.join(IMAGE_SUFFIXES)}")


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a file; of a larger one, only one byte more than `max_bytes`. A pipe has `PIPE_TIMEOUT_S`.

    Raises:
        ImageError: if it cannot be read.
    """
    try:
        with path.open("rb") if os.name == "nt" else open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                return _read_pipe(file.fileno(), max_bytes + 1)
            if found.st_size > max_bytes:
                raise ImageError(f"file of {found.st_size} bytes, the limit is {max_bytes}")
            return file.read(max_bytes + 1)
    except IsADirectoryError:
        raise ImageError("is a folder, not an image") from None
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except (OSError, ValueError) as error:  # the latter for a name with a zero byte
        raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _read_pipe(number: int, size: int) -> bytes:
    data, end = bytearray(), time.monotonic() + PIPE_TIMEOUT_S
    while len(data) < size:
        if not select.select([number], [], [], max(0, end - time.monotonic()))[0]:
            raise ImageError(f"a pipe or device that did not end within {PIPE_TIMEOUT_S:g} s")
        if not (chunk := os.read(number, size - len(data))):
            break
        data += chunk
    return bytes(data)


def _without_waiting(path: str, flags: int) -> int:
    # Opening a pipe would wait for a process that writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False
