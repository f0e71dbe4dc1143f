import collections

import numpy as np
import pytest

from motivnet.errors import DataError
from motivnet.experiments.protocols import (
    DataName,
    Setting,
    caution,
    domain,
    leave_one_out,
    parse_data,
    setting_of,
    spread,
    subject_folds,
    training_domains,
)


class TestDomains:
    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (("FER-2013", "fer2013", "FERPlus", "FER+", "ferplus"), "fer2013"),
            (("AffectNet", "AffectNet-7", "affectnet8"), "affectnet"),
            (("CK+", "ckplus", "ck+"), "ckplus"),
            (("SFEW 2.0", "sfew"), "sfew"),
            (("RAF-DB", "rafdb"), "rafdb"),
        ],
    )
    def test_the_same_photographs_have_one_name(self, names, expected):
        assert {domain(name) for name in names} == {expected}

    def test_what_is_not_known_stays_itself(self):
        assert domain("My Set") == "myset"

    def test_provenance_states_it(self):
        assert training_domains({"trained_on": ["AffectNet-8", "RAF-DB"], "data": "x.parquet"}) == {
            "affectnet",
            "rafdb",
        }
        assert training_domains({"trained_on": "JAFFE"}) == {"jaffe"}

    def test_the_file_tells_if_it_is_named_as_a_data_set(self):
        assert training_domains({"data": "fer2013.parquet"}) == {"fer2013"}
        assert training_domains({"data": "faces.parquet"}) is None
        assert training_domains({}) is None

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("affectnet:faces?classes=7", {"affectnet"}),
            ("csv:fer2013.csv", {"fer2013"}),
            ("manifest:RAF-DB.parquet", {"rafdb"}),
            ("manifest:faces.parquet", None),
            ("", None),
        ],
    )
    def test_the_source_tells_by_its_kind_or_its_file(self, source, expected):
        assert training_domains({"data": {"source": source, "fingerprint": "0123"}}) == expected

    def test_the_model_that_it_began_from_counts(self):
        before = {"bundle": "old", "provenance": {"data": "affectnet"}}
        assert training_domains({"data": "fer2013.csv", "init": before}) == {"fer2013", "affectnet"}
        assert training_domains({"data": "fer2013.csv", "init": "mobilenet_v2.pth"}) == {"fer2013"}
        assert training_domains({"data": "fer2013.csv", "init": {"bundle": "old", "provenance": {}}}) is None

    def test_the_embedded_model_tells(self):
        from motivnet.checkpoints.bundle import open_bundle

        assert training_domains(open_bundle("nano").config.provenance) == {"fer2013", "lfw", "utkface"}

    def test_settings(self):
        trained = frozenset({"fer2013"})
        assert setting_of(trained, "FERPlus") is Setting.OWN_DOMAIN
        assert setting_of(trained, "JAFFE") is Setting.ZERO_SHOT
        assert setting_of(frozenset(), "JAFFE") is Setting.ZERO_SHOT
        assert setting_of(None, "JAFFE") is Setting.UNSTATED


PROVENANCE = {"recipe": {"split": {"train": "Training", "select": "x"}}, "selected": {"split": "PublicTest"}}


class TestCaution:
    @pytest.mark.parametrize(
        ("split", "beginning"),
        [("Training", "no test: trained"), (None, "no test: all splits"), ("PublicTest", "optimistic: selected")],
    )
    def test_splits_that_had_a_part_in_it(self, split, beginning):
        assert str(caution(PROVENANCE, split)).startswith(beginning)

    def test_the_others(self):
        assert caution(PROVENANCE, "PrivateTest") is None
        assert caution({"recipe": "mine", "selected": 0.5}, "PrivateTest") is None


class TestLeaveOneOut:
    def test_each_is_tested_on_once(self):
        assert leave_one_out(["CK+", "JAFFE", "RAF-DB"]) == [
            (("JAFFE", "RAF-DB"), "CK+"),
            (("CK+", "RAF-DB"), "JAFFE"),
            (("CK+", "JAFFE"), "RAF-DB"),
        ]

    def test_the_same_photographs_leave_together(self):
        assert leave_one_out(["FER-2013", "FERPlus", "JAFFE"]) == [
            (("JAFFE",), "FER-2013"),
            (("JAFFE",), "FERPlus"),
            (("FER-2013", "FERPlus"), "JAFFE"),
        ]

    def test_nothing_is_left_of_one(self):
        assert leave_one_out(["FER-2013", "FERPlus", "FER-2013"]) == []


