"""A manifest on disk, as `motivnet data build` wrote it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from motivnet.data.manifest import SCHEMA, Manifest, read_manifest
from motivnet.data.sources.records import check_one_label
from motivnet.errors import DataError


def read_stored(path: Path) -> Manifest:
    """Read a manifest and check it, as it may have been edited since it was written.

    Raises:
        DataError: naming the file and row of what no manifest can hold.
    """
    manifest = read_manifest(path)
    try:
        table = manifest.table.cast(SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: columns of other types than a manifest's: {error}") from None
    known = pc.is_in(table["label"], value_set=pa.array(list(manifest.labels), pa.string()))  # type: ignore[attr-defined]
    _refuse(path, pc.invert(known), table, "label", ", ".join(manifest.labels))  # type: ignore[attr-defined]
    _refuse(path, table["split"].is_null(), table, "split", "a name")
    _refuse(path, pc.and_(table["path"].is_null(), table["image"].is_null()), table, "path", "a file, or an image")  # type: ignore[attr-defined]
    columns = {name: table[name].to_pylist() for name in ("path", "label", "split", "row")}
    columns["box"] = [None if box is None else tuple(box) for box in table["box"].to_pylist()]
    check_one_label(path, columns)
    return Manifest(table, manifest.labels, manifest.dropped)


def _refuse(path: Path, wrong: pa.ChunkedArray, table: pa.Table, column: str, allowed: str) -> None:
    row = pc.index(wrong, True).as_py()  # type: ignore[attr-defined]
    if row >= 0:
        raise DataError(f"{path}, row {row}: {column} {table[column][row].as_py()!r}. Allowed: {allowed}")
