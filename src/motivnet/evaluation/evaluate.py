"""Score a model on a data set: predictions under a protocol, all metrics with intervals, by class and by group.

Shape suffixes: B images, C classes.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from motivnet.config import to_plain
from motivnet.data.manifest import Manifest
from motivnet.errors import DataError
from motivnet.evaluation import metrics
from motivnet.evaluation.affect import affect_scores
from motivnet.evaluation.predictions import UNANSWERED, Predictions, Protocol
from motivnet.evaluation.probabilities import ProbabilityScores
from motivnet.evaluation.resampling import Interval, bootstrap
from motivnet.faces import load_detector
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult, ImageResult, Status
from motivnet.labels import AFFECT
from motivnet.preprocess import Box

NUM_RESAMPLES = 1000
LEVEL = 0.95
# Measures of probabilities, and whether resampling gives them an interval: noise of a resample adds to a calibration
# error, so that the interval would lie too high.
PROBABILITY_SCORES = {"auroc_macro": True, "log_loss": True, "brier": True, "ece": False, "classwise_ece": False}
CLASS_SCORES = {
    "recall": metrics.recall_per_class,
    "precision": metrics.precision_per_class,
    "f1": metrics.f1_per_class,
}
CLASS_METRICS = {
    "war": metrics.war,
    "uar": metrics.uar,
    "precision_macro": metrics.precision_macro,
    "precision_weighted": metrics.precision_weighted,
    "f1_macro": metrics.f1_macro,
    "f1_weighted": metrics.f1_weighted,
}
METRICS = ("war", "uar", "top2", *[name for name in CLASS_METRICS if name not in ("war", "uar")], *PROBABILITY_SCORES)

Track = Callable[[Iterable[ImageResult]], Iterable[ImageResult]]


def predict_manifest(
    predictor: Predictor,
    manifest: Manifest,
    *,
    detect: bool,
    data: str,
    split: str | None,
    model_fingerprint: str | None = None,
    unanswered: str = UNANSWERED["error"],
    track: Track = iter,
) -> Predictions:
    """Ask a model for every row of a manifest, in its order.

    Args:
        predictor: the model, and the detector that `detect` asks for.
        manifest: what to ask; rows of labels that the model does not know are left out, and counted.
        detect: look for faces: the largest counts, or where the manifest has a box the one that overlaps it most, and
            none if none does. Otherwise the face is the manifest's box, and without one the whole image.
        data: the source as it was named, for the protocol.
        split: the publisher's split, for the protocol.
        model_fingerprint: what `checkpoints.fingerprint.model_fingerprint` gives, for the protocol.
        unanswered: one of the values of UNANSWERED, for the protocol.
        track: goes through the results as they come, such as a progress bar.

    Raises:
        DataError: if no row has a label that the model knows.
    """
    labels = predictor.config.labels
    manifest = manifest.restrict(labels)
    boxes = [Box(*box) if box else None for box in manifest.table["box"].to_pylist()]
    sources = (manifest.source(row) for row in range(len(manifest)))
    results = predictor.stream(sources) if detect else _without_detector(predictor).stream(sources, boxes=boxes)
    probs_BC = np.full((len(manifest), len(labels)), np.nan)
    affect_B2 = np.full((len(manifest), len(AFFECT)), np.nan)
    status: list[Status] = []
    errors: dict[int, str] = {}
    faces: dict[int, Box] = {}
    for row, (result, box) in enumerate(zip(track(results), boxes, strict=True)):
        face = choose_face(result.faces, box if detect else None)
        status.append("no_face" if face is None and result.status == "ok" else result.status)
        if result.error is not None:
            errors[row] = result.error
        if face is not None:
            probs_BC[row] = list(face.probs.values())
            affect_B2[row] = face.valence, face.arousal  # None becomes NaN
            if detect or box:
                faces[row] = face.box
    protocol = Protocol(
        model=predictor.config.name,
        model_fingerprint=model_fingerprint,
        data=data,
        data_fingerprint=manifest.fingerprint(),
        split=split,
        n=len(manifest),
        dropped=dict(manifest.dropped),
        labels=labels.names,
        detection=_describe(predictor.detector.name if detect else None, boxes),
        preprocessing=predictor.config.preprocessing.fingerprint,
        calibration=predictor.config.calibration,
        unanswered=unanswered,
    )
    return Predictions(
        manifest=manifest,
        probs_BC=probs_BC,
        status=tuple(status),
        protocol=protocol,
        errors=errors,
        faces=faces,
        affect_B2=affect_B2 if predictor.config.model.affect else None,
    )


def _without_detector(predictor: Predictor) -> Predictor:
    return Predictor(predictor.config, predictor.backend, load_detector("whole"), predictor.options)


def _describe(detector: str | None, boxes: Sequence[Box | None]) -> str:
    """Say how faces were found, for the protocol."""
    num_boxes = sum(box is not None for box in boxes)
    if detector is None:
        if not num_boxes:
            return "none: images are crops"
        others = len(boxes) - num_boxes
        return "none: boxes of the data set" + (f"; {others} images without one are crops" if others else "")
    if not num_boxes:
        return f"{detector}: the largest face counts"
    rule = f"{detector}: the face counts that overlaps the data set's box most"
    return rule if num_boxes == len(boxes) else f"{rule}, the largest in {len(boxes) - num_boxes} images without one"


def choose_face(faces: Sequence[FaceResult], box: Box | None) -> FaceResult | None:
    """Choose the face that counts: of those that overlap `box` the one that does most; without a box the first.

    Args:
        faces: largest first.
        box: where the data set says that the face is.
    """
    if box is None:
        return faces[0] if faces else None
    best = max(faces, key=lambda face: _overlap(face.box, box), default=None)
    return best if best and _overlap(best.box, box) > 0 else None


def _overlap(a: Box, b: Box) -> float:
    """Give intersection over union."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a.width * a.height + b.width * b.height - shared) if shared else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well predictions do, under which protocol.

    Args:
        protocol: what exactly was measured.
        metrics: `n`, the images that are scored, and each of METRICS, as fractions; NaN where a measure does not exist,
            such as the AUROC of answers without probabilities.
        intervals: of the metrics that have one.
        per_class: label -> n, predicted, recall, precision, f1, auroc, and `intervals` of the first three.
        confusion: row is the true class, column the predicted one; images without an answer are in no column.
        status: how many images of the protocol ended how.
        groups: of every group column, value by value: group, value, n, war, uar.
        affect: what `affect_scores` gives of valence and arousal; empty where model or data have none.
        bootstrap: level, num_resamples, seed, and `by`: `image` or `subject`; None without intervals.
    """

    protocol: Protocol
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    per_class: dict[str, dict[str, Any]]
    confusion: list[list[int]]
    status: dict[str, int]
    groups: list[dict[str, Any]]
    affect: dict[str, dict[str, Any]]
    bootstrap: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON; what does not exist is None."""
        return _jsonable(
            {
                **self.metrics,
                **({"affect": self.affect} if self.affect else {}),
                "intervals": self.intervals,
                "bootstrap": self.bootstrap,
                "per_class": self.per_class,
                "confusion": self.confusion,
                "status": self.status,
                "groups": self.groups,
                "protocol": to_plain(self.protocol),
            }
        )


