"""Result files: one row per face, or one for an image without; complete or not there at all."""

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from motivnet.errors import MissingExtraError, OutputError
from motivnet.inference.rows import Row, all_columns, to_rows

if TYPE_CHECKING:
    from motivnet.inference.results import ImageResult

FORMATS = (".jsonl", ".csv", ".parquet")
ROWS_PER_GROUP = 4096


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a result file that could not be written, before any work is done.

    Raises:
        OutputError: if the format is unknown, the file exists, or its folder cannot be written to.
        MissingExtraError: if Parquet is asked for and pyarrow is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: unknown format {path.suffix!r}. Allowed: {', '.join(FORMATS)}")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; --overwrite replaces it")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist")
    if path.suffix.lower() == ".parquet":
        _pyarrow()


@contextlib.contextmanager
def open_output(path: Path, labels: tuple[str, ...], *, overwrite: bool) -> Iterator[Callable[["ImageResult"], None]]:
    """Open a result file; give a function that writes the rows of one image.

    The rows go to a temporary file in the same folder, which takes the place of `path` only when all went well.

    Args:
        path: the format is its extension's.
        labels: of the model, which give the probability columns.
        overwrite: whether an existing file is replaced.

    Raises:
        OutputError: if the file exists, or cannot be written.
        MissingExtraError: if Parquet is asked for and pyarrow is not installed.
    """
    check_output(path, overwrite=overwrite)
    columns = all_columns(labels)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open_rows(unfinished, columns, suffix=path.suffix) as write:

            def write_rows(result: "ImageResult") -> None:
                for row in to_rows(result):
                    write(row)

            yield write_rows
        check_output(path, overwrite=overwrite)
        unfinished.replace(path)
    except BrokenPipeError:
        # Of the standard output, not of this file.
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        # The folder may be one that nothing can be removed from, because nothing could be written to it.
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def check_folder(path: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse a folder that result files could not go to, before any work is done.

    Raises:
        OutputError: if it is no folder, or holds one of the files already.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: is a file, expected a folder")
    held = [name for name in names if (path / name).exists()]
    if held and not overwrite:
        raise OutputError(f"{path}: holds {', '.join(held)} already; --overwrite replaces what is there")


@contextlib.contextmanager
def open_folder(path: Path, names: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder to write result files to, which become those of `path` only when all went well.

    Other files in `path` stay.

    Args:
        path: folder of the results; made, with its parents, if it does not exist.
        names: files that will be written, all of them; the last to appear is the last of them.
        overwrite: whether files of these names are replaced.

    Raises:
        OutputError: if one of the files exists, or cannot be written.
    """
    check_folder(path, names, overwrite=overwrite)
    path = path.absolute()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        check_folder(path, names, overwrite=overwrite)
        if path.exists():
            for name in names:
                (unfinished / name).replace(path / name)
        else:
            unfinished.rename(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def open_rows(
    path: Path, columns: dict[str, str], *, suffix: str
) -> contextlib.AbstractContextManager[Callable[[Row], None]]:
    """Open a new file of rows, of one of `FORMATS`; gives what writes a row.

    Args:
        path: which must not exist; its own name may end otherwise.
        columns: name -> Parquet's type.
        suffix: which says the format.
    """
    writers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    return writers[suffix.lower()](path, columns)


def _open_text(path: Path) -> IO[str]:
    return path.open("x", encoding="utf-8", newline="")


@contextlib.contextmanager
def _jsonl(path: Path, columns: dict[str, str]) -> Iterator[Callable[[Row], None]]:
    with _open_text(path) as file:
        yield lambda row: print(json.dumps({name: row.get(name) for name in columns}, ensure_ascii=False), file=file)


@contextlib.contextmanager
def _csv(path: Path, columns: dict[str, str]) -> Iterator[Callable[[Row], None]]:
    with _open_text(path) as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        yield writer.writerow


@contextlib.contextmanager
def _parquet(path: Path, columns: dict[str, str]) -> Iterator[Callable[[Row], None]]:
    pa, parquet = _pyarrow()
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
    buffer: list[Row] = []
    with path.open("xb") as file, parquet.ParquetWriter(file, schema) as writer:

        def write(row: Row) -> None:
            buffer.append(row)
            if len(buffer) >= ROWS_PER_GROUP:
                flush()

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(buffer, schema))
            buffer.clear()

        yield write
        flush()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingExtraError("pyarrow", "parquet") from None
    return pyarrow, parquet
