"""The test between two cells: against hand calculation, and against its own promise of false alarms."""

import math

import numpy as np
import pytest
from scipy.stats import t

from motivnet.errors import DataError
from motivnet.experiments.comparison import CONTRAST_METRICS, contrast

# Six images: four of class 0, two of class 1, the rarest.
TARGET = np.array([0, 0, 0, 0, 1, 1])


def runs(*rows: str) -> np.ndarray:
    return np.array([[letter == "1" for letter in row] for row in rows])


def test_differences_by_hand() -> None:
    cell, reference = runs("111100", "111110"), runs("110000", "110010")
    found = contrast(cell, reference, TARGET, rarest=1)
    assert list(found) == list(CONTRAST_METRICS)
    # Seed 0: 4/6 - 2/6 and 5/6 - 3/6. Mean recall: (1 + 0)/2 - (.5 + 0)/2 and (1 + .5)/2 - (.5 + .5)/2.
    assert found["war"].per_seed == pytest.approx((2 / 6, 2 / 6))
    assert found["uar"].per_seed == pytest.approx((0.25, 0.25))
    assert found["minority_recall"].per_seed == (0.0, 0.0)
    assert found["war"].value == pytest.approx(2 / 6)
    assert found["war"].seeds_std == pytest.approx(0)
    # Of the six images two tell the cells apart: the share drawn of them has the variance p (1 - p) / 6.
    assert found["war"].images_std == pytest.approx(math.sqrt(2 / 6 * 4 / 6 / 6), rel=0.05)


def test_p_value_and_interval_by_hand() -> None:
    """Where all images are alike, only seeds count: the paired t test."""
    cell, reference = runs("1111", "1111", "0000"), runs("0000", "0000", "0000")
    found = contrast(cell, reference, np.array([0, 0, 0, 0]), rarest=0)["war"]
    standard_error = np.std([1, 1, 0], ddof=1) / math.sqrt(3)
    assert found.images_std == pytest.approx(0)
    assert found.seeds_std == pytest.approx(standard_error)
    assert found.freedom == pytest.approx(2)
    assert found.p_value == pytest.approx(2 * t.sf(2 / 3 / standard_error, 2))
    half = t.ppf(0.975, 2) * standard_error
    assert found.interval == pytest.approx((2 / 3 - half, 2 / 3 + half))


def test_equal_runs_do_not_differ() -> None:
    same = runs("110010", "101011")
    for found in contrast(same, same, TARGET, rarest=1).values():
        assert (found.value, found.p_value, found.interval) == (0, 1, (0, 0))


def test_a_resample_without_the_rarest_class_is_left_out() -> None:
    target = np.array([0] * 9 + [1])
    cell, reference = np.ones((2, 10), bool), np.zeros((2, 10), bool)
    found = contrast(cell, reference, target, rarest=1)
    assert all(math.isfinite(value) for each in found.values() for value in (each.value, each.p_value))


@pytest.mark.parametrize("seeds_matter", [0.0, 0.05, 0.3])
def test_false_alarms_are_as_rare_as_promised(seeds_matter: float) -> None:
    """Cells of one kind, whether chance lies in the images or in the seeds: at most a twentieth is found to differ."""
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(300):
        hard_B = rng.normal(size=120)
        ability_2S = rng.normal(0, seeds_matter, (2, 3))
        correct_2SB = ability_2S[:, :, None] + hard_B + rng.normal(0, 0.5, (2, 3, 120)) > 0
        found = contrast(correct_2SB[0], correct_2SB[1], np.zeros(120, np.int64), rarest=0, num_resamples=100)
        alarms.append(found["war"].p_value < 0.05)
    assert np.mean(alarms) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_a_true_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    cell, reference = rng.random((3, 400)) < 0.7, rng.random((3, 400)) < 0.5
    found = contrast(cell, reference, np.zeros(400, np.int64), rarest=0)["war"]
    assert found.p_value < 0.001
    assert found.interval.low > 0


def test_one_seed_cannot_be_tested() -> None:
    with pytest.raises(DataError, match="a test needs two of each"):
        contrast(runs("10"), runs("10"), np.array([0, 1]), rarest=1)
