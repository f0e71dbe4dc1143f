"""What every reader asks of a row: a path that stays inside, numbers in range, one label an image."""

import csv
import dataclasses
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from motivnet.data.manifest import Manifest, make_manifest
from motivnet.errors import DataError
from motivnet.labels import EMOTIONS, WITH_CONTEMPT, LabelSet

Box = tuple[float, float, float, float]

# The group that tells posed expressions from others, the same in every reader.
POSED = ("setting", "posed")
ACTED = ("setting", "acted")
WILD = ("setting", "in the wild")


@dataclasses.dataclass
class Rows:
    """Rows of a manifest in the making.

    Args:
        source: the file or folder that they are read from, for messages.
        labels: their label set; None: the seven emotions, and contempt where a row has it.
        dropped: why rows of the source are left out -> how many.
    """

    source: Path
    labels: LabelSet | None = None
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    columns: defaultdict[str, list[Any]] = dataclasses.field(default_factory=lambda: defaultdict(list))

    def add(self, **cells: Any) -> None:
        """Append one row: column -> value, the same columns for every row."""
        for name, value in cells.items():
            self.columns[name].append(value)

    def manifest(self) -> Manifest:
        """Build the manifest.

        Raises:
            DataError: if there are no rows, or an image stands under two labels.
        """
        labels = self.columns["label"]
        if not labels:
            left_out = ", ".join(f"{number} {reason}" for reason, number in self.dropped.items())
            raise DataError(f"{self.source}: no labelled images{f' (left out: {left_out})' if left_out else ''}")
        if "path" in self.columns:
            check_one_label(self.source, self.columns)
        chosen = self.labels or (WITH_CONTEMPT if "contempt" in labels else EMOTIONS)
        return make_manifest(self.columns, chosen, dropped=self.dropped)


def check_one_label(source: Path, columns: dict[str, list[Any]]) -> None:
    """Refuse a file, or one box in a file, that stands under two labels; and file names that are no text.

    Args:
        source: what is read, for messages.
        columns: of a manifest; boxes hashable.

    Raises:
        DataError: naming the file and both rows.
    """
    paths, labels = columns["path"], columns["label"]
    boxes: Iterable[Any] = columns.get("box") or [None] * len(paths)
    seen: dict[Any, int] = {}
    for i, (path, box, label) in enumerate(zip(paths, boxes, labels, strict=True)):
        if path is None:
            continue
        if not path.isascii() and not _is_unicode(path):
            raise DataError(f"{source}: the file name {path!r} is not UTF-8")
        earlier = seen.setdefault((path, box), i)
        if labels[earlier] != label:
            face = f" with box {box}" if box else ""
            raise DataError(
                f"{source}: {path}{face} is {labels[earlier]} in {_place(columns, earlier)} and {label} in"
                f" {_place(columns, i)}. Allowed: one label"
            )


def _place(columns: dict[str, list[Any]], position: int) -> str:
    rows = columns.get("row")
    return f"row {rows[position] if rows else position} of split {columns['split'][position]}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def absolute(path: Path) -> str:
    """Make a path absolute, without `..` and `~`; links stay as they are.

    Raises:
        DataError: if it begins with the `~` of nobody here.
    """
    try:
        return os.path.normpath(path.expanduser().absolute())
    except RuntimeError as error:
        raise DataError(f"{path}: {error}") from None


def first_folder(root: Path, *names: str) -> Path | None:
    """Find the first of several folders that exists inside `root`."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def image_path(root: str, name: str, where: str) -> str:
    r"""Join an image's name to the folder that it is relative to.

    Args:
        root: as `absolute` gives it.
        name: with `/` or `\`; an absolute one has to be inside `root`.
        where: file and row, for the message.

    Raises:
        DataError: if it leads out of `root`.
    """
    text = name.strip().replace("\\", "/")
    path = os.path.normpath(text if text.startswith("/") or text[1:3] == ":/" else f"{root}/{text}")
    if not path.startswith(root if root.endswith(os.sep) else root + os.sep) or "\0" in text:
        raise DataError(f"{where}: path {name!r} names no file inside {root}")
    return path


def number(text: object, where: str, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Read a number.

    Raises:
        DataError: if it is none, infinite, or outside `low` to `high`.
    """
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not low <= value <= high:
        limits = f" from {low:g} to {high:g}" if math.isfinite(low) and math.isfinite(high) else ""
        raise DataError(f"{where}: {name} {str(text)!r}. Allowed: a number{limits}")
    return value


def make_box(x: float, y: float, width: float, height: float, where: str) -> Box:
    """Check a face's box, in pixels.

    Raises:
        DataError: if it has no area.
    """
    if width <= 0 or height <= 0:
        raise DataError(f"{where}: a box of {width:g} x {height:g} pixels")
    return x, y, width, height


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the cells of a text file without header, apart by spaces or tabs; give row (0-based) and cells.

    Raises:
        DataError: if it is missing or no text.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for row, line in enumerate(file):
                if line.strip():
                    yield row, line.split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def read_records(
    path: Path,
    check: Callable[[list[str]], None] | Sequence[str],
    *,
    header: Sequence[str] | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file; give row (0-based, without the header) and column -> cell.

    Args:
        path: the file, comma-separated.
        check: the columns that have to be there, or what raises at a header that will not do.
        header: the columns of files that are published with a header or without; None: the first line has them.

    Raises:
        DataError: if it is missing, no CSV, has no such columns, or a row of another length.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, skipinitialspace=True)
            first = next(lines, [])
            names = [name.strip() for name in first]
            if header is not None and not set(names) & set(header):
                names = list(header)
                file.seek(0)
                lines = csv.reader(file, skipinitialspace=True)
            check_header(path, names, check)
            for row, cells in enumerate(line for line in lines if line):
                if len(cells) != len(names):
                    raise DataError(f"{path}, row {row}: {len(cells)} cells, the header has {len(names)}")
                yield row, dict(zip(names, cells, strict=True))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from None


def check_header(path: Path, names: list[str], check: Callable[[list[str]], None] | Sequence[str]) -> None:
    """Refuse columns of one name, and what `check` refuses, as in `read_records`.

    Raises:
        DataError: naming the columns.
    """
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise DataError(f"{path}: columns {repeated} are there twice")
    if callable(check):
        check(names)
    else:
        check_columns(path, names, check)


def check_columns(path: Path, names: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a table that lacks columns.

    Raises:
        DataError: naming what is missing and what is there.
    """
    missing = sorted(set(needed) - set(names))
    if missing:
        raise DataError(f"{path}: columns {missing} are missing; found {', '.join(names) or 'none'}")
