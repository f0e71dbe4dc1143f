import os
from pathlib import Path

import pytest

from motivnet.cli.inputs import find_images, parse_threshold
from motivnet.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "A.PNG", "notes.txt", "deep/er/c.WebP", ".hidden.jpg", ".cache/d.jpg", "x[1].jpg"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path


def names(folder: Path, *arguments: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images([str(folder / a) for a in arguments])]


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
        ("empty", "no images in this folder. Looked for .*jpeg"),
        ("texts", "no images in this folder"),
    ],
)
def test_arguments_that_name_nothing_are_refused(folder, argument, message):
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("hello")
    with pytest.raises(DataError, match=message):
        names(folder, "b.jpg", argument)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(folder):
    os.mkfifo(folder / "pipe.jpg")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        names(folder, "pipe.jpg")


@pytest.mark.parametrize(("text", "value"), [("0.6", 0.6), ("1", 1.0), (" .5 ", 0.5), ("stored", "stored")])
def test_thresholds_are_numbers_or_the_stored_one(text, value):
    assert parse_threshold(text) == value


@pytest.mark.parametrize("text", ["", "60%", "Stored", "high"])
def test_what_is_no_threshold(text):
    with pytest.raises(ConfigError, match=r"Allowed: a probability such as 0\.6, or stored"):
        parse_threshold(text)
