"""How results show themselves: HTML in a notebook, and figures of matplotlib.

The HTML has styles in the tags and pictures as data URIs: nothing is loaded, nothing runs, and it reads well on light
and dark pages. However many results there are, it stays small.
"""

import base64
import contextlib
import io
import textwrap
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from PIL import Image

from motivnet.errors import ImageError, MissingExtraError
from motivnet.inference.draw import draw_faces
from motivnet.inference.rows import counts_of, marked, plural, printable, summarise
from motivnet.preprocess import crop

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from motivnet.inference.results import FaceResult, ImageResult


MAX_IMAGES = 12
# Faces of one image: among several, and alone.
MAX_LINES, MAX_FACES = 4, 6
# Longer side in pixels, and width on the page: high-density screens show up to two pixels per unit of width.
TILE_PX, TILE_WIDTH = 480, 270
ALONE_PX, ALONE_WIDTH = 960, 520
CROP_PX, CROP_WIDTH = 96, 56
JPEG_QUALITY = 80

BAR = "#0072b2"
OTHER_BAR = "#8c8c8c"
FAINT = "opacity:.65"


def to_html(results: "Sequence[ImageResult]") -> str:
    """Return HTML of results: all details of a single one, or an overview of several.

    Args:
        results: in order. Their images are read again, if they still exist.
    """
    if len(results) == 1:
        return _box(_alone(results[0]))
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(counts_of(result))
    tiles = "".join(_tile(result) for result in results[:MAX_IMAGES])
    left = len(results) - MAX_IMAGES
    more = f"<div style='{FAINT}'>and {plural(left, 'more image')}: <code>.to_pandas()</code> has all</div>"
    return _box(
        f"<div style='margin-bottom:8px'><b>{summarise(counts)}</b></div>"
        f"<div style='display:flex;flex-wrap:wrap;gap:16px'>{tiles}</div>{more if left > 0 else ''}"
    )


def _box(content: str) -> str:
    return f"<div style='font-family:system-ui,sans-serif;font-size:13px;line-height:1.45'>{content}</div>"


def _tile(result: "ImageResult") -> str:
    """Return one image of an overview, with a line per face."""
    faces = result.faces[:MAX_LINES]
    lines = "".join(_bar(marked(face), face.prob, chosen=True) for face in faces)
    about = (lines or _no_faces(result)) + _more(result, MAX_LINES)
    picture = _tag(result, TILE_PX, TILE_WIDTH)
    return f"<div style='width:{TILE_WIDTH}px;overflow-wrap:anywhere'>{picture}{_source(result)}{about}</div>"


def _alone(result: "ImageResult") -> str:
    """Return one image with all details of its faces."""
    shown = result.faces[:MAX_FACES]
    crops = [""] * len(shown)
    if len(result.faces) > 1:  # crops show which face is which
        with contextlib.suppress(ImageError):
            crops = _crops(result)
    faces = "".join(map(_face, shown, crops))
    size = "" if result.width is None else f" <span style='{FAINT}'>{result.width} &times; {result.height}</span>"
    return (
        f"{_source(result)}<div style='display:flex;flex-wrap:wrap;gap:18px;align-items:flex-start'>"
        f"<div style='max-width:{ALONE_WIDTH}px'>{_tag(result, ALONE_PX, ALONE_WIDTH)}</div>"
        f"<div>{faces or _no_faces(result) + size}{_more(result, MAX_FACES)}</div></div>"
    )


def _source(result: "ImageResult") -> str:
    return f"<div style='{FAINT};margin:2px 0'>{escape(printable(result.source))}</div>"


def _no_faces(result: "ImageResult") -> str:
    if result.status == "unreadable":
        return f"<b>unreadable</b>: {escape(printable(result.error or ''))}"
    return "<b>no face</b>"


def _more(result: "ImageResult", shown: int) -> str:
    left = len(result.faces) - shown
    return f"<div style='{FAINT}'>and {plural(left, 'smaller face')}</div>" if left > 0 else ""


def _face(face: "FaceResult", crop: str) -> str:
    affect = "" if face.valence is None else f", valence {face.valence:+.2f}, arousal {face.arousal:+.2f}"
    tiny = " (tiny)" if face.tiny else ""
    box = f"{face.box.width:.0f} x {face.box.height:.0f} at {face.box.x:.0f}, {face.box.y:.0f}{tiny}{affect}"
    bars = "".join(_bar(label, prob, chosen=label == face.emotion) for label, prob in face.probs.items())
    return (
        "<div style='margin:0 0 12px'><div style='display:flex;align-items:center;gap:8px;margin-bottom:2px'>"
        f"{crop}<span><b style='font-size:15px'>{escape(marked(face))}</b> "
        f"{face.prob:.0%}<br><span style='{FAINT}'>{escape(box)}</span></span></div>{bars}</div>"
    )


def _bar(label: str, prob: float, *, chosen: bool) -> str:
    weight = "font-weight:600;" if chosen else ""
    return (
        f"<div style='display:flex;align-items:center;gap:6px;{weight}'>"
        f"<span style='width:80px;text-align:right'>{escape(label)}</span>"
        "<span style='width:110px;height:9px;background:rgba(128,128,128,.22);border-radius:2px'>"
        f"<span style='display:block;height:9px;border-radius:2px;width:{100 * prob:.1f}%;"
        f"background:{BAR if chosen else OTHER_BAR}'></span></span>"
        f"<span>{prob:.0%}</span></div>"
    )


