"""Confidence intervals and comparisons of two models, by resampling images or whole subjects.

A resample is a weight for every image: how often it was drawn. So anything that takes weights can be resampled, and
its sorting need not be repeated.

Shape suffixes: B images, R resamples, K things drawn (images or clusters).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from motivnet.errors import DataError

Score = Callable[[np.ndarray], Mapping[str, float]]
# Two models' scores that are equal may differ in the last digits, and must count as a tie.
TIE = 1e-12


class Interval(NamedTuple):
    """Where a score lies with the wanted confidence; both NaN where that cannot be told."""

    low: float
    high: float


class Difference(NamedTuple):
    """One score of model a less that of model b.

    Attributes:
        value: the difference on the images themselves.
        interval: of it.
        p_value: of there being none, two-sided.
    """

    value: float
    interval: Interval
    p_value: float


class McNemar(NamedTuple):
    """How two models differ in the images that they classify rightly.

    Attributes:
        only_a: images that only model a classifies rightly.
        only_b: images that only model b does.
        p_value: of both being as often right, two-sided.
    """

    only_a: int
    only_b: int
    p_value: float


def bootstrap(
    score: Score,
    units: int | Sequence[Any] | np.ndarray,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Give percentile intervals of scores (Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13).

    Images of one subject resemble each other, so that drawing them one by one makes intervals too narrow: give the
    subjects, and whole subjects are drawn.

    A resample in which a score is NaN, such as the recall of a class that was not drawn, is left out for that score.
    Scores that grow with noise, such as the calibration error, are larger on resamples than on the images
    themselves: their intervals lie a little too high.

    Args:
        score: takes a weight an image, float64 (B,), whole numbers; gives scores by name, the same names each time.
        units: number of images, each drawn by itself; or the cluster of each image, (B,), numbers or strings, such as
            its subject; an image whose cluster is None is one by itself.
        num_resamples: R; 1,000 settle the limits of a 95 % interval to about a fiftieth of its width.
        level: share of all such intervals that hold the truth, above 0 and below 1.
        seed: of the draws; the same seed gives the same intervals.

    Returns:
        Interval of every score; NaN where it is NaN on every resample, or where there are fewer than two units.

    Raises:
        DataError: if there are no images, or `num_resamples` or `level` is not allowed.
    """
    names = list(score(np.ones(_num_rows(units))))
    resampled_NR = _resample(score, names, units, num_resamples=num_resamples, level=level, seed=seed)
    return {name: _interval(values_R, level) for name, values_R in zip(names, resampled_NR, strict=True)}


