"""Predictions for the rows of a manifest, under a stated protocol: made by a model, written to a file.

Shape suffixes: B images, C classes, D degradations; h height, w width, c channels.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from motivnet.checkpoints.bundle import Calibration
from motivnet.config import to_json, to_plain
from motivnet.data.degradations import DEGRADATIONS
from motivnet.data.manifest import Manifest, write_table
from motivnet.errors import ConfigError, DataError, require
from motivnet.evaluation.metrics import NO_ANSWER
from motivnet.evaluation.probabilities import checked_probs
from motivnet.faces import load_detector
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult, Status
from motivnet.labels import AFFECT, LabelSet
from motivnet.preprocess import Box
from motivnet.version import __version__

# How images without an answer are scored: the word of the command line -> the protocol's.
UNANSWERED = {"error": "counted as errors", "leave-out": "left out"}
PROTOCOL_KEY = b"motivnet.protocol"
BLANK = "blank: all pixels have the same value"

# A progress bar, such as `motivnet.cli.console.track`: takes items, `total` and `what`, and returns the items.
Track = Callable[..., Iterable[Any]]


def no_progress(items: Iterable[Any], *, total: int, what: str) -> Iterable[Any]:
    """Return the items without a progress bar."""
    return items


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions for the rows of a manifest, in its order.

    Args:
        manifest: the images, its labels those of the predictions.
        probs_BC: probability of every class, float64 (B, C); NaN rows where there is no answer.
        status: of each image: `ok`, `no_face` or `unreadable`.
        protocol: what exactly was measured.
        has_probs: False where only a class is known: its probability is 1 then, and metrics of probabilities mean
            nothing.
        errors: row position -> why the image could not be read; or BLANK, of one that has an answer all the same.
        faces: row position -> the face that was classified, in pixels of the upright image, where that is not all of
            it.
        affect_B2: predicted valence and arousal, from -1 to 1, float64 (B, 2); NaN rows where there is no answer; None
            if the model does not predict them.
        degraded: of `predict_degraded`.
    """

    manifest: Manifest
    probs_BC: np.ndarray
    status: tuple[Status, ...]
    protocol: Protocol
    has_probs: bool = True
    errors: Mapping[int, str] = dataclasses.field(default_factory=dict)
    faces: Mapping[int, Box] = dataclasses.field(default_factory=dict)
    affect_B2: np.ndarray | None = None
    degraded: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            DataError: if lengths or labels differ, a status is unknown, or probabilities are invalid.
        """
        num_rows, num_classes = len(self.manifest), len(self.protocol.labels)
        if self.manifest.labels.names != tuple(self.protocol.labels):
            own, theirs = ", ".join(self.protocol.labels), ", ".join(self.manifest.labels)
            raise DataError(f"predictions of the labels {own} for data of {theirs}: restrict the data first")
        if self.probs_BC.shape != (num_rows, num_classes) or len(self.status) != num_rows:
            found = f"probabilities of shape {self.probs_BC.shape} and {len(self.status)} statuses"
            raise DataError(f"{found} for {num_rows} images and {num_classes} labels")
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
        """Whether each image has an answer, bool (B,)."""
        return np.array([status == "ok" for status in self.status], dtype=np.bool_)

    @functools.cached_property
    def preds_B(self) -> np.ndarray:
        """Predicted class of each image, int64 (B,); `NO_ANSWER` where there is none."""
        preds_B = np.full(len(self.status), NO_ANSWER, dtype=np.int64)
        preds_B[self.answered_B] = self.probs_BC[self.answered_B].argmax(axis=1)
        return preds_B

    @property
    def classes(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Predicted and true class of each image, and the number of classes: arguments of the metrics of classes."""
        return self.preds_B, self.target_B, len(self.labels)

    @property
    def scored(self) -> "Predictions":
        """Those that the protocol scores: all, or the images with an answer alone."""
        return self.select(self.answered_B) if self.protocol.unanswered == UNANSWERED["leave-out"] else self

    def select(self, keep: np.ndarray) -> "Predictions":
        """Keep the rows of a boolean mask, or of an array of row positions; the protocol stays that of the whole."""
        rows = np.arange(len(self.status))[keep].tolist()
        return dataclasses.replace(
            self,
            manifest=self.manifest.select(keep),
            probs_BC=self.probs_BC[keep],
            affect_B2=None if self.affect_B2 is None else self.affect_B2[keep],
            status=tuple(self.status[row] for row in rows),
            errors={new: self.errors[row] for new, row in enumerate(rows) if row in self.errors},
            faces={new: self.faces[row] for new, row in enumerate(rows) if row in self.faces},
            degraded={name: preds_B[keep] for name, preds_B in self.degraded.items()},
        )

    def write(self, path: Path) -> None:
        """Write one row per image as Parquet, with the protocol in the file's metadata; the path's folder must exist.

        Raises:
            OutputError: if the file cannot be written.
        """
        names, rows = self.labels.names, range(len(self.status))
        source = self.manifest.table
        columns = {
            "row": source["row"],
            "path": pa.array(map(self.manifest.relative, source["path"].to_pylist()), pa.string()),
            **{name: source[name] for name in ("split", "label")},
            "status": pa.array(self.status, pa.string()),
            "error": pa.array([self.errors.get(row) for row in rows], pa.string()),
            "box": pa.array([self.faces.get(row) for row in rows], pa.list_(pa.float32())),
            "pred": pa.array([None if pred == NO_ANSWER else names[pred] for pred in self.preds_B], pa.string()),
        }
        numbers = {f"prob_{name}": self.probs_BC[:, c] for c, name in enumerate(names)} if self.has_probs else {}
        if self.affect_B2 is not None:
            numbers |= dict(zip(AFFECT, self.affect_B2.T, strict=True))
        columns |= {name: pa.array(values, pa.float64(), from_pandas=True) for name, values in numbers.items()}
        protocol = to_json(to_plain(self.protocol), sort_keys=True).encode()
        write_table(pa.table(columns).replace_schema_metadata({PROTOCOL_KEY: protocol}), path)


