"""The images of a bulk run: an ordered list of inputs, and slices of it that workers read.

SRC is one of

- a folder, local or a URL without one of the suffixes below: all images in it and its subfolders, sorted by path,
  without hidden ones;
- a list: `.txt` (one path or URL per line) or `.csv` (with a column `path`), relative to the list's folder;
- a Parquet file, such as a manifest, with the columns `bytes` or `image` (the bytes of a file, or Hugging Face's pair
  of `bytes` and `path`), `path`, or both, where bytes take precedence; and `box`, the face as x, y, width, height in
  pixels of the upright image; or with one column of any other name, of bytes, of such pairs, or of paths;
- one image.

URLs are opened by fsspec. Of a Parquet file only a few rows are in memory at a time.
"""

import bisect
import collections
import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from pyarrow import parquet, types

from motivnet.bulk.fsspec_files import explain_errors, fetch, is_url, open_binary, shown
from motivnet.config import to_json
from motivnet.errors import ConfigError, DataError, ImageError
from motivnet.frames.ahead import map_ahead
from motivnet.image_files import HIDDEN, IMAGE_SUFFIXES, Skipped, no_images, skip_reason, walk_images
from motivnet.images import ImageLimits, NamedImage
from motivnet.preprocess import Box

LIST_SUFFIXES = (".csv", ".parquet", ".txt")
DATA_COLUMNS = ("bytes", "image")
# Concurrent fetches per worker: they wait for the network, not for the processor.
NUM_FETCHERS = 16
ROWS_PER_READ = 64


class Input(NamedTuple):
    """One input as read.

    Attributes:
        image: a path, bytes, or the reason why there are none; its name is the path, the URL, or `FILE#ROW`.
        box: where the face is, in pixels of the upright image; None if the source does not say.
    """

    image: NamedImage
    box: Box | None = None


def open_source(src: str, image_column: str | None = None) -> "Source":
    """Find the inputs.

    Args:
        src: see above.
        image_column: of a Parquet file, the column with the images; None looks for the usual names.

    Raises:
        DataError: if there is no such file or folder, it has no images, or a list or table cannot be read.
        ConfigError: if the package for such URLs is not installed, or there is no Parquet file to have a column.
    """
    path, suffix = None if is_url(src) else Path(src), os.path.splitext(src)[1].lower()  # noqa: PTH122, of URLs too
    skipped: Skipped = collections.Counter()
    is_folder = path.is_dir() if path else suffix not in (*LIST_SUFFIXES, *IMAGE_SUFFIXES)
    if path and not is_folder and not path.is_file():
        raise DataError(f"{src}: no such file or folder")
    if image_column and suffix != ".parquet":
        raise ConfigError(f"{src}: image column {image_column!r}. Allowed: with a Parquet file")
    if is_folder:
        entries, skipped = _images_below(path) if path else _images_at(src)
        if not entries:
            raise no_images(src, skipped)
    elif suffix == ".parquet":
        return _open_table(src, image_column)
    elif suffix in LIST_SUFFIXES:
        entries = [(name, None) for name in _read_list(src, suffix)]
    else:
        entries = [(src, path.stat().st_size if path else None)]
    if not entries:
        raise DataError(f"{src}: holds no inputs")
    digest = hashlib.sha256()
    for name, size in entries:
        digest.update(f"{name!r} {size}\n".encode("utf-8", "backslashreplace"))
    return ListSource(tuple(name for name, _ in entries), digest.hexdigest()[:16], skipped)


def _images_at(url: str) -> tuple[list[tuple[str, int | None]], Skipped]:
    with explain_errors(url):
        files, root = fsspec.core.url_to_fs(url)
        found = files.find(root, detail=True)
    below = files.unstrip_protocol(root)
    entries, skipped = [], collections.Counter[str]()
    for path, entry in found.items():
        name = files.unstrip_protocol(path)
        *folders, last = name.removeprefix(below).split("/")
        reason = HIDDEN if any(skip_reason(folder) == HIDDEN for folder in folders) else skip_reason(last)
        if reason or entry.get("type") == "other":
            skipped[reason or "pipe or device"] += 1
        else:
            entries.append((name, entry.get("size")))
    return sorted(entries), skipped


