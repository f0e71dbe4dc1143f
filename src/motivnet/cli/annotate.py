"""Photographs with boxes and emotions drawn on them, legible at any size."""

import contextlib
import itertools
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motivnet.errors import OutputError

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    from motivnet.inference.results import FaceResult

    Rectangle = tuple[float, float, float, float]  # left, top, right, bottom

COLORS = {
    "neutral": "#b8c0c8",
    "happiness": "#ffd23f",
    "sadness": "#5aa9ff",
    "surprise": "#ff9f1c",
    "fear": "#c58cff",
    "disgust": "#7bd148",
    "anger": "#ff5a52",
}
OTHER_COLOR = "#ffffff"
INK = "#101418"

# Smaller photographs are enlarged, or the words would not fit on them.
MIN_LONG_SIDE_PX = 480
JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif")


def plan_targets(sources: Sequence[Path], folder: Path, *, overwrite: bool) -> list[Path]:
    """Choose a file in `folder` for every photograph, and make the folder.

    JPEG stays JPEG, everything else becomes PNG. Where names recur, the later ones get the name of their folder in
    front, or a number behind.

    Raises:
        OutputError: if a file exists already, is one of the photographs, or the folder cannot be made.
    """
    taken: set[str] = set()
    targets = []
    for source in sources:
        extension = source.suffix if source.suffix.lower() in JPEG_EXTENSIONS else ".png"
        target = folder / _unused_name(source, extension, taken)
        if target.exists() and not overwrite:
            raise OutputError(f"{target}: exists already; --overwrite replaces it")
        targets.append(target)
    originals = {source.resolve() for source in sources}
    for target in targets:
        if target.resolve() in originals:
            raise OutputError(f"{target}: is one of the photographs; annotate into another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from None
    return targets


def _unused_name(source: Path, extension: str, taken: set[str]) -> str:
    numbered = (f"{source.stem}-{number}" for number in itertools.count(2))
    stems = itertools.chain([source.stem, f"{source.absolute().parent.name}-{source.stem}"], numbered)
    # Some file systems do not tell upper from lower case.
    name = next(name for stem in stems if (name := f"{stem}{extension}").casefold() not in taken)
    taken.add(name.casefold())
    return name


def write_annotated(image_hwc_u8: Any, faces: Iterable["FaceResult"], target: Path) -> None:
    """Draw the faces on an upright RGB image, uint8 (h, w, 3), and write it: completely, or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    from PIL import Image

    drawn = draw_faces(Image.fromarray(image_hwc_u8), faces)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    is_jpeg = target.suffix.lower() in JPEG_EXTENSIONS
    try:
        drawn.save(unfinished, **({"format": "JPEG", "quality": 92} if is_jpeg else {"format": "PNG"}))
        unfinished.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def draw_faces(image: "Image.Image", faces: Iterable["FaceResult"]) -> "Image.Image":
    """Give a copy of an RGB image with a box, the emotion and its probability for every face.

    Where the model abstains, the emotion has a question mark and no colour.
    """
    from PIL import Image, ImageDraw, ImageFont

    zoom = max(1, math.ceil(MIN_LONG_SIDE_PX / max(image.size)))
    canvas = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    long_side = max(canvas.size)
    line = max(2, round(long_side / 350))
    boxes = [(face, _clip(face, zoom, canvas.size)) for face in faces]
    for face, box in boxes:
        outline = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
        draw.rectangle(outline, outline=INK, width=line + 2)
        draw.rectangle(box, outline=_color(face), width=line)
    placed: list[Rectangle] = []
    for face, box in boxes:
        smallest = max(14, long_side / 64)
        size = min(max(smallest, (box[2] - box[0]) / 7), 2 * smallest)
        label = f"{face.emotion}{'?' if face.abstained else ''} {face.probs[face.emotion]:.0%}"
        placed.append(_draw_label(draw, label, box, _color(face), ImageFont.load_default(size), canvas.size, placed))
    return canvas


def _color(face: "FaceResult") -> str:
    return OTHER_COLOR if face.abstained else COLORS.get(face.emotion, OTHER_COLOR)


def _clip(face: "FaceResult", zoom: int, size: tuple[int, int]) -> "Rectangle":
    """Keep the edges of a box that reaches beyond the image visible; at least one pixel wide and high."""
    x, y, width, height = (value * zoom for value in face.box)
    left, top = min(max(0, x), size[0] - 2), min(max(0, y), size[1] - 2)
    return left, top, max(left + 1, min(x + width, size[0] - 1)), max(top + 1, min(y + height, size[1] - 1))


def _draw_label(
    draw: "ImageDraw.ImageDraw",
    label: str,
    box: "Rectangle",
    color: str,
    font: "ImageFont.FreeTypeFont | ImageFont.ImageFont",
    size: tuple[int, int],
    placed: list["Rectangle"],
) -> "Rectangle":
    """Write a label above the box, below it or inside: where it is whole and covers no other; give its rectangle."""
    left, top, right, bottom = font.getbbox(label)
    pad = max(2, round((bottom - top) / 4))
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = min(max(0, box[0]), max(0, size[0] - width))
    places = [(x, y, x + width, y + height) for y in (box[1] - height, box[3], box[1], box[3] - height)]
    free = [
        place
        for place in places
        if place[1] >= 0 and place[3] <= size[1] and not any(_overlap(place, other) for other in placed)
    ]
    fallback = min(max(0, box[1] - height), max(0, size[1] - height))
    chosen = free[0] if free else (x, fallback, x + width, fallback + height)
    draw.rectangle(chosen, fill=color)
    draw.text((chosen[0] + pad - left, chosen[1] + pad - top), label, fill=INK, font=font)
    return chosen


def _overlap(one: "Rectangle", other: "Rectangle") -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
