import functools

import numpy as np
import pytest

from motivnet.errors import DataError
from motivnet.evaluation import metrics
from motivnet.evaluation.resampling import Interval, bootstrap, holm, mcnemar, paired_bootstrap


def share_of(correct):
    """A score: the weighted share of True."""
    return lambda weights: {"war": float(weights @ correct / weights.sum())}


def mean_of(values):
    return lambda weights: {"mean": float(weights @ values / weights.sum())}


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    trials, truth, covered = 300, 0.7, 0
    for trial in range(trials):
        correct = rng.random(150) < truth
        low, high = bootstrap(share_of(correct), 150, num_resamples=200, seed=trial)["war"]
        covered += low <= truth <= high
    assert 0.90 <= covered / trials <= 0.99


def test_intervals_by_subject_cover_the_truth_where_intervals_by_image_do_not():
    rng = np.random.default_rng(1)
    trials, subjects, images, truth = 200, 40, 10, 0.5
    covered = {"subject": 0, "image": 0}
    for trial in range(trials):
        # Each subject is easy or hard, and all its images alike.
        skill = rng.choice([0.1, 0.9], subjects)
        correct = rng.random((subjects, images)) < skill[:, None]
        clusters = np.repeat(np.arange(subjects), images)
        for name, units in (("subject", clusters), ("image", correct.size)):
            low, high = bootstrap(share_of(correct.ravel()), units, num_resamples=100, seed=trial)["war"]
            covered[name] += low <= truth <= high
    assert covered["subject"] / trials >= 0.88
    assert covered["image"] / trials <= 0.75


def test_clusters_widen_the_interval_by_the_root_of_their_size_when_their_images_agree():
    correct = np.repeat(np.random.default_rng(2).random(100) < 0.6, 9)
    clusters = [f"subject {i // 9}" for i in range(900)]
    by_image = bootstrap(share_of(correct), 900)["war"]
    by_subject = bootstrap(share_of(correct), clusters)["war"]
    ratio = (by_subject.high - by_subject.low) / (by_image.high - by_image.low)
    assert ratio == pytest.approx(3, rel=0.15)


def test_the_interval_of_a_mean_is_that_of_scipys_bootstrap_and_of_the_normal_law():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).normal(size=400)
    ours = bootstrap(mean_of(values), 400, num_resamples=4000)["mean"]
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(5))
    error = values.std() / np.sqrt(400)
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.15 * error)
    np.testing.assert_allclose(ours, values.mean() + 1.96 * error * np.array([-1, 1]), atol=0.2 * error)


def test_a_resample_draws_as_many_units_as_there_are_and_whole_clusters():
    seen = []

    def score(weights):
        seen.append(weights)
        return {"n": float(weights.sum())}

    assert bootstrap(score, 50, num_resamples=20)["n"] == Interval(50, 50)
    clusters = ["a", "b", None, "a", None, "c"]
    seen.clear()
    bootstrap(score, clusters, num_resamples=200)
    weights_RB = np.array(seen[1:])
    assert weights_RB.shape == (200, 6)
    assert (weights_RB[:, 0] == weights_RB[:, 3]).all()
    # The two without a cluster are drawn each by itself.
    assert (weights_RB[:, 2] != weights_RB[:, 4]).any()
    assert (weights_RB[:, [0, 1, 2, 4, 5]].sum(axis=1) == 5).all()
    assert (weights_RB == np.round(weights_RB)).all()
    # Each unit comes once on average.
    np.testing.assert_allclose(weights_RB.mean(axis=0), 1, atol=0.25)


def test_the_same_seed_gives_the_same_intervals_and_another_gives_others():
    correct = np.random.default_rng(4).random(80) < 0.5
    first = bootstrap(share_of(correct), 80, num_resamples=100, seed=1)
    assert first == bootstrap(share_of(correct), np.int64(80), num_resamples=100, seed=1)
    assert first == bootstrap(share_of(correct), range(80), num_resamples=100, seed=1)
    assert first != bootstrap(share_of(correct), 80, num_resamples=100, seed=2)
    assert first["war"].low < correct.mean() < first["war"].high


