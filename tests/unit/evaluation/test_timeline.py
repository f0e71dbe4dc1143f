"""Reading what people coded in ELAN, in BORIS and by hand."""

import json
from pathlib import Path

import pytest

from motivnet.errors import DataError

pd = pytest.importorskip("pandas")

from motivnet.evaluation.timeline import read_rows, read_stretches  # noqa: E402

# As BORIS exports aggregated events, and events one by one.
AGGREGATED = """Observation id,Observation date,Media file name,Subject,Behavior,Behavior type,Start (s),Stop (s)
first,2026-01-01,/films/a.mp4,No focal subject,happiness,STATE,1.5,2.5
first,2026-01-01,/films/a.mp4,Ann,sadness,STATE,3,4
"""
TABULAR = """Observation id\tMedia file name\tSubject\tBehavior\tBehavior type\tTime
first\ta.mp4\tNo focal subject\thappiness\tSTART\t1.5
first\ta.mp4\tAnn\tsadness\tSTART\t3
first\ta.mp4\tNo focal subject\thappiness\tSTOP\t2.5
first\ta.mp4\tAnn\tsadness\tSTOP\t4
"""
EXPECTED = [("coded", None, 1.5, 2.5, "happiness"), ("coded", "Ann", 3.0, 4.0, "sadness")]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def listed(path: Path) -> list[tuple]:
    found = read_stretches(path).sort_values("start_s")
    return list(zip(found["coder"], found["person"], found["start_s"], found["end_s"], found["code"], strict=True))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("coded.csv", AGGREGATED),
        ("coded.tsv", TABULAR),
        ("coded.csv", "start_s;end_s;code;person\n1.5;2.5;happiness;\n3;4;sadness;Ann\n"),
        ("coded.csv", "\ufeffperson,emotion,start_s,end_s\nAnn,sadness,3,4\n,happiness,1.5,2.5\n"),
    ],
)
def test_csv(tmp_path: Path, name: str, text: str):
    assert listed(write(tmp_path / name, text)) == EXPECTED


def boris(events: list[list], **more) -> str:
    kinds = {"happiness": "State event", "sadness": "State event", "cough": "Point event"}
    behaviors = {str(place): {"code": code, "type": kind} for place, (code, kind) in enumerate(kinds.items())}
    observation = {"file": {"1": ["/films/a.mp4"], "2": []}, "events": events}
    return json.dumps({"behaviors_conf": behaviors, "observations": {"first": observation}, **more})


def test_a_project_of_boris(tmp_path: Path):
    events = [
        *([3.0, "Ann", "sadness", "", ""], [1.5, "", "happiness", "", ""], [2.5, "", "happiness", "", "", 62]),
        *([4.0, "Ann", "sadness", "", ""], [5.0, "", "cough", "", ""]),
    ]
    path = write(tmp_path / "coded.boris", boris(events))
    assert listed(path) == [*EXPECTED, ("coded", None, 5.0, 5.0, "cough")]
    assert set(read_stretches(path)["source"]) == {"/films/a.mp4"}


def test_a_state_of_boris_that_does_not_end(tmp_path: Path):
    path = write(tmp_path / "coded.boris", boris([[3.0, "Ann", "sadness", "", ""]]))
    with pytest.raises(DataError, match=r"sadness of Ann in /films/a\.mp4 starts at 3\.0 s and does not end"):
        read_stretches(path)


def test_elan_as_pympi_writes_it(tmp_path: Path):
    elan = pytest.importorskip("pympi.Elan")
    document = elan.Eaf(author="a coder")
    document.add_linked_file("file:///films/a.mp4", mimetype="video/mp4")
    document.add_tier("anna")
    document.add_tier("second", part="Ann", ann="bo")
    document.add_tier("third", part="Ann")
    for tier in ("anna", "second", "third"):
        document.add_annotation(tier, 1500, 2500, "happiness")
    document.to_file(tmp_path / "coded.eaf")
    found = [
        *(("anna", None, 1.5, 2.5, "happiness"), ("bo", "Ann", 1.5, 2.5, "happiness")),
        ("coded", "Ann", 1.5, 2.5, "happiness"),
    ]
    assert sorted(listed(tmp_path / "coded.eaf"), key=lambda row: row[0]) == found
    assert set(read_stretches(tmp_path / "coded.eaf")["source"]) == {"file:///films/a.mp4"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("coded.txt", "", "unknown format '.txt'. Allowed: .eaf, .boris, .csv, .tsv"),
        ("coded.csv", "when,what\n1,2\n", "columns when, what. Allowed: start_s, code"),
        ("coded.csv", "start_s,end_s,code\n2,1,happy\n", "stretch 0: no code, no start, or an end before it"),
        ("coded.csv", "start_s,end_s,code\nsoon,1,happy\n", "cannot be read"),
        ("coded.csv", "start_s,end_s,code\n", "no stretches"),
        ("coded.eaf", "<ANNOTATION_DOCUMENT>", "cannot be read"),
        ("coded.boris", "[]", "cannot be read"),
        ("coded.boris", "[" * 100_000, "cannot be read: nested more than 100 deep"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, text: str | None, message: str):
    path = tmp_path / name
    if text is not None:
        write(path, text)
    with pytest.raises(DataError, match=message):
        read_stretches(path)


@pytest.mark.parametrize("name", ["rows.txt", "missing.csv", "missing.parquet"])
def test_rows_that_cannot_be_read(tmp_path: Path, name: str):
    with pytest.raises(DataError, match=name):
        read_rows(tmp_path / name)
