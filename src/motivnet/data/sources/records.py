"""What the readers share: checked paths, numbers, labels and boxes, text and CSV files, and one label per image."""

import csv
import dataclasses
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from motivnet.data.manifest import Manifest, make_manifest
from motivnet.errors import DataError, require, reraised, unknown_name
from motivnet.labels import EMOTIONS, WITH_CONTEMPT, LabelSet

Box = tuple[float, float, float, float]

# The group that separates posed expressions from others, the same in every reader.
POSED = ("setting", "posed")
ACTED = ("setting", "acted")
WILD = ("setting", "in the wild")
EDGES = ("left", "top", "right", "bottom")
# What Python decodes the bytes of a file name to that are not UTF-8.
SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclasses.dataclass
class Rows:
    """Collects the rows of a manifest.

    Args:
        source: the file or folder that they are read from, for messages.
        labels: their label set; None: the seven emotions, and contempt if a row has it.
        dropped: reason why rows of the source are left out -> their number.
    """

    source: Path
    labels: LabelSet | None = None
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    columns: defaultdict[str, list[Any]] = dataclasses.field(default_factory=lambda: defaultdict(list))

    def add(self, **cells: Any) -> None:
        """Append one row: column -> value, the same columns for every row."""
        for name, value in cells.items():
            self.columns[name].append(value)

    def add_clip(self, path: Path, label: str, *, split: str = "all", **cells: Any) -> None:
        """Append a clip that is a whole file, or a folder of frames."""
        self.add(path=str(path), label=label, split=split, start_s=0.0, **cells)

    def manifest(self) -> Manifest:
        """Build the manifest.

        Raises:
            DataError: if there are no rows, or an image has two labels.
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
    """Check that no file, and no box or stretch of one, has two labels, and that file names are UTF-8.

    Args:
        source: the file or folder that is read, for messages.
        columns: columns of a manifest; boxes are hashable.

    Raises:
        DataError: naming the first such file with all its rows, and the number of others.
    """
    paths, labels = columns["path"], columns["label"]
    parts: list[Any] = [columns.get(name) or [None] * len(paths) for name in ("box", "start_s", "end_s")]
    for path in paths:
        if path is not None and SURROGATE.search(path):
            raise DataError(f"{source}: the file name {path!r} is not UTF-8")
    keys, first = list(zip(paths, *parts, strict=True)), {}
    wrong = [key for i, key in enumerate(keys) if key[0] and labels[first.setdefault(key, i)] != labels[i]]
    if wrong:
        path, box, *_ = wrong[0]
        said = " and ".join(f"{labels[i]} in {_place(columns, i)}" for i, key in enumerate(keys) if key == wrong[0])
        face, others = f" with box {box}" if box else "", len(set(wrong)) - 1
        more = f"; {others} more have two labels" if others else ""
        raise DataError(f"{source}: {path}{face} is {said}{more}. Allowed: one label")


def _place(columns: dict[str, list[Any]], position: int) -> str:
    rows = columns.get("row")
    return f"row {rows[position] if rows else position} of split {columns['split'][position]}"


def absolute(path: Path) -> str:
    """Make a path absolute, without `..` and `~`; links stay as they are.

    Raises:
        DataError: if it begins with `~` and the name of an unknown user.
    """
    with reraised(DataError, path, RuntimeError):
        return os.path.normpath(path.expanduser().absolute())


def first_folder(root: Path, *names: str) -> Path | None:
    """Find the first of several folders that exists inside `root`."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def image_path(root: str, name: str, where: str) -> str:
    r"""Join an image's name to the folder that it is relative to.

    Args:
        root: as `absolute` gives it.
        name: with `/` or `\`; an absolute one must be inside `root`.
        where: file and row, for the message.

    Raises:
        DataError: if it is outside `root`.
    """
    text = name.strip().replace("\\", "/")
    path = os.path.normpath(text if text.startswith("/") or text[1:3] == ":/" else f"{root}/{text}")
    if not path.startswith(root if root.endswith(os.sep) else root + os.sep) or "\0" in text:
        raise DataError(f"{where}: path {name!r} names no file inside {root}")
    return path