def _images_below(folder: Path) -> tuple[list[tuple[str, int | None]], Skipped]:
    images, skipped = walk_images(folder)
    # A broken link has no size.
    return [(str(path), path.stat().st_size if os.path.exists(path) else None) for path in images], skipped  # noqa: PTH110


def _read_list(location: str, suffix: str) -> list[str]:
    with explain_errors(location), open_binary(location) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        if suffix == ".txt":
            return [_beside(location, line) for line in text.read().splitlines() if line.strip()]
        rows = csv.DictReader(text)
        if "path" not in (rows.fieldnames or ()):
            raise DataError(f"{location}: no column 'path' among {rows.fieldnames}")
        return [_beside(location, row["path"] or "") for row in rows]


def _beside(location: str, path: str) -> str:
    """Return a path that the list at `location` names, relative to the list's folder if it is relative."""
    if is_url(path) or not path:
        return path
    return f"{location.rsplit('/', 1)[0]}/{path}" if is_url(location) else str(Path(location).parent / path)


def _read_input(name: str, limits: ImageLimits, box: Box | None = None) -> Input:
    """Fetch a URL; a path stays a path, which the decoder reads."""
    try:
        data = fetch(name, limits.max_bytes) if is_url(name) else name or ImageError("no path")
    except ImageError as error:
        data = error
    return Input(NamedImage(shown(name), data), box)


@dataclasses.dataclass(frozen=True, slots=True)
class ListSource:
    """Inputs with a path or URL each.

    Args:
        names: paths and URLs.
        fingerprint: hexadecimal digits that change with the names, order, number or sizes; empty for slices.
        skipped: what was passed over in the folder: reason -> number.
    """

    names: tuple[str, ...]
    fingerprint: str = ""
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def slice(self, start: int, stop: int) -> "ListSource":
        """Return the inputs from number `start` up to, but not including, `stop`."""
        return ListSource(self.names[start:stop])

    def read(self, limits: ImageLimits) -> Iterator[Input]:
        """Read the inputs in order; URLs are fetched ahead."""
        read = functools.partial(_read_input, limits=limits)
        return map_ahead(read, self.names, NUM_FETCHERS, depth=NUM_FETCHERS - 1)


def _open_table(location: str, image_column: str | None) -> "TableSource":
    with explain_errors(location), _TableReader(location).table as table:
        metadata, schema = table.metadata, table.schema_arrow
        columns = _input_columns(schema, image_column)
        if not {*columns} - {"box"}:
            found = ", ".join(f"{field.name} ({field.type})" for field in schema)
            wanted = image_column or "bytes or image (binary), or path (string)"
            raise DataError(f"{location}: no column {wanted}, among {found}")
        if not metadata.num_rows:
            raise DataError(f"{location}: holds no inputs")
        # The sizes and ranges of all columns of all row groups are short, and differ where the rows differ.
        summary = to_json([location, metadata.to_dict(), *filter(None, [image_column])], default=repr)
        fingerprint = hashlib.sha256(summary.encode("utf-8", "backslashreplace")).hexdigest()[:16]
        return TableSource(location, columns, 0, metadata.num_rows, fingerprint)


def _input_columns(schema: Any, image_column: str | None) -> tuple[str, ...]:
    """Return the names of the columns to read: those with the right name and type."""

    def is_data(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and is_data(field.type) for field in kind)
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_box(kind: Any) -> bool:
        return (types.is_list(kind) or types.is_fixed_size_list(kind)) and types.is_floating(kind.value_type)

    def is_text(kind: Any) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    wanted = dict.fromkeys(DATA_COLUMNS, is_data) | {"path": is_text}
    if image_column:
        wanted = {image_column: lambda kind: is_data(kind) or is_text(kind)}
    wanted["box"] = is_box
    return tuple(name for name, fits in wanted.items() if name in schema.names and fits(schema.field(name).type))


