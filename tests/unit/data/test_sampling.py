"""Which rows are drawn and how much classes weigh, against scikit-learn, the paper's own code, and counting."""

import numpy as np
import pytest

from motivnet.data.loader import BalancedSampler
from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sampling import SamplingConfig, balanced_rows, class_weights, uniform_rows
from motivnet.errors import ConfigError, DataError
from motivnet.labels import LabelSet

LABELS = LabelSet(("calm", "cross", "merry"))
TARGETS = np.array([0] * 50 + [1] * 8 + [2] * 20)[np.random.default_rng(0).permutation(78)]

# Drawn once, with numpy 2.4.6 on Linux x86-64.
GOLDEN_UNIFORM = [6, 20, 21, 23, 24, 32, 35, 37, 39, 46, 52, 55]
GOLDEN_BALANCED = [3, 5, 11, 8, 2, 3, 1, 4, 0, 9, 0, 2]


def manifest_of(targets: np.ndarray) -> Manifest:
    names = [LABELS.names[target] for target in targets]
    paths = [f"{i}.png" for i in range(len(targets))]
    return make_manifest({"path": paths, "label": names, "split": ["train"] * len(names)}, LABELS)


class TestUniform:
    def test_as_many_of_each_class_as_the_smallest_has(self) -> None:
        rows = uniform_rows(TARGETS, LABELS)
        assert np.bincount(TARGETS[rows]).tolist() == [8, 8, 8]
        assert (np.diff(rows) > 0).all()  # in order, none twice

    def test_a_given_number(self) -> None:
        rows = uniform_rows(TARGETS, LABELS, per_class=3, seed=5)
        assert np.bincount(TARGETS[rows]).tolist() == [3, 3, 3]
        assert set(rows) < set(uniform_rows(TARGETS, LABELS, per_class=7, seed=5))

    def test_every_row_of_a_class_is_as_likely(self) -> None:
        drawn = np.bincount(
            np.concatenate([uniform_rows(TARGETS, LABELS, seed=seed) for seed in range(2000)]), minlength=78
        )
        large = drawn[TARGETS == 0]
        assert (drawn[TARGETS == 1] == 2000).all()
        # 8 of 50 in each of 2,000 draws: 320 of a row, with a standard deviation of 16.
        assert abs(large - 320).max() < 5 * 16

    def test_the_draw_never_changes(self) -> None:
        """Written down once; another platform or version of numpy has to give the same."""
        assert uniform_rows(np.arange(60) % 3, LABELS, per_class=4, seed=7).tolist() == GOLDEN_UNIFORM
        assert balanced_rows(np.arange(12) % 3, LABELS, seed=7, epoch=2).tolist() == GOLDEN_BALANCED

    def test_too_few_rows_name_the_class(self) -> None:
        with pytest.raises(DataError, match="cross has 8 rows, 9 of each class are needed"):
            uniform_rows(TARGETS, LABELS, per_class=9)
        with pytest.raises(DataError, match="merry has 0 rows"):
            uniform_rows(TARGETS[TARGETS < 2], LABELS)


class TestBalanced:
    def test_every_class_is_drawn_equally_often(self) -> None:
        rows = np.concatenate([balanced_rows(TARGETS, LABELS, seed=1, epoch=epoch) for epoch in range(500)])
        shares = np.bincount(TARGETS[rows]) / len(rows)
        np.testing.assert_allclose(shares, [1 / 3] * 3, atol=0.015)
        np.testing.assert_allclose(np.bincount(rows) / len(rows), 1 / (3 * np.bincount(TARGETS)[TARGETS]), atol=0.004)

    def test_seed_and_epoch_alone_decide(self) -> None:
        sampler = BalancedSampler(manifest_of(TARGETS), seed=3)
        epochs = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            epochs.append(list(sampler))
        resumed = BalancedSampler(manifest_of(TARGETS), seed=3)
        np.random.seed(1)  # noqa: NPY002 the global state must not matter
        resumed.set_epoch(2)
        assert list(resumed) == epochs[2]
        assert len(resumed) == len(TARGETS)
        assert epochs[0] != epochs[1]
        assert list(BalancedSampler(manifest_of(TARGETS), seed=4)) != epochs[0]

    def test_a_class_without_rows_is_named(self) -> None:
        with pytest.raises(DataError, match="no rows of cross, merry"):
            balanced_rows(np.zeros(5, np.int64), LABELS, seed=0, epoch=0)


class TestClassWeights:
    def test_balanced_weights_are_scikit_learns(self) -> None:
        sklearn = pytest.importorskip("sklearn.utils.class_weight")
        expected = sklearn.compute_class_weight("balanced", classes=np.arange(3), y=TARGETS)
        found = class_weights(TARGETS, LABELS, SamplingConfig(kind="class-weighted"))
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    @pytest.mark.parametrize("beta", [0.0, 0.9, 0.99, 0.999, 0.9999])
    def test_effective_number_is_the_papers(self, beta: float) -> None:
        # As the authors compute it in their class_balanced_loss.py.
        counts = np.bincount(TARGETS)
        expected = (1.0 - beta) / (1.0 - np.power(beta, counts))
        expected = expected / expected.sum() * len(counts)
        found = class_weights(TARGETS, LABELS, SamplingConfig(kind="effective-number", beta=beta))
        np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_effective_number_ends_at_inverse_frequency(self) -> None:
        found = class_weights(TARGETS, LABELS, SamplingConfig(kind="effective-number", beta=1 - 1e-12))
        inverse = 1 / np.bincount(TARGETS)
        np.testing.assert_allclose(found, 3 * inverse / inverse.sum(), rtol=1e-6)

    @pytest.mark.parametrize("kind", ["natural", "uniform", "balanced"])
    def test_other_kinds_weigh_nothing(self, kind: str) -> None:
        assert class_weights(TARGETS, LABELS, SamplingConfig(kind=kind)) is None  # type: ignore[arg-type]

    def test_a_class_without_rows_is_named(self) -> None:
        with pytest.raises(DataError, match="no rows of merry"):
            class_weights(TARGETS[TARGETS < 2], LABELS, SamplingConfig(kind="class-weighted"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "fair"}, "kind 'fair'. Allowed: natural, uniform"),
        ({"kind": "balanced", "per_class": 5}, "per_class belongs to kind 'uniform'"),
        ({"kind": "uniform", "per_class": 0}, "per_class 0: must be at least 1"),
        ({"beta": 1.0}, "beta 1.0: must be below 1"),
        ({"seed": -1}, "seed -1: must be at least 0"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**settings)
