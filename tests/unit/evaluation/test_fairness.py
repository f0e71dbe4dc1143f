import json

import numpy as np
import pytest

from motivnet.data.manifest import make_manifest
from motivnet.errors import DataError
from motivnet.evaluation.fairness import compare_groups
from motivnet.evaluation.predictions import Predictions, Protocol
from motivnet.labels import EMOTIONS
from motivnet.report.audit_report import audit_files, findings

ANGER, HAPPINESS = EMOTIONS.index("anger"), EMOTIONS.index("happiness")


def predictions_of(label_B, pred_B, subjects=None):
    """Answers with all their probability on one class; -1: no face."""
    names = [EMOTIONS.names[label] for label in label_B]
    columns = {"image": [b"x"] * len(names), "label": names, "split": ["test"] * len(names)}
    manifest = make_manifest(columns | ({"subject": subjects} if subjects is not None else {}))
    probs_BC = np.eye(7)[pred_B]
    probs_BC[np.asarray(pred_B) < 0] = np.nan
    return Predictions(
        manifest=manifest,
        probs_BC=probs_BC,
        status=tuple("ok" if pred >= 0 else "no_face" for pred in pred_B),
        protocol=Protocol(
            model="m",
            data="d",
            data_fingerprint="f",
            n=len(names),
            labels=EMOTIONS.names,
            detection="none: images are crops",
        ),
    )


def answer(rng, label_B, accuracy):
    """Right with the given chance, which may be one an image; else any class."""
    return np.where(rng.random(len(label_B)) < accuracy, label_B, rng.integers(7, size=len(label_B)))


def groups(rng, num_rows, names=("one", "two", "three")):
    return rng.choice(names, size=num_rows)


def found_in(result):
    return {(group.column, group.name, gap.measure) for group, gap in result.found}


class TestPlantedBias:
    def test_lower_accuracy_of_one_group_is_found_and_nothing_else(self):
        rng = np.random.default_rng(0)
        label_B, race, site = rng.integers(7, size=1800), groups(rng, 1800), groups(rng, 1800, ("a", "b"))
        preds_B = answer(rng, label_B, np.where(race == "two", 0.55, 0.75))
        result = compare_groups(
            predictions_of(label_B, preds_B), {"race": race.tolist(), "site": site.tolist()}, num_resamples=200
        )
        assert ("race", "two", "war") in found_in(result)
        assert not [group for group, _ in result.found if group.column == "site"]
        (gap,) = [gap for group, gap in result.found if (group.name, gap.measure) == ("two", "war")]
        # Chance gives a seventh of the rest: 0.2 * 6 / 7.
        assert gap.adjusted == pytest.approx(-0.171, abs=0.06)
        assert gap.interval is not None
        assert gap.interval.low < -0.171 < gap.interval.high < 0
        assert "race 'two': among faces of the same label" in "\n".join(findings(result))

    def test_anger_read_into_one_group_is_found(self):
        rng = np.random.default_rng(1)
        label_B, race = rng.integers(7, size=1800), groups(rng, 1800)
        preds_B = answer(rng, label_B, 0.7)
        preds_B[(race == "three") & (preds_B != label_B) & (rng.random(1800) < 0.5)] = ANGER
        result = compare_groups(predictions_of(label_B, preds_B), {"race": race.tolist()}, num_resamples=0)
        found = found_in(result)
        assert ("race", "three", "fpr_anger") in found
        assert ("race", "three", "war") not in found
        (group,) = [group for group in result.groups if group.name == "three"]
        of_others = (race == "three") & (label_B != ANGER)
        assert group.false_positives["anger"] == pytest.approx((preds_B[of_others] == ANGER).mean())
        assert "wrongly predicted as anger" in "\n".join(findings(result))

    def test_it_is_found_between_groups_of_subjects(self):
        rng = np.random.default_rng(2)
        subject_B = np.repeat(np.arange(80), 20)
        label_B = rng.integers(7, size=1600)
        posed = np.where(subject_B % 2 == 0, "posed", "spontaneous")
        preds_B = answer(rng, label_B, np.where(posed == "posed", 0.85, 0.6))
        subjects = [f"S{number}" for number in subject_B]
        result = compare_groups(
            predictions_of(label_B, preds_B, subjects), {"elicitation": posed.tolist()}, num_resamples=100
        )
        assert ("elicitation", "posed", "war") in found_in(result)
        assert result.by_subject == ("elicitation",)
        assert {group.subjects for group in result.groups} == {40}

    def test_a_column_of_two_is_one_question(self):
        rng = np.random.default_rng(3)
        label_B, sex = rng.integers(7, size=800), groups(rng, 800, ("f", "m"))
        preds_B = answer(rng, label_B, np.where(sex == "f", 0.5, 0.8))
        result = compare_groups(predictions_of(label_B, preds_B), {"sex": sex.tolist()}, num_resamples=50)
        assert result.tests == 5
        first, second = result.groups
        for ours, theirs in zip(first.gaps, second.gaps, strict=True):
            assert ours.raw == pytest.approx(-(theirs.raw or 0))
            assert ours.p_holm == theirs.p_holm
        assert {name for _, name, measure in found_in(result) if measure == "war"} == {"f", "m"}
        assert len([line for line in findings(result) if "classified correctly" in line]) == 1