def _tag(result: "ImageResult", side: int, width: int) -> str:
    if result.status == "unreadable":
        return ""
    try:
        picture = Image.fromarray(result.picture())
    except ImageError as error:
        return f"<div style='{FAINT}'>no picture: {escape(printable(str(error)))}</div>"
    full = picture.width
    picture.thumbnail((side, side))
    scale = picture.width / full
    faces = [face.scaled(scale) for face in result.faces]
    alt = f"{result.source}: {', '.join(face.emotion for face in result.faces) or 'no face'}"
    return _img(draw_faces(picture, faces), f"max-width:100%;max-height:{width}px", alt)


def _crops(result: "ImageResult") -> list[str]:
    image_hwc_u8 = result.picture()
    tags = []
    for face in result.faces[:MAX_FACES]:
        picture = Image.fromarray(crop(image_hwc_u8, face.box, None))
        picture.thumbnail((CROP_PX, CROP_PX))
        tags.append(_img(picture, f"width:{CROP_WIDTH}px;height:{CROP_WIDTH}px;object-fit:cover", face.emotion))
    return tags


def _img(picture: "Image.Image", style: str, alt: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    style += ";border-radius:4px;margin:0"
    return f"<img style='{style}' alt='{escape(printable(alt))}' src='data:image/jpeg;base64,{data}'>"


MAX_ROWS = 8
MAX_BARS = 4
# Okabe and Ito's colours, which are safe for colour blindness: one per face, for its box and bars, which also have a
# number.
FACE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
OTHER_FACE_COLOR = "#999999"
ROW_INCHES, LOW_ROW_INCHES = 3.0, 1.4
PICTURE_INCHES, BARS_INCHES = 4.4, 2.2


def plot_results(results: "Sequence[ImageResult]") -> "Figure":
    """Draw the first `MAX_ROWS` images, one per row, with bars for the `MAX_BARS` largest faces.

    The figure is not pyplot's current one: a notebook shows it as the value of its cell, and `savefig` writes it.

    Args:
        results: in order. Their images are read again, if they still exist; boxes are always drawn.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot as plt
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "notebook") from None
    shown = results[:MAX_ROWS]
    num_bars = max([1, *(min(len(result.faces), MAX_BARS) for result in shown)])
    # Created by pyplot, which registers how notebooks show figures; closed, so that it is not shown twice.
    widths = [PICTURE_INCHES, *[BARS_INCHES] * num_bars]
    heights = [ROW_INCHES if result.faces else LOW_ROW_INCHES for result in shown] or [LOW_ROW_INCHES]
    figure = plt.figure(figsize=(sum(widths), sum(heights)), layout="constrained")
    plt.close(figure)
    grid = figure.add_gridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights)
    for row, result in enumerate(shown):
        _draw_image(figure.add_subplot(grid[row, 0]), result)
        for number, face in enumerate(result.faces[:MAX_BARS]):
            _draw_bars(figure.add_subplot(grid[row, 1 + number]), face, number)
    left = len(results) - len(shown)
    if left or not shown:
        figure.suptitle(f"the first {len(shown)} of {len(results)} images" if left else "no images")
    return figure


def _draw_image(axes: "Axes", result: "ImageResult") -> None:
    axes.set_title(_short(printable(result.source)), fontsize=9, loc="left", parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    if result.width is None or result.height is None:
        axes.set_frame_on(False)
        _write(axes, f"unreadable: {result.error}")
        return
    axes.set_xlim(0, result.width)
    axes.set_ylim(result.height, 0)
    axes.set_aspect("equal")
    try:
        axes.imshow(result.picture(), extent=(0, result.width, result.height, 0))
    except ImageError:
        _write(axes, "no picture")
    left = len(result.faces) - MAX_BARS
    notes = ["no face" if not result.faces else "", f"and {left} smaller" if left > 0 else ""]
    axes.set_xlabel(" ".join(note for note in notes if note), fontsize=9)
    for number, face in enumerate(result.faces):
        _draw_box(axes, face, number)


def _draw_box(axes: "Axes", face: "FaceResult", number: int) -> None:
    from matplotlib.patches import Rectangle

    x, y, width, height = face.box
    color = _color(number)
    for edge, thickness in (("white", 3.5), (color, 2.0)):
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=edge, linewidth=thickness))
    if number < MAX_BARS:
        frame: dict[str, Any] = {"facecolor": color, "edgecolor": "white", "boxstyle": "round,pad=0.2"}
        text = f"{number + 1} {marked(face)}"
        # Above the box if there is room, else inside.
        align = "bottom" if y > axes.get_ylim()[0] / 8 else "top"
        axes.text(max(0, x), max(0, y), text, color="white", fontsize=8, va=align, bbox=frame, parse_math=False)


def _draw_bars(axes: "Axes", face: "FaceResult", number: int) -> None:
    labels, probs = list(face.probs), list(face.probs.values())
    colors = [_color(number) if label == face.emotion else OTHER_FACE_COLOR for label in labels]
    bars = axes.barh(range(len(labels)), probs, color=colors)
    axes.bar_label(bars, [f"{prob:.0%}" for prob in probs], padding=2, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    title = f"{number + 1} {marked(face)}"
    axes.set_title(title, fontsize=9, color=_color(number), fontweight="bold", parse_math=False)


def _color(number: int) -> str:
    return FACE_COLORS[number] if number < len(FACE_COLORS) else OTHER_FACE_COLOR


def _write(axes: "Axes", text: str) -> None:
    lines = textwrap.fill(printable(text), 44, max_lines=4)
    axes.text(0.5, 0.5, lines, transform=axes.transAxes, fontsize=9, ha="center", va="center", parse_math=False)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"...{text[-57:]}"
