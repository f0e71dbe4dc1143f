"""EmotioNet's table of emotion categories, as spreadsheet and CSV."""

import pytest

from motivnet.data.sources.emotionet import read_emotionet
from motivnet.errors import DataError
from motivnet.images import decode_image

CATEGORIES = [
    *("angrily_disgusted", "angrily_surprised", "angry", "appalled", "awed", "disgusted", "fearful", "fearfully_angry"),
    *("fearfully_surprised", "happily_disgusted", "happily_surprised", "happy", "sad", "sadly_angry"),
    *("sadly_disgusted", "surprised"),
]
ADDRESS = "https://s3.us-east-2.amazonaws.com/emotionet/Images"


def line(name, *marked, units=(), absent=0):
    emotions = [1 if category in marked else absent for category in CATEGORIES]
    return [f"{ADDRESS}/{name}", f"http://example.org/{name}", *emotions, *(int(unit in units) for unit in (1, 12))]


HEADER = ["URL", "URL orig", *CATEGORIES, "AU 1", "AU 12"]
LINES = [
    line("N_1/a.jpg", "happy", units=(12,)),
    line("N_1/b.jpg", "surprised", units=(1, 12)),
    line("N_1/c.jpg", "happily_surprised"),
    line("N_1/d.jpg"),
    line("N_1/e.jpg", "happy", "sad"),
    line("N_1/f.jpg", "fearful", absent=-1),
]


def write_csv(write, header=None, lines=None):
    rows = [header or HEADER, *(lines or LINES)]
    return write("table.csv", "".join(",".join(map(str, row)) + "\n" for row in rows))


def check(manifest, folder):
    table = manifest.table
    # The first is where its address says; the others are not there, and would lie in one folder.
    assert table["path"].to_pylist() == [str(folder / name) for name in ("N_1/a.jpg", "b.jpg", "f.jpg")]
    assert table["label"].to_pylist() == ["happiness", "surprise", "fear"]
    assert table["row"].to_pylist() == [0, 1, 5]
    units = [dict(groups).get("action_units") for groups in table["groups"].to_pylist()]
    assert units == ["12", "1+12", None]
    assert manifest.dropped == {"compound emotion": 1, "no emotion category": 1, "several emotion categories": 1}


def test_csv(draw, write, tmp_path):
    draw("images/N_1/a.jpg")
    manifest = read_emotionet(write_csv(write))
    check(manifest, tmp_path / "images")
    assert decode_image(manifest.source(0)).shape == (4, 6, 3)


def test_images_elsewhere(draw, write, tmp_path):
    draw("elsewhere/N_1/a.jpg")
    check(read_emotionet(write_csv(write), root=tmp_path / "elsewhere"), tmp_path / "elsewhere")


def test_local_file_names(write, tmp_path):
    path = write("table.csv", "file,happy,sad\nin/a.jpg,1,0\nb.jpg,,1.0\n")
    assert read_emotionet(path).table["path"].to_pylist() == [str(tmp_path / "in/a.jpg"), str(tmp_path / "b.jpg")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("URL,AU 1,AU 2\nhttp://x/a.jpg,1,0\n", "columns of emotion categories are missing; found url, au_1, au_2"),
        ("happy,sad\n1,0\n", r"columns of URLs or files \(path\) are missing"),
        ("URL,happy,bored\nhttp://x/a.jpg,1,0\n", r"columns \['bored'\] are neither"),
        ("URL,happy,Happy\nhttp://x/a.jpg,1,0\n", "columns that differ in case or spaces only"),
        ("URL,happy,sad\nhttp://x/a.jpg,1,0\nhttp://x/b.jpg,2,0\n", "table.csv, row 1: happy '2'. Allowed: 1, 0"),
        ("URL,happy,sad\nhttp://x/a.jpg,1,0\nhttp://y/a.jpg,0,1\n", "a.jpg is happiness in row 0 .* sadness in row 1"),
        ("path,happy\n../a.jpg,1\n", "row 0: path '../a.jpg' names no file inside"),
        ("URL,happy\nhttp://x/Images/../../a.jpg,1\n", "row 0: path .* names no file inside"),
        ("URL,happy,sad\nhttp://x/a.jpg,0,0\n", r"no labelled images \(left out: 1 no emotion category\)"),
    ],
)
def test_a_wrong_table_is_named(write, text, message):
    with pytest.raises(DataError, match=message):
        read_emotionet(write("table.csv", text))


def test_a_spreadsheet_is_asked_for_as_csv(tmp_path):
    with pytest.raises(DataError, match=r"table\.xlsx: a spreadsheet.*Allowed: saved as CSV"):
        read_emotionet(tmp_path / "table.xlsx")
