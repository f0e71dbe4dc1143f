"""Confidence intervals, and comparisons of two models, by resampling images or whole subjects.

Our own rather than scipy's or torchmetrics' bootstrap: these resample neither whole subjects nor weights. A resample is
a weight for every image: how often it was drawn. So any metric that takes weights can be resampled, and its sorting
need not be repeated.

Shape suffixes: B images, R resamples, K units drawn (images or clusters), N tests.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError, require
from motivnet.evaluation.metrics import check_each, checked

Score = Callable[[np.ndarray], Mapping[str, float]]
Units = int | Sequence[Any] | np.ndarray
# Equal scores of two models may differ in the last digits, and must count as a tie.
TIE = 1e-12


class Interval(NamedTuple):
    """A confidence interval; both ends NaN where there is none."""

    low: float
    high: float


class Difference(NamedTuple):
    """The difference of one score, model a minus model b.

    Attributes:
        value: on the images themselves.
        interval: of the difference.
        p_value: two-sided, of no difference.
    """

    value: float
    interval: Interval
    p_value: float


class McNemar(NamedTuple):
    """McNemar's test of two models on the same images.

    Attributes:
        only_a: images that only model a classifies correctly.
        only_b: images that only model b does.
        p_value: two-sided, of equal accuracy.
    """

    only_a: int
    only_b: int
    p_value: float


def bootstrap(
    score: Score,
    units: Units,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[str, Interval]:
    """Return percentile intervals of scores (Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13).

    Images of one subject resemble each other, so that drawing them one by one makes intervals too narrow: pass the
    subjects, and whole subjects are drawn.

    A resample in which a score is NaN, such as the recall of a class that was not drawn, is left out for that score.
    Scores that grow with noise, such as the calibration error, are larger on resamples than on the images
    themselves: their intervals lie a little too high.

    Args:
        score: takes a weight per image, float64 (B,), whole numbers; returns scores by name, the same names each time.
        units: number of images, each drawn by itself; or the cluster of each image, (B,), numbers or strings, such as
            its subject; an image whose cluster is None is one by itself.
        num_resamples: R; 1,000 settle the ends of a 95 % interval to about a fiftieth of its width.
        level: confidence level, above 0 and below 1.
        seed: of the draws; the same seed gives the same intervals.
        track: wraps the loop over the resamples, such as a progress bar.

    Returns:
        Interval of every score; NaN where it is NaN on every resample, or where there are fewer than two units.

    Raises:
        DataError: if there are no images, or `num_resamples` or `level` is not allowed.
    """
    _, resampled = resample(score, units, num_resamples=num_resamples, seed=seed, track=track)
    return {name: _interval(values_R, level) for name, values_R in resampled.items()}


def paired_bootstrap(
    score_a: Score, score_b: Score, units: Units, *, num_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Difference]:
    """Compare two models on the same images: each resample scores both, so what the images share cancels out.

    The p-value is the smallest 1 - level at which the percentile interval excludes 0: twice the share of resamples on
    the rarer side of 0, with one resample added so that it is never 0 (Davison and Hinkley, Bootstrap methods and their
    application, 1997, section 4.2). Resamples without a difference count for both sides.

    Args:
        score_a: scores of model a, as in `bootstrap`.
        score_b: scores of model b; those with names in both are compared.
        units: images or clusters, as in `bootstrap`.
        num_resamples: R; the p-value is at least 2 / (R + 1).
        level: of the interval.
        seed: of the draws.

    Returns:
        Difference of every score, a minus b; interval and p-value are NaN where `bootstrap` returns NaN.

    Raises:
        DataError: as `bootstrap`, or if the models have no score in common.
    """

    def difference(weights_B: np.ndarray) -> dict[str, float]:
        a, b = score_a(weights_B), score_b(weights_B)
        return {name: a[name] - b[name] for name in a if name in b}

    observed, resampled = resample(difference, units, num_resamples=num_resamples, seed=seed)
    require(observed, "the two models have no score in common", DataError)
    return {
        name: Difference(float(observed[name]), _interval(values_R, level), _sides_p_value(values_R))
        for name, values_R in resampled.items()
    }


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Test whether two models are equally accurate on the same images (McNemar 1947), by the mid-p version.

    Only images that one of them alone classifies correctly count; if the models are equally good, either is the one
    with probability 1/2. The exact binomial test rejects too seldom, the chi-squared test with few images too often;
    the mid-p test, which counts the observed outcome half, does neither, and is used for any number of images
    (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 2013, 13:91).

    Images are assumed independent. Where there are several per subject, use `paired_bootstrap` with subjects.

    Args:
        correct_a: whether model a classifies each image correctly, bools (B,).
        correct_b: whether model b does.

    Raises:
        DataError: if there are no images, lengths differ, or the values are not bools.
    """
    from scipy.stats import binom

    allowed = "a bool per image, at least one image"
    a_B, b_B = (checked("correct", values, allowed, kinds="b") for values in (correct_a, correct_b))
    require(len(a_B) == len(b_B), f"correct_a of {len(a_B)} images, correct_b of {len(b_B)}", DataError)
    only_a, only_b = int((a_B & ~b_B).sum()), int((b_B & ~a_B).sum())
    fewer, both = min(only_a, only_b), only_a + only_b
    return McNemar(only_a, only_b, float(2 * binom.cdf(fewer, both, 0.5) - binom.pmf(fewer, both, 0.5)))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Correct p-values for multiple testing, controlling the family-wise error rate.

    After Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979. Never
    less powerful than Bonferroni's correction, and like it valid however the tests depend on each other.

    Args:
        p_values: of all tests of one question, (N,); may be empty.

    Returns:
        Adjusted p-values in the same order, float64 (N,), at most 1.

    Raises:
        DataError: if a value is not from 0 to 1.
    """
    p_N = np.asarray(p_values, dtype=np.float64)
    require(p_N.ndim == 1, f"p_values of shape {p_N.shape}. Allowed: one number per test", DataError)
    check_each("p_values", p_N, (p_N >= 0) & (p_N <= 1), "numbers from 0 to 1")
    order_N = np.argsort(p_N, kind="stable")
    adjusted_N = np.empty_like(p_N)
    stepped_N = np.arange(len(p_N), 0, -1) * p_N[order_N]
    adjusted_N[order_N] = np.minimum(np.maximum.accumulate(stepped_N), 1)
    return adjusted_N


def number_units(units: Units) -> np.ndarray:
    """Return the number of each image's unit, from 0 in order of appearance, int64 (B,); `units` as in `bootstrap`."""
    if isinstance(units, (int, np.integer)):
        return np.arange(units)
    numbers: dict[Any, int] = {}
    # An image without a cluster gets a key that nothing else has: its position.
    keys = (("alone", row) if unit is None else unit for row, unit in enumerate(units))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def resample(
    score: Score, units: Units, *, num_resamples: int, seed: int = 0, track: Callable[..., Iterable[int]] = iter
) -> tuple[Mapping[str, float], dict[str, np.ndarray]]:
    """Return the scores of the images themselves, and on the resamples without NaN; none if there is one unit.

    Arguments and errors as for `bootstrap`.
    """
    unit_B = number_units(units)
    require(len(unit_B), "there are no images to draw from", DataError)
    require(num_resamples >= 1, f"num_resamples must be at least 1, not {num_resamples}", DataError)
    observed = score(np.ones(len(unit_B)))
    resampled = {name: np.full(num_resamples, np.nan) for name in observed}
    num_units, rng = int(unit_B.max()) + 1, np.random.default_rng(seed)
    for r in track(range(num_resamples)) if num_units > 1 and observed else ():
        # As many units as there are, with replacement.
        drawn_K = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)
        scores = score(drawn_K[unit_B].astype(np.float64))
        for name, values_R in resampled.items():
            values_R[r] = scores[name]
    return observed, {name: values_R[~np.isnan(values_R)] for name, values_R in resampled.items()}


def _interval(values_R: np.ndarray, level: float) -> Interval:
    require(0 < level < 1, f"level must be above 0 and below 1, not {level}", DataError)
    if not len(values_R):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _sides_p_value(values_R: np.ndarray) -> float:
    if not len(values_R):
        return float("nan")
    rarer = min((values_R <= TIE).sum(), (values_R >= -TIE).sum())
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(values_R))))
