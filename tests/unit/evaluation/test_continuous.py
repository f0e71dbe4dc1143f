import numpy as np
import pytest

from motivnet.errors import DataError
from motivnet.evaluation import metrics

FUNCTIONS = [metrics.ccc, metrics.rmse, metrics.sign_agreement]


def random_case(seed, num_images=100):
    rng = np.random.default_rng(seed)
    target = rng.uniform(-1, 1, num_images)
    return 0.6 * target + 0.2 + 0.3 * rng.normal(size=num_images), target


@pytest.mark.parametrize("seed", range(3))
def test_ccc_agrees_with_torchmetrics_up_to_its_divisor(seed):
    torch = pytest.importorskip("torch")
    regression = pytest.importorskip("torchmetrics.functional.regression")
    preds, target = random_case(seed)
    theirs = regression.concordance_corrcoef(torch.from_numpy(preds), torch.from_numpy(target)).item()
    # One less in the divisor scales variances and covariance, and not the squared difference of the means.
    covariance = np.cov(preds, target, ddof=1)
    offset = (preds.mean() - target.mean()) ** 2
    assert theirs == pytest.approx(2 * covariance[0, 1] / (np.trace(covariance) + offset))
    assert metrics.ccc(preds, target) == pytest.approx(theirs, rel=0.01)
    # With equal means the divisor cancels out.
    preds = preds - preds.mean() + target.mean()
    theirs = regression.concordance_corrcoef(torch.from_numpy(preds), torch.from_numpy(target)).item()
    assert metrics.ccc(preds, target) == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(3))
def test_ccc_is_lins_formula(seed):
    preds, target = random_case(seed, num_images=9)
    covariance = np.cov(preds, target, ddof=0)
    expected = 2 * covariance[0, 1] / (np.trace(covariance) + (preds.mean() - target.mean()) ** 2)
    assert metrics.ccc(preds, target) == pytest.approx(expected)


def test_ccc_of_simple_relations():
    target = np.array([-1.0, 0.0, 1.0])
    assert metrics.ccc(target, target) == pytest.approx(1)
    assert metrics.ccc(-target, target) == pytest.approx(-1)
    assert metrics.ccc(target + 1, target) == pytest.approx((2 * 2 / 3) / (4 / 3 + 1))
    assert metrics.ccc([1, 2, 3], [1, 2, 3]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("preds", "target"),
    [([0.1, 0.1, 0.1], [0.0, 0.5, 1.0]), ([0.0, 0.5, 1.0], [0.1, 0.1, 0.1]), ([0.1] * 3, [0.1] * 3), ([0.3], [0.2])],
)
def test_ccc_of_a_constant_is_nan(preds, target):
    assert np.isnan(metrics.ccc(preds, target))
    assert np.isnan(metrics.ccc([*preds, 7.0], [*target, 8.0], weights=[1.0] * len(preds) + [0.0]))


@pytest.mark.parametrize("weighted", [False, True])
def test_rmse_agrees_with_scikit_learn(weighted):
    sklearn = pytest.importorskip("sklearn.metrics")
    preds, target = random_case(4)
    weights = np.random.default_rng(0).random(len(target)) if weighted else None
    expected = sklearn.root_mean_squared_error(target, preds, sample_weight=weights)
    assert metrics.rmse(preds, target, weights=weights) == pytest.approx(expected)


def test_nought_is_a_sign_of_its_own():
    assert metrics.sign_agreement([0.1, -0.1, 0.0, 0.0, 0.2], [0.9, 0.9, 0.0, 0.3, 0.0]) == 2 / 5


def test_sign_agreement_agrees_with_scikit_learns_accuracy_of_the_signs():
    sklearn = pytest.importorskip("sklearn.metrics")
    preds, target = random_case(5)
    weights = np.random.default_rng(1).random(len(target))
    expected = sklearn.accuracy_score(np.sign(target), np.sign(preds), sample_weight=weights)
    assert metrics.sign_agreement(preds, target, weights=weights) == pytest.approx(expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_weight_is_the_same_as_listing_the_image_so_often(function):
    preds, target = random_case(6)
    weights = np.random.default_rng(2).integers(0, 4, len(target))
    rows = np.repeat(np.arange(len(target)), weights)
    assert function(preds, target, weights=weights) == pytest.approx(function(preds[rows], target[rows]))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        ([0.1, np.nan], [0.1, 0.2], r"preds\[1\] is nan. Allowed: finite numbers"),
        ([0.1, 0.2], [np.inf, 0.2], r"target\[0\] is inf"),
        ([0.1], [0.1, 0.2], "preds of 1 images, target of 2"),
        ([], [], r"preds of shape \(0,\)"),
        ([[0.1]], [[0.1]], r"preds of shape \(1, 1\)"),
        (["a"], [0.1], "preds of shape .* and <U1. Allowed: one number per image"),
    ],
)
def test_values_that_cannot_be_scored_are_refused(function, preds, target, message):
    with pytest.raises(DataError, match=message):
        function(preds, target)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_weights_that_cannot_be_are_refused(function):
    with pytest.raises(DataError, match=r"weights\[0\] is -1"):
        function([0.1, 0.2], [0.3, 0.1], weights=[-1, 1])
