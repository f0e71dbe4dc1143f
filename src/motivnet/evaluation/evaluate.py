"""Evaluate a model on a data set: predictions, all metrics with intervals, by class and by group.

Shape suffixes: B images, A images with an answer, C classes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from motivnet.checkpoints.bundle import model_fingerprint
from motivnet.config import replace, to_plain
from motivnet.data import clean
from motivnet.data.sources.named import read_source, split_off
from motivnet.errors import ConfigError, DataError, require
from motivnet.evaluation import metrics
from motivnet.evaluation.evaluation_config import EvaluationConfig, SourceConfig
from motivnet.evaluation.external_predictions import read_predictions
from motivnet.evaluation.predictions import UNANSWERED, Predictions, Protocol, Track, no_progress, predict_manifest
from motivnet.evaluation.probabilities import ProbabilityScores, Reliability
from motivnet.evaluation.resampling import Interval, Units, bootstrap, paired_bootstrap
from motivnet.inference.predictor import Predictor
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.results import Status
from motivnet.inference.tables import check_folder
from motivnet.labels import AFFECT
from motivnet.storage import atomic_folder, write_json

# The metrics come last: where they are, all is.
FILES = ("predictions.parquet", "report.html", "metrics.json")
NUM_RESAMPLES = 1000
LEVEL = 0.95
# Metrics of probabilities, and whether resampling gives them an interval: noise of a resample adds to a calibration
# error, so that the interval would lie too high.
PROBABILITY_SCORES = {"auroc_macro": True, "log_loss": True, "brier": True, "ece": False, "classwise_ece": False}
CLASS_SCORES = {name: getattr(metrics, f"{name}_per_class") for name in ("recall", "precision", "f1")}
AVERAGES = ("precision_macro", "precision_weighted", "f1_macro", "f1_weighted")
AFFECT_SCORES = {"ccc": metrics.ccc, "rmse": metrics.rmse, "sign_agreement": metrics.sign_agreement}
METRICS = ("war", "uar", "top2", *AVERAGES, *PROBABILITY_SCORES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of predictions.

    Args:
        predictions: that were evaluated.
        metrics: `n`, the number of images that are scored, and each of METRICS, as fractions; NaN where a metric does
            not exist, such as the AUROC of answers without probabilities.
        intervals: of the metrics that have one.
        per_class: label -> n, predicted, recall, precision, f1, auroc, and `intervals` of recall, precision and f1.
        confusion: confusion matrix, a row per true class and a column per predicted class; images without an answer are
            in no column.
        status: number of images of the protocol by status.
        groups: a row per value of every group column: group, value, n, war, uar.
        affect: of `affect_scores`; empty where model or data have no valence and arousal.
        robustness: degradation -> war, uar, their losses war_loss and uar_loss against the images as they are, and
            `intervals` of these two; empty if nothing was degraded.
        reliability: of the images with an answer; None where there are no probabilities.
        bootstrap: level, num_resamples, seed, and `by`: `image` or `subject`; None without intervals.
    """

    predictions: Predictions
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    per_class: dict[str, dict[str, Any]]
    confusion: list[list[int]]
    status: dict[str, int]
    groups: list[dict[str, Any]]
    affect: dict[str, dict[str, Any]]
    robustness: dict[str, dict[str, Any]]
    reliability: Reliability | None
    bootstrap: dict[str, Any] | None

    @property
    def protocol(self) -> Protocol:
        """What exactly was measured."""
        return self.predictions.protocol

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as in `metrics.json`; what does not exist is None."""
        names = ("intervals", "bootstrap", "per_class", "confusion", "status", "groups")
        optional = {name: getattr(self, name) for name in ("affect", "robustness") if getattr(self, name)}
        rest = {name: getattr(self, name) for name in names}
        return without_nan({**self.metrics, **optional, **rest, "protocol": to_plain(self.protocol)})

    def write(self, out: Path, *, thumbnails: bool = True) -> None:
        """Write FILES to a folder, in place of those that it may hold.

        Args:
            out: the folder, which is made if it does not exist.
            thumbnails: embed small copies of the worst mistakes in `report.html`; otherwise they are named only.

        Raises:
            OutputError: if they cannot be written.
        """
        from motivnet.report.evaluation_report import evaluation_report

        with atomic_folder(out, merge=True, last=FILES[-1]) as folder:
            self.predictions.write(folder / FILES[0])
            (folder / FILES[1]).write_text(evaluation_report(self, with_thumbnails=thumbnails), encoding="utf-8")
            write_json(folder / FILES[2], self.to_dict())


def evaluate(
    model: str | Path | None,
    data: str,
    settings: EvaluationConfig | None = None,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    config: PredictorConfig | None = None,
    track: Track = no_progress,
    **options: Any,
) -> Evaluation:
    """Evaluate a model, or the predictions of another tool, on a labelled data set; what `motivnet evaluate` does.

    Args:
        model: as `Predictor.load` takes it; None with `predictions`.
        data: `KIND:PATH` or `KIND:PATH@SPLIT`, such as `fer2013:fer2013.parquet@PrivateTest`.
        settings: split, detection and so on; None takes the defaults.
        out: folder to write FILES to; None writes nothing.
        overwrite: replace FILES in `out`.
        config: options of the predictor; its detector is used with `detect`.
        track: shows progress.
        options: fields of `EvaluationConfig`, in place of those of `settings`.

    Raises:
        ConfigError: unless exactly one of model and predictions is given, or if options are unknown or contradict each
            other.
        DataError: if the data or predictions cannot be read, or there is nothing to score.
        CheckpointError: if there is no such model, or it is damaged.
        OutputError: if `out` holds results already, or cannot be written.
    """
    settings = replace(settings or EvaluationConfig(), options)
    (data, split), unseen_in = split_off(data, settings.split), settings.unseen_in
    require(not unseen_in or split, "unseen_in leaves images out of a split. Allowed: with split")
    require(settings.unanswered in UNANSWERED, f"unanswered {settings.unanswered!r}. Allowed: {', '.join(UNANSWERED)}")
    if settings.degrade and settings.predictions is not None:
        raise ConfigError("degrade runs a model again; predictions are answers already. Allowed: without degrade")
    if out is not None:
        check_folder(out, FILES, overwrite=overwrite)
    # The model comes before the data: a mistake in its name is found sooner.
    predict = prediction_source(model, settings, config=config, track=track)
    manifest = read_source(data)
    if split:
        manifest = clean.leave_out_repeated(manifest, split, unseen_in) if unseen_in else manifest.split(split)
    if settings.degrade:
        predict = functools.partial(predict, degrade=True)
    predictions = predict(manifest, data=data, split=split, unanswered=UNANSWERED[settings.unanswered])
    found = score(predictions, seed=settings.seed, track=track)
    if out is not None:
        found.write(out, thumbnails=settings.thumbnails)
    return found


def prediction_source(
    model: str | Path | None, settings: SourceConfig, *, config: PredictorConfig | None, track: Track
) -> Callable[..., Predictions]:
    """Load a model, or name a file of predictions; arguments and errors as for `evaluate`.

    Returns:
        A function that takes a manifest, `data`, `split` and `unanswered`, and of a model `degrade`, as
        `predict_manifest` does.
    """
    if model is None and settings.predictions is not None:
        require(not settings.detect, "detect is for a model; predictions are answers already. Allowed: without detect")
        return functools.partial(read_predictions, settings.predictions)
    if model is None or settings.predictions is not None:
        raise ConfigError("what to evaluate is not clear. Allowed: either model or predictions")
    config = config or PredictorConfig()
    predictor = Predictor.load(model, config if settings.detect else replace(config, {"detector": "whole"}))
    fingerprint = model_fingerprint(model, config.precision)
    return functools.partial(
        predict_manifest, predictor, detect=settings.detect, model_fingerprint=fingerprint, track=track
    )


def score(predictions: Predictions, *, intervals: bool = True, seed: int = 0, track: Track = no_progress) -> Evaluation:
    """Compute every metric of predictions, as their protocol states.

    Args:
        predictions: for a manifest.
        intervals: also resample for 95 % intervals, by subject where the manifest knows subjects.
        seed: of the resamples.
        track: shows progress.

    Raises:
        DataError: if there is nothing to score.
    """
    scored = predictions.scored
    require(len(scored.manifest), "none of the images has an answer, so there is nothing to score", DataError)
    scorer = _Scorer(scored)
    by_class, scores, probable = scorer.by_class(), scorer.scores(), scorer.probability_scores
    subjects = scored.manifest.table["subject"].to_pylist()
    by_subject = any(subject is not None for subject in subjects)
    units = subjects if by_subject else len(subjects)
    resamples = {"level": LEVEL, "num_resamples": NUM_RESAMPLES, "seed": seed}
    found: dict[str, Interval] = {}
    if intervals:
        bar = functools.partial(track, total=NUM_RESAMPLES, what="intervals by resampling")
        found = bootstrap(scorer.resampled, units, track=bar, **resamples)
    for label, values in by_class.items():
        values["intervals"] = {name: found[f"{name}.{label}"] for name in CLASS_SCORES if found}
    return Evaluation(
        predictions=predictions,
        metrics={"n": len(scored.manifest), **scores},
        intervals={name: found[name] for name in METRICS if name in found},
        per_class=by_class,
        confusion=metrics.confusion_matrix(*scorer.classes).tolist(),
        status={name: predictions.status.count(name) for name in get_args(Status)},
        groups=list(_groups(scored)),
        affect=affect_scores(
            scored, subjects if by_subject else None, num_resamples=NUM_RESAMPLES if intervals else 0, seed=seed
        ),
        robustness=_robustness(scored, units, resamples),
        reliability=probable.reliability() if probable else None,
        bootstrap={"by": "subject" if by_subject else "image", **resamples} if intervals else None,
    )


class _Scorer:
    """All metrics of predictions, under any weights of the images."""

    def __init__(self, predictions: Predictions) -> None:
        self.labels, self.answered_B = predictions.labels, predictions.answered_B
        self.classes = predictions.classes
        # Whether the true class is among the two most probable; not so where there is no answer.
        self.in_top2 = np.zeros(len(self.answered_B)) if predictions.has_probs else None
        self.probability_scores = None
        if self.in_top2 is not None and self.answered_B.any():
            probs_AC, target_A = predictions.probs_BC[self.answered_B], predictions.target_B[self.answered_B]
            self.in_top2[self.answered_B] = metrics.rank_of_truth(probs_AC, target_A) < 2
            self.probability_scores = ProbabilityScores(probs_AC, target_A)

    def scores(self, weights_B: np.ndarray | None = None, names: Iterable[str] = METRICS) -> dict[str, float]:
        """Return metrics; those of probabilities are of the images with an answer, if there are any."""
        scores: dict[str, float] = {}
        weights_A = None if weights_B is None else weights_B[self.answered_B]
        probable = self.probability_scores if weights_A is None or weights_A.any() else None
        for name in names:
            if name in metrics.CLASS_METRICS:
                scores |= metrics.class_scores([name], *self.classes, weights_B)
            elif name == "top2":
                scores[name] = math.nan if self.in_top2 is None else metrics.weighted_mean(self.in_top2, weights_B)
            else:
                scores[name] = getattr(probable, name)(weights_A) if probable else math.nan
        return scores

    def resampled(self, weights_B: np.ndarray) -> dict[str, float]:
        """Return what gets an interval: metrics, and `recall.LABEL` and so on."""
        scores = self.scores(weights_B, [name for name in METRICS if PROBABILITY_SCORES.get(name, True)])
        for name, metric in CLASS_SCORES.items():
            values_C = metric(*self.classes, weights=weights_B)
            scores |= {f"{name}.{label}": value for label, value in zip(self.labels, values_C.tolist(), strict=True)}
        return scores

    def by_class(self) -> dict[str, dict[str, Any]]:
        """Return the counts and scores of each label."""
        preds_B, target_B, num_classes = self.classes
        probable = self.probability_scores
        columns = {
            "n": np.bincount(target_B, minlength=num_classes),
            "predicted": np.bincount(preds_B[self.answered_B], minlength=num_classes),
            **{name: metric(*self.classes) for name, metric in CLASS_SCORES.items()},
            "auroc": probable.auroc_per_class() if probable else np.full(num_classes, np.nan),
        }
        return {
            label: {name: values[row].item() for name, values in columns.items()}
            for row, label in enumerate(self.labels)
        }


def affect_scores(
    predictions: Predictions, subjects: list[str | None] | None, *, num_resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Score valence and arousal on the images that have both a label and an answer.

    Args:
        predictions: for a manifest.
        subjects: of each image, to resample by; None resamples images.
        num_resamples: for the 95 % intervals; 0 for none.
        seed: of the resamples.

    Returns:
        `valence` and `arousal` -> n, ccc, rmse, sign_agreement, and `intervals` of these three; empty if the model does
        not predict them, or no image has a label.
    """
    if predictions.affect_B2 is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, preds_B, target_B in zip(AFFECT, predictions.affect_B2.T, predictions.manifest.affect.T, strict=True):
        (scored,) = np.nonzero(~np.isnan(preds_B + target_B))
        if not len(scored):
            continue
        scores = functools.partial(_affect_scores, preds_B[scored], target_B[scored])
        units = len(scored) if subjects is None else [subjects[row] for row in scored]
        resamples = {"num_resamples": num_resamples, "level": LEVEL, "seed": seed}
        intervals = bootstrap(scores, units, **resamples) if num_resamples else {}
        found[name] = {"n": len(scored), **scores(), "intervals": intervals}
    return found


