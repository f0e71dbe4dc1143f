"""Draw faces and their emotions: on photographs, legible at any size, and on the frames of a video.

Shape suffixes: h height, w width, c channels.
"""

import contextlib
import functools
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motivnet.errors import OutputError, require
from motivnet.inference.rows import marked
from motivnet.storage import explained, write_bytes

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageDraw

    from motivnet.inference.results import FaceResult
    from motivnet.preprocess import Box

    Rectangle = tuple[float, float, float, float]  # left, top, right, bottom

# Of pictures, timelines, reports and pages: after Okabe and Ito, changed so that all pairs are distinct with any colour
# vision (tests/unit/inference/test_draw.py), dark text is legible on each, and lines on white are.
COLORS = {
    "neutral": "#767f88",
    "happiness": "#e69f00",
    "sadness": "#3a84d6",
    "surprise": "#56b4e9",
    "fear": "#d884b4",
    "disgust": "#009e73",
    "anger": "#d55e00",
}
OTHER_COLOR = "#ffffff"
INK = "#101418"
FAINT = "#bec6ce"

# Smaller photographs are enlarged, or text would not fit on them.
MIN_LONG_SIDE_PX = 480
# Of frames: text height as a share of the shorter side, within limits in pixels, and how much a panel hides.
TEXT_SHARE, MIN_TEXT_PX, MAX_TEXT_PX = 1 / 36, 13, 48
PANEL_OPACITY = 0.78


def draw_faces(image: "Image.Image", faces: Iterable["FaceResult"]) -> "Image.Image":
    """Return a copy of an RGB photograph with a box, the emotion, its probability and known landmarks of every face.

    Of several faces, each has its number, the column `face` of a table. Where the model abstains, the emotion has a
    question mark and no colour.
    """
    from PIL import Image, ImageDraw

    zoom = max(1, math.ceil(MIN_LONG_SIDE_PX / max(image.size)))
    canvas = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    long_side = max(canvas.size)
    boxes = [(face, _clip(face.box, zoom, canvas.size)) for face in faces]
    for face, box in boxes:
        _draw_box(draw, box, _color(face), max(2, round(long_side / 350)))
        _draw_landmarks(draw, face, zoom)
    placed: list[Rectangle] = []
    for number, (face, box) in enumerate(boxes):
        smallest = max(14, long_side / 64)
        font = _font(min(max(smallest, (box[2] - box[0]) / 7), 2 * smallest))
        label = f"{f'#{number} ' * (len(boxes) > 1)}{marked(face)} {face.prob:.0%}"
        left, top, right, bottom = font.getbbox(label)
        pad = max(2, round((bottom - top) / 4))
        place = _place(box, (right - left + 2 * pad, bottom - top + 2 * pad), canvas.size, placed)
        draw.rectangle(place, fill=_color(face))
        draw.text((place[0] + pad - left, place[1] + pad - top), label, fill=INK, font=font)
        placed.append(place)
    return canvas


def draw_frame(
    image_hwc_u8: "np.ndarray", faces: Sequence["FaceResult"], tracks: Sequence[int | str], note: str = ""
) -> "np.ndarray":
    """Return a copy of a frame with a box, the track, the emotion and a bar of all probabilities for every face.

    Args:
        image_hwc_u8: RGB, uint8 (h, w, 3).
        faces: largest first.
        tracks: of each face, as it is named.
        note: a line of text for the upper left corner.
    """
    from PIL import Image, ImageDraw

    canvas_hwc = image_hwc_u8.copy()
    height, width, _ = canvas_hwc.shape
    size = int(min(max(min(height, width) * TEXT_SHARE, MIN_TEXT_PX), MAX_TEXT_PX))
    boxes = [_clip(face.box, 1, (width, height)) for face in faces]
    # The largest face comes last, above the others.
    for face, box in reversed(list(zip(faces, boxes, strict=True))):
        _outline(canvas_hwc, box, _color(face), max(2, round(size / 7)))
    if any(face.landmarks for face in faces):
        picture = Image.fromarray(canvas_hwc)
        for face in faces:
            _draw_landmarks(ImageDraw.Draw(picture), face, 1)
        canvas_hwc[:] = picture
    placed: list[Rectangle] = []
    for face, track, box in zip(faces, tracks, boxes, strict=True):
        placed.append(_draw_panel(canvas_hwc, face, f"#{track}", box, size, placed))
    if note:
        font, pad = _font(size), size // 3
        with _shaded(canvas_hwc, (0, 0, font.getlength(note) + 2 * pad, _line_height(size) + 2 * pad)) as draw:
            draw.text((pad, pad), note, fill=OTHER_COLOR, font=font, anchor="la")
    return canvas_hwc


