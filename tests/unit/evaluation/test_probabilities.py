import numpy as np
import pytest

from motivnet.errors import DataError
from motivnet.evaluation.probabilities import ProbabilityScores

C = 7


def random_case(seed, num_images=200, present=range(C), ties=False):
    """Random probabilities that lean towards the truth; with `ties` many are equal."""
    rng = np.random.default_rng(seed)
    target = rng.choice(np.array(present), num_images)
    scores = rng.normal(size=(num_images, C)) + 1.5 * np.eye(C)[target]
    if ties:
        scores = np.round(scores)
    probs = np.exp(scores)
    return probs / probs.sum(axis=1, keepdims=True), target


CASES = {
    "random": random_case(0),
    "another": random_case(1, num_images=23),
    "ties": random_case(2, ties=True),
    "all equal": (np.full((40, C), 1 / C), np.arange(40) % C),
    "a class absent": random_case(3, present=[0, 1, 2, 4, 5, 6]),
    "a single class": random_case(4, present=[3]),
    "certain": (np.eye(C)[np.array([0, 1, 2, 3, 4, 5, 6, 0, 1])], np.array([0, 1, 2, 3, 4, 5, 6, 1, 0])),
    "one image": random_case(5, num_images=1),
}
each_case = pytest.mark.parametrize(("probs", "target"), CASES.values(), ids=CASES)
METRICS = ["auroc_per_class", "auroc_macro", "log_loss", "brier", "ece", "classwise_ece"]
each_metric = pytest.mark.parametrize("metric", METRICS)


def weights_of(target, kind):
    rng = np.random.default_rng(9)
    if kind == "whole":
        weights = rng.integers(0, 4, len(target))
        weights[np.unique(target, return_index=True)[1]] = 1
        return weights
    return rng.random(len(target)) + 0.01 if kind == "real" else None


each_weighting = pytest.mark.parametrize("kind", ["none", "whole", "real"])


@each_case
@each_weighting
def test_auroc_agrees_with_scikit_learn(probs, target, kind):
    sklearn = pytest.importorskip("sklearn.metrics")
    weights = weights_of(target, kind)
    auroc = ProbabilityScores(probs, target).auroc_per_class(weights)
    defined = [c for c in range(C) if 0 < (target == c).sum() < len(target)]
    for c in defined:
        expected = sklearn.roc_auc_score(target == c, probs[:, c], sample_weight=weights)
        assert auroc[c] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(np.delete(auroc, defined)).all()
    macro = ProbabilityScores(probs, target).auroc_macro(weights)
    assert macro == pytest.approx(np.mean(auroc[defined])) if defined else np.isnan(macro)


@pytest.mark.parametrize("case", ["random", "ties", "all equal", "certain"])
def test_auroc_agrees_with_torchmetrics(case):
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    probs, target = CASES[case]
    theirs = classification.multiclass_auroc(torch.from_numpy(probs), torch.from_numpy(target), C, average=None)
    np.testing.assert_allclose(ProbabilityScores(probs, target).auroc_per_class(), theirs.numpy(), rtol=1e-5)


def test_auroc_is_the_share_of_pairs_in_order_with_ties_a_half():
    first = np.array([0.9, 0.6, 0.6, 0.2])
    target = [0, 0, 1, 1]
    probs = np.stack([first, 1 - first], axis=1)
    # Pairs (0.9, 0.6), (0.9, 0.2), (0.6, 0.2) are in order, (0.6, 0.6) is a tie.
    np.testing.assert_allclose(ProbabilityScores(probs, target).auroc_per_class(), [3.5 / 4, 3.5 / 4])
    # The class whose images all have weight 0 is absent, and so is everybody else's rest.
    assert np.isnan(ProbabilityScores(probs, target).auroc_per_class([1, 1, 0, 0])).all()


@each_case
@each_weighting
def test_log_loss_and_brier_agree_with_scikit_learn(probs, target, kind):
    sklearn = pytest.importorskip("sklearn.metrics")
    weights = weights_of(target, kind)
    expected = sklearn.log_loss(target, probs, labels=range(C), sample_weight=weights)
    assert ProbabilityScores(probs, target).log_loss(weights) == pytest.approx(expected, abs=1e-12)
    expected = sklearn.brier_score_loss(target, probs, labels=range(C), sample_weight=weights, scale_by_half=False)
    assert ProbabilityScores(probs, target).brier(weights) == pytest.approx(expected)


def test_a_probability_of_nought_costs_a_finite_loss():
    assert ProbabilityScores([[1.0, 0.0]], [1]).log_loss() == pytest.approx(52 * np.log(2))
    assert ProbabilityScores([[1.0, 0.0]], [1]).brier() == 2.0


@pytest.mark.parametrize("case", [name for name in CASES if name != "certain"])
@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_ece_agrees_with_torchmetrics(case, num_bins):
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    probs, target = CASES[case]
    theirs = classification.multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(target), num_classes=C, n_bins=num_bins, norm="l1"
    )
    assert ProbabilityScores(probs, target, num_bins=num_bins).ece() == pytest.approx(theirs.item(), abs=1e-6)


def test_bins_are_half_open_as_in_torchmetrics_and_the_last_is_closed():
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    probs = np.array([[0.5, 0.5], [0.75, 0.25], [0.625, 0.375], [0.875, 0.125]])  # quarters are exact edges
    target = np.array([0, 0, 1, 1])
    pair = torch.from_numpy(probs), torch.from_numpy(target)
    theirs = classification.multiclass_calibration_error(*pair, num_classes=2, n_bins=4, norm="l1")
    assert ProbabilityScores(probs, target, num_bins=4).ece() == pytest.approx(theirs.item())
    assert ProbabilityScores(probs, target, num_bins=4).reliability().share.tolist() == [0, 0, 0.5, 0.5]
    certain = ProbabilityScores([[1.0, 0.0], [0.8, 0.2]], [0, 1], num_bins=4).reliability()
    assert certain.share.tolist() == [0, 0, 0, 1]


