"""Images without labels."""

from pathlib import Path

import pytest
from PIL import Image

from motivnet.data.sources.folder import NO_LABELS
from motivnet.data.sources.named import read_source
from motivnet.errors import DataError
from motivnet.labels import EMOTIONS


def test_every_image_below_a_folder_is_one_split_without_labels(tmp_path: Path) -> None:
    for name in ("b.png", "deep/er/a.JPG", ".hidden.png", "angry/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    manifest = read_source(f"images:{tmp_path}")
    assert manifest.table["path"].to_pylist() == [
        str(tmp_path / name) for name in ("angry/c.png", "b.png", "deep/er/a.JPG")
    ]
    assert manifest.labels == NO_LABELS
    assert manifest.counts() == {"all": {"unlabelled": 3, "labelled": 0}}
    # Whatever learns or scores emotions refuses such rows.
    with pytest.raises(DataError, match="found unlabelled"):
        manifest.restrict(EMOTIONS)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images in this folder\. Allowed: \.avif"):
        read_source(f"images:{tmp_path}")
    with pytest.raises(DataError, match="no such folder"):
        read_source(f"images:{tmp_path / 'absent'}")