def _color(face: "FaceResult") -> str:
    return OTHER_COLOR if face.abstained else COLORS.get(face.emotion, OTHER_COLOR)


@functools.lru_cache(32)
def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


@functools.lru_cache(32)
def _line_height(size: float) -> int:
    """Return the height of a line with every kind of letter, in pixels."""
    return math.ceil(_font(size).getbbox("#Afghjp%", anchor="la")[3])


def _clip(box: "Box", zoom: int, size: tuple[int, int]) -> "Rectangle":
    """Keep the edges of a box that reaches beyond the image visible; at least one pixel wide and high."""
    x, y, width, height = (value * zoom for value in box)
    left, top = min(max(0, x), size[0] - 2), min(max(0, y), size[1] - 2)
    return left, top, max(left + 1, min(x + width, size[0] - 1)), max(top + 1, min(y + height, size[1] - 1))


def _draw_box(draw: "ImageDraw.ImageDraw", box: "Rectangle", color: str, line_px: int) -> None:
    """Draw a box with a dark rim."""
    draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline=INK, width=line_px + 2)
    draw.rectangle(box, outline=color, width=line_px)


def _draw_landmarks(draw: "ImageDraw.ImageDraw", face: "FaceResult", zoom: float) -> None:
    """Draw a dot at each landmark, and a line from the nose to where the face points."""
    points = [(x * zoom, y * zoom) for x, y in face.landmarks or ()]
    dot = max(1.5, zoom * face.box.width / 50)
    if pose := face.pose:
        nose, length = points[2], zoom * face.box.width / 2
        end = [start + length * part for start, part in zip(nose, pose.direction, strict=True)]
        draw.line((*nose, *end), fill=_color(face), width=round(dot))
    for x, y in points:
        draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=_color(face), outline=INK)


def _place(
    box: "Rectangle",
    label: tuple[float, float],
    size: tuple[int, int],
    placed: list["Rectangle"],
    gap: float = 0,
    indent: float = 0,
) -> "Rectangle":
    """Place a label, (width, height), above its box, below it or inside: where it is whole and covers no other."""
    width, height = label
    x = min(max(0, box[0] - indent), max(0, size[0] - width))
    tops = (box[1] - height - gap, box[3] + gap, box[1], box[3] - height)
    for y in tops:
        place = (x, y, x + width, y + height)
        if y >= 0 and place[3] <= size[1] and not any(_overlap(place, other) for other in placed):
            return place
    y = min(max(0, tops[0]), max(0, size[1] - height))
    return x, y, x + width, y + height


def _overlap(one: "Rectangle", other: "Rectangle") -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _outline(canvas_hwc: "np.ndarray", box: "Rectangle", color: str, line_px: int) -> None:
    """Draw a box with a dark rim on a frame."""
    left, top, right, bottom = map(int, box)
    for hex_color, rim in ((INK, 1), (color, 0)):
        depth = line_px + 2 * rim
        y, x = (slice(max(0, low - rim), high + rim + 1) for low, high in ((top, bottom), (left, right)))
        begin, end = (slice(max(0, low - rim), max(0, low - rim + depth)) for low in (top, left))
        last, far = (slice(max(0, high + rim + 1 - depth), high + rim + 1) for high in (bottom, right))
        for place in ((begin, x), (last, x), (y, end), (y, far)):
            canvas_hwc[place] = tuple(bytes.fromhex(hex_color[1:]))


