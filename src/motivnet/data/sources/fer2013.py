"""FER-2013, with FERPlus votes where they are at hand.

Three forms are read: a Parquet file with PNG bytes and votes (`usage, label, png, votes_*`), Kaggle's `fer2013.csv` and
`icml_face_data.csv` (`emotion, pixels, Usage`, in any order, with stray spaces), and folders `train/` and `test/` of
one folder an emotion (see `folder.py`). Beside a CSV, FERPlus' `fer2013new.csv` gives the votes.

Goodfellow et al., "Challenges in Representation Learning", ICML 2013; Barsoum et al., arXiv 1608.01041 (FERPlus).
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sources.folder import labelled_files
from motivnet.data.sources.rows import WILD, Rows, number, read_records
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
        rows = Rows(path, EMOTIONS)
        for split, label, file in labelled_files(path, EMOTIONS):
            rows.add(path=str(file), label=label, split=split, groups=[WILD])
        return rows.manifest()
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
            "groups": [[WILD]] * len(table),
        }
    )


def _read_csv(path: Path) -> Manifest:
    columns: dict[str, list] = {"image": [], "label": [], "split": []}
    for i, row in read_records(path, ("emotion", "pixels", "Usage")):
        columns["label"].append(_label(row["emotion"], path, i))
        columns["image"].append(encode_pixels(row["pixels"], f"{path}, row {i}"))
        columns["split"].append(_split(row["Usage"], path, i))
    if not columns["label"]:
        raise DataError(f"{path}: no rows")
    votes = _read_votes(path.parent / "fer2013new.csv", len(columns["label"]))
    columns["groups"] = [[WILD]] * len(columns["label"])
    return make_manifest(columns | ({"votes": votes} if votes else {}))


def _label(text: str, path: Path, row: int) -> str:
    if not text.strip().isdecimal() or int(text) >= len(FER2013_ORDER):
        raise DataError(f"{path}, row {row}: emotion {text!r}. Allowed: 0 to {len(FER2013_ORDER) - 1}")
    return str(FER2013_ORDER[int(text)])


def _split(text: str, path: Path, row: int) -> str:
    if text.strip() not in SPLITS:
        raise DataError(f"{path}, row {row}: Usage {text!r}. Allowed: {', '.join(SPLITS)}")
    return text.strip()


def encode_pixels(text: str, where: str) -> bytes:
    """Turn 2,304 numbers into a PNG, so that every row of every source is an image file.

    Raises:
        DataError: at another number of pixels, or a value outside 0 to 255.
    """
    try:
        values = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        values = np.empty(0, np.int64)
    if values.size != SIDE_PX * SIDE_PX or values.min() < 0 or values.max() > 255:
        raise DataError(f"{where}: expected {SIDE_PX * SIDE_PX} pixels from 0 to 255, found {values.size}")
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8).reshape(SIDE_PX, SIDE_PX)).save(buffer, "PNG")
    return buffer.getvalue()


def _read_votes(path: Path, num_rows: int) -> list[list[float]] | None:
    if not path.is_file():
        return None
    rows = [row for _, row in read_records(path, tuple(EMOTIONS))]
    if len(rows) != num_rows:
        raise DataError(f"{path}: {len(rows)} rows, the CSV beside it has {num_rows}")
    return [[number(row[name], f"{path}, row {i}", name, 0.0) for name in EMOTIONS] for i, row in enumerate(rows)]
