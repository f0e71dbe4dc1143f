"""FER-2013, with FERPlus votes where they are at hand.

Three forms are read: a Parquet file with PNG bytes and votes (`usage, label, png, votes_*`), Kaggle's `fer2013.csv` and
`icml_face_data.csv` (`emotion, pixels, Usage`, in any order, with stray spaces), and folders `train/` and `test/` of
one folder an emotion (see `folder.py`). Beside a CSV, FERPlus' `fer2013new.csv` gives the votes.

Goodfellow et al., "Challenges in Representation Learning", ICML 2013; Barsoum et al., arXiv 1608.01041 (FERPlus).
"""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sources.folder import read_folder
from motivnet.errors import DataError
from motivnet.labels import EMOTIONS, FER2013_ORDER

SIDE_PX = 48
SPLITS = ("Training", "PublicTest", "PrivateTest")


def read_fer2013(path: Path) -> Manifest:
    """Read FER-2013 in any of its forms.

    Args:
        path: a Parquet file, a CSV file, or a folder.

    Raises:
        DataError: naming file and row of what is not as published.
    """
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    return _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)


def _read_parquet(path: Path) -> Manifest:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None
    votes_columns = [f"votes_{name}" for name in EMOTIONS]
    missing = {"usage", "label", "png", *votes_columns} - set(table.schema.names)
    if missing:
        raise DataError(f"{path}: columns {sorted(missing)} are missing")
    votes = np.stack([table[name].to_numpy() for name in votes_columns], axis=1).astype(np.float32)
    return make_manifest(
        {
            "image": table["png"].to_pylist(),
            "label": table["label"].to_pylist(),
            "split": table["usage"].to_pylist(),
            "votes": votes.tolist(),
        }
    )


def _read_csv(path: Path) -> Manifest:
    columns: dict[str, list] = {"image": [], "label": [], "split": []}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        missing = {"emotion", "pixels", "Usage"} - set(reader.fieldnames)
        if missing:
            raise DataError(f"{path}: columns {sorted(missing)} are missing; found {', '.join(reader.fieldnames)}")
        try:
            for number, row in enumerate(reader):
                columns["label"].append(_label(row["emotion"], path, number))
                columns["image"].append(_encode(row["pixels"], path, number))
                columns["split"].append(_split(row["Usage"], path, number))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no readable CSV: {error}") from None
    votes = _read_votes(path.parent / "fer2013new.csv", len(columns["label"]))
    return make_manifest(columns | ({"votes": votes} if votes else {}))


def _label(text: str | None, path: Path, row: int) -> str:
    if text is None or not text.strip().isdigit() or int(text) >= len(FER2013_ORDER):
        raise DataError(f"{path}, row {row}: emotion {text!r}. Allowed: 0 to {len(FER2013_ORDER) - 1}")
    return str(FER2013_ORDER[int(text)])


def _split(text: str | None, path: Path, row: int) -> str:
    if (text or "").strip() not in SPLITS:
        raise DataError(f"{path}, row {row}: Usage {text!r}. Allowed: {', '.join(SPLITS)}")
    return str(text).strip()


def _encode(text: str | None, path: Path, row: int) -> bytes:
    """Turn 2,304 numbers into a PNG, so that every row of every source is an image file."""
    try:
        values = np.array((text or "").split(), dtype=np.int64)
    except ValueError:
        values = np.empty(0, np.int64)
    if values.size != SIDE_PX * SIDE_PX or values.min() < 0 or values.max() > 255:
        raise DataError(f"{path}, row {row}: expected {SIDE_PX * SIDE_PX} pixels from 0 to 255, found {values.size}")
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8).reshape(SIDE_PX, SIDE_PX)).save(buffer, "PNG")
    return buffer.getvalue()


def _read_votes(path: Path, num_rows: int) -> list[list[float]] | None:
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != num_rows:
        raise DataError(f"{path}: {len(rows)} rows, the CSV beside it has {num_rows}")
    try:
        return [[float(row[name]) for name in EMOTIONS] for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not FERPlus' votes, which have a column of numbers an emotion: {error}") from None