def test_a_higher_level_is_wider():
    correct = np.random.default_rng(4).random(80) < 0.5
    narrow = bootstrap(share_of(correct), 80, level=0.5)["war"]
    wide = bootstrap(share_of(correct), 80, level=0.99)["war"]
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_class_that_is_not_always_drawn_is_left_out_where_it_is_not():
    preds, target = np.array([0] * 20 + [1, 0]), np.array([0] * 20 + [1, 1])

    def score(weights):
        recalls = metrics.recall_per_class(preds, target, 3, weights=weights)
        return {f"recall {c}": recall for c, recall in enumerate(recalls)}

    intervals = bootstrap(score, len(target), num_resamples=200)
    assert intervals["recall 0"] == Interval(1.0, 1.0)
    assert intervals["recall 1"] == Interval(0.0, 1.0)
    assert np.isnan(intervals["recall 2"]).all()


@pytest.mark.parametrize("units", [1, ["one"] * 5, ["one"]])
def test_one_unit_alone_has_no_interval(units):
    assert np.isnan(bootstrap(lambda weights: {"war": 1.0}, units, num_resamples=10)["war"]).all()
    compared = paired_bootstrap(lambda weights: {"war": 1.0}, lambda weights: {"war": 0.5}, units)["war"]
    assert compared.value == 0.5
    assert np.isnan([*compared.interval, compared.p_value]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "no images"),
        ({"units": []}, "no images"),
        ({"units": 5, "num_resamples": 0}, "num_resamples must be at least 1, not 0"),
        ({"units": 5, "level": 1.0}, "level must be above 0 and below 1, not 1.0"),
        ({"units": 5, "level": 95}, "level must be above 0 and below 1, not 95"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        bootstrap(lambda weights: {"war": 1.0}, **arguments)


def test_models_without_a_common_score_cannot_be_compared():
    with pytest.raises(DataError, match="no score in common"):
        paired_bootstrap(lambda weights: {"war": 1.0}, lambda weights: {"uar": 1.0}, 5)


def test_the_paired_interval_is_that_of_the_difference_and_narrower_than_the_models_apart():
    rng = np.random.default_rng(6)
    easy = rng.random(300) < 0.6
    a, b = easy | (rng.random(300) < 0.2), easy | (rng.random(300) < 0.05)
    compared = paired_bootstrap(share_of(a), share_of(b), 300)["war"]
    assert compared.value == pytest.approx(a.mean() - b.mean())
    difference = a.astype(float) - b
    assert compared.interval == pytest.approx(bootstrap(mean_of(difference), 300)["mean"])
    apart = bootstrap(share_of(a), 300)["war"]
    assert compared.interval.high - compared.interval.low < apart.high - apart.low
    assert compared.interval.low > 0
    assert compared.p_value < 0.05
    turned = paired_bootstrap(share_of(b), share_of(a), 300)["war"]
    assert turned.value == -compared.value
    assert turned.p_value == compared.p_value


def test_equal_models_do_not_differ():
    correct = np.random.default_rng(7).random(100) < 0.5
    compared = paired_bootstrap(share_of(correct), share_of(correct), 100, num_resamples=100)["war"]
    assert compared == (0.0, Interval(0.0, 0.0), 1.0)


def test_a_certain_difference_has_the_smallest_p_value_there_is():
    always, never = np.ones(50, bool), np.zeros(50, bool)
    compared = paired_bootstrap(share_of(always), share_of(never), 50, num_resamples=99)["war"]
    assert compared == (1.0, Interval(1.0, 1.0), 2 / 100)


def test_under_the_null_hypothesis_both_tests_reject_as_often_as_they_say():
    rng = np.random.default_rng(8)
    trials, level = 400, 0.05
    rejected = {"bootstrap": 0, "mcnemar": 0}
    for trial in range(trials):
        a, b = rng.random((2, 150)) < 0.6
        compared = paired_bootstrap(share_of(a), share_of(b), 150, num_resamples=200, seed=trial)["war"]
        rejected["bootstrap"] += compared.p_value <= level
        rejected["mcnemar"] += mcnemar(a, b).p_value <= level
    # 0.05 give or take three standard errors of 400 trials.
    assert all(0.017 <= count / trials <= 0.083 for count in rejected.values()), rejected


def test_by_subject_the_null_hypothesis_stands_where_by_image_it_falls():
    rng = np.random.default_rng(9)
    trials, subjects, images = 150, 40, 10
    rejected = {"subject": 0, "image": 0}
    for trial in range(trials):
        # Which of the two equally good models is right hangs on the subject.
        a = np.repeat(rng.random(subjects) < 0.5, images)
        b = np.repeat(rng.random(subjects) < 0.5, images)
        clusters = np.repeat(np.arange(subjects), images)
        for name, units in (("subject", clusters), ("image", len(a))):
            compared = paired_bootstrap(share_of(a), share_of(b), units, num_resamples=100, seed=trial)["war"]
            rejected[name] += compared.p_value <= 0.05
    assert rejected["subject"] / trials <= 0.12
    assert rejected["image"] / trials >= 0.3


def pair_with(only_a, only_b, both=5, neither=4):
    a = np.array([True] * (only_a + both) + [False] * (only_b + neither))
    b = np.array([False] * only_a + [True] * (both + only_b) + [False] * neither)
    return a, b


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 3), (2, 9), (15, 4), (40, 61), (700, 640)])
def test_mcnemars_mid_p_is_the_exact_test_less_the_chance_of_the_outcome(only_a, only_b):
    stats = pytest.importorskip("scipy.stats")
    found = mcnemar(*pair_with(only_a, only_b))
    assert found[:2] == (only_a, only_b)
    if only_a == only_b:
        assert found.p_value == pytest.approx(1)
        return
    fewer, both = min(only_a, only_b), only_a + only_b
    exact = stats.binomtest(fewer, both, 0.5).pvalue
    assert found.p_value == pytest.approx(exact - stats.binom.pmf(fewer, both, 0.5))
    assert found.p_value == mcnemar(*pair_with(only_b, only_a)).p_value
    if both > 100:
        chi_squared = (only_a - only_b) ** 2 / both
        assert found.p_value == pytest.approx(stats.chi2.sf(chi_squared, 1), rel=0.02)