def paired_bootstrap(
    score_a: Score,
    score_b: Score,
    units: int | Sequence[Any] | np.ndarray,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
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
        Difference of every score, a less b; interval and p-value are NaN where `bootstrap` gives NaN.

    Raises:
        DataError: as `bootstrap`, or if the models have no score in common.
    """

    def difference(weights_B: np.ndarray) -> dict[str, float]:
        a, b = score_a(weights_B), score_b(weights_B)
        return {name: a[name] - b[name] for name in a if name in b}

    observed = difference(np.ones(_num_rows(units)))
    if not observed:
        raise DataError("the two models have no score in common")
    resampled_NR = _resample(difference, list(observed), units, num_resamples=num_resamples, level=level, seed=seed)
    return {
        name: Difference(float(value), _interval(values_R, level), _sides_p_value(values_R))
        for (name, value), values_R in zip(observed.items(), resampled_NR, strict=True)
    }


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Test whether two models classify the same images rightly equally often (McNemar 1947), by its mid-p version.

    Only images that one of them alone gets right tell the models apart; if the models are equally good, either is the
    one with a chance of a half. The exact binomial test rejects too seldom, the chi-squared test with few images too
    often; the mid-p test, which counts the observed outcome half, does neither, and is used for any number of images
    (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 2013, 13:91).

    Images are taken as independent. Where there are several of a subject, use `paired_bootstrap` with subjects.

    Args:
        correct_a: whether model a classifies each image rightly, bools (B,).
        correct_b: whether model b does.

    Raises:
        DataError: if there are no images, lengths differ, or the values are no bools.
    """
    a_B, b_B = np.asarray(correct_a), np.asarray(correct_b)
    for what, values_B in (("correct_a", a_B), ("correct_b", b_B)):
        if values_B.ndim != 1 or values_B.size == 0 or values_B.dtype != np.bool_:
            raise DataError(
                f"{what} of shape {values_B.shape} and {values_B.dtype}. Allowed: a bool an image, at least one image"
            )
    if len(a_B) != len(b_B):
        raise DataError(f"correct_a of {len(a_B)} images, correct_b of {len(b_B)}")
    only_a, only_b = int((a_B & ~b_B).sum()), int((b_B & ~a_B).sum())
    return McNemar(only_a, only_b, _mid_p(only_a, only_b))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Correct p-values for their number: those at most alpha then hold a false alarm with a chance of at most alpha.

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
    if p_N.ndim != 1:
        raise DataError(f"p_values of shape {p_N.shape}. Allowed: one number a test")
    wrong_N = ~((p_N >= 0) & (p_N <= 1))
    if wrong_N.any():
        place = int(np.argmax(wrong_N))
        raise DataError(f"p_values[{place}] is {p_N[place]}. Allowed: numbers from 0 to 1")
    order_N = np.argsort(p_N, kind="stable")
    adjusted_N = np.empty_like(p_N)
    stepped_N = np.arange(len(p_N), 0, -1) * p_N[order_N]
    adjusted_N[order_N] = np.minimum(np.maximum.accumulate(stepped_N), 1)
    return adjusted_N


def _resample(
    score: Score,
    names: Sequence[str],
    units: int | Sequence[Any] | np.ndarray,
    *,
    num_resamples: int,
    level: float,
    seed: int,
) -> np.ndarray:
    """Give the values of every score on the resamples, (names, R); all NaN where there is one unit alone."""
    if num_resamples < 1:
        raise DataError(f"num_resamples must be at least 1, not {num_resamples}")
    if not 0 < level < 1:
        raise DataError(f"level must be above 0 and below 1, not {level}")
    unit_B = _numbered(units)
    values_NR = np.full((len(names), num_resamples), np.nan)
    num_units = int(unit_B.max()) + 1
    if num_units > 1:
        for r, weights_B in enumerate(_draws(unit_B, num_units, num_resamples, seed)):
            scores = score(weights_B)
            values_NR[:, r] = [scores[name] for name in names]
    return values_NR


def _draws(unit_B: np.ndarray, num_units: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw as many units as there are, with replacement; yield how often each image came with them, (B,)."""
    rng = np.random.default_rng(seed)
    for _ in range(num_resamples):
        drawn_K = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)
        yield drawn_K[unit_B].astype(np.float64)


def _num_rows(units: int | Sequence[Any] | np.ndarray) -> int:
    num_rows = int(units) if isinstance(units, (int, np.integer)) else len(units)
    if num_rows < 1:
        raise DataError("there are no images to draw from")
    return num_rows


def _numbered(units: int | Sequence[Any] | np.ndarray) -> np.ndarray:
    """Number the units from 0, and give that of each image, int64 (B,)."""
    if isinstance(units, (int, np.integer)):
        return np.arange(units)
    numbers: dict[Any, int] = {}
    # An image without a cluster gets a key that nothing else has: its place, marked as such.
    keys = (("alone", row) if unit is None else unit for row, unit in enumerate(units))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _interval(values_R: np.ndarray, level: float) -> Interval:
    values_R = values_R[~np.isnan(values_R)]
    if not len(values_R):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _sides_p_value(values_R: np.ndarray) -> float:
    values_R = values_R[~np.isnan(values_R)]
    if not len(values_R):
        return float("nan")
    rarer = min((values_R <= TIE).sum(), (values_R >= -TIE).sum())
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(values_R))))


def _mid_p(only_a: int, only_b: int) -> float:
    from scipy.stats import binom

    fewer, both = min(only_a, only_b), only_a + only_b
    return float(2 * binom.cdf(fewer, both, 0.5) - binom.pmf(fewer, both, 0.5))
