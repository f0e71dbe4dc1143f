import csv
import json
import os
import sys
from pathlib import Path

import pytest

from motivnet.errors import MissingExtraError, OutputError
from motivnet.inference.results import FaceResult, ImageResult
from motivnet.inference.rows import all_columns, printable, to_rows
from motivnet.inference.tables import check_output, open_table
from motivnet.preprocess import Box

LABELS = ("neutral", "happiness")
COLUMNS = all_columns(LABELS)


def image(source: str, status: str, faces: int = 0, error: str | None = None) -> ImageResult:
    made = tuple(
        FaceResult(Box(i, 2, 30, 20.5), 0.75, "happiness", {"neutral": 0.25, "happiness": 0.75}, i == 1)
        for i in range(faces)
    )
    size = (None, None) if error else (640, 480)
    return ImageResult(
        source=source,
        status=status,
        error=error,
        model="tiny",
        preprocessing="abc",
        width=size[0],
        height=size[1],
        faces=made,
    )


RESULTS = [
    image("ä, b.jpg", "ok", faces=2),
    image("none.png", "no_face"),
    image('"bad".jpg', "unreadable", error="damaged\nimage"),
]


def write(path: Path, *, overwrite: bool = False) -> None:
    with open_table(path, COLUMNS, overwrite=overwrite) as writer:
        for row in [row for result in RESULTS for row in to_rows(result)]:
            writer(row)


def read(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_every_format_has_a_row_per_face_or_image_without(tmp_path, name):
    write(tmp_path / name)
    rows = read(tmp_path / name)
    nothing = "" if name == "x.csv" else None
    assert [(row["source"], row["status"]) for row in rows] == [
        *[("ä, b.jpg", "ok")] * 2,
        ("none.png", "no_face"),
        ('"bad".jpg', "unreadable"),
    ]
    assert [str(row["face"]) for row in rows] == ["0", "1", str(nothing), str(nothing)]
    assert [float(rows[1][key]) for key in ("x", "y", "width", "height", "face_score")] == [1, 2, 30, 20.5, 0.75]
    assert str(rows[0]["tiny"]) == "True"
    assert [str(row["abstained"]) for row in rows] == ["False", "True", str(nothing), str(nothing)]
    assert float(rows[0]["prob_happiness"]) == 0.75
    assert [rows[i]["error"] for i in (0, 3)] == [nothing, "damaged\nimage"]
    assert rows[3]["image_width"] == nothing
    assert rows[2]["emotion"] == rows[2]["prob_neutral"] == nothing
    assert {tuple(row) for row in rows} == {tuple(all_columns(LABELS))}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_parquet_keeps_types_where_no_row_has_a_face(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with open_table(tmp_path / "x.parquet", COLUMNS, overwrite=False) as writer:
        writer(next(to_rows(RESULTS[1])))
    schema = parquet.read_schema(tmp_path / "x.parquet")
    assert (str(schema.field("x").type), str(schema.field("prob_neutral").type)) == ("double", "double")


def test_existing_files_are_kept_unless_told(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already; --overwrite"):
        write(path)
    assert path.read_text() == "precious"
    write(path, overwrite=True)
    assert len(read(path)) == 4


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_an_interruption_leaves_nothing_behind(tmp_path, name):
    (tmp_path / name).write_text("precious")

    def interrupted() -> None:
        with open_table(tmp_path / name, COLUMNS, overwrite=True) as writer:
            writer(next(to_rows(RESULTS[0])))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "x.csv"

    def overtaken() -> None:
        with open_table(path, COLUMNS, overwrite=False):
            path.write_text("precious")

    with pytest.raises(OutputError, match="exists already"):
        overtaken()
    assert path.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.xlsx", "unknown format '.xlsx'. Allowed: .jsonl, .csv, .parquet"),
        ("x", "unknown format ''"),
        ("missing/x.csv", "does not exist"),
        ("folder.csv", "is a folder"),
    ],
)
def test_impossible_outputs_are_refused_before_any_work(tmp_path, name, message):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / name, overwrite=True)


def test_a_folder_that_cannot_be_written_to_is_one_error(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OutputError, match=r"x\.csv: cannot be written: Permission denied"):
        write(tmp_path / "x.csv")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"motivnet\[parquet\]"):
        check_output(tmp_path / "x.parquet", overwrite=False)


def test_names_that_are_no_text_can_be_written():
    name = os.fsdecode(b"caf\xe9.jpg")
    (row,) = to_rows(image(name, "no_face"))
    assert row["source"] == printable(name) == "caf\\udce9.jpg"
    assert printable("café.jpg") == "café.jpg"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_that_a_spreadsheet_would_calculate_has_an_apostrophe(tmp_path, start):
    with open_table(tmp_path / "x.csv", {"source": "string", "x": "float64"}, overwrite=False) as writer:
        writer({"source": f"{start}HYPERLINK(1).jpg", "x": -1.5})
        writer({"source": f"a{start}b", "x": 2.0})
    rows = read(tmp_path / "x.csv")
    assert [row["source"] for row in rows] == [f"'{start}HYPERLINK(1).jpg", f"a{start}b"]
    assert [row["x"] for row in rows] == ["-1.5", "2.0"]


def test_excel_opens_the_file_as_utf_8_on_request(tmp_path):
    for name, excel in (("plain.csv", False), ("excel.csv", True)):
        with open_table(tmp_path / name, {"source": "string"}, overwrite=False, excel=excel) as writer:
            writer({"source": "ä.jpg"})
    assert (tmp_path / "plain.csv").read_bytes() == "source\r\nä.jpg\r\n".encode()
    assert (tmp_path / "excel.csv").read_bytes() == b"\xef\xbb\xbf" + (tmp_path / "plain.csv").read_bytes()