def _draw_panel(
    canvas_hwc: "np.ndarray", face: "FaceResult", track: str, box: "Rectangle", size: int, placed: list["Rectangle"]
) -> "Rectangle":
    """Write track, emotion and probability over a bar in which each emotion takes its share; return the rectangle."""
    font, line_px = _font(size), _line_height(size)
    pad, gap, bar_px = size // 3, size // 2, max(4, size // 3)
    # White: not every colour is legible on the panel; outline and bar have it.
    words = ((track, FAINT), (marked(face), OTHER_COLOR), (f"{face.prob:.0%}", OTHER_COLOR))
    widths = [math.ceil(font.getlength(word)) for word, _ in words]
    left, top, right, bottom = map(round, box)
    width = max(sum(widths) + 2 * gap + 2 * pad, right - left)
    label, indent = (width, line_px + bar_px + 3 * pad), (width - (right - left)) // 2
    frame_size = canvas_hwc.shape[1], canvas_hwc.shape[0]
    place = _place((left, top, right, bottom), label, frame_size, placed, gap=pad, indent=indent)
    with _shaded(canvas_hwc, place) as draw:
        for at, (word, color) in zip((pad, pad + widths[0] + gap, width - pad - widths[2]), words, strict=True):
            draw.text((at, pad), word, fill=color, font=font, anchor="la")
        y, end, share = pad + line_px + pad, pad, 0.0
        for emotion, prob in face.top(len(face.probs)):
            begin, share = end, share + prob
            end = pad + round(share * (width - 2 * pad))
            if end > begin:
                draw.rectangle((begin, y, end - 1, y + bar_px - 1), fill=COLORS.get(emotion, OTHER_COLOR))
    return place


@contextlib.contextmanager
def _shaded(canvas_hwc: "np.ndarray", place: "Rectangle") -> Iterator["ImageDraw.ImageDraw"]:
    """Darken a rectangle, and give what draws on it, from its upper left corner."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = map(round, place)
    below_hwc = canvas_hwc[top:bottom, left:right]
    below = Image.fromarray(below_hwc)
    panel = Image.blend(below, Image.new("RGB", below.size, INK), PANEL_OPACITY)
    yield ImageDraw.Draw(panel)
    below_hwc[:] = panel


JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif")


def plan_targets(sources: Sequence[Path], folder: Path, *, overwrite: bool) -> list[Path]:
    """Choose a file in `folder` for every photograph, and create the folder.

    JPEG stays JPEG, everything else becomes PNG. Repeated names get their folder's name as a prefix, or a number as a
    suffix.

    Raises:
        OutputError: if a file exists, is one of the photographs, or the folder cannot be created.
    """
    taken: set[str] = set()
    targets = []
    for source in sources:
        extension = source.suffix if source.suffix.lower() in JPEG_EXTENSIONS else ".png"
        target = folder / _unused_name(source, extension, taken)
        require(not target.exists() or overwrite, f"{target}: exists already; --overwrite replaces it", OutputError)
        targets.append(target)
    originals = {source.resolve() for source in sources}
    for target in targets:
        if target.resolve() in originals:
            raise OutputError(f"{target}: is one of the photographs; annotate into another folder")
    with explained(folder, "cannot be created"):
        folder.mkdir(parents=True, exist_ok=True)
    return targets


def _unused_name(source: Path, extension: str, taken: set[str]) -> str:
    numbered = (f"{source.stem}-{number}" for number in itertools.count(2))
    stems = itertools.chain([source.stem, f"{source.absolute().parent.name}-{source.stem}"], numbered)
    # Some file systems ignore case.
    name = next(name for stem in stems if (name := f"{stem}{extension}").casefold() not in taken)
    taken.add(name.casefold())
    return name


def write_annotated(image_hwc_u8: Any, faces: Iterable["FaceResult"], target: Path) -> None:
    """Draw the faces on an upright RGB image, uint8 (h, w, 3), and write it, completely or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    from PIL import Image

    is_jpeg = target.suffix.lower() in JPEG_EXTENSIONS
    buffer = io.BytesIO()
    drawn = draw_faces(Image.fromarray(image_hwc_u8), faces)
    drawn.save(buffer, **({"format": "JPEG", "quality": 92} if is_jpeg else {"format": "PNG"}))
    write_bytes(target, buffer.getvalue())
