import subprocess
import sys

import numpy as np
import pytest

from motivnet.errors import DataError
from motivnet.evaluation import metrics

C = 7


def random_case(seed, num_images=200, classes=C, present=None):
    """Random predictions that are right more often than chance, with `present` classes in the target."""
    rng = np.random.default_rng(seed)
    target = rng.choice(present if present is not None else np.arange(classes), num_images)
    preds = np.where(rng.random(num_images) < 0.4, target, rng.integers(0, classes, num_images))
    return preds, target


def top_k_accuracy(probs, target, k, weights=None):
    return metrics.weighted_mean(metrics.rank_of_truth(probs, target) < k, weights)


CASES = {
    "random": random_case(0),
    "another": random_case(1, num_images=37),
    "a class absent from the target": random_case(2, present=[0, 1, 2, 4, 5, 6]),
    "a single class in the target": random_case(3, present=[3]),
    "classes never predicted": (np.array([0, 0, 1, 1, 0]), np.array([0, 1, 1, 2, 2])),
    "classes in neither": (np.array([5, 5, 2]), np.array([5, 2, 2])),
    "all right": (np.arange(C), np.arange(C)),
    "all wrong": ((np.arange(C) + 1) % C, np.arange(C)),
    "one image": (np.array([6]), np.array([6])),
}
each_case = pytest.mark.parametrize(("preds", "target"), CASES.values(), ids=CASES)


@each_case
def test_agrees_with_scikit_learn(preds, target):
    sklearn = pytest.importorskip("sklearn.metrics")
    matrix = metrics.confusion_matrix(preds, target, C)
    np.testing.assert_array_equal(matrix, sklearn.confusion_matrix(target, preds, labels=range(C)))
    assert metrics.war(preds, target, C) == pytest.approx(sklearn.accuracy_score(target, preds))
    present = np.unique(target)
    recalls = sklearn.recall_score(target, preds, labels=present, average=None)
    assert metrics.uar(preds, target, C) == pytest.approx(recalls.mean())
    np.testing.assert_allclose(metrics.recall_per_class(preds, target, C)[present], recalls)
    expected = sklearn.precision_score(target, preds, labels=present, average="macro", zero_division=0)
    assert metrics.precision_macro(preds, target, C) == pytest.approx(expected)
    assert metrics.f1_macro(preds, target, C) == pytest.approx(
        sklearn.f1_score(target, preds, labels=present, average="macro")
    )


def weights_of(target, kind):
    rng = np.random.default_rng(len(target))
    if kind == "whole":
        # Zeros too, but not for all images of a class, which scikit-learn and this module count differently.
        weights = rng.integers(0, 4, len(target))
        weights[np.unique(target, return_index=True)[1]] = 1
        return weights
    return rng.random(len(target)) + 0.01 if kind == "real" else None


@each_case
@pytest.mark.parametrize("kind", ["none", "whole", "real"])
@pytest.mark.parametrize("unanswered", [0.0, 0.3, 1.0])
def test_every_score_agrees_with_scikit_learn_weighted_and_without_answers(preds, target, kind, unanswered):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(7)
    preds = np.where(rng.random(len(preds)) < unanswered, metrics.NO_ANSWER, preds)
    weights = weights_of(target, kind)
    if kind == "whole":
        weights[np.unique(preds, return_index=True)[1]] = 1
    present = np.unique(target)
    occurring = np.setdiff1d(np.union1d(target, preds), [metrics.NO_ANSWER])
    settings = {"sample_weight": weights, "zero_division": 0}

    matrix = metrics.confusion_matrix(preds, target, C, weights=weights)
    expected = sklearn.confusion_matrix(target, preds, labels=range(C), sample_weight=weights)
    np.testing.assert_allclose(matrix, expected)
    expected = sklearn.accuracy_score(target, preds, sample_weight=weights)
    assert metrics.war(preds, target, C, weights=weights) == pytest.approx(expected)
    for labels, average, score, theirs in [
        (present, "macro", metrics.uar, sklearn.recall_score),
        (present, "macro", metrics.precision_macro, sklearn.precision_score),
        (present, "macro", metrics.f1_macro, sklearn.f1_score),
        (present, "weighted", metrics.precision_weighted, sklearn.precision_score),
        (present, "weighted", metrics.f1_weighted, sklearn.f1_score),
    ]:
        expected = theirs(target, preds, labels=labels, average=average, **settings)
        assert score(preds, target, C, weights=weights) == pytest.approx(expected), score.__name__
    for labels, score, theirs in [
        (present, metrics.recall_per_class, sklearn.recall_score),
        (occurring, metrics.precision_per_class, sklearn.precision_score),
        (occurring, metrics.f1_per_class, sklearn.f1_score),
    ]:
        per_class = score(preds, target, C, weights=weights)
        expected = theirs(target, preds, labels=labels, average=None, **settings)
        np.testing.assert_allclose(per_class[labels], expected, err_msg=score.__name__)
        assert np.isnan(np.delete(per_class, labels)).all()