@dataclasses.dataclass(frozen=True, slots=True)
class TableSource:
    """The rows of a Parquet file from `start` up to, but not including, `stop`; as `ListSource` otherwise."""

    location: str
    columns: tuple[str, ...]
    start: int
    stop: int
    fingerprint: str = ""
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return self.stop - self.start

    def slice(self, start: int, stop: int) -> "TableSource":
        """Return the inputs from number `start` up to, but not including, `stop`."""
        return TableSource(self.location, self.columns, self.start + start, min(self.start + stop, self.stop))

    def read(self, limits: ImageLimits) -> Iterator[Input]:
        """Read the inputs in order; where a row has no bytes, the file that its path names."""
        with explain_errors(self.location):
            rows = _reader_at(self.location, self.columns, self.start).read(self.start, self.stop)
            yield from (self._input(row, values, limits) for row, values in enumerate(rows, self.start))

    def _input(self, row: int, values: dict[str, Any], limits: ImageLimits) -> Input:
        names = [name for name in self.columns if name not in ("path", "box")]
        data = next((values[name] for name in names if values.get(name) is not None), None)
        pair = data if isinstance(data, dict) else {"path" if isinstance(data, str) else "bytes": data}
        data, path = pair.get("bytes"), values.get("path") or pair.get("path")
        name = _beside(self.location, path) if path else f"{shown(self.location)}#{row}"
        numbers = values.get("box") or ()
        if len(numbers) not in (0, 4):
            data = ImageError(f"a box of {len(numbers)} numbers, expected x, y, width, height")
        box = Box(*numbers) if len(numbers) == 4 else None
        if data is None and path:
            return _read_input(name, limits, box)
        return Input(NamedImage(name, ImageError("neither bytes nor path") if data is None else data), box)


# An ordered list of inputs, or a slice of one, which is small and picklable.
Source = ListSource | TableSource


class _TableReader:
    """A Parquet file that is read forwards."""

    def __init__(self, location: str, columns: tuple[str, ...] = (), start: int = 0) -> None:
        """Open the file at the row group that contains row `start`."""
        self.opened = (location, columns)
        files, path = fsspec.core.url_to_fs(location) if is_url(location) else (None, location)
        self.table = parquet.ParquetFile(path, filesystem=files)
        metadata = self.table.metadata
        num_rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._group_starts = [0, *itertools.accumulate(num_rows)]
        first = self._group(start)
        self.position = self._group_starts[first]
        self._rows = (
            row
            for group in range(first, metadata.num_row_groups)
            for batch in self.table.iter_batches(batch_size=ROWS_PER_READ, row_groups=[group], columns=list(columns))
            for row in batch.to_pylist()
        )

    def _group(self, row: int) -> int:
        return bisect.bisect_right(self._group_starts, row) - 1

    def is_near(self, start: int) -> bool:
        """Tell whether reading on reaches row `start` sooner than opening the file again."""
        return self._group_starts[self._group(start)] <= self.position <= start

    def read(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Read the rows from `start`, which has not been passed yet, up to, but not including, `stop`."""
        for row in itertools.islice(self._rows, stop - self.position):
            self.position += 1
            if self.position > start:
                yield row


# Of the last part: the next part of this process usually starts where it ended, and to reach the middle of a row group
# all rows before it have to be read.
_last_reader: _TableReader | None = None


def _reader_at(location: str, columns: tuple[str, ...], start: int) -> _TableReader:
    global _last_reader
    if _last_reader is None or _last_reader.opened != (location, columns) or not _last_reader.is_near(start):
        if _last_reader is not None:
            _last_reader.table.close()
        _last_reader = _TableReader(location, columns, start)
    return _last_reader
