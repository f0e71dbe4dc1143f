"""Boxes and emotions drawn on photographs, legible at any size."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

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