def evaluate(predictions: Predictions, *, intervals: bool = True, seed: int = 0) -> Evaluation:
    """Compute every metric of predictions, as their protocol has it.

    Args:
        predictions: answers to a manifest.
        intervals: also resample for 95 % intervals, by subject where the manifest knows subjects.
        seed: of the resamples.

    Raises:
        DataError: if there is nothing to score.
    """
    status = {name: Counter(predictions.status)[name] for name in ("ok", "no_face", "unreadable")}
    protocol = predictions.protocol
    if protocol.unanswered == UNANSWERED["leave-out"]:
        predictions = predictions.select(predictions.answered_B)
    if not len(predictions.manifest):
        raise DataError("none of the images has an answer, so there is nothing to score")
    scorer = _Scorer(predictions)
    by_class, scores = scorer.by_class(), scorer.scores()
    found: dict[str, Interval] = {}
    bootstrapped = None
    subjects = predictions.manifest.table["subject"].to_pylist()
    by_subject = any(subject is not None for subject in subjects)
    if intervals:
        units = subjects if by_subject else len(subjects)
        found = bootstrap(scorer.resampled, units, num_resamples=NUM_RESAMPLES, level=LEVEL, seed=seed)
        bootstrapped = {
            "by": "subject" if by_subject else "image",
            "level": LEVEL,
            "num_resamples": NUM_RESAMPLES,
            "seed": seed,
        }
    for label, values in by_class.items():
        values["intervals"] = {name: found[f"{name}.{label}"] for name in CLASS_SCORES if found}
    return Evaluation(
        protocol=protocol,
        metrics={"n": len(predictions.manifest), **{name: scores[name] for name in METRICS}},
        intervals={name: found[name] for name in METRICS if name in found},
        per_class=by_class,
        confusion=scorer.confusion().tolist(),
        status=status,
        groups=list(_groups(predictions)),
        affect=affect_scores(
            predictions,
            subjects if by_subject else None,
            num_resamples=NUM_RESAMPLES if intervals else 0,
            level=LEVEL,
            seed=seed,
        ),
        bootstrap=bootstrapped,
    )