def _affect_scores(preds_A: np.ndarray, target_A: np.ndarray, weights_A: np.ndarray | None = None) -> dict[str, float]:
    return {name: metric(preds_A, target_A, weights=weights_A) for name, metric in AFFECT_SCORES.items()}


def _robustness(predictions: Predictions, units: Units, resamples: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Compare each degradation with the images as they are, in pairs."""
    clean_B, *truth = predictions.classes
    scores = functools.partial(functools.partial, metrics.class_scores, ("war", "uar"))
    found = {}
    for name, preds_B in predictions.degraded.items():
        losses = paired_bootstrap(scores(clean_B, *truth), scores(preds_B, *truth), units, **resamples)
        found[name] = {
            **scores(preds_B, *truth)(),
            **{f"{score}_loss": loss.value for score, loss in losses.items()},
            "intervals": {f"{score}_loss": loss.interval for score, loss in losses.items()},
        }
    return found


def _groups(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """Score each value of each group column, each fold, and each split where there are several."""
    table = predictions.manifest.table
    members: dict[tuple[str, str], list[int]] = {}
    for row, pairs in enumerate(table["groups"].to_pylist()):
        for group, value in pairs or ():
            if value is not None:
                members.setdefault((group, value), []).append(row)
    for name in ("fold", "split"):
        values = table[name].to_pylist()
        for row, value in enumerate(values if len(set(values)) > 1 else ()):
            members.setdefault((name, str(value)), []).append(row)
    for (group, value), rows in sorted(members.items()):
        preds_B, target_B, num_classes = predictions.classes
        scores = metrics.class_scores(("war", "uar"), preds_B[rows], target_B[rows], num_classes)
        yield {"group": group, "value": value, "n": len(rows), **scores}


def without_nan(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not know, by None in plain data."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