class TestNull:
    """Where there is nothing, 5 % of audits may find something: of 120 audits 6, and 3 standard deviations are 7.2.

    Over 400 audits of each kind, 2 % did where images are independent, and 3 to 5 % where there are subjects.
    """

    def test_many_groups_of_the_same_kind(self):
        alarms = 0
        for seed in range(120):
            rng = np.random.default_rng(seed)
            label_B = rng.choice(4, size=400, p=[0.4, 0.3, 0.2, 0.1])
            columns = {"race": groups(rng, 400).tolist(), "sex": groups(rng, 400, ("f", "m")).tolist()}
            predictions = predictions_of(label_B, answer(rng, label_B, 0.65))
            result = compare_groups(predictions, columns, num_permutations=999, num_resamples=0, seed=seed)
            assert result.tests == 20
            alarms += bool(result.found)
        assert alarms <= 13

    def test_groups_that_show_other_expressions(self):
        # Happiness is easy and the group is happy: the raw gap is large, and says nothing about the model.
        alarms, raw = 0, []
        for seed in range(120):
            rng = np.random.default_rng(seed)
            happy = rng.random(400) < 0.5
            label_B = np.where(rng.random(400) < np.where(happy, 0.7, 0.1), HAPPINESS, rng.integers(7, size=400))
            preds_B = answer(rng, label_B, np.where(label_B == HAPPINESS, 0.95, 0.4))
            column = np.where(happy, "smiling", "other").tolist()
            result = compare_groups(
                predictions_of(label_B, preds_B), {"set": column}, num_permutations=999, num_resamples=0, seed=seed
            )
            (group,) = [group for group in result.groups if group.name == "smiling"]
            raw.append(group.gaps[0].raw)
            alarms += bool(result.found)
        assert np.mean(raw) > 0.2
        assert alarms <= 13

    def test_subjects_that_differ_from_each_other(self):
        # Some people are easier to read than others, and each is of one group: images are not independent.
        alarms = naive = 0
        for seed in range(120):
            rng = np.random.default_rng(seed)
            subject_B = np.repeat(np.arange(40), rng.integers(5, 15, size=40))
            label_B = rng.integers(7, size=len(subject_B))
            preds_B = answer(rng, label_B, rng.beta(0.7, 0.7, size=40)[subject_B])
            column = groups(rng, 40, ("a", "b", "c"))[subject_B].tolist()
            for subjects in ([f"S{number}" for number in subject_B], None):
                result = compare_groups(
                    predictions_of(label_B, preds_B, subjects),
                    {"site": column},
                    min_size=20,
                    num_permutations=999,
                    num_resamples=0,
                    seed=seed,
                )
                if subjects:
                    alarms += bool(result.found)
                else:
                    naive += bool(result.found)
        assert alarms <= 13
        # What it would be if images of one subject were taken for independent.
        assert naive >= 25


