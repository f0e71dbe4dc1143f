"""Images of a bulk run that a Parquet file lists or holds.

Its columns: `bytes` or `image` (the bytes of a file, or Hugging Face's pair of `bytes` and `path`), `path`, or both;
bytes count where a row has them. `box`, as in a manifest, is the face: x, y, width, height in pixels of the upright
image. Other columns are not read. Nothing of the table is held but a few rows.
"""

import bisect
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

from motivnet.bulk.image_sources import Input, beside, read_input
from motivnet.bulk.urls import explained, open_binary
from motivnet.errors import DataError, MissingExtraError
from motivnet.images import ImageLimits
from motivnet.preprocess import Box

DATA_COLUMNS = ("bytes", "image")
ROWS_PER_READ = 64


def open_table(location: str) -> "TableSource":
    """Open a Parquet file as a source.

    Raises:
        DataError: if it cannot be read, or has none of the columns.
        MissingExtraError: if pyarrow is not installed.
    """
    with explained(location), contextlib.closing(_Reader(location)) as reader:
        metadata, schema = reader.table.metadata, reader.table.schema_arrow
        columns = _useful(schema)
        if not {"path", *DATA_COLUMNS} & {*columns}:
            found = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise DataError(f"{location}: no column bytes or image (binary), or path (string), among {found}")
        # Sizes and ranges of all columns in all row groups: where the rows differ, so do these, and they are short.
        summary = json.dumps([location, reader.size, metadata.to_dict()], default=repr)
        fingerprint = hashlib.sha256(summary.encode("utf-8", "backslashreplace")).hexdigest()[:16]
        return TableSource(location, columns, 0, metadata.num_rows, fingerprint)


def _useful(schema: Any) -> tuple[str, ...]:
    """Name the columns that are read: those of the right name and type."""
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_box(kind: Any) -> bool:
        return (types.is_list(kind) or types.is_fixed_size_list(kind)) and types.is_floating(kind.value_type)

    def is_text(kind: Any) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    wanted = dict.fromkeys(DATA_COLUMNS, holds_bytes) | {"path": is_text, "box": is_box}
    return tuple(name for name, fits in wanted.items() if name in schema.names and fits(schema.field(name).type))


@dataclasses.dataclass(frozen=True, slots=True)
class TableSource:
    """Rows of a Parquet file; as a slice, those from `start` up to, without, `stop`."""

    location: str
    columns: tuple[str, ...]
    start: int
    stop: int
    fingerprint: str = ""

    def __len__(self) -> int:
        return self.stop - self.start

    def slice(self, start: int, stop: int) -> "TableSource":
        """Give the inputs from number `start` up to, without, `stop`."""
        begin = self.start + start
        return TableSource(self.location, self.columns, begin, min(self.start + stop, self.stop))

    def read(self, limits: ImageLimits) -> Iterator[Input]:
        """Read the inputs in order; where a row has no bytes, what its path names."""
        row = self.start
        for rows in self._read_rows():
            for values in rows:
                yield self._input(row, values, limits)
                row += 1

    def _read_rows(self) -> Iterator[list[dict[str, Any]]]:
        with explained(self.location):
            yield from _reader_at(self.location, self.columns, self.start).read(self.start, self.stop)

    def _input(self, row: int, values: dict[str, Any], limits: ImageLimits) -> Input:
        data = next((values[name] for name in DATA_COLUMNS if values.get(name) is not None), None)
        pair = data if isinstance(data, dict) else {"bytes": data}
        data, path = pair.get("bytes"), values.get("path") or pair.get("path")
        name = beside(self.location, path) if path else f"{self.location}#{row}"
        numbers = values.get("box") or ()
        box = Box(*numbers) if len(numbers) == 4 else None
        if data is not None:
            return Input(name, data, box=box)
        return read_input(name, limits, box) if path else Input(name, b"", "neither bytes nor path")


class _Reader:
    """An open Parquet file, and how far it has been read."""

    def __init__(self, location: str, columns: tuple[str, ...] = (), start: int = 0) -> None:
        """Open it at the row group that holds row `start`."""
        try:
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise MissingExtraError("pyarrow", "scale") from None
        self.of = (location, columns)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_binary(location))
            self.size = file.seek(0, os.SEEK_END)
            file.seek(0)
            self.table = stack.enter_context(parquet.ParquetFile(file))
            self.close = stack.pop_all().close
        metadata = self.table.metadata
        sizes = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._begins = [0, *itertools.accumulate(sizes)]
        first = self._group(start)
        self.position = self._begins[first]
        self._rest: Any = None
        self._batches = itertools.chain.from_iterable(
            self.table.iter_batches(batch_size=ROWS_PER_READ, row_groups=[group], columns=list(columns))
            for group in range(first, metadata.num_row_groups)
        )

    def reaches(self, start: int) -> bool:
        """Tell whether going on leads to row `start` sooner than opening the file anew."""
        return self._begins[self._group(start)] <= self.position <= start

    def read(self, start: int, stop: int) -> Iterator[list[dict[str, Any]]]:
        """Read the rows from `start`, which is not behind, up to, without, `stop`."""
        while self.position < stop:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                return
            low, high = max(start - self.position, 0), min(stop - self.position, batch.num_rows)
            self._rest = batch.slice(high) if high < batch.num_rows else None
            self.position += high
            if low < high:
                yield batch.slice(low, high - low).to_pylist()

    def _group(self, row: int) -> int:
        return bisect.bisect_right(self._begins, row) - 1


# Of the last part: the next one of this process mostly goes on where it ended, and to get into the middle of a row
# group all rows before have to be read.
_last: _Reader | None = None


def _reader_at(location: str, columns: tuple[str, ...], start: int) -> _Reader:
    global _last
    if _last is None or _last.of != (location, columns) or not _last.reaches(start):
        if _last is not None:
            _last.close()
        _last = _Reader(location, columns, start)
    return _last
