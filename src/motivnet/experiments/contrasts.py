"""Whether two cells of an ablation differ by more than their seeds and the images they were tested on do.

Shape suffixes: B images, C classes, S seeds, R resamples.
"""

import math
from typing import NamedTuple

import numpy as np

from motivnet.errors import DataError
from motivnet.evaluation.resampling import TIE, Interval

METRICS = ("war", "uar", "minority_recall")
_RESAMPLES_AT_ONCE = 250


class Contrast(NamedTuple):
    """A cell less its reference, in one score.

    Args:
        value: mean over the seeds of their differences.
        per_seed: the difference of each seed.
        interval: of the mean, at 95 %.
        p_value: of there being no difference, two-sided; not corrected for the number of tests.
        images_std: standard error that comes of the choice of images.
        seeds_std: standard error that comes of the choice of seeds.
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
    correct_SB: np.ndarray,
    reference_SB: np.ndarray,
    target_B: np.ndarray,
    *,
    rarest: int,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Contrast]:
    """Compare two cells, seed with seed and image with image.

    The difference of a seed's two runs has two sources of chance. Other images would have given another one: that
    variance is estimated by a bootstrap that draws images, the same for all runs of both cells. Other seeds would have,
    too: that is the variance of the seeds' differences over their number. Their sum is the variance of the mean
    difference, which is judged by Student's t with the degrees of freedom of such a sum (Satterthwaite, Biometrics
    Bulletin 1946): near the number of seeds less one where seeds are what matters, large where images are. What the
    two share, how a seed's runs differ in single images, is counted twice, so that the test errs towards no difference.

    Args:
        correct_SB: whether each run of the cell classifies each image rightly, bool.
        reference_SB: the same of the reference, the same seeds in the same order.
        target_B: true classes.
        rarest: the class whose recall is `minority_recall`.
        num_resamples: R.
        level: of the intervals.
        seed: of the draws; the same seed gives the same result.

    Returns:
        One of METRICS -> what was found.

    Raises:
        DataError: if shapes differ, or there are fewer than two seeds or images.
    """
    if correct_SB.shape != reference_SB.shape or correct_SB.shape[1:] != target_B.shape:
        raise DataError(
            f"runs of shapes {correct_SB.shape} and {reference_SB.shape} for {target_B.shape} images cannot be paired"
        )
    if min(correct_SB.shape) < 2:
        raise DataError(f"{correct_SB.shape[0]} seeds and {correct_SB.shape[1]} images: a test needs two of each")
    num_seeds, num_images = correct_SB.shape
    both_SB = np.concatenate([correct_SB, reference_SB])
    rng = np.random.default_rng(seed)
    observed_MS = _differences(both_SB, target_B, np.ones((1, num_images)), rarest)[:, 0]
    resampled = []
    for first in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        count = min(_RESAMPLES_AT_ONCE, num_resamples - first)
        drawn_RB = rng.integers(num_images, size=(count, num_images))
        weights_RB = np.stack([np.bincount(row, minlength=num_images) for row in drawn_RB])
        resampled.append(_differences(both_SB, target_B, weights_RB.astype(np.float64), rarest).mean(2))
    mean_MR = np.concatenate(resampled, 1)
    return {
        name: _judge(of_seed_S, mean_R, num_seeds, num_images, level)
        for name, of_seed_S, mean_R in zip(METRICS, observed_MS, mean_MR, strict=True)
    }


def _differences(both_SB: np.ndarray, target_B: np.ndarray, weights_RB: np.ndarray, rarest: int) -> np.ndarray:
    """Score all runs with each row of weights; give cell less reference, (metrics, R, S)."""
    recalls, hits = [], 0
    for label in np.unique(target_B):
        of_label = target_B == label
        right_RS = weights_RB[:, of_label] @ both_SB[:, of_label].T.astype(np.float64)
        support_R1 = weights_RB[:, of_label].sum(1, keepdims=True)
        # A resample may lack a class: then it says nothing of its recall.
        recalls.append(np.where(support_R1 > 0, right_RS / np.maximum(support_R1, 1), np.nan))
        hits = hits + right_RS
    war_RS = hits / weights_RB.sum(1, keepdims=True)
    place = int(np.searchsorted(np.unique(target_B), rarest))
    scores_MRS = np.stack([war_RS, np.nanmean(recalls, axis=0), recalls[place]])
    cell, reference = np.split(scores_MRS, 2, axis=2)
    return cell - reference


def _judge(of_seed_S: np.ndarray, mean_R: np.ndarray, num_seeds: int, num_images: int, level: float) -> Contrast:
    from scipy.stats import t

    value = float(of_seed_S.mean())
    by_images, by_seeds = float(np.nanvar(mean_R, ddof=1)), float(of_seed_S.var(ddof=1)) / num_seeds
    variance = by_images + by_seeds
    if variance < TIE**2:  # all runs agree in every image, or differ by the same everywhere
        return Contrast(
            value, tuple(of_seed_S.tolist()), Interval(value, value), float(value == 0), 0.0, 0.0, num_images - 1
        )
    freedom = variance**2 / (by_images**2 / (num_images - 1) + by_seeds**2 / (num_seeds - 1))
    half = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance)
    return Contrast(
        value,
        tuple(of_seed_S.tolist()),
        Interval(value - half, value + half),
        float(2 * t.sf(abs(value) / math.sqrt(variance), freedom)),
        math.sqrt(by_images),
        math.sqrt(by_seeds),
        float(freedom),
    )