def predict_manifest(
    predictor: Predictor,
    manifest: Manifest,
    *,
    detect: bool,
    data: str,
    split: str | None,
    model_fingerprint: str | None = None,
    unanswered: str = UNANSWERED["error"],
    track: Track = no_progress,
    what: str = "images",
    degrade: bool = False,
) -> Predictions:
    """Predict every row of a manifest, in its order.

    Args:
        predictor: the model, and the detector for `detect`.
        manifest: the images or clips; rows of labels that the model does not know are left out, and counted.
        detect: detect faces: the largest counts, or where the manifest has a box the one that overlaps it most, and
            none if none does. Otherwise the face is the manifest's box, and without one the whole image.
        data: the source as it was named, for the protocol.
        split: the publisher's split, for the protocol.
        model_fingerprint: of `checkpoints.bundle.model_fingerprint`, for the protocol.
        unanswered: one of the values of UNANSWERED, for the protocol.
        track: shows progress.
        what: the name of the progress bar.
        degrade: also `predict_degraded`.

    Raises:
        DataError: if no row has a label that the model knows.
        ConfigError: if clips, or detected faces for a model that aligns them, are to be degraded.
    """
    config, labels = predictor.config, predictor.config.labels
    require(not degrade or not manifest.clips, "degrade is for images, not for clips. Allowed: without degrade")
    if degrade and detect and config.preprocessing.align:
        raise ConfigError("degrade crops faces by their boxes, this model aligns them. Allowed: without degrade")
    manifest = manifest.restrict(labels)
    boxes = [Box(*box) if box else None for box in manifest.table["box"].to_pylist()]
    sources = (manifest.source(row) for row in range(len(manifest)))
    if not detect:
        predictor = Predictor(config, predictor.backend, load_detector("whole"), predictor.options)
    results = track(predictor.stream(sources, boxes=None if detect else boxes), total=len(manifest), what=what)
    probs_BC, affect_B2 = (np.full((len(manifest), count), np.nan) for count in (len(labels), len(AFFECT)))
    status: list[Status] = []
    errors: dict[int, str] = {}
    faces: dict[int, Box] = {}
    for row, (result, box) in enumerate(zip(results, boxes, strict=True)):
        face = choose_face(result.faces, box if detect else None)
        status.append("no_face" if face is None and result.status == "ok" else result.status)
        if result.error is not None or result.blank:
            errors[row] = result.error or BLANK
        if face is not None:
            probs_BC[row] = list(face.probs.values())
            affect_B2[row] = face.valence, face.arousal  # None becomes NaN
            if predictor.detector.name != "whole" if detect else box:
                faces[row] = face.box
    protocol = Protocol(
        model=config.name,
        model_fingerprint=model_fingerprint,
        detection=_describe(predictor.detector.name if detect else None, boxes),
        preprocessing=config.preprocessing.fingerprint,
        calibration=config.calibration,
        **measured(manifest, data=data, split=split, unanswered=unanswered),
    )
    found = Predictions(
        manifest=manifest,
        probs_BC=probs_BC,
        status=tuple(status),
        protocol=protocol,
        errors=errors,
        faces=faces,
        affect_B2=affect_B2 if config.model.affect else None,
    )
    return predict_degraded(predictor, found, track) if degrade else found