def ck_like(seed=0, num_subjects=118):
    """Subjects, each with one to six peak frames of different emotions, some emotions rare."""
    rng = np.random.default_rng(seed)
    subjects, target = [], []
    for subject in range(num_subjects):
        labels = rng.choice(6, size=rng.integers(1, 7), replace=False, p=[0.25, 0.25, 0.2, 0.15, 0.1, 0.05])
        subjects += [f"S{subject:03}"] * len(labels)
        target += labels.tolist()
    return subjects, np.array(target)


class TestSubjectFolds:
    def test_no_subject_is_in_two_folds(self):
        subjects, target = ck_like()
        fold_B = subject_folds(subjects, target)
        assert sorted(set(fold_B)) == list(range(10))
        of = collections.defaultdict(set)
        for subject, fold in zip(subjects, fold_B, strict=True):
            of[subject].add(fold)
        assert {len(folds) for folds in of.values()} == {1}

    def test_labels_are_spread_as_evenly_as_another_library_does_it(self):
        selection = pytest.importorskip("sklearn.model_selection")

        def imbalance(fold_B, target):
            counts = np.zeros((10, 6))
            np.add.at(counts, (fold_B, target), 1)
            return (counts / counts.sum(axis=0)).std(axis=0).mean()

        ours, theirs = [], []
        for seed in range(3):
            subjects, target = ck_like(seed)
            ours.append(imbalance(subject_folds(subjects, target), target))
            fold_B = np.empty(len(target), int)
            splits = selection.StratifiedGroupKFold(10).split(target, target, subjects)
            for fold, (_, rows) in enumerate(splits):
                fold_B[rows] = fold
            theirs.append(imbalance(fold_B, target))
        assert np.mean(ours) <= 1.1 * np.mean(theirs)

    def test_the_order_of_rows_does_not_matter(self):
        subjects, target = ck_like()
        order = np.random.default_rng(1).permutation(len(target))
        shuffled = subject_folds([subjects[row] for row in order], target[order])
        np.testing.assert_array_equal(subject_folds(subjects, target)[order], shuffled)

    def test_no_fold_is_empty_when_there_are_as_many_as_subjects(self):
        # One subject holds nearly everything.
        subjects = ["A"] * 50 + ["B", "C", "D"]
        fold_B = subject_folds(subjects, [0] * 53, 4)
        assert sorted(set(fold_B)) == [0, 1, 2, 3]

    def test_leave_one_subject_out_follows_the_names(self):
        np.testing.assert_array_equal(subject_folds(["KM", "KA", "KM", "TM"], [0, 0, 1, 1], 0), [1, 0, 1, 2])

    @pytest.mark.parametrize(
        ("subjects", "target", "num_folds", "message"),
        [
            (["A", "B"], [0, 1], 3, "3 folds of 2 subjects"),
            (["A", "B"], [0, 1], 1, "1 folds of 2 subjects"),
        ],
    )
    def test_what_cannot_be_is_refused(self, subjects, target, num_folds, message):
        with pytest.raises(DataError, match=message):
            subject_folds(subjects, target, num_folds)

    def test_one_subject_cannot_be_left_out(self):
        with pytest.raises(DataError, match="0 folds of 1 subjects"):
            subject_folds(["A", "A"], [0, 1], 0)


def test_spread_is_the_sample_standard_deviation():
    found = spread([0.5, 0.7])
    assert (found.mean, found.folds) == (pytest.approx(0.6), (0.5, 0.7))
    assert found.std == pytest.approx(np.sqrt(0.02))


@pytest.mark.parametrize(
    ("text", "name", "source", "split"),
    [
        ("fer2013:/a/fer.parquet@PrivateTest", "FER-2013", "fer2013:/a/fer.parquet", "PrivateTest"),
        ("ckplus:/a/ck?neutral=false", "CK+", "ckplus:/a/ck?neutral=false", None),
        ("folder:/a/faces", "faces", "folder:/a/faces", None),
        ("manifest:own.parquet@test", "own", "manifest:own.parquet", "test"),
        ("FERPlus=manifest:own.parquet@test", "FERPlus", "manifest:own.parquet", "test"),
        ("My set=csv:a.csv?root=/x&split=y", "My set", "csv:a.csv?root=/x&split=y", None),
        ("csv:/home/me@work/a.csv", "a", "csv:/home/me@work/a.csv", None),
        ("csv:/home/me@work/a.csv@val", "a", "csv:/home/me@work/a.csv", "val"),
        ("folder:/a/x@y@", "x@y", "folder:/a/x@y", None),
        ("nonsense", "nonsense", "nonsense", None),
    ],
)
def test_names_of_data_sets(text, name, source, split):
    assert parse_data(text) == DataName(name=name, source=source, split=split)


def test_titles():
    assert parse_data("fer2013:x@PublicTest").title == "FER-2013 PublicTest"
    assert parse_data("fer2013:x").title == "FER-2013"
