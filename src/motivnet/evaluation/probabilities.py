"""Metrics of predicted probabilities, from numpy arrays.

Probabilities are one row per image: numbers of at least 0 that sum to 1. Images without an answer have none; leave them
out, and report how many. Weights are those of `motivnet.evaluation.metrics`.

Shape suffixes: B images, C classes, M bins.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError, require
from motivnet.evaluation.metrics import Weights, checked_scores, checked_target, checked_weights, ratio, weighted_mean

NUM_BINS = 15
SUM_TOLERANCE = 1e-3


class Reliability(NamedTuple):
    """The equal-width bins of a reliability diagram.

    Attributes:
        edges: of the bins, from 0 to 1, (M + 1,); a bin has its lower edge and not its upper one, the last has both.
        share: of the images whose highest probability falls into the bin, (M,).
        confidence: their mean highest probability, (M,); NaN for an empty bin.
        accuracy: share of them classified correctly, (M,); NaN for an empty bin.
    """

    edges: np.ndarray
    share: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


class ProbabilityScores:
    """Metrics of one set of predictions, such as `ProbabilityScores(probs, target).ece()`.

    What weights do not change is checked, sorted and binned once, so that a bootstrap can ask with many weights.

    Args:
        probs: probability of every class, (B, C).
        target: true class of each image, integers (B,) from 0 to C - 1.
        num_bins: M, of the calibration errors.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range, or a row of `probs` holds NaN, a
            negative number, or does not sum to 1; each method also at a weight that is not allowed.
    """

    def __init__(self, probs: ArrayLike, target: ArrayLike, *, num_bins: int = NUM_BINS) -> None:
        require(num_bins >= 1, f"num_bins must be at least 1, not {num_bins}", DataError)
        self.probs_BC = checked_probs(probs)
        self.target_B = checked_target(target, "probs", *self.probs_BC.shape)
        self.edges = np.linspace(0, 1, num_bins + 1)
        truth_BC = self.target_B[:, None] == np.arange(self.probs_BC.shape[1])
        self._gap_BC = self.probs_BC - truth_BC
        self._losses_B = -np.log(np.clip(self.probs_BC[truth_BC], np.finfo(np.float64).eps, 1))

    def auroc_per_class(self, weights: Weights = None) -> np.ndarray:
        """Return the area under the ROC curve of each class against the rest, float64 (C,).

        That is the probability that an image of the class is ranked above one of another; equal probabilities count
        half. NaN for a class absent from the target, and for one that all images are of.
        """
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
        return ratio(area_C, np.bincount(self.target_B, weights_B, minlength=num_classes) * below_CB[:, -1])

    def auroc_macro(self, weights: Weights = None) -> float:
        """Return the mean of `auroc_per_class` over the classes that have one; NaN if none has.

        A class absent from the target is left out of the mean, where torchmetrics counts 0 and scikit-learn gives NaN.
        """
        auroc_C = self.auroc_per_class(weights)
        exists_C = ~np.isnan(auroc_C)
        return float(auroc_C[exists_C].mean()) if exists_C.any() else float("nan")

    def log_loss(self, weights: Weights = None) -> float:
        """Return the mean negative natural logarithm of the true class's probability (cross entropy), in nats.

        A probability below float64's epsilon, 2.2e-16, counts as that, as in scikit-learn: an image costs at most 36.
        """
        return weighted_mean(self._losses_B, weights)

    def brier(self, weights: Weights = None) -> float:
        """Return the mean squared distance of the probabilities from the truth, summed over classes; from 0 to 2.

        After Brier, Verification of forecasts expressed in terms of probability, 1950. What is called Brier score of
        two classes elsewhere is half of this.
        """
        return weighted_mean((self._gap_BC**2).sum(axis=1), weights)

    def ece(self, weights: Weights = None) -> float:
        """Return the expected calibration error: mean gap between highest probability and accuracy; from 0 to 1.

        Images are put into equal-width bins by their highest probability; the gaps of the bins are weighted by the
        images in them. After Guo et al., On calibration of modern neural networks, 2017, arXiv 1706.04599, equation 3.
        A bin has its lower edge and not its upper one, as in torchmetrics; but the last has both (torchmetrics opens a
        further bin for a probability of exactly 1).
        """
        weights_B = checked_weights(weights, len(self.target_B))
        bin_B, confidence_B, correct_B = self._top
        gap_M = np.bincount(bin_B, weights_B * (confidence_B - correct_B))
        return float(np.abs(gap_M).sum() / weights_B.sum())

    def classwise_ece(self, weights: Weights = None) -> float:
        """Return the classwise expected calibration error: `ece` of every class's probability, averaged over classes.

        After Kull et al., Beyond temperature scaling, 2019, arXiv 1910.12656; the static calibration error of Nixon et
        al., 2019, arXiv 1904.01685. All C classes count, also those absent from the target.
        """
        weights_B = checked_weights(weights, len(self.target_B))
        gap_CM = np.bincount(self._place_BC.ravel(), (weights_B[:, None] * self._gap_BC).ravel())
        return float(np.abs(gap_CM).sum() / weights_B.sum() / self._gap_BC.shape[1])

    def reliability(self) -> Reliability:
        """Return the bins of a reliability diagram, those of `ece`."""
        bin_B, *values = self._top
        count_M, confidence_M, correct_M = (np.bincount(bin_B, each, len(self.edges) - 1) for each in (None, *values))
        return Reliability(
            self.edges.copy(), count_M / count_M.sum(), ratio(confidence_M, count_M), ratio(correct_M, count_M)
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
    def _top(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the bin of each image's highest probability, that probability, and whether its class is correct."""
        confidence_B = self.probs_BC.max(axis=1)
        return self._bins(confidence_B), confidence_B, self.probs_BC.argmax(axis=1) == self.target_B

    @cached_property
    def _place_BC(self) -> np.ndarray:
        """Return each probability's bin, numbered across the classes."""
        return self._bins(self.probs_BC) + (len(self.edges) - 1) * np.arange(self.probs_BC.shape[1])

    def _bins(self, values: np.ndarray) -> np.ndarray:
        # The last bin has its upper edge too, and what rounding put above it.
        return np.minimum(np.searchsorted(self.edges, values, side="right") - 1, len(self.edges) - 2)


def invalid_rows(probs_BC: np.ndarray) -> np.ndarray:
    """Return whether each row is not a probability distribution, bool (B,); rows with NaN are not."""
    with np.errstate(invalid="ignore"):  # inf - inf, whose NaN is invalid
        return (probs_BC < 0).any(axis=1) | ~(np.abs(probs_BC.sum(axis=1) - 1) <= SUM_TOLERANCE)


def checked_probs(probs: ArrayLike) -> np.ndarray:
    """Return one row of probabilities per image as float64 (B, C).

    Raises:
        DataError: unless it is a matrix of numbers, each row of at least 0 and with a sum of 1 within 1e-3.
    """
    probs_BC = checked_scores(probs)
    wrong_B = invalid_rows(probs_BC)
    if wrong_B.any():
        row = int(np.argmax(wrong_B))
        raise DataError(
            f"probs[{row}] is {np.round(probs_BC[row], 4).tolist()}, which sums to {sum(probs_BC[row].tolist()):.6g}"
            f" ({wrong_B.sum()} such rows). Allowed: values from 0 to 1 that sum to 1 within {SUM_TOLERANCE}"
        )
    return probs_BC
