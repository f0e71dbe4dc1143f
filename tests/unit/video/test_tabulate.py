"""Tables and exports of the rows of videos, read back with other libraries."""

import json
import re
import xml.etree.ElementTree
from pathlib import Path

import pytest

from motivnet.errors import ConfigError, DataError, OutputError
from motivnet.inference.rows import CODEBOOK, all_columns
from motivnet.labels import AFFECT, EMOTIONS
from motivnet.video.video_config import TablesConfig

pd = pytest.importorskip("pandas")
pytest.importorskip("jinja2")
pytest.importorskip("xlsxwriter")

from motivnet.evaluation.timeline import read_stretches  # noqa: E402
from motivnet.video.measures import read_faces, stretches  # noqa: E402
from motivnet.video.tabulate import plan_tables, tabulate  # noqa: E402


def rows(source: str, emotions: str, track: int = 0) -> list[dict]:
    """Make rows of one track, a letter and half a second each; `-` is a frame without a face."""
    found = []
    for number, letter in enumerate(emotions):
        row = dict.fromkeys(all_columns(EMOTIONS))
        row |= {"source": source, "frame": number, "time_s": number / 2, "status": "no_face", "model": "=1+1"}
        if letter != "-":
            emotion = next(label for label in EMOTIONS if label[0] == letter)
            probs = {f"prob_{label}": 0.4 if label == emotion else 0.1 for label in EMOTIONS}
            about = {"face": 0, "track": track, "emotion": emotion, "prob": 0.4, "status": "ok"}
            row |= about | probs | {"abstained": False, "short_track": False, "tiny": False}
        found.append(row)
    return found


