"""HTML of results for notebooks: thumbnails with the faces drawn on them, and bars of the probabilities.

Plain HTML with inline styles and images as data URIs, without scripts or external resources, for light and dark pages.
Its size is bounded for any number of results.
"""

import base64
import contextlib
import dataclasses
import io
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from motivnet.errors import ImageError
from motivnet.inference.draw import draw_faces
from motivnet.inference.rows import counts_of, marked, plural, printable, summarise
from motivnet.preprocess import Box, crop

if TYPE_CHECKING:
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
    faces = [dataclasses.replace(face, box=Box(*(value * scale for value in face.box))) for face in result.faces]
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
