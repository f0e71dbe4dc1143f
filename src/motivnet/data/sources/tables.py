"""Your own tables, CSV and Parquet with one row per image; and manifests that `motivnet data build` wrote.

| column | what it is |
|---|---|
| path | image file, relative to the table's folder or to `root` |
| image | Parquet: bytes of an image file, or a struct with `bytes`; CSV: the same as path |
| label | emotion; synonyms such as `happy` are understood |
| split | default: the option `split`, `all` |
| subject | who is shown |
| valence, arousal | from -1 to 1 |
| x, y, width, height | the face in pixels of the image |
| any other | a group |

`label`, and `path` or `image`, have to be there. An empty cell is nothing known.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from motivnet.data.manifest import SCHEMA, Manifest, read_manifest
from motivnet.data.sources.records import (
    Box,
    Rows,
    absolute,
    check_columns,
    check_one_label,
    image_path,
    make_box,
    number,
    read_records,
)
from motivnet.errors import DataError
from motivnet.labels import WITH_CONTEMPT

BOX_COLUMNS = ("x", "y", "width", "height")
COLUMNS = ("path", "image", "label", "split", "subject", "valence", "arousal", *BOX_COLUMNS)
# A manifest's own columns, which a table of one's own cannot hold.
RESERVED = ("box", "groups", "votes")


def read_csv(path: Path, *, root: Path | None = None, split: str = "all") -> Manifest:
    """Read a CSV file with the columns above.

    Args:
        path: the file.
        root: the folder that image names are relative to; None: the file's.
        split: of rows that name none.

    Raises:
        DataError: naming file and row of what cannot be used.
    """
    return _read(path, read_records(path, lambda names: _check_names(path, names)), root, split)


def read_parquet(path: Path, *, root: Path | None = None, split: str = "all") -> Manifest:
    """Read a Parquet file with the columns above.

    Args:
        path: the file.
        root: the folder that image names are relative to; None: the file's.
        split: of rows that name none.

    Raises:
        DataError: naming file and row of what cannot be used.
    """
    return _read(path, _parquet_records(path), root, split)


def _check_names(path: Path, names: list[str]) -> None:
    given = set(names)
    box = BOX_COLUMNS if given & set(BOX_COLUMNS) else ()
    image = () if given & {"path", "image"} else ("path",)
    check_columns(path, names, ("label", *image, *box))
    reserved = sorted(given & set(RESERVED))
    if reserved:
        raise DataError(f"{path}: columns {reserved} are a manifest's, which is read as manifest:PATH")


def _parquet_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_names(path, schema.names)
            for field in schema:
                if field.name not in COLUMNS and _is_no_group(field.type):
                    raise DataError(
                        f"{path}: column {field.name!r} of {field.type} is no group. Allowed: text, numbers"
                    )
            row = 0
            for batch in file.iter_batches():
                for cells in batch.to_pylist():
                    yield row, cells
                    row += 1
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None


def _is_no_group(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _read(path: Path, records: Iterator[tuple[int, dict[str, Any]]], root: Path | None, split: str) -> Manifest:
    rows = Rows(path)
    folder = absolute(root or path.parent)
    labels: dict[str | None, str] = {}
    for row, cells in records:
        where = f"{path}, row {row}"
        file, image = _image(folder, cells, where)
        name = _text(cells["label"])
        if name not in labels:
            labels[name] = _label(name, where)
        rows.add(
            path=file,
            image=image,
            label=labels[name],
            split=_text(cells.get("split")) or split,
            subject=_text(cells.get("subject")),
            valence=_affect(cells, "valence", where),
            arousal=_affect(cells, "arousal", where),
            box=_box(cells, where),
            groups=[(key, text) for key in cells if key not in COLUMNS and (text := _text(cells[key])) is not None],
            row=row,
        )
    return rows.manifest()


def _text(cell: object) -> str | None:
    """Give a cell as text; None if it is empty (NaN, in what pandas wrote)."""
    if cell is None or cell != cell:
        return None
    return str(cell).strip() or None


def _label(name: str | None, where: str) -> str:
    try:
        return WITH_CONTEMPT.names[WITH_CONTEMPT.index(name or "")]
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _image(folder: str, cells: Mapping[str, Any], where: str) -> tuple[str | None, bytes | None]:
    image = cells.get("image")
    if isinstance(image, dict):
        image = image.get("bytes")
    found = [cell for cell in (cells.get("path"), image) if cell]
    if len(found) != 1:
        raise DataError(
            f"{where}: {'both path and image' if found else 'neither path nor image'}. Allowed: one of them"
        )
    if isinstance(found[0], bytes):
        return None, found[0]
    if not isinstance(found[0], str):
        raise DataError(f"{where}: {found[0]!r} is no file name")
    return image_path(folder, found[0], where), None


def _affect(cells: Mapping[str, Any], name: str, where: str) -> float | None:
    text = _text(cells.get(name))
    return None if text is None else number(text, where, name, -1.0, 1.0)


def _box(cells: Mapping[str, Any], where: str) -> Box | None:
    texts = [_text(cells.get(name)) for name in BOX_COLUMNS]
    if not any(texts):
        return None
    x, y, width, height = (number(text or "", where, name) for text, name in zip(texts, BOX_COLUMNS, strict=True))
    return make_box(x, y, width, height, where)


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
