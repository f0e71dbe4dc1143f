"""FER-2013, with FERPlus votes if available.

Three forms are read: a Parquet file with PNG bytes and votes (`usage, label, png, votes_*`), Kaggle's `fer2013.csv` and
`icml_face_data.csv` (`emotion, pixels, Usage`, in any order, with stray spaces), and folders `train/` and `test/` with
one folder per emotion (see `folder.py`). The votes of a CSV are those of FERPlus' `fer2013new.csv` next to it.

FERPlus' labels are the majority of ten annotators' votes; `labels=ferplus` uses those instead of FER-2013's, and
`labels=majority` the emotion that more than half of the votes for one of the seven agree on.

Goodfellow et al., "Challenges in Representation Learning", ICML 2013; Barsoum et al., arXiv 1608.01041 (FERPlus).
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image

from motivnet.data.manifest import Manifest, make_manifest, read_table
from motivnet.data.sources.folder import labelled_files
from motivnet.data.sources.records import WILD, Rows, label_of_code, number, read_records
from motivnet.errors import DataError
from motivnet.labels import EMOTIONS, FER2013_ORDER, WITH_CONTEMPT

SIDE_PX = 48
SPLITS = ("Training", "PublicTest", "PrivateTest")
# What annotators could vote for besides emotions, in the Parquet file and in FERPlus' CSV.
NO_EMOTION_PARQUET = ("unknown", "not_face")
NO_EMOTION_CSV = ("unknown", "NF")


def read_fer2013(path: Path, *, labels: Literal["fer2013", "ferplus", "majority"] = "fer2013") -> Manifest:
    """Read FER-2013 in any of its forms.

    Args:
        path: a Parquet file, a CSV file, or a folder.
        labels: `fer2013`: the seven emotions published with the images; `ferplus`: the one with the most votes of
            eight, including contempt; images with a tie, or with most votes for no emotion, are left out and counted;
            `majority`: the one of the seven with more than half of the votes for any of them, other images likewise.

    Raises:
        DataError: naming file and row of what differs from the published form.
    """
    if path.is_dir():
        if labels != "fer2013":
            raise DataError(f"{path}: a folder has no votes. Allowed with labels={labels}: a Parquet or CSV file")
        rows = Rows(path, EMOTIONS)
        for split, label, file in labelled_files(path, EMOTIONS, rows.dropped):
            rows.add(path=str(file), label=label, split=split, groups=[WILD])
        return rows.manifest()
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    by_vote = labels == "ferplus"
    manifest = (_read_parquet if path.suffix == ".parquet" else _read_csv)(path, by_vote=by_vote)
    return _by_majority(path, manifest) if labels == "majority" else manifest


def _read_parquet(path: Path, *, by_vote: bool) -> Manifest:
    voted = (*WITH_CONTEMPT, *NO_EMOTION_PARQUET) if by_vote else tuple(EMOTIONS)
    votes_columns = [f"votes_{name}" for name in voted]
    table = read_table(path, ("usage", "label", "png", *votes_columns))
    votes = np.stack([table[name].to_numpy() for name in votes_columns], axis=1).astype(np.float32)
    columns = {
        "image": table["png"].to_pylist(),
        "label": table["label"].to_pylist(),
        "split": table["usage"].to_pylist(),
        "groups": [[WILD]] * len(table),
    }
    return _relabel(columns, votes) if by_vote else make_manifest(columns | {"votes": votes.tolist()})


def _read_csv(path: Path, *, by_vote: bool) -> Manifest:
    rows = Rows(path, EMOTIONS)
    for i, row in read_records(path, ("emotion", "pixels", "Usage")):
        where, split = f"{path}, row {i}", row["Usage"].strip()
        label = label_of_code(row["emotion"], FER2013_ORDER, where, "emotion")
        image = encode_pixels(row["pixels"], where)
        if split not in SPLITS:
            raise DataError(f"{where}: Usage {split!r}. Allowed: {', '.join(SPLITS)}")
        rows.add(image=image, label=label, split=split, groups=[WILD])
    voted = (*WITH_CONTEMPT, *NO_EMOTION_CSV) if by_vote else tuple(EMOTIONS)
    votes = _read_votes(path.parent / "fer2013new.csv", voted, len(rows.columns["label"]))
    if by_vote:
        if votes is None:
            raise DataError(f"{path}: labels=ferplus needs FERPlus' fer2013new.csv next to it")
        return _relabel(rows.columns, np.array(votes, np.float32))
    if votes is not None:
        rows.columns["votes"] = votes
    return rows.manifest()


def _relabel(columns: Mapping[str, Sequence[Any]], votes_BV: np.ndarray) -> Manifest:
    """Label by votes, whose columns are WITH_CONTEMPT and then the classes that are not emotions."""
    most_B1 = votes_BV.max(axis=1, keepdims=True)
    single_B = (votes_BV == most_B1).sum(axis=1) == 1
    best_B = votes_BV.argmax(axis=1)
    emotion_B = best_B < len(WITH_CONTEMPT)
    keep = np.flatnonzero(single_B & emotion_B).tolist()
    kept = {name: [values[row] for row in keep] for name, values in columns.items()}
    kept["label"] = [WITH_CONTEMPT.names[best_B[row]] for row in keep]
    return make_manifest(
        kept | {"votes": votes_BV[keep, : len(WITH_CONTEMPT)].tolist(), "row": keep},
        WITH_CONTEMPT,
        dropped={
            "FERPlus: no single label has the most votes": int((~single_B).sum()),
            "FERPlus: most votes for no emotion or no face": int((single_B & ~emotion_B).sum()),
        },
    )


def _by_majority(path: Path, manifest: Manifest) -> Manifest:
    votes_BC = manifest.votes
    keep = votes_BC.max(1) > votes_BC.sum(1) / 2
    if not keep.any():
        raise DataError(f"{path}: labels=majority needs FERPlus' votes, which this file does not have")
    table = manifest.select(keep).table
    labels = [manifest.labels.names[best] for best in votes_BC[keep].argmax(1)]
    table = table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels, pa.string()))
    return Manifest(table, manifest.labels, {"FERPlus: no emotion has more than half of the votes": int((~keep).sum())})


def encode_pixels(text: str, where: str) -> bytes:
    """Encode 2,304 grey values, separated by spaces, as PNG.

    Raises:
        DataError: if their number differs, or one is outside 0 to 255.
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


def _read_votes(path: Path, voted: tuple[str, ...], num_rows: int) -> list[list[float]] | None:
    if not path.is_file():
        return None
    rows = [row for _, row in read_records(path, voted)]
    if len(rows) != num_rows:
        raise DataError(f"{path}: {len(rows)} rows, the CSV next to it has {num_rows}")
    return [[number(row[name], f"{path}, row {i}", name, 0.0) for name in voted] for i, row in enumerate(rows)]
