import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fsspec")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from motivnet.bulk import fsspec_files, image_sources  # noqa: E402
from motivnet.bulk.image_sources import Input, open_source  # noqa: E402
from motivnet.errors import ConfigError, DataError, ImageError  # noqa: E402
from motivnet.images import ImageLimits  # noqa: E402
from motivnet.preprocess import Box  # noqa: E402

LIMITS = ImageLimits()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images a.png, b/c.png; a hidden one and a text."""
    (tmp_path / "b").mkdir()
    for name in ("a.png", "b/c.png", ".hidden.png"):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def spell(item: Input) -> tuple:
    """Give the name, the path or bytes, and the error of an input."""
    failed = isinstance(item.image.image, ImageError)
    return (item.image.name, b"" if failed else item.image.image, str(item.image.image) if failed else None)


def read(src: object, start: int = 0, stop: int = 1000) -> list[tuple]:
    source = open_source(str(src))
    part = source.slice(start, min(stop, len(source)))
    found = [spell(item) for item in part.read(LIMITS)]
    assert len(found) == len(part)
    return found


def test_a_folder_is_read_in_order_to_the_bottom(folder):
    assert [name for name, _, _ in read(folder)] == [str(folder / "a.png"), str(folder / "b" / "c.png")]


def test_the_fingerprint_follows_names_and_sizes(folder):
    first = open_source(str(folder)).fingerprint
    assert open_source(str(folder)).fingerprint == first
    (folder / "a.png").write_bytes(b"")
    assert open_source(str(folder)).fingerprint != first


@pytest.mark.parametrize(
    ("name", "text"), [("l.txt", "b/c.png\n\na.png\n"), ("l.csv", "id,path\n1,b/c.png\n2,a.png\n")]
)
def test_paths_of_a_list_count_from_its_folder(folder, name, text):
    (folder / name).write_text(text)
    assert [name for name, _, _ in read(folder / name)] == [str(folder / "b" / "c.png"), str(folder / "a.png")]


def test_parquet_rows_have_bytes_or_paths_across_row_groups(folder):
    path = folder / "l.parquet"
    table = pa.table({"bytes": [b"0", b"1", None, b"3", None], "path": [None, "x.png", "a.png", None, None]})
    parquet.write_table(table, path, row_group_size=2)
    expected = [
        (f"{path}#0", b"0", None),
        (str(folder / "x.png"), b"1", None),
        (str(folder / "a.png"), str(folder / "a.png"), None),
        (f"{path}#3", b"3", None),
        (f"{path}#4", b"", "neither bytes nor path"),
    ]
    assert read(path) == expected
    for start in range(5):
        for stop in range(start + 1, 6):
            assert read(path, start, stop) == expected[start:stop]


def test_a_table_is_read_on_where_the_last_part_ended(folder, monkeypatch):
    opened = []
    real = image_sources._TableReader.__init__
    monkeypatch.setattr(image_sources, "ROWS_PER_READ", 4)
    monkeypatch.setattr(image_sources._TableReader, "__init__", lambda *given: (opened.append(1), real(*given))[1])
    path = folder / "long.parquet"
    parquet.write_table(pa.table({"bytes": [b"%d" % row for row in range(50)]}), path, row_group_size=40)
    source = open_source(str(path))
    opened.clear()
    for start, stop in [(0, 7), (7, 14), (20, 21), (21, 45)]:
        assert [item.image.image for item in source.slice(start, stop).read(LIMITS)] == [
            b"%d" % r for r in range(start, stop)
        ]
    assert len(opened) == 1
    # Back, or ahead into another row group: anew.
    assert [item.image.image for item in source.slice(3, 4).read(LIMITS)] == [b"3"]
    assert [item.image.image for item in source.slice(49, 50).read(LIMITS)] == [b"49"]
    assert len(opened) == 3


def test_a_manifest_gives_the_face_with_the_image(folder):
    from motivnet.data.manifest import make_manifest, write_manifest

    columns = {"label": ["anger"] * 3, "split": ["a"] * 3, "box": [[1, 2, 30, 40], None, None]}
    images = {"path": [str(folder / "a.png"), None, None], "image": [None, b"1", b"2"]}
    write_manifest(make_manifest({**columns, **images}), folder / "m.parquet")
    source = open_source(str(folder / "m.parquet"))
    assert [(item.image.image, item.box) for item in source.slice(0, 3).read(LIMITS)] == [
        (str(folder / "a.png"), Box(1, 2, 30, 40)),
        (b"1", None),
        (b"2", None),
    ]


def test_pairs_of_bytes_and_path_are_what_hugging_face_writes(folder):
    pairs = [{"bytes": b"1", "path": "one.png"}, {"bytes": None, "path": "a.png"}, None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet.write_table(pa.table({"image": pa.array(pairs, kind), "label": [0, 1, 2]}), folder / "hf.parquet")
    assert read(folder / "hf.parquet") == [
        (str(folder / "one.png"), b"1", None),
        (str(folder / "a.png"), str(folder / "a.png"), None),
        (f"{folder / 'hf.parquet'}#2", b"", "neither bytes nor path"),
    ]


def test_urls_are_fetched_and_a_missing_one_says_so(folder):
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe({"/bulk_test/a.png": b"A", "/bulk_test/d/b.jpg": b"B", "/bulk_test/.c.png": b"C"})
    try:
        found = read("memory://bulk_test")
        assert [(name.rsplit("bulk_test/")[1], data, error) for name, data, error in found] == [
            ("a.png", b"A", None),
            ("d/b.jpg", b"B", None),
        ]
        (folder / "l.txt").write_text("memory://bulk_test/gone.png\nmemory://bulk_test/a.png\n")
        gone, there = read(folder / "l.txt")
        assert gone[1] == b""
        assert gone[2].startswith("cannot be fetched: FileNotFoundError")
        assert there == ("memory://bulk_test/a.png", b"A", None)
    finally:
        files.rm("/bulk_test", recursive=True)


@pytest.fixture
def web() -> Iterator[tuple[str, Counter]]:
    """A web server, and how often it was asked for what: `busy` is there at the third GET, `down` never."""
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(405)

        def do_GET(self):
            asked[self.path] += 1
            status = {"/gone.png": 404, "/private.png": 403, "/down.png": 503}.get(self.path, 200)
            if self.path == "/busy.png" and asked[self.path] < 3:
                status = 503
            if status != 200:
                self.send_error(status)
                return
            body = b"x" * 3_000_000
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_what_may_pass_is_fetched_again_and_what_may_not_is_not(folder, web, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(fsspec_files, "RETRY_WAITS_S", (0, 0, 0))
    address, asked = web
    names = ("whole", "busy", "gone", "private", "down")
    (folder / "l.txt").write_text("".join(f"{address}/{name}.png\n" for name in names))
    found = dict(zip(names, read(folder / "l.txt"), strict=True))
    assert [len(found[name][1]) for name in names] == [3_000_000, 3_000_000, 0, 0, 0]
    assert [found[name][2] for name in ("whole", "busy")] == [None, None]
    assert found["gone"][2].startswith("cannot be fetched: ")
    assert "404" in found["gone"][2]
    assert "403" in found["private"][2]
    assert found["down"][2].startswith("cannot be fetched in 4 attempts: ")
    assert "503" in found["down"][2]
    assert (asked["/gone.png"], asked["/private.png"], asked["/down.png"]) == (1, 1, 4)


def test_a_file_is_not_read_far_beyond_the_limit(folder, web):
    pytest.importorskip("aiohttp")
    (found,) = open_source(f"{web[0]}/whole.png").slice(0, 1).read(ImageLimits(max_bytes=1000))
    assert len(found.image.image) == 1001


def test_a_missing_package_is_named(folder, monkeypatch):
    registry = pytest.importorskip("fsspec.registry")
    entry = {"class": "nonesuch_fs.NonesuchFS", "err": "Install nonesuch_fs to access Nonesuch"}
    monkeypatch.setitem(registry.known_implementations, "nonesuch", entry)
    with pytest.raises(ConfigError, match="Install nonesuch_fs"):
        open_source("nonesuch://bucket/folder")
    (folder / "l.txt").write_text("nonesuch://bucket/a.png\n")
    with pytest.raises(ConfigError, match="Install nonesuch_fs"):
        read(folder / "l.txt")


def test_what_is_no_source_is_refused(folder):
    (folder / "empty").mkdir()
    (folder / "l.csv").write_text("name\na.png\n")
    (folder / "l.parquet").write_bytes(b"not parquet")
    (folder / "l.txt").write_text("\n")
    for name, text in {
        "gone": "no such file",
        "empty": "no images in this folder",
        "l.csv": "no column 'path'",
        "l.parquet": "cannot be read",
        "l.txt": "holds no inputs",
    }.items():
        with pytest.raises(DataError, match=text):
            open_source(str(folder / name))
    with pytest.raises((ConfigError, DataError), match="nonesuch"):
        open_source("nonesuch://bucket/folder")


@pytest.mark.parametrize("kind", ["bytes", "pair", "path"])
def test_the_column_of_images_may_have_any_name(tmp_path, kind):
    values = {
        "bytes": [b"one", None],
        "pair": [{"bytes": b"one", "path": "1.png"}, {"bytes": None, "path": "2.png"}],
        "path": ["1.png", None],
    }[kind]
    table = pa.table({"photo": values, "path": ["other", "other"], "box": [[0.0, 0.0, 5.0, 5.0], None]})
    parquet.write_table(table, tmp_path / "m.parquet")
    source = open_source(str(tmp_path / "m.parquet"), "photo")
    first, second = source.slice(0, 2).read(LIMITS)
    assert first.box == Box(0, 0, 5, 5)
    beside = str(tmp_path / "1.png")
    nothing = (f"{tmp_path / 'm.parquet'}#1", b"", "neither bytes nor path")
    assert [spell(first), spell(second)] == {
        "bytes": [(f"{tmp_path / 'm.parquet'}#0", b"one", None), nothing],
        "pair": [(beside, b"one", None), (str(tmp_path / "2.png"), str(tmp_path / "2.png"), None)],
        "path": [(beside, beside, None), nothing],
    }[kind]
    assert source.fingerprint != open_source(str(tmp_path / "m.parquet")).fingerprint


def test_a_column_that_is_not_there_or_of_no_table_is_named(folder):
    parquet.write_table(pa.table({"photo": [1]}), folder / "m.parquet")
    with pytest.raises(DataError, match=r"no column photo, among photo \(int64\)"):
        open_source(str(folder / "m.parquet"), "photo")
    with pytest.raises(ConfigError, match=r"image column .photo.\. Allowed: with a Parquet file"):
        open_source(str(folder), "photo")