class TestSizes:
    def test_small_groups_are_listed_and_not_tested(self):
        rng = np.random.default_rng(0)
        label_B = rng.integers(7, size=149)
        column = ["big"] * 50 + ["large"] * 50 + ["small"] * 49
        result = compare_groups(predictions_of(label_B, label_B), {"race": column}, num_resamples=0)
        untested = {group.name: group.untested for group in result.groups}
        assert untested == {"big": None, "large": None, "small": "49 images, fewer than 50"}
        assert result.tests == 10
        (small,) = [group for group in result.groups if group.name == "small"]
        assert (small.n, small.war, small.gaps) == (49, 1.0, ())
        assert sum(map(sum, small.confusion)) == 49

    def test_a_small_rest_is_no_comparison(self):
        result = compare_groups(predictions_of([0] * 100, [0] * 100), {"x": ["a"] * 90 + ["b"] * 10}, num_resamples=0)
        assert result.tests == 0
        assert result.groups[0].untested == "only 10 images in all other groups, fewer than 50"
        assert list(findings(result)) == ["Nothing was tested: no column has two groups that are large enough."]

    def test_a_single_group_has_nothing_to_compare_with(self):
        result = compare_groups(predictions_of([0] * 100, [0] * 100), {"x": ["a"] * 100})
        assert result.groups[0].untested == "the only group: there is nothing to compare it with"

    def test_images_of_no_group_are_in_no_rest(self):
        label_B = [0] * 180
        preds_B = [0] * 60 + [0] * 60 + [1] * 60
        column = ["a"] * 60 + ["b"] * 60 + [None] * 60
        result = compare_groups(predictions_of(label_B, preds_B), {"x": column}, num_resamples=0)
        assert result.ungrouped == {"x": 60}
        assert [gap.raw for group in result.groups for gap in group.gaps if gap.measure == "war"] == [0, 0]

    def test_few_subjects_tell_of_themselves(self):
        subjects = ["A"] * 60 + ["B"] * 60 + [f"S{row}" for row in range(60)]
        column = ["x"] * 120 + ["y"] * 60
        result = compare_groups(predictions_of([0] * 180, [0] * 180, subjects), {"site": column}, num_resamples=0)
        (group,) = [group for group in result.groups if group.name == "x"]
        assert group.untested == "2 subjects against 60; at least 5 are needed on each side"

    def test_subjects_as_groups_are_compared_image_by_image(self):
        rng = np.random.default_rng(0)
        label_B = rng.integers(7, size=300)
        subjects = ["A"] * 100 + ["B"] * 100 + ["C"] * 100
        preds_B = answer(rng, label_B, np.array([0.9] * 200 + [0.3] * 100))
        result = compare_groups(predictions_of(label_B, preds_B, subjects), {"subject": subjects}, num_resamples=0)
        assert result.by_subject == ()
        assert ("subject", "C", "war") in found_in(result)


class TestGroup:
    def test_a_label_that_a_group_lacks_has_no_recall(self):
        label_B = [0, 1] * 50 + [0] * 100
        preds_B = [0, 1] * 50 + [-1] * 50 + [0] * 50
        result = compare_groups(predictions_of(label_B, preds_B), {"x": ["a"] * 100 + ["b"] * 100}, num_resamples=20)
        b = next(group for group in result.groups if group.name == "b")
        assert b.recall["neutral"] == 0.5
        assert b.recall["happiness"] is None
        assert (b.uar, b.unanswered) == (0.5, 50)
        assert b.confusion[0] == [50, 0, 0, 0, 0, 0, 0]
        uar = next(gap for gap in b.gaps if gap.measure == "uar")
        assert (uar.raw, uar.adjusted, uar.p_value) == (-0.5, None, None)

    def test_the_same_seed_gives_the_same_audit(self):
        rng = np.random.default_rng(0)
        label_B = rng.integers(7, size=300)
        predictions, column = predictions_of(label_B, answer(rng, label_B, 0.5)), groups(rng, 300).tolist()
        one, two, three = (
            compare_groups(predictions, {"x": column}, num_resamples=20, seed=seed).to_dict() for seed in (1, 1, 2)
        )
        assert one == two
        assert one != three

    def test_an_audit_of_very_many_tests_can_still_find_something(self):
        rng = np.random.default_rng(0)
        names = [f"g{number:02}" for number in range(30)]
        column = np.repeat(names, 50)
        label_B = rng.integers(7, size=1500)
        preds_B = answer(rng, label_B, np.where(column == "g07", 0.2, 0.8))
        result = compare_groups(
            predictions_of(label_B, preds_B), {"x": column.tolist()}, num_permutations=99, num_resamples=0
        )
        assert result.permutations == 6000
        assert ("x", "g07", "war") in found_in(result)


def test_wrong_columns_are_refused():
    with pytest.raises(DataError, match="at least one group column"):
        compare_groups(predictions_of([0, 1], [0, 1]), {})


def test_the_report_says_all_of_it_three_times():
    rng = np.random.default_rng(0)
    label_B = rng.integers(7, size=400)
    race = groups(rng, 400, ("one | two", "<b>three</b>"))
    preds_B = answer(rng, label_B, np.where(race == "one | two", 0.3, 0.9))
    result = compare_groups(
        predictions_of(label_B, preds_B), {"race": [*race[:390].tolist(), *[None] * 10]}, num_resamples=50
    )
    files = audit_files(result)
    assert list(files) == ["audit.md", "audit.html", "audit.json"]
    data = json.loads(files["audit.json"])
    assert data["groups"][0]["gaps"][0]["measure"] == "war"
    assert len(data["groups"][0]["gaps"][0]["interval"]) == 2
    markdown = files["audit.md"]
    assert "one \\| two" in markdown
    assert "10 images have no value in this column." in markdown
    assert "significant" in markdown
    assert "<b>three" not in markdown
    assert "<b>three" not in files["audit.html"]
    assert "Confusion matrix: race one | two" in files["audit.html"]
