from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.errors import OutputError
from motivnet.inference.draw import plan_targets, write_annotated
from motivnet.inference.results import FaceResult
from motivnet.preprocess import Box


class TestTargets:
    def test_names_are_unique_and_say_where_they_come_from(self, tmp_path):
        sources = [Path(name) for name in ("a/x.jpg", "b/X.jpg", "c/b/x.jpg", "a/x.webp", "a/x.png", "y.JPEG")]
        found = [path.name for path in plan_targets(sources, tmp_path / "out", overwrite=False)]
        assert found == ["x.jpg", "b-X.jpg", "x-2.jpg", "x.png", "a-x.png", "y.JPEG"]
        assert (tmp_path / "out").is_dir()

    def test_existing_files_are_kept_unless_told(self, tmp_path):
        (tmp_path / "x.png").write_text("precious")
        with pytest.raises(OutputError, match="exists already; --overwrite"):
            plan_targets([Path("a/x.png")], tmp_path, overwrite=False)
        assert plan_targets([Path("a/x.png")], tmp_path, overwrite=True) == [tmp_path / "x.png"]

    def test_photographs_are_never_overwritten(self, tmp_path):
        (tmp_path / "x.jpg").write_text("the original")
        with pytest.raises(OutputError, match="is one of the photographs"):
            plan_targets([tmp_path / "x.jpg"], tmp_path, overwrite=True)

    def test_a_folder_that_cannot_be_created_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot be created"):
            plan_targets([Path("x.jpg")], tmp_path / "file" / "out", overwrite=False)


def test_writes_the_format_of_the_extension(tmp_path):
    image = np.zeros((480, 640, 3), np.uint8)
    face = FaceResult(Box(300, 200, 80, 100), 0.9, "happiness", {"neutral": 0.07, "happiness": 0.93})
    for name, format_name in (("x.jpg", "JPEG"), ("x.png", "PNG")):
        write_annotated(image, [face], tmp_path / name)
        with Image.open(tmp_path / name) as written:
            assert (written.format, written.size) == (format_name, (640, 480))
    assert {path.name for path in tmp_path.iterdir()} == {"x.jpg", "x.png"}


def test_a_picture_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OutputError, match=r"x\.png: cannot be written"):
        write_annotated(np.zeros((480, 640, 3), np.uint8), [], tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
