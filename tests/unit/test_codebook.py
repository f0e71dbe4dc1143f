"""The page `docs/codebook.md` describes every column of every table of results, and no others."""

import re
from pathlib import Path

import pytest

from motivnet.inference.rows import all_columns
from motivnet.labels import EMOTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "codebook.md").read_text(encoding="utf-8")
PROBS = [f"prob_{label}" for label in EMOTIONS]


def described(section: str) -> dict[str, set[str]]:
    """Read the columns of the first table of a section, each with the tables that it is said to be in."""
    text = f"\n{PAGE}".split(f"\n{section}\n", 1)[1].split("\n## ", 1)[0]
    (table, *_) = re.findall(r"^\| column \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    found = {}
    for line in table.splitlines():
        names, second = line.split("|")[1:3]
        names = names.replace(f"`{PROBS[0]}` ... `{PROBS[-1]}`", ", ".join(f"`{name}`" for name in PROBS))
        places = set(second.strip().split(", "))
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", names), places)
    return found


def starred(columns: list[str]) -> set[str]:
    """Write `*` for each label."""
    return {re.sub(rf"_({'|'.join(EMOTIONS)})$", "_*", name) for name in columns}


def rows() -> list[dict]:
    """Make two seconds of one face, neutral and then happy."""
    found = []
    for number, label in enumerate(["neutral"] * 4 + ["happiness"] * 4):
        probs = dict.fromkeys(PROBS, 0.1) | {f"prob_{label}": 0.4}
        place = {"source": "a.mp4", "frame": number, "time_s": number / 4, "face": 0, "track": 0}
        row = dict.fromkeys(all_columns(EMOTIONS)) | place | probs
        found.append(row | {"emotion": label, "status": "ok", "abstained": False, "short_track": False})
    return found


def test_rows() -> None:
    section = described("# Codebook: every column of a table of results")
    assert set(section) == {*all_columns(EMOTIONS, landmarks=True, affect=True), "input"}


def test_tables_made_of_rows(tmp_path: Path) -> None:
    for package in ("pandas", "jinja2"):
        pytest.importorskip(package)
    from motivnet.video.tabulate import tabulate
    from motivnet.video.video_config import TablesConfig

    events = tmp_path / "events.csv"
    events.write_text("start_s,code\n1,joke\n", encoding="utf-8")
    tables = tabulate(rows(), TablesConfig(events=events, responses=tmp_path / "responses.csv", baseline="estimated"))
    assert set(tables) == {"summary", "windows", "responses"}
    section = described("## Summaries, windows and responses")
    for name, table in tables.items():
        assert {column for column, places in section.items() if name in places} == starred(list(table)), name
    assert set().union(*section.values()) == set(tables)


def test_agreement(tmp_path: Path) -> None:
    for package in ("pandas", "jinja2", "scipy"):
        pytest.importorskip(package)
    from motivnet.evaluation.agreement import agree

    coder = tmp_path / "anna.csv"
    coder.write_text("start_s,end_s,code\n0,1,neutral\n1,2,happy\n", encoding="utf-8")
    columns = set(agree(rows(), [coder]))
    intervals = {name for name in columns if name.endswith(("_low", "_high"))}
    assert set(described("## Agreement")) == columns - intervals
    assert {name.rpartition("_")[0] for name in intervals} < columns
