"""The table that every reader returns, and that samplers, training and evaluation use. A row is an image or a clip.

| column | type | meaning |
|---|---|---|
| path | string or null | image file; of a clip a video, or a folder of frames |
| image | binary or null | bytes of an image file, if the data set is a single file |
| label | string | the emotion |
| split | string | the published split |
| fold | string or null | the published fold, or one that shares no person with the others |
| start_s, end_s | float or null | of a clip, in seconds; start_s is null for an image, end_s where the file ends |
| box | four floats or null | the face: x, y, width, height in pixels of the upright image; null: whole image |
| subject | string or null | the person shown |
| groups | map of strings | such as race, gender, age group |
| valence, arousal | float or null | from -1 to 1 |
| votes | list of floats or null | number of annotators that chose each label, in label order |
| row | int | row number in the source, 0-based |
"""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from motivnet.config import parse_json, to_json
from motivnet.errors import DataError, require, reraised
from motivnet.frames.clips import Clip
from motivnet.images import decode_image
from motivnet.input_limits import ImageLimits
from motivnet.labels import AFFECT, EMOTIONS, LabelSet
from motivnet.storage import atomic_path

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("image", pa.binary()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("fold", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("box", pa.list_(pa.float32())),
        ("subject", pa.string()),
        ("groups", pa.map_(pa.string(), pa.string())),
        ("valence", pa.float32()),
        ("arousal", pa.float32()),
        ("votes", pa.list_(pa.float32())),
        ("row", pa.int64()),
    ]
)
# Columns that manifests of older versions lack.
ADDED = ("fold", "start_s", "end_s")
LABELS_KEY = b"motivnet.labels"
DROPPED_KEY = b"motivnet.dropped"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Labelled images, or clips.

    Args:
        table: rows of SCHEMA.
        labels: the label set of `label` and `votes`.
        dropped: reason why rows of the source are left out -> their number.
        root: folder of the data set; None if unknown.
    """

    table: pa.Table
    labels: LabelSet = EMOTIONS
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    root: str | None = None

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def targets(self) -> np.ndarray:
        """Label indices, int64 (rows,)."""
        index = {name: i for i, name in enumerate(self.labels)}
        return np.array([index[name] for name in self.table["label"].to_pylist()], dtype=np.int64)

    @property
    def votes(self) -> np.ndarray:
        """Votes per label, float32 (rows, labels); zeros if a row has none."""
        zeros = [0.0] * len(self.labels)
        votes = [zeros if row is None else row for row in self.table["votes"].to_pylist()]
        return np.array(votes, dtype=np.float32).reshape(len(self), len(self.labels))

    @property
    def affect(self) -> np.ndarray:
        """Valence and arousal, float32 (rows, 2); NaN if a row has none."""
        columns = [self.table[name].to_numpy(zero_copy_only=False) for name in AFFECT]
        return np.stack(columns, axis=1).astype(np.float32)

    @property
    def clips(self) -> bool:
        """Whether the rows are clips."""
        return self.table["start_s"].null_count < len(self)

    def source(self, row: int) -> str | bytes | Clip:
        """Return the path of a row's image, or its bytes, for `decode_image`; or its clip."""
        path, start_s, end_s = (self.table[name][row].as_py() for name in ("path", "start_s", "end_s"))
        if start_s is not None:
            return Clip(path, start_s, end_s)
        return self.table["image"][row].as_py() if path is None else path

    def read(self, row: int, num_frames: int = 1, *, limits: ImageLimits | None = None) -> list[np.ndarray]:
        """Decode a row's image, or evenly spaced frames of its clip: upright RGB, uint8 (h, w, 3).

        Raises:
            ImageError: if it cannot be read.
        """
        source = self.source(row)
        if isinstance(source, Clip):
            return source.read(num_frames, limits=limits)
        return [decode_image(source, limits=limits)]

    def where(self, row: int) -> str:
        """Return what identifies a row in messages: its path, or its number in the source."""
        source = self.source(row)
        return f"row {self.table['row'][row].as_py()}" if isinstance(source, bytes) else str(source)

    def relative(self, path: str | None) -> str | None:
        """Return a path relative to the data set's folder, if it is known and the path is in it."""
        return path and path.removeprefix(self.root.rstrip("/") + "/") if self.root else path

    def select(self, keep: np.ndarray) -> "Manifest":
        """Return the rows of a boolean mask, or of an array of row positions."""
        positions = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        return dataclasses.replace(self, table=self.table.take(pa.array(positions)))

    def restrict(self, labels: LabelSet) -> "Manifest":
        """Return the rows whose label is in another set, and count the others as dropped.

        Votes for labels outside the set are left out; labels that could not be voted for get 0.

        Raises:
            DataError: if no row is left.
        """
        if labels == self.labels:
            return self
        own = self.table["label"].to_pylist()
        kept = self.select(np.array([label in labels.names for label in own], dtype=np.bool_))
        if not len(kept):
            raise DataError(f"no row has one of the labels {', '.join(labels)}; found {', '.join(sorted(set(own)))}")
        left_out = Counter(f"label {label}" for label in own if label not in labels.names)
        table = kept.table
        if table["votes"].null_count < len(table):
            order = [self.labels.names.index(name) if name in self.labels.names else -1 for name in labels]
            votes = [
                None if row is None else [row[place] if place >= 0 else 0.0 for place in order]
                for row in table["votes"].to_pylist()
            ]
            table = set_columns(table, votes=votes)
        return dataclasses.replace(self, table=table, labels=labels, dropped=dict(Counter(self.dropped) + left_out))

    def without_labels(self) -> "Manifest":
        """Return the same images with nothing that was known of what they show: each has the first emotion as label."""
        nothing: dict[str, Any] = {"label": EMOTIONS.names[0], "valence": None, "arousal": None, "votes": None}
        table = set_columns(self.table, **{name: [value] * len(self) for name, value in nothing.items()})
        return dataclasses.replace(self, table=table, labels=EMOTIONS)

    def fingerprint(self) -> str:
        """Return the letter `d` and 12 hex digits that change if a label, split, box or image changes.

        Of an image file, its size and its path below the folder common to all files are hashed.
        """
        digest = hashlib.sha256("\n".join(self.labels).encode())
        paths = self.table["path"].to_pylist()
        named = [path for path in paths if path is not None]
        root = os.path.commonpath([path.rpartition("/")[0] for path in named]) if named else ""
        for name in ("label", "split", "box", *(("start_s", "end_s") if self.clips else ())):
            digest.update(repr(self.table[name].to_pylist()).encode())
        for path, image in zip(paths, self.table["image"], strict=True):
            if path is None:
                digest.update(hashlib.sha256(image.as_buffer()).digest())
            else:
                size = Path(path).stat().st_size if Path(path).is_file() else -1
                digest.update(f"{os.path.relpath(path, root) if root else path} {size}\n".encode())
        return "d" + digest.hexdigest()[:12]

    def split(self, name: str) -> "Manifest":
        """Return the rows of one split.

        Raises:
            DataError: if there are none.
        """
        splits = np.array(self.table["split"].to_pylist(), dtype=object)
        part = self.select(splits == name)
        if not len(part):
            raise DataError(f"no rows in split {name!r}. Allowed: {', '.join(sorted(set(splits)))}")
        return part

    def hold_out_fold(self, name: str) -> "Manifest":
        """Return the rows of one fold as split `test`, and all others as `train`.

        Raises:
            DataError: if there are no rows in this fold.
        """
        folds = self.table["fold"].to_pylist()
        if name not in folds:
            raise DataError(f"no rows in fold {name!r}. Allowed: {', '.join(sorted(set(folds) - {None})) or 'none'}")
        splits = ["test" if fold == name else "train" for fold in folds]
        return dataclasses.replace(self, table=set_columns(self.table, split=splits))

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of rows: split -> label -> number, in label order."""
        pairs = Counter(zip(self.table["split"].to_pylist(), self.table["label"].to_pylist(), strict=True))
        splits = sorted({split for split, _ in pairs})
        return {split: {label: pairs[split, label] for label in self.labels} for split in splits}


def set_columns(table: pa.Table, **columns: Sequence[Any]) -> pa.Table:
    """Replace columns of SCHEMA in a table."""
    for name, values in columns.items():
        field = SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def make_manifest(
    columns: Mapping[str, Sequence[Any]], labels: LabelSet = EMOTIONS, *, dropped: Mapping[str, int] | None = None
) -> Manifest:
    """Build a manifest; missing columns are null.

    Args:
        columns: name -> values, all of one length; `label`, `split` and `path` or `image` are required.
        labels: the label set.
        dropped: reason why rows of the source are left out -> their number.

    Raises:
        DataError: if a column is unknown, a label is not in the set, a row has no image, a clip ends before it starts,
            or folds share a person.
    """
    unknown = columns.keys() - set(SCHEMA.names)
    require(not unknown, f"unknown columns {sorted(unknown)}. Allowed: {', '.join(SCHEMA.names)}", DataError)
    length = len(columns["label"])
    empty = [None] * length
    arrays = {name: columns.get(name, range(length) if name == "row" else empty) for name in SCHEMA.names}
    for row, (label, path, image) in enumerate(zip(arrays["label"], arrays["path"], arrays["image"], strict=True)):
        if label not in labels.names:
            raise DataError(f"row {row}: label {label!r}. Allowed: {', '.join(labels)}")
        if path is None and image is None:
            raise DataError(f"row {row}: neither path nor image")
    table = pa.table({name: pa.array(values, SCHEMA.field(name).type) for name, values in arrays.items()})
    check_clips(table)
    return Manifest(table, labels, {reason: number for reason, number in (dropped or {}).items() if number})


def check_clips(table: pa.Table) -> None:
    """Check the stretches of clips, and that no two folds share a person.

    Raises:
        DataError: naming the row, or person and folds.
    """
    starts, ends, subjects, folds = (table[name].to_pylist() for name in ("start_s", "end_s", "subject", "fold"))
    files = [None if start_s is None else path for start_s, path in zip(starts, table["path"].to_pylist(), strict=True)]
    if None in files and starts.count(None) < len(starts):
        raise DataError(f"row {files.index(None)}: an image among clips. Allowed: one kind of rows")
    for row, (start_s, end_s) in enumerate(zip(starts, ends, strict=True)):
        if not (start_s or 0.0) >= 0 or not (end_s is None or end_s > (start_s or 0.0)):
            raise DataError(f"row {row}: a clip from {start_s} to {end_s} s. Allowed: an end after the start")
    seen: dict[str, str | None] = {}
    for subject, fold in zip(subjects, folds, strict=True):
        if subject is not None and seen.setdefault(subject, fold) != fold:
            raise DataError(f"subject {subject} is in folds {seen[subject]} and {fold}: folds must not share a person")


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest as Parquet, with its label set in the file's metadata.

    Raises:
        OutputError: if it cannot be written.
    """
    metadata = {LABELS_KEY: "\n".join(manifest.labels).encode(), DROPPED_KEY: to_json(dict(manifest.dropped)).encode()}
    write_table(manifest.table.replace_schema_metadata(metadata), path)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet, atomically; OutputError if it cannot be written."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest that `write_manifest` wrote.

    Raises:
        DataError: if it cannot be read, or lacks columns.
    """
    table = read_table(path, set(SCHEMA.names) - set(ADDED))
    metadata = table.schema.metadata or {}
    names, dropped = metadata.get(LABELS_KEY), metadata.get(DROPPED_KEY)
    with reraised(DataError, f"{path}: is no manifest", ValueError, DataError, pa.ArrowException):
        labels = LabelSet(tuple(names.decode().split("\n"))) if names else EMOTIONS
        left_out = parse_json(dropped.decode()) if dropped else {}
        for name in set(ADDED) - set(table.schema.names):
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
        table = table.select(SCHEMA.names).cast(SCHEMA)
    if not isinstance(left_out, dict) or not all(isinstance(number, int) for number in left_out.values()):
        raise DataError(f"{path}: is no manifest: what it left out are no numbers")
    return Manifest(table, labels, left_out)


def read_table(path: Path, columns: Iterable[str]) -> pa.Table:
    """Read a Parquet file.

    Args:
        path: the file.
        columns: the required columns.

    Raises:
        DataError: if it cannot be read, or lacks columns.
    """
    with reraised(DataError, f"{path}: cannot be read as Parquet", OSError, pa.ArrowException):
        table = pq.read_table(path)
        table.validate(full=True)  # of text, that it is UTF-8
    missing = sorted(set(columns) - set(table.schema.names))
    require(not missing, f"{path}: columns {missing} are missing", DataError)
    return table
