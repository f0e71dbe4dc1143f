"""What the user means: paths, folders and glob patterns, sizes, thresholds."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from motivnet.errors import ConfigError, DataError


def find_images(arguments: Iterable[str]) -> list[Path]:
    """Find the images that the arguments name, in their order; a folder's are sorted by path.

    Args:
        arguments: files, folders (searched to the bottom for image files that are not hidden), or glob patterns
            (`**` reaches into subfolders).

    Raises:
        DataError: if an argument names nothing, or a folder without images.
    """
    return [path for argument in arguments for path in _find(argument)]


def _find(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        from motivnet.images import IMAGE_SUFFIXES

        found = sorted(_images_below(path))
        if not found:
            raise DataError(f"{argument}: no images in this folder. Looked for {', '.join(IMAGE_SUFFIXES)}")
        return found
    if path.is_file():
        return [path]
    if path.exists():
        raise DataError(f"{argument}: neither a file nor a folder")
    if not glob.has_magic(argument):
        raise DataError(f"{argument}: no such file or folder")
    # `Path.glob` takes no absolute pattern.
    matches = sorted(Path(match) for match in glob.glob(argument, recursive=True))  # noqa: PTH207
    matches = [match for match in matches if match.is_file()]
    if not matches:
        raise DataError(f"{argument}: no file matches this pattern")
    return matches


def _images_below(folder: Path) -> Iterable[Path]:
    from motivnet.images import IMAGE_SUFFIXES

    for parent, folders, names in os.walk(folder, onerror=_unreadable_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield Path(parent, name)


def _unreadable_folder(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}")


def parse_size(text: str) -> tuple[int, int]:
    """Read an input size: `1024x768` is 1024 pixels high and 768 wide.

    Returns:
        (height, width)

    Raises:
        ConfigError: if it is written otherwise, or a side is 0.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})\s*[xX\N{MULTIPLICATION SIGN}]\s*([1-9]\d{0,4})", text.strip(), re.ASCII)
    if not match:
        raise ConfigError(f"size {text!r}: Allowed: HEIGHTxWIDTH in pixels, such as 1024x768")
    return int(match[1]), int(match[2])


def parse_threshold(text: str) -> float | Literal["stored"]:
    """Read a threshold: a probability, or `stored` for the one that the model's bundle states.

    Raises:
        ConfigError: if it is neither. Whether a number is in range, the predictor says.
    """
    if text == "stored":
        return "stored"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"threshold {text!r}. Allowed: a probability such as 0.6, or stored") from None
