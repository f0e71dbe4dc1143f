"""One model on one data set: which labels count, and its scores with their spread; and two models side by side.

A model and a data set may have different labels. Images of labels that the model lacks are left out. Labels that the
data set lacks, such as neutral in CK+'s peak frames, cannot be the right answer: their probabilities are kept (`keep`:
to predict one is an error, as it would be wherever the model is used) or removed (`renormalise`: the most probable of
the remaining labels is the answer, which uses knowledge of the data set that the model could not have). Scores are over
the labels that both have.

Shape suffixes: B images, C classes of the model.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from motivnet.errors import DataError
from motivnet.evaluation import metrics
from motivnet.evaluation.predictions import Predictions, Protocol
from motivnet.evaluation.resampling import TIE, Difference, Interval, mcnemar, paired_bootstrap, resample
from motivnet.experiments.protocols import BenchmarkSettings, Restrict, Setting, Spread, spread, subject_folds

METRICS = ("war", "uar", "top2", "f1_macro")
CLASS_METRICS = ("war", "uar", "f1_macro")


class Answers:
    """A model's predictions, in terms of the labels that it shares with the data set."""

    def __init__(self, predictions: Predictions, positions: np.ndarray, *, restrict: Restrict = "keep") -> None:
        """Find the shared labels and the prediction for each image; a missing one is an error.

        Args:
            predictions: for the rows of labels that the model knows.
            positions: of these rows in the whole data set, (B,).
            restrict: what becomes of probabilities of labels that no image has.

        Raises:
            DataError: if fewer than two labels are shared.
        """
        target_B, answered_B = predictions.target_B, predictions.answered_B
        present_C = np.isin(np.arange(len(predictions.labels)), target_B)
        names_C = np.array(predictions.labels.names)
        self.labels, self.absent = tuple(names_C[present_C].tolist()), tuple(names_C[~present_C].tolist())
        if len(self.labels) < 2:
            shared = f"{len(self.labels)} label in common ({', '.join(self.labels)})"
            raise DataError(f"model and data have {shared}; 2 are needed")
        place_C = np.where(present_C, np.cumsum(present_C) - 1, metrics.NO_ANSWER)
        self.positions = positions
        self.subjects: list[str | None] = predictions.manifest.table["subject"].to_pylist()
        self.folds: list[str | None] = predictions.manifest.table["fold"].to_pylist()
        self.by_subject = any(subject is not None for subject in self.subjects)
        # What to resample: subjects where there are any, else images.
        self.units = self.subjects if self.by_subject else len(target_B)
        self.target = place_C[target_B]
        self.preds = np.full(len(target_B), metrics.NO_ANSWER)
        self.in_top2 = np.zeros(len(target_B))
        if answered_B.any():
            probs_BC = predictions.probs_BC[answered_B]
            if restrict == "renormalise":
                # Dividing by their sum would not change the order of the others.
                probs_BC = np.where(present_C, probs_BC, -1)
            self.preds[answered_B] = place_C[probs_BC.argmax(axis=1)]
            self.in_top2[answered_B] = metrics.rank_of_truth(probs_BC, target_B[answered_B]) < 2

    def __len__(self) -> int:
        return len(self.target)

    def class_scores(self, weights_B: np.ndarray | None = None, rows: np.ndarray | None = None) -> dict[str, float]:
        """Return CLASS_METRICS over the shared labels, of all images or of some rows."""
        preds, target = (self.preds, self.target) if rows is None else (self.preds[rows], self.target[rows])
        return metrics.class_scores(CLASS_METRICS, preds, target, len(self.labels), weights_B)

    def scores(self, weights_B: np.ndarray | None = None) -> dict[str, float]:
        """Return METRICS over the shared labels."""
        scores = self.class_scores(weights_B) | {"top2": metrics.weighted_mean(self.in_top2, weights_B)}
        return {name: scores[name] for name in METRICS}

    def over_folds(self, num_folds: int) -> "Folds | None":
        """Score the published folds; or folds that share no subject, or None unless every image has one of several.

        Args:
            num_folds: at most, of folds by subject; 0 leaves out one subject at a time.
        """
        names = [subject for subject in self.subjects if subject is not None]
        num_subjects, published = len(set(names)), sorted(set(map(str, self.folds)))
        if None not in self.folds and len(published) > 1:
            fold_B = np.searchsorted(published, list(map(str, self.folds)))
        elif len(names) < len(self) or num_subjects < 2:
            return None
        else:
            fold_B = subject_folds(names, self.target, min(num_folds, num_subjects))
        scores = [self.scores((fold_B == fold).astype(np.float64)) for fold in range(int(fold_B.max()) + 1)]
        spreads = {name: spread([score[name] for score in scores]) for name in METRICS}
        return Folds(num_folds=len(scores), num_subjects=num_subjects, scores=spreads)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Folds:
    """Mean and spread of METRICS over published folds, or folds that share no subject."""

    num_folds: int
    num_subjects: int
    scores: dict[str, Spread]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One model on one data set, an entry of the leaderboard.

    Args:
        model: its name.
        data: title of the data set.
        setting: what the model had seen of it.
        n: images scored.
        unanswered: images without a prediction, which count as errors.
        labels: that model and data set share, over which the scores are.
        absent: labels of the model that no image has.
        restrict: what became of their probabilities.
        scores: METRICS, as fractions.
        intervals: of them, 95 %.
        by_subject: whether whole subjects were resampled for the intervals.
        folds: scores over folds by subject, where there are subjects.
        caution: why the scores are better than on faces that had no part in making the model; None if they are not.
        rank: 1 for the highest WAR of the models in this setting with the same labels; None without others.
        protocol: of the predictions.
    """

    model: str
    data: str
    setting: Setting
    n: int
    unanswered: int
    labels: tuple[str, ...]
    absent: tuple[str, ...]
    restrict: Restrict
    scores: dict[str, float]
    intervals: dict[str, Interval]
    by_subject: bool
    folds: Folds | None
    caution: str | None = None
    rank: int | None = None
    protocol: Protocol


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two models on the images whose labels both know.

    Args:
        data: title of the data set.
        setting: of both models.
        models: a and b.
        n: images.
        only_a: images that only a classifies correctly.
        only_b: images that only b does.
        war: difference of WAR, a less b, its interval, and the p-value of the paired bootstrap.
        uar: the same of UAR.
        test: the test of `p_value`: `McNemar`, or `paired bootstrap by subject`.
        p_value: of no difference in accuracy; None if there is only one subject.
        p_holm: corrected for all comparisons of the benchmark.
    """

    data: str
    setting: Setting
    models: tuple[str, str]
    n: int
    only_a: int
    only_b: int
    war: Difference
    uar: Difference
    test: str
    p_value: float | None
    p_holm: float | None = None


