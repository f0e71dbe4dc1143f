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

import numpy as np

from motivnet.errors import DataError
from motivnet.evaluation import metrics
from motivnet.evaluation.predictions import Predictions, Protocol
from motivnet.evaluation.resampling import Difference, Interval, mcnemar, paired_bootstrap
from motivnet.experiments.protocols import BenchmarkSettings, Restrict, Setting, Spread, spread, subject_folds

METRICS = ("war", "uar", "top2", "f1_macro")
CLASS_METRICS = {"war": metrics.war, "uar": metrics.uar, "f1_macro": metrics.f1_macro}


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
            raise DataError(
                f"model and data have {len(self.labels)} label in common ({', '.join(self.labels)}); 2 are needed"
            )
        place_C = np.where(present_C, np.cumsum(present_C) - 1, metrics.NO_ANSWER)
        self.positions = positions
        self.subjects: list[str | None] = predictions.manifest.table["subject"].to_pylist()
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
        args = preds, target, len(self.labels)
        return {name: metric(*args, weights=weights_B) for name, metric in CLASS_METRICS.items()}

    def scores(self, weights_B: np.ndarray | None = None) -> dict[str, float]:
        """Return METRICS over the shared labels."""
        scores = self.class_scores(weights_B) | {"top2": metrics.weighted_mean(self.in_top2, weights_B)}
        return {name: scores[name] for name in METRICS}

    def over_folds(self, num_folds: int) -> "Folds | None":
        """Score folds that share no subject; None unless every image has one, and there are at least two.

        Args:
            num_folds: at most; 0 leaves out one subject at a time.
        """
        names = [subject for subject in self.subjects if subject is not None]
        num_subjects = len(set(names))
        if len(names) < len(self) or num_subjects < 2:
            return None
        fold_B = subject_folds(names, self.target, min(num_folds, num_subjects))
        scores = [self.scores((fold_B == fold).astype(np.float64)) for fold in range(int(fold_B.max()) + 1)]
        spreads = {name: spread([score[name] for score in scores]) for name in METRICS}
        return Folds(num_folds=len(scores), num_subjects=num_subjects, scores=spreads)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Folds:
    """Mean and spread of METRICS over folds that share no subject."""

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