def number(text: object, where: str, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Parse a number.

    Raises:
        DataError: if it is not a finite number from `low` to `high`.
    """
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not low <= value <= high:
        limits = f" from {low:g} to {high:g}" if math.isfinite(low) and math.isfinite(high) else ""
        raise DataError(f"{where}: {name} {str(text)!r}. Allowed: a number{limits}")
    return value


def label_of_code(text: str, labels: Sequence[str], where: str, name: str, *, first: int = 0) -> str:
    """Return the label of a number.

    Args:
        text: the number.
        labels: the labels in the order of their numbers.
        where: file and row, for the message.
        name: what the number is, for the message.
        first: the number of the first label.

    Raises:
        DataError: if no label has this number.
    """
    codes = {str(code): label for code, label in enumerate(labels, first)}
    if text.strip() not in codes:
        raise DataError(f"{where}: {name} {text!r}. Allowed: {first} to {first + len(labels) - 1}")
    return codes[text.strip()]


def label_of_name(name: str, where: str, labels: LabelSet | None = None) -> str:
    """Return the label that a name stands for; synonyms are understood.

    Args:
        name: of a label.
        where: file and row, for the message.
        labels: the allowed ones; None: the emotions and contempt.

    Raises:
        DataError: if there is no such label.
    """
    label = (labels or WITH_CONTEMPT).find(name)
    if label is None:
        raise DataError(f"{where}: {unknown_name('label', name, labels or WITH_CONTEMPT)}")
    return label


def make_box(cells: Sequence[object], names: Sequence[str], where: str) -> Box:
    """Parse the box of a face, in pixels.

    Args:
        cells: four numbers.
        names: what they are: x, y, width and height, or the edges left, top, right and bottom.
        where: file and row, for the message.

    Raises:
        DataError: if one is not a number, or the box has no area.
    """
    x, y, width, height = (number(cell, where, name) for cell, name in zip(cells, names, strict=True))
    if tuple(names) == EDGES:
        width, height = width - x, height - y
    if width <= 0 or height <= 0:
        raise DataError(f"{where}: a box of {width:g} x {height:g} pixels")
    return x, y, width, height


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read a text file without a header, separated by spaces or tabs, and yield row numbers (0-based) and cells.

    Raises:
        DataError: if it is missing or not text.
    """
    reading = reraised(DataError, f"{path}: cannot be read", OSError, UnicodeDecodeError)
    with reading, path.open(encoding="utf-8-sig") as file:
        for row, line in enumerate(file):
            if line.strip():
                yield row, line.split()


def read_records(
    path: Path,
    needed: Sequence[str] = (),
    *,
    check: Callable[[Path, list[str]], None] | None = None,
    header: Sequence[str] | None = None,
    named: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file, and yield row numbers (0-based, without the header) and column -> cell.

    Args:
        path: the file, comma-separated.
        needed: the required columns.
        check: another check of the columns, which raises DataError.
        header: the columns of files that are published with or without a header; None: the first line has them.
        named: as for `rename_columns`.

    Raises:
        DataError: if it is missing, not CSV, lacks columns, or has a row of another length.
    """
    reading = reraised(DataError, f"{path}: cannot be read as CSV", OSError, csv.Error, UnicodeDecodeError)
    with reading, path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, skipinitialspace=True)
        names = [name.strip() for name in next(lines, [])]
        if header is not None and not set(names) & set(header):
            names = list(header)
            file.seek(0)
            lines = csv.reader(file, skipinitialspace=True)
        names = rename_columns(path, names, named or {})
        check_columns(path, names, needed)
        if check:
            check(path, names)
        for row, cells in enumerate(line for line in lines if line):
            if len(cells) != len(names):
                raise DataError(f"{path}, row {row}: {len(cells)} cells, the header has {len(names)}")
            yield row, dict(zip(names, cells, strict=True))


def rename_columns(path: Path, names: Sequence[str], named: Mapping[str, str]) -> list[str]:
    """Return the names of columns under which we know them.

    Args:
        path: the file, for messages.
        names: of its columns.
        named: our name -> the name in the file; a column that has ours already takes the other's.

    Raises:
        DataError: if there is no such column.
    """
    given = {name: own for own, name in named.items() if name != own}
    check_columns(path, names, list(given))
    both = {own: name for name, own in given.items()} | given
    return [both.get(name, name) for name in names]


def check_columns(path: Path, names: Sequence[str], needed: Sequence[str] = ()) -> None:
    """Check that no column is repeated, and none is missing.

    Raises:
        DataError: naming the columns.
    """
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    require(not repeated, f"{path}: columns {repeated} are repeated", DataError)
    missing = sorted(set(needed) - set(names))
    require(not missing, f"{path}: columns {missing} are missing; found {', '.join(names) or 'none'}", DataError)