def compare(
    names: tuple[str, str], a: Answers, b: Answers, *, data: str, setting: Setting, settings: BenchmarkSettings
) -> Comparison | None:
    """Compare two models on the images that both have a prediction for; None if there are none.

    Without subjects the p-value is McNemar's. Images of one subject are not independent, so with subjects it is that
    of the paired bootstrap of WAR, which draws whole subjects.

    Args:
        names: of the models.
        a: of the first model.
        b: of the second, on the same data set.
        data: its title.
        setting: of both models.
        settings: of the benchmark.
    """
    _, rows_a, rows_b = np.intersect1d(a.positions, b.positions, assume_unique=True, return_indices=True)
    if not len(rows_a):
        return None
    differences = paired_bootstrap(
        functools.partial(a.class_scores, rows=rows_a),
        functools.partial(b.class_scores, rows=rows_b),
        [a.subjects[row] for row in rows_a] if a.by_subject else len(rows_a),
        **settings.resampling,
    )
    counted = mcnemar((a.preds == a.target)[rows_a], (b.preds == b.target)[rows_b])
    p_value = differences["war"].p_value if a.by_subject else counted.p_value
    return Comparison(
        data=data,
        setting=setting,
        models=names,
        n=len(rows_a),
        only_a=counted.only_a,
        only_b=counted.only_b,
        war=differences["war"],
        uar=differences["uar"],
        test="paired bootstrap by subject" if a.by_subject else "McNemar",
        p_value=None if np.isnan(p_value) else p_value,
    )


CONTRAST_METRICS = ("war", "uar", "minority_recall")
LEVEL = 0.95


