"""One model on one data set: which labels count, its scores with their spread, and two models side by side.

A model and a data set need not know the same labels. Images of labels that the model lacks are left out. Labels that
the data set lacks, such as neutral in CK+'s peak frames, cannot be the right answer: what a model says of them is kept
(`keep`: to answer with one is an error, as it would be wherever the model is used), or they are struck out beforehand
(`renormalise`: the most probable of the labels that remain is the answer, which tells the model something about the
data set that it could not know). Scores are over the labels that both have.

Shape suffixes: B images, C classes of the model, K labels that both have.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from motivnet.errors import DataError
from motivnet.evaluation import metrics
from motivnet.evaluation.predictions import Predictions, Protocol
from motivnet.evaluation.resampling import Difference, Interval, bootstrap, mcnemar, paired_bootstrap
from motivnet.experiments.protocols import Setting, Spread, leave_one_subject_out, spread, subject_folds

Restrict = Literal["keep", "renormalise"]
METRICS = ("war", "uar", "top2", "f1_macro")


class Answers:
    """A model's answers, in terms of the labels that it shares with the data set."""

    def __init__(self, predictions: Predictions, positions: np.ndarray, *, restrict: Restrict = "keep") -> None:
        """Find the shared labels and the answer to each image; no answer is an error.

        Args:
            predictions: for the rows of labels that the model knows.
            positions: of these rows in the whole data set, (B,).
            restrict: what becomes of probabilities of labels that no image has.

        Raises:
            DataError: if fewer than two labels are shared.
        """
        names, target_B = predictions.labels.names, predictions.target_B
        present_C = np.isin(np.arange(len(names)), target_B)
        self.labels = tuple(name for name, present in zip(names, present_C, strict=True) if present)
        self.absent = tuple(name for name, present in zip(names, present_C, strict=True) if not present)
        if len(self.labels) < 2:
            raise DataError(
                f"model and data have {len(self.labels)} label in common ({', '.join(self.labels)}); 2 are needed"
            )
        place_C = np.where(present_C, np.cumsum(present_C) - 1, metrics.NO_ANSWER)
        self.positions = positions
        self.subjects: list[str | None] = predictions.manifest.table["subject"].to_pylist()
        self.target = place_C[target_B]
        self.preds = np.full(len(target_B), metrics.NO_ANSWER)
        self.in_top2 = np.zeros(len(target_B))
        answered_B = predictions.answered_B
        if answered_B.any():
            probs_BC = predictions.probs_BC[answered_B]
            truth_B = target_B[answered_B]
            if restrict == "renormalise":
                # Dividing by their sum would change neither the best nor the second best.
                probs_BC, truth_B, place_C = (
                    probs_BC[:, present_C],
                    self.target[answered_B],
                    np.arange(len(self.labels)),
                )
            self.preds[answered_B] = place_C[probs_BC.argmax(axis=1)]
            self.in_top2[answered_B] = metrics.rank_of_truth(probs_BC, truth_B) < 2

    def __len__(self) -> int:
        return len(self.target)

    @property
    def units(self) -> int | list[str | None]:
        """What to resample: subjects where there are any, else images."""
        return self.subjects if self.by_subject else len(self)

    @functools.cached_property
    def by_subject(self) -> bool:
        """Whether the subject of any image is known."""
        return any(subject is not None for subject in self.subjects)

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is classified rightly, bool (B,)."""
        return self.preds == self.target

    def scores(self, weights_B: np.ndarray | None = None) -> dict[str, float]:
        """Give METRICS over the shared labels."""
        args = (self.preds, self.target, len(self.labels))
        return {
            "war": metrics.war(*args, weights=weights_B),
            "uar": metrics.uar(*args, weights=weights_B),
            "top2": metrics.weighted_mean(self.in_top2, weights_B),
            "f1_macro": metrics.f1_macro(*args, weights=weights_B),
        }

    def over_folds(self, num_folds: int) -> "Folds | None":
        """Score folds that share no subject; None unless every image has one, and there are at least two.

        Args:
            num_folds: at most; 0 leaves out one subject at a time.
        """
        names = [subject for subject in self.subjects if subject is not None]
        num_subjects = len(set(names))
        if len(names) < len(self) or num_subjects < 2:
            return None
        wanted = min(num_folds, num_subjects)
        fold_B = subject_folds(names, self.target, wanted) if num_folds else leave_one_subject_out(names)
        scores = [self.scores((fold_B == fold).astype(np.float64)) for fold in range(int(fold_B.max()) + 1)]
        return Folds(
            num_folds=len(scores),
            num_subjects=num_subjects,
            scores={name: spread([score[name] for score in scores]) for name in METRICS},
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Folds:
    """Scores over folds that share no subject.

    Args:
        num_folds: how many.
        num_subjects: how many, in all folds.
        scores: metric -> mean and spread over the folds.
    """

    num_folds: int
    num_subjects: int
    scores: dict[str, Spread]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One model on one data set.

    Args:
        model: its name.
        data: title of the data set.
        setting: what the model had seen of it.
        n: images scored.
        unanswered: how many of them have no answer, which counts as an error.
        labels: that model and data set share, over which the scores are.
        absent: labels of the model that no image has.
        restrict: what became of their probabilities.
        scores: METRICS, as fractions.
        intervals: of them, 95 %.
        by_subject: whether whole subjects were drawn for the intervals.
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
    """Two models on the images that both know the labels of.

    Args:
        data: title of the data set.
        setting: of both models.
        models: a and b.
        n: images.
        only_a: images that only a classifies rightly.
        only_b: images that only b does.
        war: difference of WAR, a less b, its interval, and the p-value of the paired bootstrap.
        uar: the same of UAR.
        test: that `p_value` is of: `McNemar`, or `paired bootstrap by subject`.
        p_value: of both being as often right; None if there is but one subject.
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
    names: tuple[str, str], a: Answers, b: Answers, *, data: str, setting: Setting, num_resamples: int, seed: int
) -> Comparison | None:
    """Compare two models on the images that both answer for; None if there are none.

    Without subjects the p-value is McNemar's. Images of one subject are not independent, so with subjects it is that
    of the paired bootstrap of WAR, which draws whole subjects.

    Args:
        names: of the models.
        a: answers of the first.
        b: of the second, to the same data set.
        data: its title.
        setting: of both models.
        num_resamples: of the bootstrap.
        seed: of the resamples.
    """
    _, rows_a, rows_b = np.intersect1d(a.positions, b.positions, assume_unique=True, return_indices=True)
    if not len(rows_a):
        return None
    score_a, score_b = (_Shared(answers, rows) for answers, rows in ((a, rows_a), (b, rows_b)))
    subjects = [a.subjects[row] for row in rows_a]
    differences = paired_bootstrap(
        score_a, score_b, subjects if a.by_subject else len(rows_a), num_resamples=num_resamples, seed=seed
    )
    counted = mcnemar(a.correct[rows_a], b.correct[rows_b])
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