@each_case
def test_classwise_ece_is_the_mean_of_every_classs_binary_error(probs, target):
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    if (probs == 1).any():
        # The bin of exactly 1, which torchmetrics opens, holds nothing else then, as the one that ends there here.
        assert not ((probs > 14 / 15) & (probs < 1)).any()
    errors = [
        classification.binary_calibration_error(
            torch.from_numpy(probs[:, c].copy()), torch.from_numpy((target == c).astype(np.int64)), n_bins=15, norm="l1"
        ).item()
        for c in range(C)
    ]
    assert ProbabilityScores(probs, target).classwise_ece() == pytest.approx(np.mean(errors), abs=1e-6)


@each_case
@each_metric
def test_a_weight_is_the_same_as_listing_the_image_so_often(metric, probs, target):
    weights = weights_of(target, "whole")
    rows = np.repeat(np.arange(len(target)), weights)
    score = getattr(ProbabilityScores(probs, target), metric)
    repeated = getattr(ProbabilityScores(probs[rows], target[rows]), metric)
    np.testing.assert_allclose(score(weights), repeated(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(score(np.ones(len(target))), score(), rtol=1e-9, atol=1e-12)


def test_the_reliability_diagram_adds_up_to_the_ece():
    scores = ProbabilityScores(*CASES["random"])
    bins = scores.reliability()
    assert len(bins.edges) == 16
    assert bins.share.sum() == pytest.approx(1)
    filled = bins.share > 0
    assert np.isnan(bins.accuracy[~filled]).all()
    assert np.isnan(bins.confidence[~filled]).all()
    assert (~filled).any()
    inside = (bins.edges[:-1] <= bins.confidence) & (bins.confidence <= bins.edges[1:])
    assert inside[filled].all()
    assert np.nansum(bins.share * np.abs(bins.accuracy - bins.confidence)) == pytest.approx(scores.ece())


def test_one_object_serves_many_weights_without_remembering_them():
    probs, target = CASES["ties"]
    scores = ProbabilityScores(probs, target)
    before = [getattr(scores, name)() for name in METRICS]
    for seed in range(3):
        weights = np.random.default_rng(seed).integers(0, 3, len(target))
        for name in METRICS:
            fresh = getattr(ProbabilityScores(probs, target), name)(weights)
            np.testing.assert_array_equal(getattr(scores, name)(weights), fresh)
    for name, value in zip(METRICS, before, strict=True):
        np.testing.assert_array_equal(getattr(scores, name)(), value)


def test_rounding_of_a_probability_is_forgiven():
    probs = np.array([[1.0005, 0.0], [0.3333, 0.6663]], np.float32)
    assert ProbabilityScores(probs, [0, 1]).ece() == pytest.approx((0.3337 + 0.0005) / 2, abs=1e-6)
    assert ProbabilityScores(probs[:1], [0]).log_loss() == 0.0


@pytest.mark.parametrize(
    ("probs", "target", "message"),
    [
        ([[0.5, 0.5], [0.5, np.nan]], [0, 1], "1 of 2 rows hold NaN, the first is row 1"),
        ([[0.5, 0.5], [0.5, 0.4]], [0, 1], r"probs\[1\] is \[0.5, 0.4\], which sums to 0.9 .*within 0.001"),
        ([[0.5, 0.5], [0.5, 0.502]], [0, 1], r"probs\[1\]"),
        ([[1.2, -0.2], [0.5, 0.5]], [0, 1], r"probs\[0\] is \[1.2, -0.2\]"),
        ([[np.inf, -np.inf]], [0], r"probs\[0\]"),
        ([[2.0, -3.5]], [0], r"probs\[0\] .*Allowed: values from 0 to 1"),
        ([[0.5, 0.5]], [0, 1], "probs of 1 images, target of 2"),
        ([[0.5, 0.5]], [2], r"target\[0\] is 2. Allowed: classes from 0 to 1"),
        ([[0.5, 0.5]], [-1], r"target\[0\] is -1"),
        (np.empty((0, 7)), np.empty(0, np.int64), r"probs of shape \(0, 7\)"),
        ([0.5, 0.5], [0], r"probs of shape \(2,\)"),
        ([["a", "b"]], [0], "probs of .* <U1"),
    ],
)
def test_what_are_no_probabilities_is_refused(probs, target, message):
    with pytest.raises(DataError, match=message):
        ProbabilityScores(probs, target)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, np.nan]])
def test_weights_that_cannot_be_are_refused(metric, weights):
    with pytest.raises(DataError, match="weights"):
        getattr(ProbabilityScores([[0.5, 0.5], [0.1, 0.9]], [0, 1]), metric)(weights)


def test_no_bins_at_all_are_refused():
    with pytest.raises(DataError, match="num_bins must be at least 1, not 0"):
        ProbabilityScores([[0.5, 0.5]], [0], num_bins=0).ece()


def test_inputs_are_not_changed():
    probs, target = (array.copy() for array in CASES["ties"])
    weights = weights_of(target, "real")
    kept = probs.copy(), target.copy(), weights.copy()
    for metric in METRICS:
        getattr(ProbabilityScores(probs, target), metric)(weights)
    for before, after in zip(kept, (probs, target, weights), strict=True):
        np.testing.assert_array_equal(before, after)
