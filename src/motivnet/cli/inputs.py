"""The inputs that the user names: paths, folders, glob patterns, URLs, videos, cameras."""

import collections
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from motivnet.errors import DataError, ImageError
from motivnet.frames.selection import VIDEO_SUFFIXES, is_video
from motivnet.image_files import Skipped, describe_skipped, is_special, no_images, walk_images

if TYPE_CHECKING:
    import numpy as np

    from motivnet.images import Input

    # A file, or text: a URL, a data URL, `-`, `camera:0`.
    Named = Path | str

STDIN = "-"
CAMERA = "camera:"
# Of a file's name that is made from a URL, in characters.
MAX_NAME = 100


def find_inputs(arguments: Sequence[str]) -> "tuple[list[Named], Skipped]":
    """Find the images and videos that the arguments name, in their order; a folder's are sorted by path.

    Args:
        arguments: files, folders (searched to the bottom for image files that are not hidden), glob patterns (`**`
            reaches into subfolders), URLs, data URLs, `-` for the bytes of one image on standard input, or `camera:0`.

    Returns:
        The images and videos, and how many files were passed over in folders: suffix or reason -> number.

    Raises:
        DataError: if an argument names nothing, or a folder without images; or standard input cannot be one image.
    """
    if arguments.count(STDIN) > 1:
        raise DataError("-: standard input is one image, and can be named once")
    skipped: Skipped = collections.Counter()
    return [found for argument in arguments for found in _find(argument, skipped)], skipped


def open_inputs(inputs: "Iterable[Named]", every_s: float) -> "Iterator[Input]":
    """Turn what `find_inputs` found into inputs of a predictor, one at a time.

    Args:
        inputs: files and texts.
        every_s: time from one frame of a video to the next, in seconds.

    Raises:
        ConfigError: if `every_s` is not positive and finite.
        MissingExtraError: if there is a video, and PyAV is not installed.
    """
    from motivnet.frames.reader import frames_of
    from motivnet.images import ImageLimits, NamedImage

    for named in inputs:
        if isinstance(named, Path) and is_video(named):
            yield from frames_of(named, every_s=every_s)
        elif named == STDIN:
            # One byte beyond the limit, by which the decoder knows that it is too large.
            yield NamedImage("<stdin>", sys.stdin.buffer.read(ImageLimits().max_bytes + 1))
        elif isinstance(named, str) and named.startswith(CAMERA):
            yield NamedImage(named, _take_picture(named.removeprefix(CAMERA)))
        else:
            yield named


def is_video_file(named: "Named") -> bool:
    """Return whether an input is a video file, by its name."""
    return isinstance(named, Path) and is_video(named)


def file_name(named: "Named") -> Path:
    """Give a path whose last parts are fit to name a file that is made from an input."""
    from motivnet.images import is_data_url
    from motivnet.remote import is_url, without_password

    if isinstance(named, Path):
        return named
    if is_url(named):
        # Taken apart by hand, as an odd URL gets a name too; that it cannot be fetched, its result says.
        host, _, path = re.split(r"[?#]", without_password(named))[0].partition("://")[2].partition("/")
        parts = host, path.rpartition("/")[2][-MAX_NAME:] or "image"
    elif is_data_url(named):
        parts = ("data",)
    else:
        parts = ("stdin" if named == STDIN else named[-MAX_NAME:],)
    return Path(*[re.sub(r"[^\w.-]+", "-", part) for part in parts])


def _find(argument: str, skipped: Skipped) -> "list[Named]":
    from motivnet.images import is_data_url
    from motivnet.remote import is_url, without_password

    if argument == STDIN:
        if sys.stdin is None or sys.stdin.closed:
            raise DataError("-: standard input is closed")
        if sys.stdin.isatty():
            raise DataError("-: standard input is a terminal. Allowed: the bytes of one image, as in `... < photo.jpg`")
        return [argument]
    if argument.startswith(CAMERA):
        if argument == CAMERA:
            raise DataError("camera: without a number. Allowed: camera:0, camera:/dev/video0 and the like")
        return [argument]
    if is_url(argument) or is_data_url(argument):
        return [argument]
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", argument):
        raise DataError(f"{without_password(argument)}: Allowed: http:// and https://; `motivnet bulk` takes others")
    return [*_find_files(argument, skipped)]


def _find_files(argument: str, skipped: Skipped) -> list[Path]:
    if is_special(argument) and not is_video(argument):
        return [Path(argument)]
    if not os.path.isdir(argument):  # noqa: PTH112 - a name may be too long for Path.is_dir
        return match_files(argument, skipped)
    found, here = walk_images(Path(argument))
    if not found:
        raise no_images(argument, here)
    skipped.update(here)
    return found


def find_videos(argument: str, skipped: Skipped) -> list[Path]:
    """Return the videos of a folder and its subfolders, sorted, or what `match_files` does; `skipped` counts others.

    Raises:
        DataError: if there is none.
    """
    if not os.path.isdir(argument):  # noqa: PTH112
        return match_files(argument, skipped)
    found, here = walk_images(Path(argument), VIDEO_SUFFIXES)
    if not found:
        reason = f" ({describe_skipped(here)})" if here else ""
        raise DataError(f"{argument}: no videos in this folder{reason}. Allowed: {', '.join(VIDEO_SUFFIXES)}")
    skipped.update(here)
    return found


def match_files(argument: str, skipped: Skipped) -> list[Path]:
    """Return the file of this path, or the files that match this glob pattern, sorted; `skipped` counts others.

    Raises:
        DataError: if there is none.
    """
    path = Path(argument)
    if os.path.isfile(argument):  # noqa: PTH113
        return [path]
    if is_special(argument):
        raise DataError(f"{argument}: neither a file nor a folder")
    if not glob.has_magic(argument):
        raise DataError(f"{argument}: no such file or folder")
    # `Path.glob` takes no absolute pattern.
    found = [match for match in glob.glob(argument, recursive=True) if not os.path.isdir(match)]  # noqa: PTH112, PTH207
    matches = sorted(Path(match) for match in found if not is_special(match))
    if not matches:
        raise DataError(f"{argument}: no file matches this pattern")
    skipped.update({"pipe or device": len(found) - len(matches)} if len(found) > len(matches) else {})
    return matches


def _take_picture(camera: str) -> "np.ndarray | ImageError":
    from motivnet.video.camera import take_picture

    try:
        return take_picture(int(camera) if camera.isdecimal() else camera)
    except ImageError as error:
        return error