@each_case
def test_agrees_with_torchmetrics(preds, target):
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    pair = torch.from_numpy(np.asarray(preds)), torch.from_numpy(np.asarray(target))
    settings = {"num_classes": C, "average": "macro"}
    matrix = classification.multiclass_confusion_matrix(*pair, num_classes=C)
    np.testing.assert_array_equal(metrics.confusion_matrix(preds, target, C), matrix.numpy())
    war = classification.multiclass_accuracy(*pair, num_classes=C, average="micro")
    assert metrics.war(preds, target, C) == pytest.approx(war.item())
    if set(preds) <= set(target):
        # torchmetrics counts a class that is predicted and absent from the target as a zero.
        for score, theirs in (
            (metrics.precision_macro, classification.multiclass_precision),
            (metrics.f1_macro, classification.multiclass_f1_score),
            (metrics.uar, classification.multiclass_accuracy),
        ):
            assert score(preds, target, C) == pytest.approx(theirs(*pair, **settings).item()), score.__name__


SCORES = [
    metrics.confusion_matrix,
    metrics.war,
    metrics.uar,
    metrics.recall_per_class,
    metrics.precision_per_class,
    metrics.precision_macro,
    metrics.precision_weighted,
    metrics.f1_per_class,
    metrics.f1_macro,
    metrics.f1_weighted,
]


@pytest.mark.parametrize("score", SCORES)
def test_a_weight_is_the_same_as_listing_the_image_so_often(score):
    preds, target = CASES["another"]
    weights = np.random.default_rng(4).integers(0, 3, len(target))
    rows = np.repeat(np.arange(len(target)), weights)
    listed = score(preds[rows], target[rows], C)
    np.testing.assert_allclose(score(preds, target, C, weights=weights), listed, rtol=1e-12)
    np.testing.assert_allclose(score(preds, target, C, weights=np.ones(len(target))), score(preds, target, C))


def test_top_k_takes_weights():
    rng = np.random.default_rng(6)
    probs, target, weights = rng.random((60, C)), rng.integers(0, C, 60), rng.integers(0, 3, 60)
    rows = np.repeat(np.arange(60), weights)
    for k in range(1, C + 1):
        listed = top_k_accuracy(probs[rows], target[rows], k)
        assert top_k_accuracy(probs, target, k, weights=weights) == pytest.approx(listed)


