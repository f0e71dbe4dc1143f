"""Result files: rows of the schema as CSV, JSON Lines or Parquet, written completely or not at all."""

import contextlib
import csv
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from motivnet.config import to_json
from motivnet.errors import OutputError, needs_extra, require
from motivnet.inference.rows import Row
from motivnet.storage import atomic_path, not_formula

FORMATS = (".jsonl", ".csv", ".parquet")
ROWS_PER_GROUP = 4096


def check_output(path: Path, *, overwrite: bool, formats: Sequence[str] = FORMATS) -> None:
    """Check that a result file can be written, before any work is done.

    Args:
        path: the file.
        overwrite: whether an existing file is replaced.
        formats: suffixes to allow.

    Raises:
        OutputError: if the format is unknown, the file exists, or its folder does not exist.
        MissingExtraError: if the format is Parquet and pyarrow is not installed.
    """
    if path.suffix.lower() not in formats:
        raise OutputError(f"{path}: unknown format {path.suffix!r}. Allowed: {', '.join(formats)}")
    require(not path.is_dir(), f"{path}: is a folder", OutputError)
    require(not path.exists() or overwrite, f"{path}: exists already; --overwrite replaces it", OutputError)
    require(path.parent.is_dir(), f"{path}: the folder {path.parent} does not exist", OutputError)
    if path.suffix.lower() == ".parquet":
        with needs_extra("pyarrow", "parquet"):
            import pyarrow.parquet  # noqa: F401


@contextlib.contextmanager
def open_table(
    path: Path, columns: dict[str, str], *, overwrite: bool, excel: bool = False
) -> Iterator[Callable[[Row], None]]:
    """Open a result file for writing, and yield a function that writes one row.

    Args:
        path: the suffix determines the format.
        columns: name -> Parquet type, in order; columns missing from a row are empty.
        overwrite: whether to replace an existing file.
        excel: begin a CSV file with a byte order mark, without which Excel takes UTF-8 for another encoding.

    Raises:
        OutputError: if the file exists or cannot be written.
        MissingExtraError: if the format is Parquet and pyarrow is not installed.
    """
    check_output(path, overwrite=overwrite)
    writers = {".jsonl": _jsonl, ".csv": functools.partial(_csv, excel=excel), ".parquet": _parquet}
    with atomic_path(path) as temporary:
        with writers[path.suffix.lower()](temporary, columns) as write:
            yield write
        check_output(path, overwrite=overwrite)


def check_folder(path: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Check that result files can be written to a folder, before any work is done.

    Raises:
        OutputError: if it is not a folder, or contains one of the files.
    """
    require(not path.exists() or path.is_dir(), f"{path}: is a file, expected a folder", OutputError)
    held = [name for name in names if (path / name).exists()]
    if held and not overwrite:
        raise OutputError(f"{path}: holds {', '.join(held)} already; --overwrite replaces what is there")


@contextlib.contextmanager
def _jsonl(path: Path, columns: dict[str, str]) -> Iterator[Callable[[Row], None]]:
    with path.open("x", encoding="utf-8", newline="") as file:
        yield lambda row: print(to_json({name: row.get(name) for name in columns}, ensure_ascii=False), file=file)


@contextlib.contextmanager
def _csv(path: Path, columns: dict[str, str], *, excel: bool) -> Iterator[Callable[[Row], Any]]:
    with path.open("x", encoding="utf-8-sig" if excel else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        yield lambda row: writer.writerow({name: not_formula(cell) for name, cell in row.items()})


@contextlib.contextmanager
def _parquet(path: Path, columns: dict[str, str]) -> Iterator[Callable[[Row], None]]:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
    buffer: list[Row] = []
    with path.open("xb") as file, parquet.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(buffer, schema))
            buffer.clear()

        def write(row: Row) -> None:
            buffer.append(row)
            if len(buffer) >= ROWS_PER_GROUP:
                flush()

        yield write
        flush()
