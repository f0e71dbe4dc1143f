"""Making probabilities mean what they say, and abstaining where they are low.

Shape suffixes: B images, C classes, N distinct thresholds.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError
from motivnet.evaluation.metrics import checked_classes, checked_length
from motivnet.evaluation.probabilities import checked_probs

TEMPERATURES = (0.05, 20.0)
# What float32 makes 0 of is below this, so that a probability of 0 is at most as much.
SMALLEST_PROB = float(np.finfo(np.float32).smallest_subnormal)


class RiskCoverage(NamedTuple):
    """What abstaining gains: images are answered from the surest to the least sure.

    Args:
        threshold: highest probability from which on images are answered, (N,), falling.
        coverage: share of the images that are answered then, (N,), rising to 1.
        risk: share of the answered that are wrong, (N,).
        area: under risk over coverage, from 0 to 1; less is better.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    area: float


def fit_temperature(probs: ArrayLike, target: ArrayLike) -> float:
    """Find the temperature at which the probabilities have the smallest log loss.

    After Guo et al., On calibration of modern neural networks, 2017, arXiv 1706.04599, section 4.2. Probabilities serve
    as well as logits: their logarithms differ from the logits by a constant an image, which the softmax removes. Above
    1 the model was too sure of itself, below 1 not sure enough. The order of the classes stays.

    The loss is convex in 1 / temperature, so that the search finds its one minimum, always the same. Without a minimum
    between the bounds, the temperature is near the upper one if the probabilities tell nothing; and merely low if all
    images are classified rightly, as there is then no mistake to weigh the certainty against.

    Args:
        probs: probability of every class, (B, C), of images that the model was not trained on.
        target: true class of each image, whole numbers (B,) from 0 to C - 1.

    Returns:
        The temperature, from 0.05 to 20.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range, or a row holds no probabilities.
    """
    from scipy.optimize import minimize_scalar

    probs_BC, target_B = _checked(probs, target)
    logs_BC = _logarithms(probs_BC)
    # Relative to the true class: the loss is then the logarithm of the sum of the exponentials.
    logs_BC -= np.take_along_axis(logs_BC, target_B[:, None], axis=1)

    def loss(log_temperature: float) -> float:
        scaled_BC = logs_BC / np.exp(log_temperature)
        top_B1 = scaled_BC.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled_BC - top_B1).sum(axis=1)) + top_B1[:, 0]).mean())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-7})
    return float(np.exp(found.x))


def apply_temperature(probs: ArrayLike, temperature: float) -> np.ndarray:
    """Give the probabilities that the logits divided by a temperature would have had, float64 (B, C).

    Args:
        probs: probability of every class, (B, C).
        temperature: above 0; 1 changes nothing.

    Raises:
        DataError: if a row holds no probabilities, or the temperature is not above 0.
    """
    if not 0 < temperature < float("inf"):
        raise DataError(f"temperature must be a number above 0, not {temperature}")
    logs_BC = _logarithms(checked_probs(probs))
    logs_BC -= logs_BC.max(axis=1, keepdims=True)
    scaled_BC = np.exp(logs_BC / temperature)
    return scaled_BC / scaled_BC.sum(axis=1, keepdims=True)


def risk_coverage(probs: ArrayLike, target: ArrayLike) -> RiskCoverage:
    """Give the error among the answered images at every threshold of the highest probability.

    Images with the same highest probability are answered together, so that their order does not matter; the area is
    then the mean risk over the images as they are taken in (Geifman, Uziel and El-Yaniv, Bias-reduced uncertainty
    estimation, 2019, arXiv 1805.08206), all of a tie at the tie's own risk.

    Args and errors are those of `fit_temperature`.
    """
    threshold_N, answered_N, correct_N = _answered(*_checked(probs, target))
    coverage_N = answered_N / answered_N[-1]
    risk_N = 1 - correct_N / answered_N
    area = float((np.diff(coverage_N, prepend=0) * risk_N).sum())
    return RiskCoverage(threshold_N, coverage_N, risk_N, area)


def threshold_for_accuracy(probs: ArrayLike, target: ArrayLike, accuracy: float) -> float:
    """Find the smallest threshold such that the images with at least that highest probability are right often enough.

    So as many images as possible are answered. Images with the same highest probability are answered together. The
    threshold is one of the highest probabilities themselves, or 0 if all images may be answered.

    The accuracy is that of these images: on others it will be a little lower, the more so the fewer are answered.

    Args:
        probs: probability of every class, (B, C), of images that the model was not trained on.
        target: true class of each image, whole numbers (B,) from 0 to C - 1.
        accuracy: wanted share of right answers, above 0 and at most 1.

    Raises:
        DataError: as `fit_temperature`, or if `accuracy` is out of range or not reached at any threshold.
    """
    if not 0 < accuracy <= 1:
        raise DataError(f"accuracy must be above 0 and at most 1, not {accuracy}")
    threshold_N, answered_N, correct_N = _answered(*_checked(probs, target))
    accuracy_N = correct_N / answered_N
    reached = np.flatnonzero(accuracy_N >= accuracy)
    if not len(reached):
        best = int(np.argmax(accuracy_N))
        raise DataError(
            f"an accuracy of {accuracy:g} is reached at no threshold. The best is {accuracy_N[best]:.4f}, on the"
            f" {answered_N[best]} of {answered_N[-1]} images with a probability of at least {threshold_N[best]:.4f}"
        )
    last = reached[-1]
    return 0.0 if last == len(threshold_N) - 1 else float(threshold_N[last])


def _answered(probs_BC: np.ndarray, target_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the distinct highest probabilities, falling, and how many images have at least that, and rightly, (N,)."""
    correct_B = probs_BC.argmax(axis=1) == target_B
    threshold_N, place_B = np.unique(-probs_BC.max(axis=1), return_inverse=True)
    return -threshold_N, np.bincount(place_B).cumsum(), np.bincount(place_B, correct_B).cumsum()


def _checked(probs: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    probs_BC = checked_probs(probs)
    target_B = checked_classes("target", target, probs_BC.shape[1])
    checked_length("probs", len(probs_BC), len(target_B))
    return probs_BC, target_B


def _logarithms(probs_BC: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probs_BC, SMALLEST_PROB))
