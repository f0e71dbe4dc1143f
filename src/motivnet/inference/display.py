"""How results show themselves: HTML in a notebook, and figures of matplotlib.

The HTML has styles in the tags and pictures as data URIs: nothing is loaded, nothing runs, and it reads well on light
and dark pages. However many results there are, it stays small.
"""

import base64
import io
import itertools
import textwrap
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from motivnet.errors import ImageError, needs_extra
from motivnet.inference.draw import draw_faces
from motivnet.inference.rows import counts_of, marked, plural, printable, summarise

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
        return _box(_card(results[0], alone=True))
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(counts_of(result))
    tiles = "".join(map(_card, results[:MAX_IMAGES]))
    left = len(results) - MAX_IMAGES
    more = f"<div style='{FAINT}'>and {plural(left, 'more image')}: <code>.to_pandas()</code> has all</div>"
    return _box(
        f"<div style='margin-bottom:8px'><b>{summarise(counts)}</b></div>"
        f"<div style='display:flex;flex-wrap:wrap;gap:16px'>{tiles}</div>{more if left > 0 else ''}"
    )


def _box(content: str) -> str:
    return f"<div style='font-family:system-ui,sans-serif;font-size:13px;line-height:1.45'>{content}</div>"


def _card(result: "ImageResult", *, alone: bool = False) -> str:
    """Return one image with its faces: a line per face in an overview; alone, all that is known of them."""
    side, width, most = (ALONE_PX, ALONE_WIDTH, MAX_FACES) if alone else (TILE_PX, TILE_WIDTH, MAX_LINES)
    faces = "".join(
        _face(face) if alone else _bar(marked(face), face.prob, chosen=True) for face in result.faces[:most]
    )
    left = len(result.faces) - most
    more = f"<div style='{FAINT}'>and {plural(left, 'smaller face')}</div>" if left > 0 else ""
    none = "<b>no face</b>"
    if result.status == "unreadable":
        none = f"<b>unreadable</b>: {escape(printable(result.error or ''))}"
    source = f"<div style='{FAINT};margin:2px 0'>{escape(printable(result.source))}</div>"
    about = f"{_tag(result, side, width)}{source}{faces or none}{more}"
    return f"<div style='width:{width}px;max-width:100%;overflow-wrap:anywhere'>{about}</div>"


def _face(face: "FaceResult") -> str:
    affect = "" if face.valence is None else f", valence {face.valence:+.2f}, arousal {face.arousal:+.2f}"
    tiny = " (tiny)" if face.tiny else ""
    box = f"{face.box.width:.0f} x {face.box.height:.0f} at {face.box.x:.0f}, {face.box.y:.0f}{tiny}{affect}"
    bars = "".join(_bar(label, prob, chosen=label == face.emotion) for label, prob in face.probs.items())
    head = f"<b style='font-size:15px'>{escape(marked(face))}</b> {face.prob:.0%}"
    return f"<div style='margin:6px 0 12px'>{head}<br><span style='{FAINT}'>{escape(box)}</span>{bars}</div>"


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
    buffer = io.BytesIO()
    try:
        _drawn(result, side).save(buffer, "JPEG", quality=JPEG_QUALITY)
    except ImageError as error:
        return f"<div style='{FAINT}'>no picture: {escape(printable(str(error)))}</div>"
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = printable(f"{result.source}: {', '.join(face.emotion for face in result.faces) or 'no face'}")
    style = f"max-width:100%;max-height:{width}px;border-radius:4px;margin:0"
    return f"<img style='{style}' alt='{escape(alt)}' src='data:image/jpeg;base64,{data}'>"


def _drawn(result: "ImageResult", side: int) -> Image.Image:
    """Return the image with its faces, its longer side at most so many pixels; ImageError if it cannot be read."""
    picture = Image.fromarray(result.picture())
    full = picture.width
    picture.thumbnail((side, side))
    return draw_faces(picture, [face.scaled(picture.width / full) for face in result.faces])


MAX_ROWS = 8
MAX_BARS = 4
ROW_INCHES, PICTURE_INCHES, BARS_INCHES = 3.0, 4.4, 2.2


def plot_results(results: "Sequence[ImageResult]") -> "Figure":
    """Draw the first `MAX_ROWS` images, one per row, with bars for the `MAX_BARS` largest faces.

    The figure is not pyplot's current one: a notebook shows it as the value of its cell, and `savefig` writes it.

    Args:
        results: in order. Their images are read again, if they still exist.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    with needs_extra("matplotlib", "notebook"):
        from matplotlib import pyplot as plt
    shown = results[:MAX_ROWS]
    num_bars = max([1, *(min(len(result.faces), MAX_BARS) for result in shown)])
    widths = [PICTURE_INCHES, *[BARS_INCHES] * num_bars]
    # Created by pyplot, which registers how notebooks show figures; closed, so that it is not shown twice.
    figure = plt.figure(figsize=(sum(widths), ROW_INCHES * max(1, len(shown))), layout="constrained")
    plt.close(figure)
    rows = figure.subplots(len(shown), len(widths), squeeze=False, width_ratios=widths) if shown else ()
    for result, (picture, *bars) in zip(shown, rows, strict=True):
        _draw_image(picture, result)
        for axes, face in itertools.zip_longest(bars, result.faces[:MAX_BARS]):
            _draw_bars(axes, face) if face else axes.remove()
    left = len(results) - len(shown)
    if left or not shown:
        figure.suptitle(f"the first {len(shown)} of {len(results)} images" if left else "no images")
    return figure


def _draw_image(axes: "Axes", result: "ImageResult") -> None:
    source = printable(result.source)
    axes.set_title(source if len(source) <= 60 else f"...{source[-57:]}", fontsize=9, loc="left", parse_math=False)
    axes.set(xticks=[], yticks=[], frame_on=False)
    left = len(result.faces) - MAX_BARS
    axes.set_xlabel("no face" if not result.faces else f"and {left} smaller" if left > 0 else "", fontsize=9)
    try:
        axes.imshow(_drawn(result, ALONE_PX))
    except ImageError as error:
        reason = textwrap.fill(printable(str(error)), 44, max_lines=4)
        axes.text(0.5, 0.5, reason, fontsize=9, ha="center", va="center", parse_math=False)


def _draw_bars(axes: "Axes", face: "FaceResult") -> None:
    labels, probs = list(face.probs), list(face.probs.values())
    colors = [BAR if label == face.emotion else OTHER_BAR for label in labels]
    bars = axes.barh(range(len(labels)), probs, color=colors)
    axes.bar_label(bars, [f"{prob:.0%}" for prob in probs], padding=2, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.25), xticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title(marked(face), fontsize=9, fontweight="bold", parse_math=False)
