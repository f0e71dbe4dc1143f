"""Contact sheets show a class, at random and always the same."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sheet import GAP_PX, HEADER_PX, PER_SHEET, TILE_PX, contact_sheet, sheet_rows


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """300 rows, of which each third is of anger and red, the others of fear and blue; the red ones are wide."""
    for name, colour, size in (("red", (255, 0, 0), (40, 20)), ("blue", (0, 0, 255), (30, 30))):
        Image.new("RGB", size, colour).save(tmp_path / f"{name}.png")
    names = ["red" if i % 3 == 0 else "blue" for i in range(300)]
    return make_manifest(
        {
            "path": [str(tmp_path / f"{name}.png") for name in names],
            "label": ["anger" if name == "red" else "fear" for name in names],
            "split": ["train"] * 300,
        }
    )


def test_rows_are_of_the_class_usable_in_order_and_the_same_again(manifest: Manifest) -> None:
    usable = np.arange(300) % 7 != 0
    rows = sheet_rows(manifest, "fear", usable)
    assert len(rows) == PER_SHEET
    assert (rows % 3 != 0).all()
    assert usable[rows].all()
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == sheet_rows(manifest, "fear", usable).tolist()
    assert rows.tolist() != sheet_rows(manifest, "fear", usable, seed=1).tolist()
    assert len(sheet_rows(manifest, "anger", usable)) == (usable & (np.arange(300) % 3 == 0)).sum()


def test_every_tile_shows_its_image_whole(manifest: Manifest) -> None:
    sheet = np.asarray(contact_sheet(manifest, "anger", np.ones(300, np.bool_)))
    first = sheet[HEADER_PX : HEADER_PX + TILE_PX, GAP_PX : GAP_PX + TILE_PX]
    assert (first[TILE_PX // 2] == (255, 0, 0)).all()
    assert (first[0] == 255).all()  # a wide image leaves paper above
    assert ((sheet == (255, 0, 0)).all(2).sum()) == 100 * TILE_PX * TILE_PX // 2


def test_only_the_face_is_shown(tmp_path: Path) -> None:
    pixels = np.zeros((50, 80, 3), np.uint8)
    pixels[10:30, 40:60] = (0, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    columns = {"path": [str(tmp_path / "scene.png")], "label": ["anger"], "split": ["all"], "box": [(40, 10, 20, 20)]}
    sheet = np.asarray(contact_sheet(make_manifest(columns), "anger", np.ones(1, np.bool_)))
    assert ((sheet == (0, 255, 0)).all(2).sum()) == TILE_PX**2
    assert not (sheet == 0).all(2).any()


def test_a_class_without_rows_has_an_empty_sheet(manifest: Manifest) -> None:
    sheet = contact_sheet(manifest, "disgust", np.ones(300, np.bool_))
    colours = {colour for _, colour in sheet.getcolors(100_000)}
    assert (255, 255, 255) in colours
    assert not colours & {(255, 0, 0), (0, 0, 255)}
