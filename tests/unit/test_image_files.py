"""The walk through a folder, and reading what is no regular file."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from motivnet import image_files
from motivnet.bulk.image_sources import open_source
from motivnet.cli.inputs import find_inputs
from motivnet.data.sources.named import read_source
from motivnet.errors import DataError, ImageError
from motivnet.image_files import MAX_NAMED, describe_skipped, read_file, walk_images

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs of all kinds in folders, linked folders, loops, a pipe, and files that are no images."""
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "other" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.HEIC", "c.mpo", "d.txt", ".hidden.jpg", "sub/e.png", "README", "x.001"):
        (inside / name).write_bytes(b"")
    (tmp_path / "other" / "deep" / "f.webp").write_bytes(b"")
    (inside / "broken.jpg").symlink_to("nowhere")
    (inside / "itself.jpg").symlink_to("itself.jpg")
    (inside / "a-link").symlink_to("sub")
    (inside / "linked").symlink_to(tmp_path / "other")
    (inside / "again").symlink_to(tmp_path / "other" / "deep")
    (inside / "sub" / "up").symlink_to("..")
    (inside / "above").symlink_to(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(inside / "pipe.jpg")
    return inside


# `other/deep` is reached by the link that comes first.
IMAGES = ("a.jpg", "again/f.webp", "b.HEIC", "broken.jpg", "c.mpo", "itself.jpg", "sub/e.png")


def relative(folder: Path, paths: list[str] | list[Path]) -> Iterator[str]:
    return (Path(path).relative_to(folder).as_posix() for path in paths)


@pipes
def test_links_are_followed_once_and_what_is_no_image_is_counted(folder):
    images, skipped = walk_images(folder)
    assert tuple(relative(folder, images)) == IMAGES
    assert skipped == {
        "hidden": 1,
        ".txt": 1,
        "of other names": 2,
        "pipe or device": 1,
        # a-link, sub/up, above, and deep below linked
        "linked folder that was read already": 4,
    }


@pipes
def test_all_verbs_walk_alike(folder):
    inputs, skipped = find_inputs([str(folder)])
    assert tuple(relative(folder, inputs)) == IMAGES
    source = open_source(str(folder))
    assert tuple(relative(folder, source.names)) == IMAGES
    manifest = read_source(f"images:{folder}")
    assert tuple(relative(folder, manifest.table["path"].to_pylist())) == IMAGES
    assert source.skipped == manifest.dropped == skipped == walk_images(folder)[1]


def test_a_folder_that_cannot_be_read_is_a_line_and_not_the_end(folder, monkeypatch):
    scan = os.scandir

    def refuse(path: Path) -> os.PathLike:
        if path == folder / "sub":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    images, skipped = walk_images(folder)
    assert tuple(relative(folder, images)) == IMAGES[:-1]
    assert f"1 unreadable folder {folder / 'sub'} (Permission denied)" in describe_skipped(skipped)


def test_a_folder_that_is_not_there_has_no_images_and_says_why(tmp_path):
    images, skipped = walk_images(tmp_path / "absent")
    assert not images
    with pytest.raises(DataError, match=r"no images in this folder \(skipped 1 unreadable folder .*No such file"):
        raise image_files.no_images("absent", skipped)


def test_only_so_many_kinds_are_named():
    text = describe_skipped({f".{letter}": 1 for letter in "abcdefghij"})
    assert text.count(" 1 ") == MAX_NAMED
    assert text.endswith(", 2 other kinds")
    assert describe_skipped({}) == ""


def test_a_link_upwards_does_not_give_all_images_one_label(tmp_path):
    for label in ("happy", "sad"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").write_bytes(b"")
    (tmp_path / "happy" / "all").symlink_to(tmp_path)
    (tmp_path / "sad" / "here").symlink_to(".")
    counts = read_source(f"folder:{tmp_path}").counts()["all"]
    assert {label: number for label, number in counts.items() if number} == {"happiness": 1, "sadness": 1}


@pipes
def test_a_named_pipe_is_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "PIPE_TIMEOUT_S", 600)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"x" * 200_000,))
    writer.start()
    assert read_file(tmp_path / "pipe", 1_000_000) == b"x" * 200_000
    writer.join()


@pipes
def test_a_pipe_that_nobody_writes_to_is_left_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "PIPE_TIMEOUT_S", 0.01)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match=r"did not end within 0\.01 s"):
        read_file(tmp_path / "pipe", 100)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no such device")
def test_an_endless_device_is_read_to_the_limit():
    assert read_file(Path("/dev/zero"), 1000) == bytes(1001)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 5000, "cannot be read: File name too long"),
        ("zero\0", "cannot be read: embedded null byte"),
        ("absent", "no such file"),
        (".", "is a folder, not an image"),
    ],
)
def test_why_a_file_cannot_be_read_is_said_without_its_name(tmp_path, name, message):
    with pytest.raises(ImageError) as caught:
        read_file(tmp_path / name, 100)
    assert str(caught.value) == message


def test_a_folder_of_a_url_is_counted_alike():
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name in ("walk/a.jpg", "walk/.cache/b.jpg", "walk/c.HEIC", "walk/d.pdf"):
        memory.pipe(f"/{name}", b"")
    source = open_source("memory://walk")
    assert [name.rpartition("/")[2] for name in source.names] == ["a.jpg", "c.HEIC"]
    assert source.skipped == {"hidden": 1, ".pdf": 1}
