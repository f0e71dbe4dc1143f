"""Generic tables: CSV, Parquet, and the JSON of lists of files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motivnet.data.sources.named import read_source
from motivnet.data.sources.tables import read_csv, read_motivnet_json, read_parquet
from motivnet.errors import DataError
from motivnet.images import decode_image

HEADER = "path,label,split,subject,valence,arousal,x,y,width,height,race,age"


def test_every_column_of_a_csv(write, tmp_path):
    path = write(
        "faces.csv",
        f"{HEADER}\nin/a.jpg,Happy,train,S1,0.5,-1,1,2,3,4,Asian,30\nb.jpg,anger,test,,,,,,,,,\n",
    )
    table = read_csv(path).table
    assert table["path"].to_pylist() == [str(tmp_path / "in" / "a.jpg"), str(tmp_path / "b.jpg")]
    assert table["label"].to_pylist() == ["happiness", "anger"]
    assert table["split"].to_pylist() == ["train", "test"]
    assert table["subject"].to_pylist() == ["S1", None]
    assert table["valence"].to_pylist() == [0.5, None]
    assert table["arousal"].to_pylist() == [-1.0, None]
    assert table["box"].to_pylist() == [[1, 2, 3, 4], None]
    assert table["groups"].to_pylist() == [[("race", "Asian"), ("age", "30")], []]
    assert table["row"].to_pylist() == [0, 1]


def test_byte_order_mark_spaces_and_blank_lines(write):
    path = write("faces.csv", "\ufeffimage, label\r\n\r\na.jpg, sad\r\nb.jpg, contempt\r\n")
    manifest = read_csv(path, split="mine")
    assert manifest.table["label"].to_pylist() == ["sadness", "contempt"]
    assert manifest.table["split"].to_pylist() == ["mine", "mine"]
    assert len(manifest.labels) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,emotion\na.jpg,happy\n", r"columns \['label'\] are missing; found path, emotion"),
        ("label\nhappy\n", r"columns \['path'\] are missing"),
        ("path,label,x,y\na.jpg,happy,1,2\n", r"columns \['height', 'width'\] are missing"),
        ("path,label,path\na.jpg,happy,b.jpg\n", r"columns \['path'\] are repeated"),
        ("path,label,votes\na.jpg,happy,1\n", r"columns \['votes'\] are a manifest's"),
        ("", "are missing; found none"),
        ("path,label\n", "no labelled images"),
        ("path,label\na.jpg,happy\nb.jpg,bored\n", "faces.csv, row 1: unknown label 'bored'"),
        ("path,label\na.jpg,\n", "row 0: unknown label ''"),
        ("path,label\na.jpg,happy\n,happy\n", "row 1: neither path nor image"),
        ("path,image,label\na.jpg,b.jpg,happy\n", "row 0: both path and image"),
        ("path,label\na.jpg,happy,more\n", "row 0: 3 cells, the header has 2"),
        ("path,label\na.jpg\n", "row 0: 1 cells, the header has 2"),
        ("path,label\n../a.jpg,happy\n", "row 0: path '../a.jpg' names no file inside"),
        ("path,label\nin/../../a.jpg,happy\n", "row 0: path 'in/../../a.jpg' names no file inside"),
        ("path,label\n..\\a.jpg,happy\n", "names no file inside"),
        ("path,label\n/etc/passwd,happy\n", "row 0: path '/etc/passwd' names no file inside"),
        ("path,label\nC:/a.jpg,happy\n", "row 0: path 'C:/a.jpg' names no file inside"),
        ("path,label\n.,happy\n", "row 0: path '.' names no file inside"),
        ("path,label,valence\na.jpg,happy,1.5\n", "row 0: valence '1.5'. Allowed: a number from -1 to 1"),
        ("path,label,arousal\na.jpg,happy,nan\n", "row 0: arousal 'nan'. Allowed: a number from -1 to 1"),
        ("path,label,x,y,width,height\na.jpg,happy,0,0,0,5\n", "row 0: a box of 0 x 5 pixels"),
        ("path,label,x,y,width,height\na.jpg,happy,0,0,5,\n", "row 0: height ''. Allowed: a number"),
        ("path,label,x,y,width,height\na.jpg,happy,0,0,inf,5\n", "row 0: width 'inf'"),
        (
            "path,label\na.jpg,happy\nb.jpg,sad\nin/../a.jpg,sad\n",
            "faces.csv: .*a.jpg is happiness in row 0 of split all and sadness in row 2 of split all",
        ),
    ],
)
def test_a_wrong_csv_is_named_with_its_row(write, text, message):
    with pytest.raises(DataError, match=message):
        read_csv(write("faces.csv", text))


def test_a_csv_that_is_no_text(tmp_path):
    (tmp_path / "faces.csv").write_bytes(b"path,label\n\xff\xfe,happy\n")
    with pytest.raises(DataError, match=r"faces.csv: cannot be read as CSV"):
        read_csv(tmp_path / "faces.csv")


def test_one_image_may_recur_under_its_label_and_hold_several_faces(write):
    text = "path,label,x,y,width,height\na.jpg,happy,0,0,5,5\na.jpg,sad,5,0,5,5\na.jpg,happy,0,0,5,5\n"
    assert len(read_csv(write("faces.csv", text))) == 3


def test_paths_inside_an_absolute_root(write, tmp_path):
    path = write("lists/faces.csv", f"path,label\n{tmp_path}/images/a.jpg,happy\n")
    assert read_csv(path, root=tmp_path / "images").table["path"].to_pylist() == [f"{tmp_path}/images/a.jpg"]
    with pytest.raises(DataError, match="names no file inside"):
        read_csv(path)


def test_a_root_that_is_a_prefix_of_a_name_is_not_its_folder(write, tmp_path):
    path = write("faces.csv", f"path,label\n{tmp_path}/images2/a.jpg,happy\n")
    with pytest.raises(DataError, match="names no file inside"):
        read_csv(path, root=tmp_path / "images")


def test_parquet_without_labels_with_a_box_and_an_image_column_of_another_name(draw, tmp_path):
    path, data = tmp_path / "faces.parquet", draw("a.png").read_bytes()
    columns = {"jpeg": [data] * 60, "image_id": [f"{row:05}" for row in range(60)], "source": ["here"] * 60}
    pq.write_table(pa.table(columns), path)
    manifest = read_source(f"parquet:{path}?unlabelled=true&image=jpeg&box=1,0,4,3")
    assert set(manifest.table["label"].to_pylist()) == {"unlabelled"}
    assert manifest.table["box"].to_pylist() == [[1, 0, 4, 3]] * 60
    assert manifest.source(59) == data
    # A column that identifies the images is no group.
    assert manifest.table["groups"].to_pylist() == [[("source", "here")]] * 60
    with pytest.raises(DataError, match=r"columns \['label'\] are missing"):
        read_parquet(path, image="jpeg")
    with pytest.raises(DataError, match=r"columns \['path'\] are missing; found jpeg, image_id"):
        read_parquet(path, unlabelled=True)
    with pytest.raises(DataError, match=r"option box: height ''. Allowed: a number"):
        read_parquet(path, image="jpeg", unlabelled=True, box="1,2,3")


def test_a_box_of_its_own_comes_first(draw, tmp_path):
    path, data = tmp_path / "faces.parquet", draw("a.png").read_bytes()
    box = {"x": [0, None], "y": [0, None], "width": [2, None], "height": [2, None]}
    pq.write_table(pa.table({"image": [data] * 2, "label": ["happy"] * 2, **box}), path)
    assert read_parquet(path, box="1,0,4,3").table["box"].to_pylist() == [[0, 0, 2, 2], [1, 0, 4, 3]]


def test_parquet_with_paths_with_bytes_and_with_structs(draw, tmp_path):
    data = draw("a.png").read_bytes()
    labels = pa.array(["happy", "sad"])
    path = tmp_path / "faces.parquet"

    pq.write_table(pa.table({"image": pa.array([data, data]), "label": labels, "age": [30, None]}), path)
    manifest = read_parquet(path)
    assert decode_image(manifest.source(1)).shape == (4, 6, 3)
    assert manifest.table["path"].to_pylist() == [None, None]
    assert manifest.table["groups"].to_pylist() == [[("age", "30")], []]

    pq.write_table(pa.table({"image": [{"bytes": data, "path": "a.png"}] * 2, "label": labels}), path)
    assert read_parquet(path).source(0) == data

    columns = {"path": ["a.png", "b.png"], "label": labels, "valence": [float("nan"), 0.5]}
    pq.write_table(pa.table(columns), path)
    manifest = read_parquet(path)
    assert manifest.source(0) == str(tmp_path / "a.png")
    assert manifest.table["valence"].to_pylist() == [None, 0.5]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": ["happy"]}, r"columns \['path'\] are missing"),
        ({"path": ["a.png"], "label": [3]}, "row 0: unknown label '3'"),
        ({"path": [5], "label": ["happy"]}, "row 0: 5 is not a file name"),
        ({"path": ["a.png"], "label": ["happy"], "face": [b"x"]}, "column 'face' is binary. Allowed: text, numbers"),
        ({"path": ["a.png"], "label": ["happy"], "face": [[1, 2]]}, "column 'face' is list<.*>. Allowed: text, num"),
        ({"path": ["../a.png"], "label": ["happy"]}, "row 0: path '../a.png' names no file inside"),
        ({"path": ["a.png", "a.png"], "label": ["happy", "sad"]}, "a.png is happiness in row 0 .* sadness in row 1"),
    ],
)
def test_a_wrong_parquet_is_named_with_its_row(tmp_path, columns, message):
    path = tmp_path / "faces.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError, match=f"faces.parquet.*{message}"):
        read_parquet(path)


def test_a_damaged_parquet(tmp_path):
    (tmp_path / "faces.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_parquet(tmp_path / "faces.parquet")


def test_json_of_lists(write, tmp_path):
    path = write("faces.json", json.dumps({"Happy": ["a.jpg", "in/b.jpg"], "anger": ["c.jpg"], "fear": []}))
    manifest = read_motivnet_json(path, split="val")
    assert manifest.table["label"].to_pylist() == ["happiness", "happiness", "anger"]
    assert manifest.table["path"].to_pylist() == [str(tmp_path / name) for name in ("a.jpg", "in/b.jpg", "c.jpg")]
    assert manifest.counts()["val"]["happiness"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"happy": ["a.jpg"]', "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('[{"happy": ["a.jpg"]}]', "not {label"),
        ('"happy"', "not {label"),
        ('{"happy": "a.jpg"}', "not {label"),
        ('{"happy": {"a.jpg": ["b.jpg"]}}', r"\('a.jpg', \['b.jpg'\]\) is not a file name"),
        ('{"happy": ["a.jpg", 7]}', r"row 1 \(happy\): 7 is not a file name"),
        ('{"happy": ["a.jpg"], "bored": ["b.jpg"]}', "row 1: unknown label 'bored'"),
        ('{"happy": ["a.jpg"], "happy": ["b.jpg"]}', "label 'happy' is repeated"),
        ('{"happy": ["a.jpg"], "sad": ["../b.jpg"]}', r"row 1 \(sad\): path '../b.jpg' names no file inside"),
        ('{"happy": ["a.jpg"], "sad": ["a.jpg"]}', "a.jpg is happiness in row 0 .* and sadness in row 1"),
        ("{}", "no labelled images"),
    ],
)
def test_a_wrong_json(write, text, message):
    with pytest.raises(DataError, match=message):
        read_motivnet_json(write("faces.json", text))
