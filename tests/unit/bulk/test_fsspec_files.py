import pickle

import pytest

pytest.importorskip("fsspec")

from motivnet.bulk.fsspec_files import OutputFolder
from motivnet.errors import ConfigError, OutputError
from motivnet.storage import temporary_name


@pytest.fixture(params=["path", "file", "memory"])
def folder(request, tmp_path):
    where = {"path": tmp_path / "a" / "b", "file": f"file://{tmp_path}/a/b/", "memory": "memory://bulk_folder/a/b"}
    yield OutputFolder(where[request.param])
    if request.param == "memory":
        import fsspec

        fsspec.filesystem("memory").rm("/bulk_folder", recursive=True)


def test_files_come_whole_and_replace_each_other(folder):
    assert folder.names() == set()
    folder.write("x", b"one")
    other = pickle.loads(pickle.dumps(folder))
    other.write("x", b"three")
    assert folder.names() == {"x"}
    assert (folder.read("x"), folder.read("x", last=2), folder.read("x", last=100)) == (b"three", b"ee", b"three")


def test_only_leftovers_of_writers_are_removed(folder):
    folder.names()
    folder.write("x", b"")
    for name in (temporary_name("x"), ".x.tmp", ".hidden"):
        folder._files.pipe_file(f"{folder._root}/{name}", b"half")
    folder.remove_leftovers()
    assert folder.names() == {"x", ".x.tmp", ".hidden"}


def test_a_write_that_fails_leaves_nothing(folder, monkeypatch):
    folder.names()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(folder._files), "mv", full)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"x:? cannot be written: No space left on device"):
        folder.write("x", b"data")
    assert folder.names() == set()


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be used"):
        OutputFolder(tmp_path / "file").names()
    with pytest.raises(OutputError, match="cannot be read"):
        OutputFolder(tmp_path).read("missing")
    with pytest.raises(ConfigError, match="nonesuch"):
        OutputFolder("nonesuch://bucket")
