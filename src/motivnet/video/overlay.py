"""Faces drawn onto the frames of a video: box, track, emotion, and a bar of all probabilities.

Shape suffixes: h height, w width, c channels.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from motivnet.inference.draw import COLORS, INK, OTHER_COLOR

if TYPE_CHECKING:
    from motivnet.video.follow import FrameResult

# Height of letters: a share of the frame's, within limits in pixels.
TEXT_SHARE, MIN_TEXT_PX, MAX_TEXT_PX = 1 / 36, 13, 48
# How much of the picture a plate hides.
PLATE_OPACITY = 0.78
# Rendered words that are kept: few are new from one frame to the next.
KEPT_TEXTS = 512


def draw_frame(result: "FrameResult") -> np.ndarray:
    """Draw the faces of a frame onto its image, which must have been kept; gives that image, changed.

    Args:
        result: of one frame.
    """
    image_hwc_u8 = result.image_hwc_u8
    if image_hwc_u8 is None:
        raise ValueError("the frame's image was not kept")
    size = text_size(image_hwc_u8)
    # The largest face is drawn last, over the others.
    for track_id, face in reversed(list(zip(result.tracks, result.faces, strict=True))):
        color = _rgb(COLORS.get(face.emotion, OTHER_COLOR))
        bottom, left, right = _draw_box(image_hwc_u8, face.box, color, size)
        words = (f"#{track_id}", face.emotion, f"{face.probs[face.emotion]:.0%}")
        _draw_plate(image_hwc_u8, words, list(face.probs.items()), color, (left, right, face.box.y, bottom), size)
    return image_hwc_u8


def draw_note(image_hwc_u8: np.ndarray, text: str) -> None:
    """Write a line into the upper left corner of an RGB image, uint8 (h, w, 3)."""
    size = text_size(image_hwc_u8)
    pad = size // 3
    mask = _mask(text, size)
    _shade(image_hwc_u8, 0, 0, mask.shape[1] + 2 * pad, mask.shape[0] + 2 * pad)
    _blend(image_hwc_u8, mask, pad, pad, (255, 255, 255))


def text_size(image_hwc_u8: np.ndarray) -> int:
    """Choose the height of letters for an image, in pixels."""
    return int(min(max(min(image_hwc_u8.shape[:2]) * TEXT_SHARE, MIN_TEXT_PX), MAX_TEXT_PX))


def _draw_box(
    image_hwc_u8: np.ndarray, box: Sequence[float], color: tuple[int, int, int], size: int
) -> tuple[int, int, int]:
    """Draw a box with a dark rim; give the rows and columns of its edges: bottom, left, right."""
    import cv2

    x, y, width, height = box
    left, top, right, bottom = round(x), round(y), round(x + width), round(y + height)
    line = max(2, round(size / 7))
    cv2.rectangle(image_hwc_u8, (left, top), (right, bottom), _rgb(INK), line + 2, cv2.LINE_AA)
    cv2.rectangle(image_hwc_u8, (left, top), (right, bottom), color, line, cv2.LINE_AA)
    return bottom, left, right


def _draw_plate(
    image_hwc_u8: np.ndarray,
    words: tuple[str, str, str],
    probs: list[tuple[str, float]],
    color: tuple[int, int, int],
    place: tuple[int, int, float, int],
    size: int,
) -> None:
    """Write track, emotion and probability above a box, or below where there is no room, with a bar of all emotions."""
    left, right, top, bottom = place
    pad, gap, bar = size // 3, size // 2, max(4, size // 3)
    masks = [_mask(word, size) for word in words]
    row = max(mask.shape[0] for mask in masks)
    needed = sum(mask.shape[1] for mask in masks) + 2 * gap + 2 * pad
    width, height = max(needed, right - left), row + bar + 3 * pad
    x = min(max(0, left - (width - (right - left)) // 2), max(0, image_hwc_u8.shape[1] - width))
    above = round(top) - height - pad
    y = above if above >= 0 else min(bottom + pad, image_hwc_u8.shape[0] - height)
    _shade(image_hwc_u8, x, y, width, height)
    _blend(image_hwc_u8, masks[0], x + pad, y + pad, (190, 198, 206))
    _blend(image_hwc_u8, masks[1], x + pad + masks[0].shape[1] + gap, y + pad, color)
    _blend(image_hwc_u8, masks[2], x + width - pad - masks[2].shape[1], y + pad, (255, 255, 255))
    _draw_bar(image_hwc_u8, probs, (x + pad, y + row + 2 * pad, width - 2 * pad, bar))


def _draw_bar(image_hwc_u8: np.ndarray, probs: list[tuple[str, float]], place: tuple[int, int, int, int]) -> None:
    """Lay the probabilities side by side, the greatest first; they fill the bar."""
    x, y, width, height = place
    share = 0.0
    for label, prob in sorted(probs, key=lambda each: -each[1]):
        begin, share = share, share + prob
        cells = _inside(image_hwc_u8, x + round(begin * width), y, x + round(share * width), y + height)
        cells[:] = _rgb(COLORS.get(label, OTHER_COLOR))


def _shade(image_hwc_u8: np.ndarray, x: int, y: int, width: int, height: int) -> None:
    import cv2

    cells = _inside(image_hwc_u8, x, y, x + width, y + height)
    if cells.size:
        ink = np.full_like(cells, _rgb(INK))
        cells[:] = cv2.addWeighted(cells, 1 - PLATE_OPACITY, ink, PLATE_OPACITY, 0)


def _blend(image_hwc_u8: np.ndarray, mask_hw: np.ndarray, x: int, y: int, color: tuple[int, int, int]) -> None:
    height, width = mask_hw.shape
    cells = _inside(image_hwc_u8, x, y, x + width, y + height)
    alpha = mask_hw[max(0, -y) :, max(0, -x) :][: cells.shape[0], : cells.shape[1], None]
    cells[:] = (cells + (np.array(color, np.float32) - cells) * alpha + 0.5).astype(np.uint8)


def _inside(image_hwc_u8: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return image_hwc_u8[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]


@functools.lru_cache(KEPT_TEXTS)
def _mask(text: str, size: int) -> np.ndarray:
    """Render words: how much of each pixel is letter, float32 (h, w) from 0 to 1; equally high for equal sizes."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    _, top, _, bottom = font.getbbox("#Afghjp%")
    left, _, right, _ = font.getbbox(text)
    image = Image.new("L", (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
    return np.asarray(image, np.float32) / 255


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
