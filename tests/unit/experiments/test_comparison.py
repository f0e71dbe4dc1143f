import numpy as np
import pytest

from motivnet.data.manifest import make_manifest
from motivnet.errors import DataError
from motivnet.evaluation.predictions import Predictions, Protocol
from motivnet.experiments.comparison import Answers, compare
from motivnet.experiments.protocols import BenchmarkSettings, Setting
from motivnet.labels import LabelSet

LABELS = LabelSet(("neutral", "happiness", "sadness", "anger"))


def predictions_of(target, probs, subjects=None):
    names = [LABELS.names[label] for label in target]
    columns = {"image": [b"x"] * len(names), "label": names, "split": ["test"] * len(names)}
    if subjects is not None:
        columns["subject"] = subjects
    probs_BC = np.array(probs, float)
    return Predictions(
        manifest=make_manifest(columns, LABELS),
        probs_BC=probs_BC,
        status=tuple("no_face" if np.isnan(row).any() else "ok" for row in probs_BC),
        protocol=Protocol(
            model="m", data="d", data_fingerprint="f", n=len(names), labels=LABELS.names, detection="none"
        ),
    )


def answers_of(target, probs, subjects=None, **options):
    return Answers(predictions_of(target, probs, subjects), np.arange(len(target)), **options)


def draw(seed, num_rows, accuracy, target_B):
    rng = np.random.default_rng(seed)
    best_B = np.where(rng.random(num_rows) < accuracy, target_B, rng.integers(4, size=num_rows))
    probs_BC = rng.dirichlet(np.ones(4), size=num_rows) * 0.4
    probs_BC[np.arange(num_rows), best_B] += 0.6
    return probs_BC


class TestSharedLabels:
    # No image is neutral: the first two answers are neutral, though the second best is right; then right; then none.
    TARGET = (1, 2, 3, 1)
    PROBS = ((0.5, 0.3, 0.1, 0.1), (0.5, 0.2, 0.25, 0.05), (0.1, 0.2, 0.3, 0.4), (np.nan,) * 4)

    def test_keep_counts_an_absent_label_as_an_error(self):
        answers = answers_of(self.TARGET, self.PROBS)
        assert answers.labels == ("happiness", "sadness", "anger")
        assert answers.absent == ("neutral",)
        np.testing.assert_array_equal(answers.preds, [-1, -1, 2, -1])
        np.testing.assert_array_equal(answers.target, [0, 1, 2, 0])
        scores = answers.scores()
        assert scores["war"] == 0.25
        assert scores["uar"] == pytest.approx(1 / 3)
        # The second best of all four labels is right in all three.
        assert scores["top2"] == 0.75
        # Happiness and sadness were never answered: F1 0; anger 1; neutral, which no image is, does not count.
        assert scores["f1_macro"] == pytest.approx(1 / 3)

    def test_renormalise_strikes_it_out_beforehand(self):
        answers = answers_of(self.TARGET, self.PROBS, restrict="renormalise")
        np.testing.assert_array_equal(answers.preds, [0, 1, 2, -1])
        scores = answers.scores()
        assert (scores["war"], scores["top2"]) == (0.75, 0.75)

    def test_without_an_absent_label_there_is_no_difference(self):
        target_B = np.arange(40) % 4
        probs_BC = draw(0, 40, 0.6, target_B)
        keep = answers_of(target_B, probs_BC).scores()
        assert keep == answers_of(target_B, probs_BC, restrict="renormalise").scores()
        metrics = pytest.importorskip("sklearn.metrics")
        best_B = probs_BC.argmax(axis=1)
        assert keep["uar"] == pytest.approx(metrics.balanced_accuracy_score(target_B, best_B))
        assert keep["f1_macro"] == pytest.approx(metrics.f1_score(target_B, best_B, average="macro"))
        assert keep["top2"] == pytest.approx(metrics.top_k_accuracy_score(target_B, probs_BC, k=2))

    def test_one_label_is_no_question(self):
        with pytest.raises(DataError, match="1 label in common \\(happiness\\); 2 are needed"):
            answers_of([1, 1], [(0.1, 0.7, 0.1, 0.1)] * 2)