class _Shared:
    """WAR and UAR of some images."""

    def __init__(self, answers: Answers, rows: np.ndarray) -> None:
        self.preds, self.target = answers.preds[rows], answers.target[rows]
        self.num_labels = len(answers.labels)

    def __call__(self, weights_B: np.ndarray) -> dict[str, float]:
        args = (self.preds, self.target, self.num_labels)
        return {"war": metrics.war(*args, weights=weights_B), "uar": metrics.uar(*args, weights=weights_B)}


def score_cell(
    predictions: Predictions,
    answers: Answers,
    *,
    model: str,
    data: str,
    setting: Setting,
    restrict: Restrict,
    num_resamples: int,
    num_folds: int,
    seed: int,
) -> Cell:
    """Score one model on one data set.

    Args:
        predictions: of the model.
        answers: the same, in terms of the shared labels.
        model: its name.
        data: title of the data set.
        setting: what the model had seen of it.
        restrict: as `answers` were made with.
        num_resamples: for the intervals.
        num_folds: as for `Answers.over_folds`.
        seed: of the resamples.
    """
    return Cell(
        model=model,
        data=data,
        setting=setting,
        n=len(answers),
        unanswered=int((~predictions.answered_B).sum()),
        labels=answers.labels,
        absent=answers.absent,
        restrict=restrict,
        scores=answers.scores(),
        intervals=bootstrap(answers.scores, answers.units, num_resamples=num_resamples, seed=seed),
        by_subject=answers.by_subject,
        folds=answers.over_folds(num_folds),
        protocol=predictions.protocol,
    )