def measured(manifest: Manifest, **rest: Any) -> dict[str, Any]:
    """Return what a protocol says of the images, with the rest of its fields."""
    about = {"n": len(manifest), "dropped": dict(manifest.dropped), "labels": manifest.labels.names}
    return about | {"data_fingerprint": manifest.fingerprint(), "version": __version__, **rest}


def predict_degraded(predictor: Predictor, predictions: Predictions, track: Track = no_progress) -> Predictions:
    """Classify the faces of predictions again, under each of `DEGRADATIONS`.

    The crop, with its margin, is degraded at its own resolution, before it is resized. The face stays the one that was
    classified, so that the classifier alone is measured and not a detector.

    Args:
        predictor: that made the predictions.
        predictions: of the faces as they are.
        track: shows progress.

    Returns:
        The same predictions with `degraded`: name -> predicted class of each image, int64 (B,); `NO_ANSWER` where there
        was none.

    Raises:
        ImageError: if an image can no longer be read.
    """
    (rows,) = np.nonzero(predictions.answered_B)

    def crops() -> Iterator[np.ndarray]:
        for row in track(rows.tolist(), total=len(rows), what="degraded images"):
            image_hwc_u8 = predictions.manifest.read(row, limits=predictor.limits)[0]
            box = predictions.faces.get(row)
            for degradation in DEGRADATIONS.values():
                change = functools.partial(degradation, face_px=max(box.width, box.height) if box else None)
                yield predictor.config.preprocessing.face(image_hwc_u8, box, change=change)

    preds = [np.argmax(probs) for probs, _ in predictor.classify_all(crops())]
    degraded_DB = np.full((len(DEGRADATIONS), len(predictions.status)), NO_ANSWER, np.int64)
    degraded_DB[:, rows] = np.reshape(preds, (len(rows), len(DEGRADATIONS))).T
    return dataclasses.replace(predictions, degraded=dict(zip(DEGRADATIONS, degraded_DB, strict=True)))


def _describe(detector: str | None, boxes: Sequence[Box | None]) -> str:
    """Describe for the protocol how faces were found."""
    others = boxes.count(None)
    if others == len(boxes):
        return f"{detector}: the largest face counts" if detector else "none: images are crops"
    if detector is None:
        return "none: boxes of the data set" + (f"; {others} images without one are crops" if others else "")
    rule = f"{detector}: the face counts that overlaps the data set's box most"
    return f"{rule}, the largest in {others} images without one" if others else rule


def choose_face(faces: Sequence[FaceResult], box: Box | None) -> FaceResult | None:
    """Choose the face that counts: the one that overlaps `box` most, if any does; without a box the first.

    Args:
        faces: largest first.
        box: where the data set says that the face is.
    """
    if box is None:
        return faces[0] if faces else None
    best = max(faces, key=lambda face: face.box.iou(box), default=None)
    return best if best and best.box.iou(box) > 0 else None
