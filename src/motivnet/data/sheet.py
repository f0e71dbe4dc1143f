"""Contact sheets: pictures with faces of one class."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from motivnet.data.manifest import Manifest
from motivnet.errors import DataError, ImageError
from motivnet.preprocess import Box, crop

TILE_PX = 96
GAP_PX = 6
CAPTION_PX = 14
HEADER_PX = 44
NUM_COLUMNS = 12
PER_SHEET = 120
INK, PALE, PAPER = "#202124", "#6b7078", "#ffffff"


def read_face(manifest: Manifest, row: int) -> np.ndarray:
    """Decode a row's image, or the middle of its clip, and crop it to the part of its box inside the image.

    Returns:
        RGB, uint8 (h, w, 3).

    Raises:
        ImageError: if the image cannot be decoded.
        DataError: if the box is not at least half in the image.
    """
    (image,) = manifest.read(row)
    box = manifest.table["box"][row].as_py()
    if box is None:
        return image
    height, width = image.shape[:2]
    try:
        x, y, box_width, box_height = Box(*box).inside(image.shape)
    except ImageError as error:
        raise DataError(str(error)) from None
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + box_width, width), min(y + box_height, height)
    return crop(image, Box(left, top, right - left, bottom - top), None)


def sheet_rows(manifest: Manifest, label: str, usable_B: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Sample the rows of a class's sheet: at most PER_SHEET usable ones, in their order."""
    rows = np.flatnonzero((manifest.targets == manifest.labels.index(label)) & usable_B)
    keys = np.random.PCG64(seed).random_raw(len(rows))
    return np.sort(rows[np.argsort(keys, kind="stable")[:PER_SHEET]])


def contact_sheet(manifest: Manifest, label: str, usable_B: np.ndarray, *, seed: int = 0) -> Image.Image:
    """Lay out randomly sampled faces of one class, with row number and split below each.

    Args:
        manifest: the rows.
        label: the class.
        usable_B: which rows have an image.
        seed: random seed.

    Returns:
        An RGB picture.

    Raises:
        ImageError: if an image cannot be decoded.
    """
    rows = sheet_rows(manifest, label, usable_B, seed=seed)
    num_lines = max(1, math.ceil(len(rows) / NUM_COLUMNS))
    across, down = TILE_PX + GAP_PX, TILE_PX + CAPTION_PX + GAP_PX
    sheet = Image.new("RGB", (GAP_PX + NUM_COLUMNS * across, HEADER_PX + num_lines * down), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP_PX, 6), label, INK, ImageFont.load_default(18))
    draw.text((GAP_PX, 28), _subtitle(manifest, label, len(rows)), PALE, ImageFont.load_default(11))
    numbers, splits = (manifest.table[name].take(rows).to_pylist() for name in ("row", "split"))
    for place, row in enumerate(rows.tolist()):
        x, y = GAP_PX + place % NUM_COLUMNS * across, HEADER_PX + place // NUM_COLUMNS * down
        face = Image.fromarray(read_face(manifest, row))
        # Small ones are enlarged.
        sheet.paste(ImageOps.pad(face, (TILE_PX, TILE_PX), Image.Resampling.LANCZOS, color=PAPER), (x, y))
        _write(draw, (x, y + TILE_PX + 1), f"{numbers[place]} {splits[place]}")
    return sheet


def _subtitle(manifest: Manifest, label: str, shown: int) -> str:
    counts = {split: labels[label] for split, labels in manifest.counts().items() if labels[label]}
    splits = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    return f"{sum(counts.values()):,} rows ({splits or 'none'}); {shown} random ones, with row number and split"


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    """Write one line, cut to the width of a tile."""
    font = ImageFont.load_default(10)
    while text and draw.textlength(text, font) > TILE_PX:
        text = text[:-1]
    draw.text(place, text, PALE, font)