def test_mcnemar_looks_only_at_images_that_tell_the_models_apart():
    assert mcnemar(*pair_with(2, 9)) == mcnemar(*pair_with(2, 9, both=500, neither=0))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([True], [True, False], "correct_a of 1 images, correct_b of 2"),
        ([], [], r"correct of shape \(0,\)"),
        ([1, 0], [True, False], "correct of shape .* and int64. Allowed: a bool per image"),
        ([True], [0.5], "correct of shape .* and float64"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, message):
    with pytest.raises(DataError, match=message):
        mcnemar(a, b)


def test_holm_worked_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.4, 0.5]), [0.8, 0.8])
    np.testing.assert_allclose(holm([0.9, 0.9]), [1, 1])
    assert holm([0.2]) == [0.2]
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_holm_rejects_what_its_stepwise_rule_rejects(seed):
    p_values = np.random.default_rng(seed).random(12) ** 4
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, place in enumerate(np.argsort(p_values)):
            if p_values[place] > alpha / (12 - step):
                break
            rejected.add(place)
        assert set(np.flatnonzero(adjusted <= alpha)) == rejected
    assert (adjusted >= p_values).all()
    assert (adjusted <= np.minimum(12 * p_values, 1) + 1e-15).all()


@pytest.mark.parametrize("p_values", [[0.1, np.nan], [0.1, 1.1], [0.1, -0.1]])
def test_what_are_no_p_values_is_refused(p_values):
    with pytest.raises(DataError, match=r"p_values\[1\] is .*Allowed: numbers from 0 to 1"):
        holm(p_values)
    with pytest.raises(DataError, match="one number per test"):
        holm([p_values])


def test_the_draws_are_the_same_whatever_is_scored():
    # So that two calls with one seed, for two models, see the same resamples.
    drawn = {"a": [], "b": []}

    def score(name, weights):
        drawn[name].append(weights)
        return {name: 0.0}

    for name in drawn:
        bootstrap(functools.partial(score, name), 30, num_resamples=3, seed=5)
    np.testing.assert_array_equal(drawn["a"], drawn["b"])