def test_no_answer_is_wrong_and_in_no_column():
    preds, target = [0, metrics.NO_ANSWER, 1, metrics.NO_ANSWER], [0, 0, 1, 2]
    assert metrics.confusion_matrix(preds, target, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert metrics.war(preds, target, 3) == 0.5
    assert metrics.recall_per_class(preds, target, 3).tolist() == [0.5, 1.0, 0.0]
    assert metrics.precision_per_class(preds, target, 3).tolist() == [1.0, 1.0, 0.0]
    np.testing.assert_allclose(metrics.f1_per_class(preds, target, 3), [2 / 3, 1.0, 0.0])
    assert metrics.precision_weighted(preds, target, 3) == 0.75


def test_a_class_of_weight_nought_is_absent():
    preds, target, weights = [0, 1, 2], [0, 1, 1], [1, 1, 0]
    np.testing.assert_array_equal(metrics.precision_per_class(preds, target, 3, weights=weights), [1, 1, np.nan])
    assert metrics.uar(preds, target, 3, weights=[0, 1, 3]) == 0.25
    assert metrics.confusion_matrix(preds, target, 3, weights=[0.5, 1, 0]).tolist() == [[0.5, 0, 0], [0, 1, 0], [0] * 3]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1], "2 weights .* Allowed: .* each of 3 images"),
        ([[1, 1, 1]], r"weights of shape \(1, 3\)"),
        ([1, np.nan, 1], r"weights\[1\] is nan"),
        ([1, 1, np.inf], r"weights\[2\] is inf"),
        ([-1, 1, 1], r"weights\[0\] is -1.0. Allowed: a finite number of at least 0"),
        ([0, 0, 0], "3 weights with a sum of 0"),
        (["a", "b", "c"], "and <U1"),
    ],
)
def test_weights_that_cannot_be_are_refused(score, weights, message):
    with pytest.raises(DataError, match=message):
        score([0, 1, 1], [0, 1, 2], 3, weights=weights)


def test_a_refused_prediction_is_told_of_no_answer_and_a_refused_target_is_not():
    with pytest.raises(DataError, match=r"preds\[0\] is -2. Allowed: classes from 0 to 2, -1 for no answer"):
        metrics.war([-2], [0], 3)
    with pytest.raises(DataError, match=r"target\[0\] is -1. Allowed: classes from 0 to 2$"):
        metrics.war([-1], [-1], 3)


@pytest.mark.parametrize("k", range(1, C + 1))
@pytest.mark.parametrize("seed", range(3))
def test_top_k_agrees_with_scikit_learn_and_torchmetrics(seed, k):
    sklearn = pytest.importorskip("sklearn.metrics")
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(C), 150)
    target = np.append(rng.integers(0, C, 150 - C), np.arange(C))
    ours = top_k_accuracy(probs, target, k)
    if k < C:  # scikit-learn warns that k = C is always 1
        assert ours == pytest.approx(sklearn.top_k_accuracy_score(target, probs, k=k, labels=range(C)))
    theirs = classification.multiclass_accuracy(
        torch.from_numpy(probs), torch.from_numpy(target), num_classes=C, top_k=k, average="micro"
    )
    assert ours == pytest.approx(theirs.item())


def test_rows_are_the_truth_and_columns_the_predictions():
    matrix = metrics.confusion_matrix([1, 1, 0], [0, 1, 2], 3)
    assert matrix.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert matrix.dtype == np.int64


def test_scores_are_plain_fractions_worked_by_hand():
    preds, target = [0, 0, 1, 1, 1], [0, 0, 0, 1, 2]
    assert metrics.war(preds, target, 4) == 3 / 5
    np.testing.assert_array_equal(metrics.recall_per_class(preds, target, 4), [2 / 3, 1.0, 0.0, np.nan])
    assert metrics.uar(preds, target, 4) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics.precision_macro(preds, target, 4) == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert metrics.f1_macro(preds, target, 4) == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert all(type(score(preds, target, 4)) is float for score in (metrics.war, metrics.uar, metrics.f1_macro))


def test_one_rule_of_classes_that_are_predicted_and_absent():
    preds, target = [0, 1, 2], [0, 1, 1]
    assert metrics.uar(preds, target, 3) == pytest.approx((1 + 0.5) / 2)
    assert metrics.precision_macro(preds, target, 3) == pytest.approx((1 + 1) / 2)
    assert metrics.f1_macro(preds, target, 3) == pytest.approx((1 + 2 / 3) / 2)


