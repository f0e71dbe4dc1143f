"""What a model answered, image by image, under which protocol; written to a file, and read from anybody's.

Shape suffixes: B images, C classes.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from motivnet.checkpoints.bundle import Calibration
from motivnet.checkpoints.transfer import sha256_of
from motivnet.config import from_plain, to_plain
from motivnet.data.manifest import Manifest
from motivnet.errors import ConfigError, DataError, OutputError
from motivnet.evaluation import external_predictions as foreign
from motivnet.evaluation.metrics import NO_ANSWER
from motivnet.evaluation.probabilities import checked_probs
from motivnet.inference.results import Status
from motivnet.labels import AFFECT, EMOTIONS, WITH_CONTEMPT, LabelSet
from motivnet.preprocess import Box
from motivnet.version import __version__

# What becomes of images without an answer: the word of the command line -> the protocol's.
UNANSWERED = {"error": "counted as errors", "leave-out": "left out"}
PROTOCOL_KEY = b"motivnet.protocol"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What exactly was measured.

    Args:
        model: name of the model, or of the file of predictions.
        model_fingerprint: of its weights and settings, or of that file; None if unknown.
        data: the source as it was named, such as `fer2013:fer2013.parquet`.
        data_fingerprint: of the rows that were evaluated.
        split: the publisher's split; None for all of them.
        n: rows that were evaluated, with an answer or without.
        dropped: why rows of the source were not evaluated -> how many.
        labels: names of the classes, in order.
        detection: `none: ...` where the face was known or the image is a crop, else the detector and its rule.
        preprocessing: fingerprint; None if unknown.
        calibration: how logits became probabilities; None if unknown.
        unanswered: one of the values of UNANSWERED.
        version: of motivnet.
    """

    model: str
    model_fingerprint: str | None = None
    data: str
    data_fingerprint: str
    split: str | None = None
    n: int
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...]
    detection: str
    preprocessing: str | None = None
    calibration: Calibration | None = None
    unanswered: str = UNANSWERED["error"]
    version: str = __version__

    def __post_init__(self) -> None:
        """Check what is chosen from a list.

        Raises:
            DataError: at an unknown way to treat unanswered images.
        """
        if self.unanswered not in UNANSWERED.values():
            raise DataError(f"unanswered {self.unanswered!r}. Allowed: {', '.join(UNANSWERED.values())}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """Answers to the rows of a manifest, in its order.

    Args:
        manifest: what was asked, its labels those of the answers.
        probs_BC: probability of every class, float64 (B, C); NaN rows where there is no answer.
        status: of each image: `ok`, `no_face` or `unreadable`.
        protocol: what exactly was measured.
        has_probs: False where only a class is known: its probability is 1 then, and measures of probabilities mean
            nothing.
        errors: row position -> why the image could not be read.
        faces: row position -> the face that was judged, in pixels of the upright image, where that is not all of it.
        affect_B2: predicted valence and arousal, from -1 to 1, float64 (B, 2); NaN rows where there is no answer; None
            of a model that does not give them.
    """

    manifest: Manifest
    probs_BC: np.ndarray
    status: tuple[Status, ...]
    protocol: Protocol
    has_probs: bool = True
    errors: Mapping[int, str] = dataclasses.field(default_factory=dict)
    faces: Mapping[int, Box] = dataclasses.field(default_factory=dict)
    affect_B2: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            DataError: if lengths or labels differ, a status is unknown, or probabilities are none.
        """
        num_rows, num_classes = len(self.manifest), len(self.protocol.labels)
        if self.manifest.labels.names != tuple(self.protocol.labels):
            raise DataError(
                f"predictions of the labels {', '.join(self.protocol.labels)} for data of the labels "
                f"{', '.join(self.manifest.labels)}: restrict the data first"
            )
        if self.probs_BC.shape != (num_rows, num_classes) or len(self.status) != num_rows:
            raise DataError(
                f"probabilities of shape {self.probs_BC.shape} and {len(self.status)} statuses for {num_rows} images "
                f"and {num_classes} labels"
            )
        unknown = sorted(set(self.status) - set(get_args(Status)))
        if unknown:
            raise DataError(f"status {unknown[0]!r}. Allowed: {', '.join(get_args(Status))}")
        if self.answered_B.any():
            checked_probs(self.probs_BC[self.answered_B])
        if self.affect_B2 is not None and self.affect_B2.shape != (num_rows, len(AFFECT)):
            raise DataError(f"valence and arousal of shape {self.affect_B2.shape} for {num_rows} images")

    @property
    def labels(self) -> LabelSet:
        """The classes."""
        return self.manifest.labels

    @functools.cached_property
    def target_B(self) -> np.ndarray:
        """True class of each image, int64 (B,)."""
        return self.manifest.targets

    @functools.cached_property
    def answered_B(self) -> np.ndarray:
        """Which images have an answer, bool (B,)."""
        return np.array([status == "ok" for status in self.status], dtype=np.bool_)

    @functools.cached_property
    def preds_B(self) -> np.ndarray:
        """Most probable class of each image, int64 (B,); `NO_ANSWER` where there is none."""
        preds_B = np.full(len(self.status), NO_ANSWER, dtype=np.int64)
        preds_B[self.answered_B] = self.probs_BC[self.answered_B].argmax(axis=1)
        return preds_B

    def select(self, keep: np.ndarray) -> "Predictions":
        """Keep the rows of a boolean mask, or of an array of row positions; the protocol stays that of the whole."""
        positions = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        return dataclasses.replace(
            self,
            manifest=self.manifest.select(positions),
            probs_BC=self.probs_BC[positions],
            affect_B2=None if self.affect_B2 is None else self.affect_B2[positions],
            status=tuple(self.status[position] for position in positions),
            errors={new: self.errors[old] for new, old in enumerate(positions.tolist()) if old in self.errors},
            faces={new: self.faces[old] for new, old in enumerate(positions.tolist()) if old in self.faces},
        )

    def write(self, path: Path) -> None:
        """Write one row an image as Parquet, with the protocol in the file's metadata; the path's folder must exist.

        Raises:
            OutputError: if the file cannot be written.
        """
        names, rows = self.labels.names, range(len(self.status))
        source = self.manifest.table
        columns = {
            **{name: source[name] for name in ("row", "path", "split", "label")},
            "status": pa.array(self.status, pa.string()),
            "error": pa.array([self.errors.get(row) for row in rows], pa.string()),
            "box": pa.array([self.faces.get(row) for row in rows], pa.list_(pa.float32())),
            "pred": pa.array([None if pred == NO_ANSWER else names[pred] for pred in self.preds_B], pa.string()),
        }
        if self.has_probs:
            for name, probs in zip(names, self.probs_BC.T, strict=True):
                columns[f"prob_{name}"] = pa.array(probs, pa.float64(), from_pandas=True)
        if self.affect_B2 is not None:
            for name, values in zip(AFFECT, self.affect_B2.T, strict=True):
                columns[name] = pa.array(values, pa.float64(), from_pandas=True)
        protocol = json.dumps(to_plain(self.protocol), sort_keys=True).encode()
        try:
            pq.write_table(pa.table(columns).replace_schema_metadata({PROTOCOL_KEY: protocol}), path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def read_predictions(
    path: Path, manifest: Manifest, *, data: str = "", split: str | None = None, unanswered: str = UNANSWERED["error"]
) -> Predictions:
    """Read answers to a manifest: what `Predictions.write` wrote, or the file of another tool.

    A row is found by the column `row` (the manifest's), else by `path`: as it stands in the manifest, below the folder
    that all images have in common, or by the file's name alone where that is enough. There is a column of probabilities
    a label, or only `pred`, a label. Labels may be synonyms such as `happy`, and columns of probabilities may start
    with `prob_`. A column `status` is heeded; without it, a row without an answer means that no face was found. Columns
    `valence` and `arousal`, if both are there, are predicted ones.

    Args:
        path: a Parquet or CSV file.
        manifest: what was asked; its rows of other labels than the file's are left out, and counted.
        data: the source as it was named, for the protocol.
        split: the publisher's split, for the protocol.
        unanswered: one of the values of UNANSWERED.

    Raises:
        DataError: naming file and row, at an unknown label, a row without a partner, one given twice, probabilities
            that are none, or a valence or arousal out of range.
    """
    table = foreign.read_table(path)
    known = LabelSet(tuple(dict.fromkeys((*WITH_CONTEMPT, *manifest.labels))))
    columns = foreign.prob_columns(path, table.column_names, known)
    preds = foreign.pred_classes(path, table, known)
    if not columns and preds is None:
        found = ", ".join(table.column_names)
        raise DataError(f"{path}: neither a column of probabilities a label nor `pred`; found {found}")
    named = {known.names[pred] for pred in preds or () if pred is not None}
    # A label that was never predicted is not named: the seven emotions are taken for known.
    labels = LabelSet(tuple(columns)) if columns else EMOTIONS if named <= set(EMOTIONS) else known
    manifest = manifest.restrict(labels)
    places, num_others = foreign.match_rows(path, table, manifest)
    probs_BC = foreign.read_probs(path, table, columns) if columns else foreign.one_hot(preds or [], known, labels)
    foreign.check_probs(path, probs_BC, [None if pred is None else known.names[pred] for pred in preds or ()], labels)
    status = foreign.read_status(path, table, ~np.isnan(probs_BC[:, 0]))
    affect_B2 = foreign.read_affect(path, table)
    protocol = _own_protocol(path, table) or Protocol(
        model=path.name,
        model_fingerprint="m" + sha256_of(path)[:12],
        data=data,
        data_fingerprint="",
        n=len(manifest),
        labels=labels.names,
        detection="unknown: answers of another tool",
    )
    return Predictions(
        manifest=manifest,
        probs_BC=probs_BC[places],
        status=tuple(status[place] for place in places),
        has_probs=bool(columns),
        errors=foreign.values_at(table, "error", places),
        faces={row: Box(*box) for row, box in foreign.values_at(table, "box", places).items()},
        affect_B2=None if affect_B2 is None else affect_B2[places],
        protocol=dataclasses.replace(
            protocol,
            data=data or protocol.data,
            data_fingerprint=manifest.fingerprint(),
            split=split,
            n=len(manifest),
            dropped=dict(manifest.dropped) | ({"predictions of other rows": num_others} if num_others else {}),
            labels=labels.names,
            unanswered=unanswered,
            version=__version__,
        ),
    )


def _own_protocol(path: Path, table: pa.Table) -> Protocol | None:
    text = (table.schema.metadata or {}).get(PROTOCOL_KEY)
    if text is None:
        return None
    try:
        return from_plain(Protocol, json.loads(text))
    except (ValueError, ConfigError) as error:
        raise DataError(f"{path}: its protocol cannot be read: {error}") from None
