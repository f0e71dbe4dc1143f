"""Making probabilities mean what they say, and abstaining where they are low.

Shape suffixes: B images, C classes, N distinct thresholds.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from motivnet.checkpoints.bundle import Calibration
from motivnet.errors import DataError
from motivnet.evaluation.metrics import checked_classes, checked_length
from motivnet.evaluation.probabilities import checked_probs

TEMPERATURES = (0.05, 20.0)
EXPONENTS = (0.2, 5.0)
# What float32 makes 0 of is below this, so that a probability of 0 is at most as much.
SMALLEST_PROB = float(np.finfo(np.float32).smallest_subnormal)


class RiskCoverage(NamedTuple):
    """What abstaining gains: images are answered from the surest to the least sure.

    Attributes:
        threshold: highest probability from which on images are answered, (N,), falling.
        coverage: share of the images that are answered then, (N,), rising to 1.
        risk: share of the answered that are wrong, (N,).
        area: under risk over coverage, from 0 to 1; less is better.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    area: float


def fit_calibration(probs: ArrayLike, target: ArrayLike, *, exponent: bool = False) -> Calibration:
    """Find the calibration with which the probabilities have the smallest log loss.

    The temperature alone is after Guo et al., On calibration of modern neural networks, 2017, arXiv 1706.04599, section
    4.2: the loss is convex in 1 / temperature, so that the search finds its one minimum. With an exponent the search
    starts there, and gives the nearest minimum; it is the same each time. Probabilities serve as well as logits: their
    logarithms differ from the logits by a constant an image, which the softmax removes.

    Without a minimum between the bounds, the temperature is near the upper one if the probabilities tell nothing; and
    merely low if all images are classified rightly, as there is then no mistake to weigh the certainty against.

    Args:
        probs: uncalibrated probability of every class, (B, C), of images that the model was not trained on.
        target: true class of each image, whole numbers (B,) from 0 to C - 1.
        exponent: fit it as well; otherwise it is 1.

    Returns:
        Its temperature is from 0.05 to 20, its exponent from 0.2 to 5.

    Raises:
        DataError: if there are no images, lengths differ, a class is out of range, or a row holds no probabilities.
    """
    from scipy.optimize import minimize, minimize_scalar

    probs_BC, target_B = _checked(probs, target)
    logs_BC = _logarithms(probs_BC)
    margins_BC = logs_BC.max(axis=1, keepdims=True) - logs_BC

    def loss(log_temperature: float, log_exponent: float = 0.0) -> float:
        energy_BC = margins_BC ** np.exp(log_exponent) / np.exp(log_temperature)
        of_truth_B = np.take_along_axis(energy_BC, target_B[:, None], axis=1)[:, 0]
        # The best class has the energy 0: nothing can overflow.
        return float((np.log(np.exp(-energy_BC).sum(axis=1)) + of_truth_B).mean())

    found: Any = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-7})
    if not exponent:
        return Calibration(temperature=float(np.exp(found.x)))
    both: Any = minimize(
        lambda x: loss(*x),
        (found.x, 0.0),
        method="Nelder-Mead",
        bounds=np.log((TEMPERATURES, EXPONENTS)),
        options={"xatol": 1e-6, "fatol": 1e-10},
    )
    temperature, power = np.exp(both.x).tolist()
    return Calibration(temperature=temperature, exponent=power)


def apply_calibration(probs: ArrayLike, calibration: Calibration) -> np.ndarray:
    """Give the probabilities that a calibration makes of uncalibrated ones, float64 (B, C).

    Args:
        probs: probability of every class, (B, C).
        calibration: the inverse of one takes back what it did.

    Raises:
        DataError: if a row holds no probabilities.
    """
    return calibration.probs(_logarithms(checked_probs(probs)))


def risk_coverage(probs: ArrayLike, target: ArrayLike) -> RiskCoverage:
    """Give the error among the answered images at every threshold of the highest probability.

    Images with the same highest probability are answered together, so that their order does not matter; the area is
    then the mean risk over the images as they are taken in (Geifman, Uziel and El-Yaniv, Bias-reduced uncertainty
    estimation, 2019, arXiv 1805.08206), all of a tie at the tie's own risk.

    Args and errors are those of `fit_calibration`.
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
        DataError: as `fit_calibration`, or if `accuracy` is out of range or not reached at any threshold.
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
