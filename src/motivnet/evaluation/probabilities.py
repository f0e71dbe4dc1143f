"""Scores of predicted probabilities, as pure functions of numpy arrays.

Probabilities are one row an image: numbers of at least 0 that sum to 1. Images without an answer have none; leave them
out, and say so. Weights are those of `motivnet.evaluation.metrics`.

Shape suffixes: B images, C classes, M bins.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError
from motivnet.evaluation.metrics import (
    checked_classes,
    checked_length,
    checked_scores,
    checked_weights,
    weighted_mean,
)

NUM_BINS = 15
SUM_TOLERANCE = 1e-3


class Reliability(NamedTuple):
    """What a reliability diagram shows: equal-width bins of the highest probability.

    Attributes:
        edges: of the bins, from 0 to 1, (M + 1,); a bin has its lower edge and not its upper one, the last has both.
        share: of all images that fall into the bin, (M,).
        confidence: their mean highest probability, (M,); NaN for an empty bin.
        accuracy: share of them classified rightly, (M,); NaN for an empty bin.
    """

    edges: np.ndarray
    share: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


class ProbabilityScores:
    """This module's scores of one set of answers under many weights, as a bootstrap asks for them.

    What weights do not change is checked, sorted and binned once. The methods are the functions of the same names.

    Args:
        probs: probability of every class, (B, C).
        target: true class of each image, whole numbers (B,) from 0 to C - 1.
        num_bins: M, of the calibration errors.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range, or a row of `probs` holds NaN, a
            negative number, or does not sum to 1.
    """

    def __init__(self, probs: ArrayLike, target: ArrayLike, *, num_bins: int = NUM_BINS) -> None:
        if num_bins < 1:
            raise DataError(f"num_bins must be at least 1, not {num_bins}")
        self.probs_BC = checked_probs(probs)
        self.target_B = checked_classes("target", target, self.probs_BC.shape[1])
        checked_length("probs", len(self.probs_BC), len(self.target_B))
        self.edges = np.linspace(0, 1, num_bins + 1)

    def auroc_per_class(self, weights: ArrayLike | None = None) -> np.ndarray:
        """Area under the ROC curve of each class against the rest, float64 (C,)."""
        weights_B = checked_weights(weights, len(self.target_B))
        order_CB, own_CB, first_B, end_B = self._ranking
        num_classes = len(order_CB)
        others_CB = weights_B[order_CB]
        others_CB[own_CB] = 0
        # below_CB[c, i]: weight of the i least probable images for class c, those of the class left out.
        below_CB = np.zeros((num_classes, len(weights_B) + 1))
        np.cumsum(others_CB, axis=1, out=below_CB[:, 1:])
        # Mean of what is strictly below an image and what is at most equal: so an equal one counts half.
        beaten_B = (below_CB[self.target_B, first_B] + below_CB[self.target_B, end_B]) / 2
        area_C = np.bincount(self.target_B, weights_B * beaten_B, minlength=num_classes)
        pairs_C = np.bincount(self.target_B, weights_B, minlength=num_classes) * below_CB[:, -1]
        return np.divide(area_C, pairs_C, out=np.full(num_classes, np.nan), where=pairs_C > 0)

    def auroc_macro(self, weights: ArrayLike | None = None) -> float:
        """Mean of the areas that exist; NaN if none does."""
        auroc_C = self.auroc_per_class(weights)
        exists_C = ~np.isnan(auroc_C)
        return float(auroc_C[exists_C].mean()) if exists_C.any() else float("nan")

    def log_loss(self, weights: ArrayLike | None = None) -> float:
        """Mean negative logarithm of the true class's probability."""
        return weighted_mean(self._losses, weights)

    def brier(self, weights: ArrayLike | None = None) -> float:
        """Mean squared distance of the probabilities from the truth."""
        return weighted_mean(self._distances, weights)

    def ece(self, weights: ArrayLike | None = None) -> float:
        """Mean gap between confidence and accuracy, over bins of the highest probability."""
        weights_B = checked_weights(weights, len(self.target_B))
        bin_B, confidence_B, correct_B = self._top
        gap_M = np.bincount(bin_B, weights_B * (confidence_B - correct_B))
        return float(np.abs(gap_M).sum() / weights_B.sum())

    def classwise_ece(self, weights: ArrayLike | None = None) -> float:
        """Mean gap between probability and frequency, over bins of each class's probability, and over classes."""
        weights_B = checked_weights(weights, len(self.target_B))
        place_BC, gap_BC = self._classwise
        gap_CM = np.bincount(place_BC.ravel(), (weights_B[:, None] * gap_BC).ravel())
        return float(np.abs(gap_CM).sum() / weights_B.sum() / gap_BC.shape[1])

    def reliability(self, weights: ArrayLike | None = None) -> Reliability:
        """Give the bins of a reliability diagram."""
        weights_B = checked_weights(weights, len(self.target_B))
        bin_B, confidence_B, correct_B = self._top
        num_bins = len(self.edges) - 1
        weight_M, confidence_M, correct_M = (
            np.bincount(bin_B, weights_B * values_B, minlength=num_bins)
            for values_B in (np.ones(len(bin_B)), confidence_B, correct_B)
        )
        empty_M = np.full(num_bins, np.nan)
        return Reliability(
            edges=self.edges.copy(),
            share=weight_M / weight_M.sum(),
            confidence=np.divide(confidence_M, weight_M, out=empty_M.copy(), where=weight_M > 0),
            accuracy=np.divide(correct_M, weight_M, out=empty_M.copy(), where=weight_M > 0),
        )

    @cached_property
    def _ranking(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Sort the images by the probability of each class.

        Returns:
            order_CB: images, least probable first; own_CB: whether the image there is of that class; first_B, end_B:
            where the images as probable for an image's own class as itself begin and end in that class's order.
        """
        order_CB = np.argsort(self.probs_BC.T, axis=1)
        first_B, end_B = (np.empty(len(self.target_B), np.int64) for _ in range(2))
        for column, order_B in enumerate(order_CB):
            sorted_B = self.probs_BC[order_B, column]
            own_B = self.target_B == column
            own_probs = self.probs_BC[own_B, column]
            first_B[own_B] = np.searchsorted(sorted_B, own_probs, side="left")
            end_B[own_B] = np.searchsorted(sorted_B, own_probs, side="right")
        own_CB = self.target_B[order_CB] == np.arange(len(order_CB))[:, None]
        return order_CB, own_CB, first_B, end_B

    @cached_property
    def _truth(self) -> np.ndarray:
        return self.target_B[:, None] == np.arange(self.probs_BC.shape[1])

    @cached_property
    def _losses(self) -> np.ndarray:
        return -np.log(np.clip(self.probs_BC[self._truth], np.finfo(np.float64).eps, 1))

    @cached_property
    def _distances(self) -> np.ndarray:
        return ((self.probs_BC - self._truth) ** 2).sum(axis=1)

    @cached_property
    def _top(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give the bin of each image's highest probability, that probability, and whether its class is right."""
        confidence_B = self.probs_BC.max(axis=1)
        return self._bins(confidence_B), confidence_B, self.probs_BC.argmax(axis=1) == self.target_B

    @cached_property
    def _classwise(self) -> tuple[np.ndarray, np.ndarray]:
        """Give each probability's bin, numbered through over the classes, and its distance from the truth."""
        num_bins = len(self.edges) - 1
        place_BC = self._bins(self.probs_BC) + num_bins * np.arange(self.probs_BC.shape[1])
        return place_BC, self.probs_BC - self._truth

    def _bins(self, values: np.ndarray) -> np.ndarray:
        # The last bin has its upper edge too, and what rounding put above it.
        return np.minimum(np.searchsorted(self.edges, values, side="right") - 1, len(self.edges) - 2)


def auroc_per_class(probs: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None) -> np.ndarray:
    """Area under the ROC curve of each class against the rest, float64 (C,).

    It is the chance that an image of the class is given a higher probability of it than an image of another class;
    equal probabilities count half. NaN for a class absent from `target`, and for one that all images are of.

    Args and errors are those of `ProbabilityScores`, and a weight that is not allowed.
    """
    return ProbabilityScores(probs, target).auroc_per_class(weights)


def auroc_macro(probs: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Mean one-vs-rest AUROC of the classes that have one; NaN if none has, as `target` is of a single class.

    A class absent from `target` is left out of the mean, where torchmetrics counts 0 and scikit-learn gives NaN.

    Args and errors are those of `auroc_per_class`.
    """
    return ProbabilityScores(probs, target).auroc_macro(weights)


def log_loss(probs: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Mean negative natural logarithm of the true class's probability (cross entropy), in nats; from 0.

    A probability below 2.2e-16 (float64's epsilon) counts as that, as in scikit-learn, so an image costs at most 36.

    Args and errors are those of `auroc_per_class`.
    """
    return ProbabilityScores(probs, target).log_loss(weights)


def brier(probs: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Mean squared distance of the probabilities from the truth, summed over the classes; from 0 to 2.

    After Brier, Verification of forecasts expressed in terms of probability, 1950. What is called Brier score of two
    classes elsewhere is half of this.

    Args and errors are those of `auroc_per_class`.
    """
    return ProbabilityScores(probs, target).brier(weights)


def ece(probs: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error: mean gap between highest probability and accuracy; from 0 to 1.

    Images are put into equal-width bins by their highest probability; the gaps of the bins are weighted by the images
    in them. After Guo et al., On calibration of modern neural networks, 2017, arXiv 1706.04599, equation 3. A bin has
    its lower edge and not its upper one, as in torchmetrics; but the last has both (torchmetrics opens a further bin
    for a probability of exactly 1).

    Args and errors are those of `auroc_per_class`, and `num_bins` of at least 1.
    """
    return ProbabilityScores(probs, target, num_bins=num_bins).ece(weights)


def classwise_ece(
    probs: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None, num_bins: int = NUM_BINS
) -> float:
    """Classwise expected calibration error: as `ece`, of every class's probability, and averaged over the classes.

    After Kull et al., Beyond temperature scaling, 2019, arXiv 1910.12656; the static calibration error of
    Nixon et al., 2019, arXiv 1904.01685. All C classes count, also those absent from `target`.

    Args and errors are those of `ece`.
    """
    return ProbabilityScores(probs, target, num_bins=num_bins).classwise_ece(weights)


def reliability(
    probs: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None, num_bins: int = NUM_BINS
) -> Reliability:
    """Give the bins of a reliability diagram, those of `ece`.

    Args and errors are those of `ece`.
    """
    return ProbabilityScores(probs, target, num_bins=num_bins).reliability(weights)


def checked_probs(probs: ArrayLike) -> np.ndarray:
    """Give one row of probabilities an image as float64 (B, C).

    Raises:
        DataError: unless it is a matrix of numbers, each row of at least 0 and with a sum of 1 within 1e-3.
    """
    probs_BC = checked_scores(probs)
    with np.errstate(invalid="ignore"):  # inf - inf; its NaN is refused below
        sum_B = probs_BC.sum(axis=1)
    wrong_B = (probs_BC < 0).any(axis=1) | ~(np.abs(sum_B - 1) <= SUM_TOLERANCE)
    if wrong_B.any():
        row = int(np.argmax(wrong_B))
        raise DataError(
            f"probs[{row}] is {np.round(probs_BC[row], 4).tolist()}, which sums to {sum_B[row]:.6g}"
            f" ({wrong_B.sum()} such rows). Allowed: values from 0 to 1 that sum to 1 within {SUM_TOLERANCE}"
        )
    return probs_BC
