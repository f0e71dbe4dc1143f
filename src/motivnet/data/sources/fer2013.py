"""FER-2013, with FERPlus votes if available.

Three forms are read: a Parquet file with PNG bytes and votes (`usage, label, png, votes_*`), Kaggle's `fer2013.csv` and
`icml_face_data.csv` (`emotion, pixels, Usage`, in any order, with stray spaces), and folders `train/` and `test/` with
one folder per emotion (see `folder.py`). The votes of a CSV are those of FERPlus' `fer2013new.csv` next to it.

FERPlus' labels are the majority of ten annotators' votes; `labels=ferplus` uses those instead of FER-2013's, and
`labels=majority` the emotion that more than half of the votes for one of the seven agree on.

Goodfellow et al., "Challenges in Representation Learning", ICML 2013; Barsoum et al., arXiv 1608.01041 (FERPlus).
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from motivnet.data.manifest import Manifest, make_manifest, read_table
from motivnet.data.sources.folder import labelled_files
from motivnet.data.sources.records import WILD, Rows, label_of_code, number, read_records
from motivnet.errors import DataError, require
from motivnet.labels import EMOTIONS, FER2013_ORDER, WITH_CONTEMPT, LabelSet

SIDE_PX = 48
SPLITS = ("Training", "PublicTest", "PrivateTest")
# What annotators could vote for besides emotions; FERPlus' CSV says NF for not_face.
NO_EMOTION = ("unknown", "not_face")
PARQUET_COLUMNS = {"image": "png", "label": "label", "split": "usage"}
Columns = dict[str, list[Any]]


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
    require(path.is_file(), f"{path}: no such file or folder", DataError)
    voted = (*WITH_CONTEMPT, *NO_EMOTION) if labels == "ferplus" else EMOTIONS.names
    columns, votes_BV = (_read_parquet if path.suffix == ".parquet" else _read_csv)(path, voted)
    most_B = votes_BV.max(axis=1)
    if labels == "fer2013":
        return make_manifest(columns | {"votes": votes_BV.tolist()} if most_B.any() else columns)
    if not most_B.any():
        raise DataError(f"{path}: labels={labels} needs FERPlus' votes, of a CSV in fer2013new.csv next to it")
    if labels == "majority":
        split = most_B <= votes_BV.sum(axis=1) / 2
        return _relabel(columns, votes_BV, EMOTIONS, {"FERPlus: no emotion has more than half of the votes": split})
    tied = (votes_BV == most_B[:, None]).sum(axis=1) > 1
    left_out = {
        "FERPlus: no single label has the most votes": tied,
        "FERPlus: most votes for no emotion or no face": ~tied & (votes_BV.argmax(axis=1) >= len(WITH_CONTEMPT)),
    }
    return _relabel(columns, votes_BV, WITH_CONTEMPT, left_out)


def _read_parquet(path: Path, voted: tuple[str, ...]) -> tuple[Columns, np.ndarray]:
    """Return columns of a manifest, and votes, (B, V)."""
    votes_columns = [f"votes_{name}" for name in voted]
    table = read_table(path, ("usage", "label", "png", *votes_columns))
    votes_BV = np.stack([table[name].to_numpy() for name in votes_columns], axis=1).astype(np.float32)
    columns = {name: table[theirs].to_pylist() for name, theirs in PARQUET_COLUMNS.items()}
    return columns | {"groups": [[WILD]] * len(table)}, votes_BV


def _read_csv(path: Path, voted: tuple[str, ...]) -> tuple[Columns, np.ndarray]:
    """Return columns of a manifest, and votes, (B, V), all 0 without FERPlus' file."""
    rows = Rows(path, EMOTIONS)
    for i, row in read_records(path, ("emotion", "pixels", "Usage")):
        where, split = f"{path}, row {i}", row["Usage"].strip()
        label = label_of_code(row["emotion"], FER2013_ORDER, where, "emotion")
        if split not in SPLITS:
            raise DataError(f"{where}: Usage {split!r}. Allowed: {', '.join(SPLITS)}")
        rows.add(image=encode_pixels(row["pixels"], where), label=label, split=split, groups=[WILD])
    length = len(rows.manifest())
    names = ["NF" if name == "not_face" else name for name in voted]
    file = path.parent / "fer2013new.csv"
    cells = list(read_records(file, names)) if file.is_file() else [(0, dict.fromkeys(names, "0"))] * length
    require(len(cells) == length, f"{file}: {len(cells)} rows, the CSV next to it has {length}", DataError)
    votes = [[number(row[name], f"{file}, row {i}", name, 0.0) for name in names] for i, row in cells]
    return rows.columns, np.array(votes, np.float32)


def _relabel(columns: Columns, votes_BV: np.ndarray, labels: LabelSet, left_out: Mapping[str, np.ndarray]) -> Manifest:
    """Label by the most votes, whose first columns are of the labels; leave out the rows that are marked."""
    keep = np.flatnonzero(~np.any([*left_out.values()], axis=0)).tolist()
    kept = {name: [values[row] for row in keep] for name, values in columns.items()}
    kept["label"] = [labels.names[best] for best in votes_BV[keep].argmax(axis=1)]
    kept |= {"votes": votes_BV[keep, : len(labels)].tolist(), "row": keep}
    return make_manifest(kept, labels, dropped={reason: int(marked.sum()) for reason, marked in left_out.items()})


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
