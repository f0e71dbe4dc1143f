import collections
import io
import os
import sys
from pathlib import Path

import pytest

from motivnet.cli.inputs import file_name, find_inputs, find_videos, open_inputs
from motivnet.errors import DataError, ImageError
from motivnet.images import NamedImage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "A.PNG", "notes.txt", "deep/er/c.WebP", ".hidden.jpg", ".cache/d.jpg", "x[1].jpg"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path


def names(folder: Path, *arguments: str) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in find_inputs([str(folder / a) for a in arguments])[0]]


def test_folders_are_searched_to_the_bottom_for_images_that_are_not_hidden(folder):
    assert names(folder, "") == ["A.PNG", "b.jpg", "deep/er/c.WebP", "x[1].jpg"]


def test_named_files_are_taken_whatever_their_name_and_in_order(folder):
    assert names(folder, "notes.txt", "b.jpg", ".hidden.jpg", "b.jpg") == ["notes.txt", "b.jpg", ".hidden.jpg", "b.jpg"]


def test_patterns_are_expanded(folder):
    assert names(folder, "*.jpg") == ["b.jpg", "x[1].jpg"]
    assert names(folder, "**/*.WebP") == ["deep/er/c.WebP"]
    # A folder that matches is no image.
    assert names(folder, "*") == ["A.PNG", "b.jpg", "notes.txt", "x[1].jpg"]


def test_a_name_that_looks_like_a_pattern_is_a_name_if_it_exists(folder):
    assert names(folder, "x[1].jpg") == ["x[1].jpg"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("missing.jpg", "no such file or folder"),
        ("*.tiff", "no file matches"),
        ("empty", "no images in this folder. Allowed: .*jpeg"),
        ("texts", r"no images in this folder \(skipped 1 \.txt\)"),
    ],
)
def test_arguments_that_name_nothing_are_refused(folder, argument, message):
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("hello")
    with pytest.raises(DataError, match=message):
        names(folder, "b.jpg", argument)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_an_input_only_where_it_is_named(folder):
    os.mkfifo(folder / "pipe.jpg")
    assert names(folder, "pipe.jpg") == ["pipe.jpg"]
    assert names(folder, "*.jpg") == ["b.jpg", "x[1].jpg"]
    assert find_inputs([str(folder / "*.jpg")])[1] == {"pipe or device": 1}
    # A video would be opened again and again.
    os.mkfifo(folder / "pipe.mp4")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        names(folder, "pipe.mp4")


def test_what_folders_hold_besides_images_is_counted(folder):
    (folder / "\x1b[31m.jpg.docx").write_text("")
    _, skipped = find_inputs([str(folder), str(folder), str(folder / "notes.txt")])
    assert skipped == {"hidden": 4, ".docx": 2, ".txt": 2}


class StandardInput(io.TextIOWrapper):
    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data))
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_texts_that_are_no_paths_are_passed_on(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", StandardInput())
    texts = [
        "http://x.test/*.jpg",
        "HTTPS://x.test",
        "data:image/png;base64,AAAA",
        "-",
        "camera:0",
        "camera:/dev/video3",
    ]
    assert find_inputs([texts[0], str(folder / "b.jpg"), *texts[1:]])[0] == [texts[0], folder / "b.jpg", *texts[1:]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "-"], "can be named once"),
        (["s3://key:secret@bucket/a.jpg"], r"s3://bucket/a\.jpg: Allowed: http:// and https://; `motivnet bulk`"),
        (["file:///a.jpg"], "Allowed: http:// and https://"),
        (["camera:"], "without a number"),
    ],
)
def test_texts_that_name_nothing(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "stdin", StandardInput())
    with pytest.raises(DataError, match=message):
        find_inputs(arguments)


def test_a_terminal_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(sys, "stdin", StandardInput(terminal=True))
    with pytest.raises(DataError, match="standard input is a terminal"):
        find_inputs(["-"])
    for closed in (None, StandardInput()):
        if closed:
            closed.close()
        monkeypatch.setattr(sys, "stdin", closed)
        with pytest.raises(DataError, match="standard input is closed"):
            find_inputs(["-"])


def test_inputs_are_opened_one_by_one(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", StandardInput(b"picture"))
    camera = f"camera:{tmp_path / 'video7'}"
    path, url, stdin, missing = open_inputs([Path("a.jpg"), "http://x.test/", "-", camera], 1.0)
    assert (path, url) == (Path("a.jpg"), "http://x.test/")
    assert stdin == NamedImage("<stdin>", b"picture")
    assert isinstance(missing, NamedImage)
    assert missing.name == camera
    assert isinstance(missing.image, ImageError)


@pytest.mark.parametrize(
    ("named", "name"),
    [
        (Path("a/b.jpg"), "a/b.jpg"),
        ("https://me:secret@x.test:80/a/b%20c.jpg?token=1#d", "x.test-80/b-20c.jpg"),
        ("http://x.test", "x.test/image"),
        ("http://x.test/a/", "x.test/image"),
        ("http://[", "-/image"),
        (f"http://x.test/{'a' * 300}.jpg", f"x.test/{'a' * 96}.jpg"),
        ("data:image/png;base64,AAAA", "data"),
        ("-", "stdin"),
        ("camera:0", "camera-0"),
    ],
)
def test_every_input_has_a_name_fit_for_a_file(named, name):
    assert file_name(named).as_posix() == name


def test_videos_of_a_folder(tmp_path):
    for name in ("b.MP4", "a/deep/c.mov", "photo.jpg", ".hidden.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    skipped = collections.Counter()
    assert find_videos(str(tmp_path), skipped) == [tmp_path / "a/deep/c.mov", tmp_path / "b.MP4"]
    assert find_videos(str(tmp_path / "*.MP4"), skipped) == [tmp_path / "b.MP4"]
    assert skipped == {".jpg": 1, "hidden": 1}
    (tmp_path / "b.MP4").rename(tmp_path / "a/b.txt")
    (tmp_path / "a/deep/c.mov").unlink()
    with pytest.raises(DataError, match=r"no videos in this folder \(skipped .*\)\. Allowed: \.3gp"):
        find_videos(str(tmp_path), skipped)
