import csv

import pytest

from motivnet.checkpoints.bundle import embedded_models
from motivnet.evaluation.predictions import Protocol
from motivnet.experiments.comparison import METRICS, Entry
from motivnet.experiments.leaderboard import PUBLISHED, means_of, published_on, ranked, read_published
from motivnet.experiments.protocols import Setting


def entry(model, data, war, *, setting=Setting.ZERO_SHOT, labels=("happiness", "anger")):
    return Entry(
        model=model,
        data=data,
        setting=setting,
        n=2,
        unanswered=0,
        labels=labels,
        absent=(),
        restrict="keep",
        scores=dict.fromkeys(METRICS, war),
        intervals={},
        by_subject=False,
        folds=None,
        protocol=Protocol(model="m", data="d", data_fingerprint="f", n=2, labels=labels, detection="none"),
    )


class TestRanking:
    def test_equal_ones_share_the_better_rank(self):
        entries = [entry("a", "d", 0.5), entry("b", "d", 0.7), entry("c", "d", 0.5), entry("e", "other", 0.9)]
        assert [each.rank for each in ranked(entries)] == [2, 1, 2, None]

    def test_only_models_that_had_seen_as_much_are_ranked(self):
        entries = [entry("a", "d", 0.5), entry("b", "d", 0.9, setting=Setting.OWN_DOMAIN), entry("c", "d", 0.4)]
        assert [each.rank for each in ranked(entries)] == [1, None, 2]

    def test_only_models_that_were_asked_the_same_are_ranked(self):
        entries = [
            entry("a", "d", 0.5),
            entry("b", "d", 0.9, labels=("happiness", "anger", "neutral")),
            entry("c", "d", 0.4),
        ]
        assert [each.rank for each in ranked(entries)] == [1, None, 2]

    def test_means_are_over_what_all_models_share(self):
        entries = [
            *(entry("a", data, war) for data, war in (("x", 0.4), ("y", 0.6), ("z", 1.0))),
            *(entry("b", data, war) for data, war in (("x", 0.6), ("y", 0.5))),
        ]
        a, b = means_of(ranked(entries), {name: name for name in "xyz"})
        assert a.data == b.data == ("x", "y")
        assert (a.scores["war"], a.rank, a.mean_rank) == (pytest.approx(0.5), 2, 1.5)
        assert (b.scores["war"], b.rank, b.mean_rank) == (pytest.approx(0.55), 1, 1.5)

    def test_own_domain_is_in_no_mean_of_zero_shot(self):
        entries = [
            entry("a", "x", 0.9, setting=Setting.OWN_DOMAIN),
            entry("a", "y", 0.5),
            entry("a", "z", 0.7),
        ]
        (mean,) = means_of(entries, {name: name for name in "xyz"})
        assert (mean.data, mean.scores["war"], mean.rank) == (("y", "z"), pytest.approx(0.6), None)

    def test_one_data_set_has_no_mean(self):
        assert list(means_of([entry("a", "x", 0.9), entry("b", "x", 0.8)], {"x": "x"})) == []

    def test_splits_of_the_same_photographs_count_as_one(self):
        entries = [entry("a", data, war) for data, war in (("x 1", 0.4), ("x 2", 0.6), ("y", 0.9))]
        (mean,) = means_of(entries, {"x 1": "x", "x 2": "x", "y": "y"})
        assert mean.scores["war"] == pytest.approx(0.7)
        assert list(means_of(entries[:2], {"x 1": "x", "x 2": "x"})) == []


class TestPublished:
    def test_every_row_is_read_with_its_source(self):
        rows = read_published()
        assert len(rows) == 140
        assert all(row.method and row.source and row.trust and 0 < row.war < 1 for row in rows)
        with PUBLISHED.open(newline="", encoding="utf-8") as file:
            assert {row["metric"] for row in csv.DictReader(file)} == {"accuracy"}

    def test_it_is_the_table_of_the_shared_facts(self, shared_dir):
        theirs = (shared_dir / "facts" / "published_results.csv").read_text()
        assert PUBLISHED.read_text() == theirs

    def test_it_hides_no_embedded_model(self):
        assert embedded_models() == ["nano"]

    def test_protocols_stay_apart(self):
        on_fer = published_on(read_published(), "FER-2013", {7})
        settings = {row.method: row.setting for row in on_fer}
        assert settings["AGRA"] is Setting.ADAPTED
        assert settings["MotivNet"] is Setting.ZERO_SHOT
        assert settings["EmoNeXt"] is Setting.OWN_DOMAIN
        values = [row.war for row in on_fer]
        assert values == sorted(values, reverse=True)

    def test_a_doubtful_figure_says_so(self):
        (row,) = [row for row in read_published() if row.method == "MotivNet"]
        assert (row.war, row.trust) == (pytest.approx(0.5387), "check against the paper")


def test_the_number_of_labels_tells_which_affectnet():
    rows = read_published()
    assert {row.target for row in published_on(rows, "AffectNet", {7})} == {"AffectNet-7"}
    assert {row.target for row in published_on(rows, "AffectNet", {7, 8})} == {"AffectNet-7", "AffectNet-8"}
    assert published_on(rows, "AffectNet", ()) == []
    assert published_on(rows, "nothing", {7}) == []
