import csv

import pytest

from motivnet.checkpoints.bundle import embedded_models
from motivnet.errors import DataError
from motivnet.experiments.protocols import Setting
from motivnet.experiments.published import COLUMNS, RESULTS, published_on, read_published

ROW = {
    "method": "SomeNet",
    "protocol": "own test split",
    "trained_on": "RAF-DB",
    "backbone": "",
    "target": "RAF-DB",
    "metric": "accuracy",
    "value_percent": "90.5",
    "source": "a paper",
    "trust": "good",
}


@pytest.fixture
def write(tmp_path):
    def make(*rows, columns=COLUMNS):
        path = tmp_path / "results.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return make


class TestCommittedTable:
    def test_every_row_is_read_with_its_source(self):
        rows = read_published()
        assert len(rows) == 140
        assert all(row.source and row.trust for row in rows)

    def test_it_is_the_table_of_the_shared_facts(self, shared_dir):
        theirs = (shared_dir / "facts" / "published_results.csv").read_text()
        assert RESULTS.read_text() == theirs

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


def test_a_table_of_ones_own(write):
    (row,) = read_published(write(ROW))
    assert (row.method, row.setting, row.war) == ("SomeNet", Setting.OWN_DOMAIN, 0.905)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "magic"}, "row 1: protocol 'magic'. Allowed: zero-shot"),
        ({"metric": "UAR"}, "row 1: metric 'UAR'"),
        ({"value_percent": "101"}, "row 1: value_percent '101'"),
        ({"value_percent": "nan"}, "row 1: value_percent 'nan'"),
        ({"value_percent": "high"}, "row 1: value_percent 'high'"),
        ({"source": " "}, "row 1: source is empty"),
    ],
)
def test_a_wrong_row_is_named(write, change, message):
    with pytest.raises(DataError, match=message):
        read_published(write(ROW, ROW | change))


def test_a_missing_column_is_named(write):
    with pytest.raises(DataError, match="'trust'"):
        read_published(write(ROW, columns=COLUMNS[:-1]))


def test_too_many_fields_are_refused(write):
    path = write(ROW)
    path.write_text(path.read_text() + ",".join(["x"] * 10) + "\n")
    with pytest.raises(DataError, match="row 1: more fields"):
        read_published(path)


def test_a_missing_file_is_no_crash(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_published(tmp_path / "none.csv")