class Contrast(NamedTuple):
    """The difference of a cell and its reference in one score.

    Args:
        value: mean of the seeds' differences.
        per_seed: the difference of each seed.
        interval: of the mean, at LEVEL.
        p_value: two-sided, of no difference; not corrected for the number of tests.
        images_std: standard error due to the choice of images.
        seeds_std: standard error due to the choice of seeds.
        freedom: degrees of freedom of both together.
    """

    value: float
    per_seed: tuple[float, ...]
    interval: Interval
    p_value: float
    images_std: float
    seeds_std: float
    freedom: float


def contrast(
    correct_SB: np.ndarray, reference_SB: np.ndarray, target_B: np.ndarray, *, rarest: int, num_resamples: int = 2000
) -> dict[str, Contrast]:
    """Compare two cells, seed by seed and image by image.

    The difference of a seed's two runs has two sources of chance. Other images would have given another one: that
    variance is estimated by a bootstrap that draws images, the same for all runs of both cells. So would other seeds:
    that is the variance of the seeds' differences divided by their number. The sum is the variance of the mean
    difference, which is tested by Student's t with the degrees of freedom of such a sum (Satterthwaite, Biometrics
    Bulletin 1946): near the number of seeds less one where seeds dominate, large where images do. What the two share,
    how a seed's runs differ in single images, is counted twice, so the test is conservative.

    Args:
        correct_SB: whether each run of the cell classifies each image correctly, bool.
        reference_SB: the same of the reference, with the same seeds in the same order.
        target_B: true classes.
        rarest: the class whose recall is `minority_recall`.
        num_resamples: R.

    Returns:
        One of CONTRAST_METRICS -> the difference.

    Raises:
        DataError: if there are fewer than two seeds or images.
    """
    num_seeds, num_images = correct_SB.shape
    if min(num_seeds, num_images) < 2:
        raise DataError(f"{num_seeds} seeds and {num_images} images: a test needs two of each")

    # Every score is linear in the hits, so that the difference of the scores is the score of the difference.
    gained_SB = correct_SB.astype(np.float64) - reference_SB
    of_class_BC = (target_B[:, None] == np.arange(target_B.max() + 1)).astype(np.float64)

    def differences(weights_B: np.ndarray) -> dict[str, np.ndarray]:
        hits_SC, support_C = (gained_SB * weights_B) @ of_class_BC, weights_B @ of_class_BC
        # A resample may lack a class, whose recall is then undefined.
        recall_SC = metrics.ratio(hits_SC, support_C)
        found = hits_SC.sum(1) / support_C.sum(), np.nanmean(recall_SC, 1), recall_SC[:, rarest]
        return dict(zip(CONTRAST_METRICS, found, strict=True))

    def means(weights_B: np.ndarray) -> dict[str, float]:
        return {name: float(of_seed_S.mean()) for name, of_seed_S in differences(weights_B).items()}

    _, resampled = resample(means, num_images, num_resamples=num_resamples)
    observed = differences(np.ones(num_images))
    return {name: _judge(of_seed_S, resampled[name], num_images) for name, of_seed_S in observed.items()}


def _judge(of_seed_S: np.ndarray, mean_R: np.ndarray, num_images: int) -> Contrast:
    from scipy.stats import t

    value, num_seeds = float(of_seed_S.mean()), len(of_seed_S)
    by_images, by_seeds = float(mean_R.var(ddof=1)), float(of_seed_S.var(ddof=1)) / num_seeds
    variance = by_images + by_seeds
    if variance < TIE**2:  # all runs agree on every image, or differ by the same everywhere
        by_images, by_seeds, freedom, half, p_value = 0.0, 0.0, num_images - 1.0, 0.0, float(value == 0)
    else:
        freedom = variance**2 / (by_images**2 / (num_images - 1) + by_seeds**2 / (num_seeds - 1))
        half = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
        p_value = float(2 * t.sf(abs(value) / math.sqrt(variance), freedom))
    interval = Interval(value - half, value + half)
    spread = math.sqrt(by_images), math.sqrt(by_seeds)
    return Contrast(value, tuple(of_seed_S.tolist()), interval, p_value, *spread, freedom)