class TestFolds:
    def test_mean_and_spread_over_folds_by_subject(self):
        subjects = ["A"] * 4 + ["B"] * 4
        target = [0, 1, 2, 3] * 2
        probs = np.eye(4)[[0, 1, 2, 3, 0, 1, 0, 0]]
        folds = answers_of(target, probs, subjects).over_folds(10)
        assert folds is not None
        assert (folds.num_folds, folds.num_subjects) == (2, 2)
        assert sorted(folds.scores["war"].folds) == [0.5, 1.0]
        assert folds.scores["war"].mean == 0.75

    def test_leave_one_subject_out(self):
        subjects = [f"S{row // 2:02}" for row in range(60)]
        target_B = np.arange(60) % 4
        folds = answers_of(target_B, draw(0, 60, 0.7, target_B), subjects).over_folds(0)
        assert folds is not None
        assert (folds.num_folds, len(folds.scores["uar"].folds)) == (30, 30)

    @pytest.mark.parametrize("subjects", [None, ["A", "A", "A", "A"], ["A", "B", None, "B"]])
    def test_there_are_none_unless_all_images_have_a_subject(self, subjects):
        assert answers_of([0, 1, 2, 3], np.eye(4), subjects).over_folds(10) is None


def compared(a, b):
    settings = BenchmarkSettings(num_resamples=200)
    return compare(("a", "b"), a, b, data="d", setting=Setting.ZERO_SHOT, settings=settings)


class TestCompare:
    TARGET = np.arange(400) % 4

    def test_a_better_model_is_told_by_mcnemar(self):
        a = answers_of(self.TARGET, draw(0, 400, 0.9, self.TARGET))
        b = answers_of(self.TARGET, draw(1, 400, 0.6, self.TARGET))
        found = compared(a, b)
        assert found is not None
        assert (found.test, found.n) == ("McNemar", 400)
        assert found.p_value < 1e-6
        assert found.war.value == pytest.approx(a.scores()["war"] - b.scores()["war"])
        assert found.uar.value == pytest.approx(a.scores()["uar"] - b.scores()["uar"])
        assert found.war.interval.low > 0
        assert found.only_a - found.only_b == pytest.approx(400 * found.war.value)

    def test_the_same_answers_do_not_differ(self):
        a = answers_of(self.TARGET, draw(0, 400, 0.7, self.TARGET))
        found = compared(a, a)
        assert found is not None
        assert (found.p_value, found.war.value) == (1, 0)

    def test_with_subjects_they_are_drawn_whole(self):
        # One person makes the whole difference.
        subjects = [f"S{row // 40}" for row in range(400)]
        a, b = np.eye(4)[self.TARGET], np.eye(4)[self.TARGET]
        b[:40] = np.eye(4)[(self.TARGET[:40] + 1) % 4]
        found = compared(answers_of(self.TARGET, a, subjects), answers_of(self.TARGET, b, subjects))
        assert found is not None
        assert found.test == "paired bootstrap by subject"
        assert found.p_value > 0.3

    def test_only_images_that_both_answered_for_count(self):
        a = Answers(predictions_of([0, 1, 2], np.eye(4)[[0, 1, 2]]), np.array([0, 1, 2]))
        b = Answers(predictions_of([1, 2, 3], np.eye(4)[[0, 2, 3]]), np.array([1, 2, 3]))
        found = compared(a, b)
        assert found is not None
        assert (found.n, found.only_a, found.only_b) == (2, 1, 0)
        c = Answers(predictions_of([0, 1], np.eye(4)[[0, 1]]), np.array([5, 6]))
        assert compared(a, c) is None
