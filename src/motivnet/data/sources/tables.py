"""Your own tables, CSV and Parquet with one row per image; and manifests that `motivnet data build` wrote.

| column | what it is |
|---|---|
| path | image file, or clip: a video or a folder of frames; relative to the table's folder or to `root` |
| image | Parquet: bytes of an image file, or a struct with `bytes`; CSV: the same as path |
| label | emotion, synonyms such as `happy` are understood; or one of the option `labels=NAME,NAME` |
| split | default: the option `split`, which is `all` |
| fold | a part of the data that shares no person with the others |
| start_s, end_s | of a clip, in seconds; default: the whole file |
| subject | the person shown |
| valence, arousal | from -1 to 1 |
| x, y, width, height | the face in pixels of the image |
| any other | a group, unless most images have a value of their own, as a number that identifies them |

`label`, and `path` or `image`, are required; the options `label`, `image` and `subject` name these columns in the file.
An empty cell is an unknown value. Of Parquet, `unlabelled=true` reads no labels, and `box=X,Y,WIDTH,HEIGHT` is the face
in every image that has no box of its own.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from motivnet.data import manifest as manifests
from motivnet.data.manifest import Manifest, check_clips
from motivnet.data.sources import records
from motivnet.data.sources.folder import NO_LABELS, UNLABELLED
from motivnet.data.sources.records import Box, Rows, absolute, image_path, label_of_name
from motivnet.errors import DataError, require, reraised
from motivnet.frames.clips import is_clip
from motivnet.labels import LabelSet

BOX_COLUMNS = ("x", "y", "width", "height")
COLUMNS = ("path", "image", "label", "split", "fold", "start_s", "end_s", "subject", "valence", "arousal", *BOX_COLUMNS)
# Columns that only a manifest has.
RESERVED = ("box", "groups", "votes")
# A column of more values, and of more than half as many as there are images, identifies images.
MAX_GROUPS = 50
# Row numbers and their cells.
Lines = Iterator[tuple[int, dict[str, Any]]]
NOT_SCALAR = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)


def read_csv(
    path: Path,
    *,
    root: Path | None = None,
    split: str = "all",
    label: str = "label",
    image: str = "image",
    subject: str = "subject",
    labels: LabelSet | None = None,
) -> Manifest:
    """Read a CSV file with the columns above.

    Args:
        path: the file.
        root: the folder that image names are relative to; None: the folder of the file.
        split: split of rows without one.
        label: name of the column `label` in this file.
        image: name of the column `image`.
        subject: name of the column `subject`.
        labels: the allowed labels; None: the seven emotions, and contempt if a row has it.

    Raises:
        DataError: naming file and row of what cannot be used.
    """
    names = {"label": label, "image": image, "subject": subject}
    return _read(Rows(path, labels), records.read_records(path, check=_check_names, named=names), root, split)


def read_parquet(
    path: Path,
    *,
    root: Path | None = None,
    split: str = "all",
    label: str = "label",
    image: str = "image",
    subject: str = "subject",
    unlabelled: bool = False,
    box: str | None = None,
    labels: LabelSet | None = None,
) -> Manifest:
    """Read a Parquet file with the columns above.

    Args:
        path: the file.
        root: the folder that image names are relative to; None: the folder of the file.
        split: split of rows without one.
        label: name of the column `label` in this file.
        image: name of the column `image`.
        subject: name of the column `subject`.
        unlabelled: read no labels.
        box: x, y, width and height of the face in an image without a box, in pixels.
        labels: the allowed labels; None: the seven emotions, and contempt if a row has it.

    Raises:
        DataError: naming file and row of what cannot be used.
    """
    names = {"label": label, "image": image, "subject": subject}
    lines = _parquet_records(path, names, unlabelled=unlabelled)
    return _read(Rows(path, NO_LABELS if unlabelled else labels), lines, root, split, box)


def _check_names(path: Path, names: list[str], *, unlabelled: bool = False) -> None:
    given = set(names)
    box = BOX_COLUMNS if given & set(BOX_COLUMNS) else ()
    image = () if given & {"path", "image"} else ("path",)
    records.check_columns(path, names, (*(() if unlabelled else ("label",)), *image, *box))
    reserved = sorted(given & set(RESERVED))
    require(not reserved, f"{path}: columns {reserved} are a manifest's, which is read as manifest:PATH", DataError)


def _parquet_records(path: Path, named: Mapping[str, str], *, unlabelled: bool) -> Lines:
    damaged = (OSError, pa.ArrowException, UnicodeDecodeError)
    with reraised(DataError, f"{path}: cannot be read as Parquet", *damaged), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = records.rename_columns(path, schema.names, named)
        _check_names(path, names, unlabelled=unlabelled)
        for name, kind in zip(names, schema.types, strict=True):
            if name not in COLUMNS and any(check(kind) for check in NOT_SCALAR):
                raise DataError(f"{path}: column {name!r} is {kind}. Allowed: text, numbers")
        batches = (batch.rename_columns(names) for batch in file.iter_batches())
        yield from enumerate(cells for batch in batches for cells in batch.to_pylist())


def _read(rows: Rows, lines: Lines, root: Path | None, split: str, box: str | None = None) -> Manifest:
    path, labels = rows.source, rows.labels
    folder = records.absolute(root or path.parent)
    usual = box and _box(dict(zip(BOX_COLUMNS, box.split(","), strict=False)), f"{path}, option box")
    for row, cells in lines:
        where = f"{path}, row {row}"
        file, image = _image(folder, cells, where)
        start_s, end_s = (_number(cells, name, where, 0.0) for name in ("start_s", "end_s"))
        rows.add(
            path=file,
            image=image,
            start_s=0.0 if start_s is None and file and (end_s is not None or is_clip(file)) else start_s,
            end_s=end_s,
            fold=_text(cells.get("fold")),
            label=UNLABELLED if labels is NO_LABELS else label_of_name(_text(cells["label"]) or "", where, labels),
            split=_text(cells.get("split")) or split,
            subject=_text(cells.get("subject")),
            valence=_number(cells, "valence", where, -1.0, 1.0),
            arousal=_number(cells, "arousal", where, -1.0, 1.0),
            box=_box(cells, where) or usual,
            groups=[(key, text) for key in cells if key not in COLUMNS and (text := _text(cells[key])) is not None],
            row=row,
        )
    groups = rows.columns["groups"]
    values = Counter(key for key, _ in {pair for pairs in groups for pair in pairs})
    named = {key for key, number in values.items() if number <= max(MAX_GROUPS, len(groups) / 2)}
    rows.columns["groups"] = [[pair for pair in pairs if pair[0] in named] for pairs in groups]
    return rows.manifest()


def _text(cell: object) -> str | None:
    """Return a cell as text; None if it is empty, or NaN as pandas writes it."""
    if cell is None or cell != cell:
        return None
    return str(cell).strip() or None


def _image(folder: str, cells: Mapping[str, Any], where: str) -> tuple[str | None, bytes | None]:
    image = cells.get("image")
    if isinstance(image, dict):
        image = image.get("bytes")
    found = [cell for cell in (cells.get("path"), image) if cell]
    if len(found) != 1:
        given = "both path and image" if found else "neither path nor image"
        raise DataError(f"{where}: {given}. Allowed: one of them")
    if isinstance(found[0], bytes):
        return None, found[0]
    if not isinstance(found[0], str):
        raise DataError(f"{where}: {found[0]!r} is not a file name")
    return records.image_path(folder, found[0], where), None


def _number(cells: Mapping[str, Any], name: str, where: str, *limits: float) -> float | None:
    text = _text(cells.get(name))
    return None if text is None else records.number(text, where, name, *limits)


def _box(cells: Mapping[str, Any], where: str) -> Box | None:
    texts = [_text(cells.get(name)) for name in BOX_COLUMNS]
    return records.make_box([text or "" for text in texts], BOX_COLUMNS, where) if any(texts) else None


def read_manifest(path: Path) -> Manifest:
    """Read a manifest and check it, as it may have been edited.

    Raises:
        DataError: naming file and row of what is not allowed in a manifest.
    """
    manifest = manifests.read_manifest(path)
    table = manifest.table
    known = pc.is_in(table["label"], value_set=pa.array(list(manifest.labels), pa.string()))  # type: ignore[attr-defined]
    _refuse(path, pc.invert(known), table, "label", ", ".join(manifest.labels))  # type: ignore[attr-defined]
    _refuse(path, table["split"].is_null(), table, "split", "a name")
    _refuse(path, pc.and_(table["path"].is_null(), table["image"].is_null()), table, "path", "a file, or an image")  # type: ignore[attr-defined]
    columns = {name: table[name].to_pylist() for name in ("path", "label", "split", "start_s", "end_s", "row")}
    columns["box"] = [None if box is None else tuple(box) for box in table["box"].to_pylist()]
    records.check_one_label(path, columns)
    check_clips(table)
    return manifest


def _refuse(path: Path, wrong: pa.ChunkedArray, table: pa.Table, column: str, allowed: str) -> None:
    row = pc.index(wrong, True).as_py()  # type: ignore[attr-defined]
    if row >= 0:
        raise DataError(f"{path}, row {row}: {column} {table[column][row].as_py()!r}. Allowed: {allowed}")


def read_motivnet_json(path: Path, *, root: Path | None = None, split: str = "all") -> Manifest:
    """Read lists of files by label; synonyms such as `happy` are understood.

    Args:
        path: the JSON file.
        root: the folder that image names are relative to; None: the file's.
        split: name of the only split.

    Raises:
        DataError: naming file and row of what cannot be used.
    """
    with reraised(DataError, f"{path}: cannot be read as JSON", OSError, ValueError, RecursionError):
        pairs = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=list)
    rows, folder, row = Rows(path), absolute(root or path.parent), 0
    given: set[str] = set()
    # Objects arrive as lists of pairs, so that no repeated key is lost.
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) and isinstance(pair[1], list) for pair in pairs):
        raise DataError(f"{path}: not {{label: [file, ...]}}")
    for name, files in pairs:
        require(name not in given, f"{path}: label {name!r} is repeated", DataError)
        given.add(name)
        label = label_of_name(name, f"{path}, row {row}")
        for file in files:
            where = f"{path}, row {row} ({name})"
            if not isinstance(file, str):
                raise DataError(f"{where}: {file!r} is not a file name")
            rows.add(path=image_path(folder, file, where), label=label, split=split, row=row)
            row += 1
    return rows.manifest()
