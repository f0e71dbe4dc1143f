"""Test whether two cells of an ablation differ by more than their seeds and the images they were tested on do.

Shape suffixes: M metrics, B images, C classes, S seeds, R resamples.
"""

import math
from typing import NamedTuple

import numpy as np

from motivnet.errors import DataError
from motivnet.evaluation.resampling import TIE, Interval

METRICS = ("war", "uar", "minority_recall")
LEVEL = 0.95
_RESAMPLES_AT_ONCE = 250


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
        One of METRICS -> the difference.

    Raises:
        DataError: if shapes differ, or there are fewer than two seeds or images.
    """
    if correct_SB.shape != reference_SB.shape or correct_SB.shape[1:] != target_B.shape:
        raise DataError(
            f"runs of shapes {correct_SB.shape} and {reference_SB.shape} for {target_B.shape} images cannot be paired"
        )
    num_seeds, num_images = correct_SB.shape
    if min(num_seeds, num_images) < 2:
        raise DataError(f"{num_seeds} seeds and {num_images} images: a test needs two of each")

    def differences(weights_RB: np.ndarray) -> np.ndarray:
        cell, reference = (_scores(runs_SB, target_B, weights_RB, rarest) for runs_SB in (correct_SB, reference_SB))
        return cell - reference

    rng, resampled = np.random.default_rng(0), []
    for first in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        drawn_RB = rng.integers(num_images, size=(min(_RESAMPLES_AT_ONCE, num_resamples - first), num_images))
        weights_RB = np.stack([np.bincount(drawn_B, minlength=num_images) for drawn_B in drawn_RB])
        resampled.append(differences(weights_RB.astype(np.float64)).mean(2))
    observed_MS = differences(np.ones((1, num_images)))[:, 0]
    return {
        name: _judge(of_seed_S, mean_R, num_images)
        for name, of_seed_S, mean_R in zip(METRICS, observed_MS, np.concatenate(resampled, 1), strict=True)
    }


def _scores(correct_SB: np.ndarray, target_B: np.ndarray, weights_RB: np.ndarray, rarest: int) -> np.ndarray:
    """Score all runs with each row of weights: (M, R, S)."""
    classes_C = np.unique(target_B)
    of_class_BC = (target_B[:, None] == classes_C).astype(np.float64)
    hits_BSC = correct_SB.T[:, :, None] * of_class_BC[:, None]
    hits_RSC = np.tensordot(weights_RB, hits_BSC, 1)
    support_R1C = (weights_RB @ of_class_BC)[:, None]
    # A resample may lack a class, whose recall is then undefined.
    recall_RSC = np.divide(hits_RSC, support_R1C, out=np.full_like(hits_RSC, np.nan), where=support_R1C > 0)
    war_RS = hits_RSC.sum(2) / support_R1C.sum(2)
    return np.stack([war_RS, np.nanmean(recall_RSC, 2), recall_RSC[:, :, np.searchsorted(classes_C, rarest)]])


def _judge(of_seed_S: np.ndarray, mean_R: np.ndarray, num_images: int) -> Contrast:
    from scipy.stats import t

    value, num_seeds = float(of_seed_S.mean()), len(of_seed_S)
    by_images, by_seeds = float(np.nanvar(mean_R, ddof=1)), float(of_seed_S.var(ddof=1)) / num_seeds
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