def test_the_order_of_images_does_not_matter():
    preds, target = CASES["random"]
    order = np.random.default_rng(5).permutation(len(preds))
    for score in (metrics.war, metrics.uar, metrics.precision_macro, metrics.f1_macro):
        assert score(preds[order], target[order], C) == pytest.approx(score(preds, target, C), abs=1e-15)


def test_of_equal_scores_the_lower_class_comes_first():
    probs = np.full((3, 3), 1 / 3)
    assert top_k_accuracy(probs, [0, 1, 2], 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(probs, [0, 1, 2], 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(probs, [0, 1, 2], 3) == 1.0
    assert top_k_accuracy([[0.2, 0.4, 0.4]], [1], 1) == 1.0
    assert top_k_accuracy([[0.2, 0.4, 0.4]], [2], 1) == 0.0


def test_top_1_is_the_war_of_the_argmax_even_with_ties():
    rng = np.random.default_rng(8)
    probs, target = rng.integers(0, 3, (300, C)) / 3, rng.integers(0, C, 300)
    assert top_k_accuracy(probs, target, 1) == metrics.war(probs.argmax(1), target, C)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32])
def test_top_k_takes_any_kind_of_score(dtype):
    scores = np.array([[0, 1, 2], [2, 1, 0]], dtype)
    assert top_k_accuracy(scores, [2, 0], 1) == 1.0
    assert top_k_accuracy([[-np.inf, 0.0, 1.0]], [0], 2) == 0.0


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        ([], [], "at least one image"),
        ([0, 1], [0], "preds of 2 images, target of 1"),
        ([0, 3], [0, 1], r"preds\[1\] is 3. Allowed: classes from 0 to 2"),
        ([0, 1], [-1, 1], r"target\[0\] is -1"),
        ([0.0, np.nan], [0, 1], "preds of shape .* and float64. Allowed: .* integer type"),
        ([0, 1], [0.0, 1.0], "target of shape .* and float64"),
        ([True, False], [1, 0], "preds of .* bool"),
        (["a"], [0], "preds of .* <U1"),
        ([[0, 1]], [[0, 1]], r"preds of shape \(1, 2\)"),
        (0, 0, r"preds of shape \(\)"),
    ],
)
@pytest.mark.parametrize("score", SCORES)
def test_classes_that_cannot_be_scored_are_refused(score, preds, target, message):
    with pytest.raises(DataError, match=message):
        score(preds, target, 3)


def test_no_classes_at_all_are_refused():
    with pytest.raises(DataError, match="num_classes must be at least 1, not 0"):
        metrics.confusion_matrix([0], [0], 0)


@pytest.mark.parametrize(
    ("probs", "target", "k", "message"),
    [
        ([[0.5, np.nan], [0.5, 0.5]], [0, 1], 1, "1 of 2 rows hold NaN"),
        ([[0.5, 0.5]], [2], 1, r"target\[0\] is 2"),
        ([[0.5, 0.5]], [0, 1], 1, "probs of 1 images, target of 2"),
        (np.empty((0, 7)), [], 1, r"probs of shape \(0, 7\)"),
        ([0.5, 0.5], [0], 1, r"probs of shape \(2,\)"),
        ([["a", "b"]], [0], 1, "probs of .* <U1"),
        ([[0.5, 0.5]], [0.0], 1, "target of shape .* and float64"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(probs, target, k, message):
    with pytest.raises(DataError, match=message):
        top_k_accuracy(probs, target, k)


def test_inputs_are_not_changed():
    preds, target = (array.copy() for array in CASES["random"])
    probs = np.random.default_rng(0).random((len(target), C))
    kept = preds.copy(), target.copy(), probs.copy()
    metrics.f1_macro(preds, target, C)
    top_k_accuracy(probs, target, 2)
    for before, after in zip(kept, (preds, target, probs), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_modules_load_no_heavy_library():
    names = ("metrics", "probabilities", "resampling", "evaluate", "fairness", "calibration")
    modules = ", ".join(f"motivnet.evaluation.{name}" for name in names)
    code = f"import sys, {modules}; print({{'torch', 'sklearn', 'torchmetrics', 'scipy'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
