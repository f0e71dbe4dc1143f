import itertools

import numpy as np
import pytest

from motivnet.evaluation.fairness import Measures, permutation_p_values, subject_p_values, table, uar_gap
from motivnet.labels import EMOTIONS, LabelSet

MEASURES = Measures(EMOTIONS)
NAMES = MEASURES.names


def draw(rng, num_rows=300, *, accuracy=0.6, member=0.4):
    """Labels, answers (0: none), and membership that tells nothing."""
    label_B = rng.integers(7, size=num_rows)
    pred_B = np.where(rng.random(num_rows) < accuracy, label_B, rng.integers(7, size=num_rows))
    answer_B = np.where(rng.random(num_rows) < 0.05, 0, pred_B + 1)
    return label_B, answer_B, rng.random(num_rows) < member


class TestMeasures:
    def test_names(self):
        assert NAMES == ("war", "fpr_sadness", "fpr_fear", "fpr_disgust", "fpr_anger")
        assert Measures(LabelSet(("happiness", "anger"))).names == ("war", "fpr_anger")

    def test_rates_are_what_counting_gives(self):
        label_B, answer_B, member_B = draw(np.random.default_rng(0))
        rates_MG = MEASURES.rates(table(label_B, answer_B, member_B, 7))
        for side, of in ((0, ~member_B), (1, member_B)):
            assert rates_MG[0, side] == pytest.approx((answer_B[of] == label_B[of] + 1).mean())
            for row, name in enumerate(NAMES[1:], start=1):
                index = EMOTIONS.index(name.removeprefix("fpr_"))
                others = of & (label_B != index)
                assert rates_MG[row, side] == pytest.approx((answer_B[others] == index + 1).mean())

    def test_the_adjusted_gap_is_mantel_and_haenszels(self):
        label_B, answer_B, member_B = draw(np.random.default_rng(1))
        adjusted_M = MEASURES.adjusted(table(label_B, answer_B, member_B, 7))
        for row, name in enumerate(NAMES):
            index = None if name == "war" else EMOTIONS.index(name.removeprefix("fpr_"))
            part = whole = 0.0
            for label in range(7):
                if label == index:
                    continue
                hit_B = answer_B == (label if index is None else index) + 1
                group, rest = (label_B == label) & member_B, (label_B == label) & ~member_B
                weight = group.sum() * rest.sum() / (group.sum() + rest.sum())
                part += weight * (hit_B[group].mean() - hit_B[rest].mean())
                whole += weight
            assert adjusted_M[row] == pytest.approx(part / whole)

    def test_another_mix_of_labels_is_no_adjusted_gap(self):
        # Everybody's happiness is recognised, half of everybody's fear; the group is mostly afraid.
        counts_GCA = np.zeros((2, 7, 8))
        happiness, fear, neutral = (EMOTIONS.index(name) for name in ("happiness", "fear", "neutral"))
        counts_GCA[:, happiness, happiness + 1] = [90, 10]
        for answer in (fear, neutral):
            counts_GCA[:, fear, answer + 1] = [5, 45]
        gaps = MEASURES.gaps(counts_GCA)
        assert gaps["raw war"] == pytest.approx(0.55 - 0.95)
        assert gaps["adjusted war"] == pytest.approx(0)
        assert gaps["raw uar"] == pytest.approx(0)

    def test_labels_of_one_side_alone_do_not_count(self):
        counts_GCA = np.zeros((2, 7, 8))
        counts_GCA[0, 0, 1] = 10
        counts_GCA[1, 0, [1, 2]] = [5, 5]
        counts_GCA[1, 6, 7] = 100
        gaps = MEASURES.gaps(counts_GCA)
        assert gaps["adjusted war"] == gaps["raw uar"] == pytest.approx(-0.5)
        counts_GCA[1, 0] = 0
        gaps = MEASURES.gaps(counts_GCA)
        assert np.isnan(gaps["adjusted war"])
        assert np.isnan(uar_gap(counts_GCA))
        p_M = permutation_p_values(MEASURES, counts_GCA, num_permutations=99, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(p_M, 1)

    def test_no_answer_is_an_error_and_no_false_positive(self):
        rates_MG = MEASURES.rates(table(np.array([1, 1]), np.array([0, 2]), np.array([True, False]), 7))
        np.testing.assert_array_equal(rates_MG[:, 1], 0)
        assert rates_MG[0, 0] == 1


class TestPermutation:
    def test_it_is_what_shuffling_membership_within_labels_gives(self):
        rng = np.random.default_rng(3)
        label_B, answer_B, member_B = draw(rng, 120)
        # Some effect, so that the p-value is neither 0 nor 1.
        answer_B[member_B & (rng.random(120) < 0.15)] = 0
        p_M = permutation_p_values(
            MEASURES, table(label_B, answer_B, member_B, 7), num_permutations=20_000, rng=np.random.default_rng(0)
        )
        statistic = []
        for _ in range(4000):
            shuffled_B = member_B.copy()
            for label in range(7):
                rows = np.flatnonzero(label_B == label)
                shuffled_B[rows] = rng.permutation(shuffled_B[rows])
            statistic.append(MEASURES.adjusted(table(label_B, answer_B, shuffled_B, 7)))
        observed_M = MEASURES.adjusted(table(label_B, answer_B, member_B, 7))
        shuffled_M = (np.abs(statistic) >= np.abs(observed_M) - 1e-9).mean(axis=0)
        np.testing.assert_allclose(p_M, shuffled_M, atol=0.04)
        assert 0.001 < p_M[0] < 0.5

    @pytest.mark.parametrize("hits", [(30, 20), (33, 17), (28, 25)])
    def test_of_one_label_and_equal_sides_it_is_fishers_test(self, hits):
        stats = pytest.importorskip("scipy.stats")
        counts_GCA = np.zeros((2, 7, 8))
        counts_GCA[:, 0, 1] = hits
        counts_GCA[:, 0, 2] = 50 - np.array(hits)
        p_M = permutation_p_values(MEASURES, counts_GCA, num_permutations=100_000, rng=np.random.default_rng(0))
        expected = stats.fisher_exact([[hits[0], 50 - hits[0]], [hits[1], 50 - hits[1]]]).pvalue
        assert p_M[0] == pytest.approx(expected, abs=0.006)

    def test_all_right_is_no_evidence(self):
        counts_GCA = np.zeros((2, 7, 8))
        counts_GCA[:, 0, 1] = [50, 40]
        p_M = permutation_p_values(MEASURES, counts_GCA, num_permutations=99, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(p_M, 1)


class TestSubjects:
    def test_of_one_image_a_subject_it_agrees_with_permutation(self):
        for seed in range(3):
            label_B, answer_B, member_B = draw(np.random.default_rng(seed), 400)
            p_M = permutation_p_values(
                MEASURES, table(label_B, answer_B, member_B, 7), num_permutations=9999, rng=np.random.default_rng(0)
            )
            by_subject_M = subject_p_values(
                MEASURES,
                label_B,
                answer_B,
                member_B,
                np.arange(400),
                num_permutations=9999,
                rng=np.random.default_rng(0),
            )
            assert by_subject_M[0] == pytest.approx(p_M[0], abs=0.06)

    def test_of_few_subjects_it_is_all_signs(self):
        rng = np.random.default_rng(5)
        label_B, answer_B, member_B = draw(rng, 80)
        subject_B = np.repeat(np.arange(8), 10)
        p_M = subject_p_values(
            MEASURES, label_B, answer_B, member_B, subject_B, num_permutations=40_000, rng=np.random.default_rng(0)
        )
        # By hand: the contribution of each subject to the Mantel-Haenszel numerator, under all 256 signs.
        hit_B = answer_B == label_B + 1
        contribution_J = np.zeros(8)
        for row in range(80):
            same = label_B == label_B[row]
            contribution_J[subject_B[row]] += (hit_B[row] - hit_B[same].mean()) * (
                member_B[row] - member_B[same].mean()
            )
        signs = np.array(list(itertools.product([-1, 1], repeat=8)))
        exact = (np.abs(signs @ contribution_J) >= abs(contribution_J.sum()) - 1e-9).mean()
        assert p_M[0] == pytest.approx(exact, abs=0.01)

    def test_a_subject_with_many_images_counts_once(self):
        # One subject of the group is never recognised: strong evidence if its images were independent.
        label_B = np.zeros(400, int)
        answer_B = np.ones(400, int)
        subject_B = np.repeat(np.arange(20), 20)
        member_B = subject_B < 10
        answer_B[subject_B == 0] = 2
        by_image = permutation_p_values(
            MEASURES, table(label_B, answer_B, member_B, 7), num_permutations=9999, rng=np.random.default_rng(0)
        )
        by_subject = subject_p_values(
            MEASURES, label_B, answer_B, member_B, subject_B, num_permutations=9999, rng=np.random.default_rng(0)
        )
        assert by_image[0] < 0.001
        assert by_subject[0] > 0.2