ROWS = [*rows("films/a & b.mp4", "nnhh-n"), *rows("films/c.mp4", "--")]
UNREADABLE = dict.fromkeys(all_columns(EMOTIONS)) | {"source": "films/d.mp4", "status": "unreadable"}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with every file that can be asked for."""
    (tmp_path / "events.csv").write_text("time_s,event,source\n1,joke,a & b\n", encoding="utf-8")
    suffixes = {"summary": "csv", "windows": "csv", "responses": "csv", "workbook": "xlsx", "boris": "boris"}
    paths = {name: tmp_path / f"{name}.{suffix}" for name, suffix in suffixes.items()}
    config = TablesConfig(**paths, elan=tmp_path / "elan", events=tmp_path / "events.csv", baseline="estimated")
    assert list(tabulate([*ROWS, UNREADABLE], config)) == ["summary", "windows", "responses"]
    return tmp_path


def test_csv_for_r_and_spss(written: Path):
    for name in ("summary", "windows", "responses"):
        text = (written / f"{name}.csv").read_bytes().decode("ascii")
        head = text.splitlines()[0].split(",")
        # SPSS takes names of up to 64 letters, digits and underscores; R would change others.
        assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,63}", column) for column in head)
        assert not re.search(r"\b(nan|NA|None)\b", text)
    table = pd.read_csv(written / "summary.csv")
    assert len(table) == 9
    assert table["share"].dtype == float
    assert table[["onsets", "to_happiness"]].iloc[0].tolist() == [2, 1]
    assert "joke,1.0,3.0,0,neutral" in (written / "responses.csv").read_text(encoding="utf-8")
    # Whole numbers are written as such.
    assert "a & b.mp4,0,0.0,1.0,2,1.0,neutral," in (written / "windows.csv").read_text(encoding="utf-8")


def test_workbook(written: Path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.load_workbook(written / "workbook.xlsx")
    assert book.sheetnames == ["summary", "windows", "responses", "rows", "codebook"]
    lines = [list(line) for line in book["rows"].iter_rows(values_only=True)]
    assert lines[1][lines[0].index("emotion")] == "neutral"
    # Text is never a formula, and what is missing is empty.
    cell = book["rows"].cell(2, lines[0].index("model") + 1)
    assert (cell.value, cell.data_type) == ("=1+1", "s")
    summary = [list(line) for line in book["summary"].iter_rows(values_only=True)]
    assert summary[-1][:3] == ["films/d.mp4", "unreadable", None]
    described = {(line[0], line[1]): line[2] for line in book["codebook"].iter_rows(min_row=2, values_only=True)}
    for name in book.sheetnames[:-1]:
        for cell in book[name][1]:
            assert described[name, cell.value]
    assert "not what the person feels" in described["summary", "emotion"]


def test_the_codebook_has_every_column_of_rows():
    meanings = pd.read_csv(CODEBOOK).set_index("column")["meaning"]
    for column in all_columns(EMOTIONS, landmarks=True, affect=True):
        assert column in meanings.index or f"{column.partition('_')[0]}_*" in meanings.index
    assert set(AFFECT) <= set(meanings.index)
    assert meanings.index.is_unique
    assert meanings.notna().all()


def expected(faces) -> list[tuple]:
    found = stretches(faces)
    return list(zip(found["person"], found["start_s"], found["end_s"], found["emotion"], strict=True))


def read(path: Path) -> list[tuple]:
    found = read_stretches(path).sort_values("start_s")
    return list(zip(found["person"], found["start_s"], found["end_s"], found["code"], strict=True))


def test_elan(written: Path):
    elan = pytest.importorskip("pympi.Elan")
    document = elan.Eaf(written / "elan" / "a & b.eaf")
    assert list(document.get_tier_names()) == ["track 0"]
    assert sorted(document.get_annotation_data_for_tier("track 0")) == [
        *((0, 1000, "neutral"), (1000, 2000, "happiness"), (2500, 3000, "neutral")),
    ]
    assert document.get_linked_files()[0]["RELATIVE_MEDIA_URL"] == "./a & b.mp4"
    assert document.get_parameters_for_tier("track 0")["PARTICIPANT"] == "0"
    # A video without faces has a document without tiers.
    assert list(elan.Eaf(written / "elan" / "c.eaf").get_tier_names()) == []


def test_exports_are_read_as_coders_are(written: Path):
    stated = expected(read_faces(ROWS))
    assert read(written / "elan" / "a & b.eaf") == stated
    assert read(written / "boris.boris") == stated
    root = xml.etree.ElementTree.parse(written / "elan" / "a & b.eaf").getroot()
    assert {tier.get("ANNOTATOR") for tier in root.iter("TIER")} == {"motivnet"}


def test_boris(written: Path):
    project = json.loads((written / "boris.boris").read_text(encoding="utf-8"))
    assert {each["code"] for each in project["behaviors_conf"].values()} == set(EMOTIONS)
    assert [each["name"] for each in project["subjects_conf"].values()] == ["0"]
    observation = project["observations"]["films/a & b.mp4"]
    assert observation["events"][:3] == [
        *([0.0, "0", "neutral", "", "", "NA"], [1.0, "0", "neutral", "", "", "NA"]),
        [1.0, "0", "happiness", "", "", "NA"],
    ]
    assert observation["media_info"]["length"] == {"films/a & b.mp4": 3.0}
    assert observation["media_info"]["fps"] == {"films/a & b.mp4": 2.0}
    assert project["observations"]["films/c.mp4"]["events"] == []
    assert "films/d.mp4" not in project["observations"]


def test_names_are_written(tmp_path: Path):
    (tmp_path / "tracks.csv").write_text('source,track,name\na & b.mp4,0,"Ann ""A"" <b>"\n', encoding="utf-8")
    paths = {name: tmp_path / f"out.{name}" for name in ("boris",)}
    tabulate(ROWS, TablesConfig(**paths, elan=tmp_path / "elan", names=tmp_path / "tracks.csv"))
    for path in (tmp_path / "out.boris", tmp_path / "elan" / "a & b.eaf"):
        assert {person for person, *_ in read(path)} == {'Ann "A" <b>'}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_rows_of_a_file_give_the_same(tmp_path: Path, suffix: str):
    from motivnet.inference.tables import open_table

    with open_table(tmp_path / f"rows{suffix}", all_columns(EMOTIONS), overwrite=False) as write:
        for row in ROWS:
            write(row)
    expected_tables, found = tabulate(ROWS, TablesConfig()), tabulate(tmp_path / f"rows{suffix}", TablesConfig())
    for name, table in expected_tables.items():
        pd.testing.assert_frame_equal(found[name], table)


def test_files_are_checked_before_any_work(tmp_path: Path):
    (tmp_path / "there.csv").touch()
    for how, error, message in (
        ({"summary": tmp_path / "there.csv"}, OutputError, "exists already"),
        ({"summary": tmp_path / "a.csv", "windows": tmp_path / "a.csv"}, OutputError, "is named twice"),
        ({"workbook": tmp_path / "a.xls"}, OutputError, "unknown format '.xls'. Allowed: .xlsx"),
        ({"elan": tmp_path / "a.xml"}, OutputError, "Allowed: .eaf"),
        ({"baseline": str(tmp_path / "there.csv")}, DataError, "cannot be read"),
    ):
        with pytest.raises(error, match=message):
            plan_tables(TablesConfig(**how), ["a.mp4"], tmp_path / "rows.csv", overwrite=False)
    with pytest.raises(OutputError, match="is named twice"):
        plan_tables(TablesConfig(summary=tmp_path / "r.csv"), ["a.mp4"], tmp_path / "r.csv", overwrite=True)


def test_settings(tmp_path: Path):
    with pytest.raises(ConfigError, match="events and responses: only one is given"):
        TablesConfig(events=tmp_path / "events.csv")
    with pytest.raises(ConfigError, match="window of 0 s: must be positive and finite"):
        TablesConfig(window_s=0)
