"""Data by name: kinds, options and their types, and manifests read back."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motivnet.data.manifest import make_manifest, write_manifest
from motivnet.data.sources.named import READERS, read_source, split_off
from motivnet.errors import ConfigError, DataError
from motivnet.images import decode_image

CONTRACT = {
    "folder",
    "csv",
    "affectnet",
    "ckplus",
    "cremad",
    "dfew",
    "ferv39k",
    "mafw",
    "ravdess",
    "jaffe",
    "rafdb",
    "sfew",
    "expw",
    "emotionet",
    "fer2013",
    "manifest",
}


def test_every_kind_of_the_contract_has_a_reader():
    assert set(READERS) == CONTRACT | {"parquet", "motivnet-json", "images"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("faces.csv", "names no data set. Allowed: KIND:PATH"),
        ("csv:", "names no data"),
        ("afectnet:x", "unknown kind of data 'afectnet'; did you mean 'affectnet'"),
        ("ckplus:x?peak_frame=3", "unknown option of ckplus 'peak_frame'; did you mean 'peak_frames'"),
        ("ckplus:x?peak_frames=three", "option peak_frames of ckplus: expected int, found 'three'"),
        ("ckplus:x?peak_frames=1&peak_frames=2", "Allowed: peak_frames=VALUE, once"),
        ("ckplus:x?peak_frames", "Allowed: peak_frames=VALUE, once"),
        ("ckplus:x?neutral=maybe", "option neutral of ckplus: unknown value 'maybe'"),
        ("affectnet:x?classes=9", "option classes of affectnet: unknown value '9'.* Allowed: 7, 8"),
        ("rafdb:x?images=alligned", "unknown value 'alligned'; did you mean 'aligned'"),
        ("expw:x?min_confidence=high", "expected float, found 'high'"),
        ("jaffe:~nobody-by-that-name/x", "nobody-by-that-name.*home directory"),
        ("jaffe:x?root=y", "unknown option of jaffe 'root'.*Allowed: detect, fold"),
        ("images:x?labels=y", "unknown option of images 'labels'"),
    ],
)
def test_a_text_that_names_nothing_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        read_source(text)


@pytest.mark.parametrize("kind", sorted(READERS))
def test_data_that_is_not_there_is_an_error_of_the_data(kind, tmp_path):
    with pytest.raises(DataError, match="absent"):
        read_source(f"{kind}:{tmp_path / 'absent'}")


@pytest.mark.parametrize("kind", sorted(READERS))
def test_an_empty_folder_is_an_error_of_the_data(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        read_source(f"{kind}:{tmp_path / 'empty'}")


def test_options_reach_the_reader_and_paths_are_absolute(draw, write, tmp_path, monkeypatch):
    draw("faces/a.png")
    write("labels.csv", "path,label\na.png,happy\n")
    monkeypatch.chdir(tmp_path)
    manifest = read_source("csv:labels.csv?root=faces&split=mine")
    assert manifest.table["path"].to_pylist() == [str(tmp_path / "faces" / "a.png")]
    assert manifest.table["split"].to_pylist() == ["mine"]
    assert decode_image(manifest.source(0)).shape == (4, 6, 3)


def test_folders_may_hold_contempt(draw, tmp_path):
    draw("faces/happy/a.png")
    assert len(read_source(f"folder:{tmp_path / 'faces'}").labels) == 7
    draw("faces/contempt/b.png")
    manifest = read_source(f"folder:{tmp_path / 'faces'}")
    assert manifest.table["label"].to_pylist() == ["contempt", "happiness"]
    assert len(manifest.labels) == 8


def test_no_image_of_a_folder_is_left_out_silently(draw, tmp_path):
    draw("faces/train/happy/a.png")
    loose = draw("faces/train/b.png")
    with pytest.raises(DataError, match=r"b.png: an image in no folder of a label"):
        read_source(f"folder:{tmp_path / 'faces'}")
    loose.unlink()
    draw("faces/c.png")
    with pytest.raises(DataError, match=r"c.png: an image in no folder of a label"):
        read_source(f"folder:{tmp_path / 'faces'}")


def test_what_macos_leaves_in_archives_is_no_image(draw, write, tmp_path):
    draw("faces/happy/a.png")
    write("faces/happy/._a.png", "AppleDouble")
    write("__MACOSX/faces/happy/._a.png", "AppleDouble")
    (tmp_path / "faces" / "__MACOSX").mkdir()
    assert len(read_source(f"folder:{tmp_path / 'faces'}")) == 1


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.parquet"
    columns = {
        "path": ["/data/a.png", "/data/a.png"],
        "label": ["anger", "fear"],
        "split": ["train", "test"],
        "box": [(0, 0, 2, 2), (2, 0, 2, 2)],
        "groups": [[("race", "Asian")], []],
        "valence": [0.5, None],
    }
    write_manifest(make_manifest(columns, dropped={"blurred": 3}), path)
    return path


def test_a_stored_manifest_is_read_back(stored):
    manifest = read_source(f"manifest:{stored}")
    assert manifest.dropped == {"blurred": 3}
    assert manifest.table["groups"].to_pylist() == [[("race", "Asian")], []]
    assert manifest.table["box"].to_pylist() == [[0, 0, 2, 2], [2, 0, 2, 2]]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", ["anger", "bored"], "row 1: label 'bored'. Allowed: neutral"),
        ("label", [None, "fear"], "row 0: label None"),
        ("split", ["train", None], "row 1: split None"),
        ("path", [None, "/data/a.png"], "row 0: path None. Allowed: a file, or an image"),
        ("box", [[0, 0, 2, 2], [0, 0, 2, 2]], "a.png with box .* is anger in row 0 .* and fear in row 1 of split test"),
        ("valence", ["high", "low"], "is no manifest: Failed to parse"),
    ],
)
def test_a_manifest_that_was_edited_is_checked(stored, column, values, message):
    table = pq.read_table(stored)
    kind = pa.string() if column == "valence" else table.schema.field(column).type
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, kind)), stored)
    with pytest.raises(DataError, match=message):
        read_source(f"manifest:{stored}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"emotion,pix\x8fels,Usage\n", "cannot be read as CSV"),
        (b"emotion,pixels,Usage\n", "no labelled images"),
        (b"emotion,pixels,Usage\n0,99999999999999999999,Training\n", "row 0: expected 2304 pixels"),
        (b"emotion,pixels,Usage\n0,1 2\n", "row 0: 2 cells, the header has 3"),
    ],
)
def test_a_fer2013_csv_that_is_damaged(tmp_path, data, message):
    (tmp_path / "fer2013.csv").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_source(f"fer2013:{tmp_path / 'fer2013.csv'}")


@pytest.mark.parametrize(
    ("text", "split", "expected"),
    [
        ("fer2013:f.parquet@PrivateTest", None, ("fer2013:f.parquet", "PrivateTest")),
        ("fer2013:f.parquet@PrivateTest", "PrivateTest", ("fer2013:f.parquet", "PrivateTest")),
        ("affectnet:F?classes=7@val", None, ("affectnet:F?classes=7", "val")),
        ("fer2013:f.parquet", "PublicTest", ("fer2013:f.parquet", "PublicTest")),
        ("fer2013:f.parquet@", "PublicTest", ("fer2013:f.parquet", "PublicTest")),
        ("folder:a@b/c", None, ("folder:a@b/c", None)),
        ("csv:x.csv?labels=a@b,c", None, ("csv:x.csv?labels=a", "b,c")),
        ("faces.csv", None, ("faces.csv", None)),
    ],
)
def test_a_split_stands_after_the_data(text, split, expected):
    assert split_off(text, split) == expected


def test_a_file_with_such_a_name_has_no_split(tmp_path):
    (tmp_path / "me@home").mkdir()
    assert split_off(f"folder:{tmp_path}/me@home") == (f"folder:{tmp_path}/me@home", None)
    assert split_off(f"folder:{tmp_path}/me@home@all", required=True) == (f"folder:{tmp_path}/me@home", "all")


@pytest.mark.parametrize(
    ("text", "split", "required", "message"),
    [("a:b@c", "d", False, "a:b@c: another split than d"), ("a:b", None, True, "a:b: no split")],
)
def test_two_splits_or_none_where_one_is_needed(text, split, required, message):
    with pytest.raises(ConfigError, match=f"{message}. Allowed: KIND:PATH@SPLIT"):
        split_off(text, split, required=required)


class TestOwnLabels:
    def make(self, root: Path, *names: str) -> str:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"")
        return f"folder:{root}"

    def test_folders_of_other_names_are_labels(self, tmp_path):
        found = read_source(self.make(tmp_path, "calm/1.png", "tense/2.png", "tense/3.png", ".cache/4.png"))
        assert found.labels.names == ("calm", "tense")
        assert found.counts() == {"all": {"calm": 1, "tense": 2}}

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("happy/1.png", "tense/2.png"), "tense: is not a label. .*or your own, as in folder:PATH[?]labels=calm"),
            (("train/1.png", "test/2.png"), "an image in no folder of a label"),
            (("a/calm/1.png", "b/calm/2.png"), "calm: is not a label"),
            (("calm/1.png",), "an image in no folder of a label"),
        ],
    )
    def test_what_may_be_a_mistake_is_one(self, tmp_path, names, message):
        with pytest.raises(DataError, match=message):
            read_source(self.make(tmp_path, *names))