class _Scorer:
    """All measures of predictions, under any weights of the images."""

    def __init__(self, predictions: Predictions) -> None:
        self.labels = predictions.labels
        self.preds_B, self.target_B = predictions.preds_B, predictions.target_B
        self.answered_B = predictions.answered_B
        self.probs_BC = predictions.probs_BC[self.answered_B] if predictions.has_probs else None

    @functools.cached_property
    def in_top2(self) -> np.ndarray:
        """Whether the true class is among the two most probable; not so where there is no answer."""
        in_top2 = np.zeros(len(self.target_B))
        if self.probs_BC is not None and len(self.probs_BC):
            in_top2[self.answered_B] = metrics.rank_of_truth(self.probs_BC, self.target_B[self.answered_B]) < 2
        return in_top2

    @functools.cached_property
    def probability_scores(self) -> ProbabilityScores | None:
        if self.probs_BC is None or not len(self.probs_BC):
            return None
        return ProbabilityScores(self.probs_BC, self.target_B[self.answered_B])

    def scores(self, weights_B: np.ndarray | None = None, names: Iterable[str] = METRICS) -> dict[str, float]:
        """Give metrics; those of probabilities are of the images with an answer, if there are any."""
        scores: dict[str, float] = {}
        weights_A = None if weights_B is None else weights_B[self.answered_B]
        probable = self.probability_scores
        if weights_A is not None and not weights_A.any():
            probable = None
        for name in names:
            if name in CLASS_METRICS:
                args = (self.preds_B, self.target_B, len(self.labels))
                scores[name] = CLASS_METRICS[name](*args, weights=weights_B)
            elif name == "top2":
                known = self.probs_BC is not None
                scores[name] = metrics.weighted_mean(self.in_top2, weights_B) if known else math.nan
            else:
                scores[name] = getattr(probable, name)(weights_A) if probable else math.nan
        return scores

    def resampled(self, weights_B: np.ndarray) -> dict[str, float]:
        """Give the measures that resampling tells the spread of: metrics, and `recall.LABEL` and so on."""
        scores = self.scores(weights_B, [name for name in METRICS if PROBABILITY_SCORES.get(name, True)])
        for name, score in CLASS_SCORES.items():
            values_C = score(self.preds_B, self.target_B, len(self.labels), weights=weights_B)
            scores |= {f"{name}.{label}": value for label, value in zip(self.labels, values_C.tolist(), strict=True)}
        return scores

    def confusion(self) -> np.ndarray:
        return metrics.confusion_matrix(self.preds_B, self.target_B, len(self.labels))

    def by_class(self) -> dict[str, dict[str, Any]]:
        num_classes = len(self.labels)
        nothing = np.full(num_classes, np.nan)
        columns = {
            "n": np.bincount(self.target_B, minlength=num_classes),
            "predicted": np.bincount(self.preds_B[self.answered_B], minlength=num_classes),
            **{name: score(self.preds_B, self.target_B, num_classes) for name, score in CLASS_SCORES.items()},
            "auroc": self.probability_scores.auroc_per_class() if self.probability_scores else nothing,
        }
        return {
            label: {name: values[row].item() for name, values in columns.items()}
            for row, label in enumerate(self.labels)
        }


def _groups(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """Score each value of each group column, and each split where there are several."""
    table = predictions.manifest.table
    members: dict[tuple[str, str], list[int]] = {}
    for row, pairs in enumerate(table["groups"].to_pylist()):
        for group, value in pairs or ():
            if value is not None:
                members.setdefault((group, value), []).append(row)
    splits = table["split"].to_pylist()
    if len(set(splits)) > 1:
        for row, split in enumerate(splits):
            members.setdefault(("split", split), []).append(row)
    num_classes = len(predictions.labels)
    for (group, value), rows in sorted(members.items()):
        preds_B, target_B = predictions.preds_B[rows], predictions.target_B[rows]
        yield {
            "group": group,
            "value": value,
            "n": len(rows),
            **{name: CLASS_METRICS[name](preds_B, target_B, num_classes) for name in ("war", "uar")},
        }


def _jsonable(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
