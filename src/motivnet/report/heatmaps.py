"""Pictures of explanations: the face, and the map of each emotion over it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from motivnet.inference.draw import COLORS, OTHER_COLOR
from motivnet.preprocess import crop

if TYPE_CHECKING:
    from motivnet.evaluation.explain import Explanation

PANEL_PX = {"many": 176, "one": 400}
GAP_PX = 10
NOTE_PX = 15
PAPER, INK, FAINT = "#ffffff", "#101418", "#5c666f"
# The scale ends here or above, so that a nearly uniform map does not appear to highlight anything.
LOWEST_TOP = 2.0


def draw_explanations(
    image_hwc_u8: np.ndarray,
    explanations: "Sequence[Explanation]",
    emotion: str | None,
    *,
    fill: int | None,
    note: str,
) -> Image.Image:
    """Draw one row per face: its crop, then the map of every emotion, or of one.

    All maps have the same scale, which is drawn below them.

    Args:
        image_hwc_u8: the photograph, upright RGB, uint8 (h, w, 3).
        explanations: of its faces, at least one.
        emotion: the one to show; None shows all.
        fill: the model's value of pixels outside the photograph; None repeats the edge.
        note: how the maps were made, one line.
    """
    shown = [emotion] if emotion else list(explanations[0].maps)
    side = PANEL_PX["one" if emotion else "many"]
    font_px = 22 if emotion else side // 11
    font = ImageFont.load_default(font_px)
    caption_px, cell_px = 2 * font_px, side + GAP_PX
    heats = [[explanation.heat(name) for name in shown] for explanation in explanations]
    top = max(LOWEST_TOP, *(float(heat.max()) for row in heats for heat in row))
    row_px = side + caption_px
    size = (GAP_PX + (len(shown) + 1) * cell_px, GAP_PX + len(explanations) * row_px + 4 * NOTE_PX)
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (explanation, row) in enumerate(zip(explanations, heats, strict=True)):
        photo = crop(image_hwc_u8, explanation.seen, fill)
        y = GAP_PX + number * row_px
        canvas.paste(_panel(photo, side), (GAP_PX, y))
        draw.text((GAP_PX, y + side + 4), "the face" if len(heats) == 1 else f"face {number + 1}", INK, font)
        for column, (name, heat) in enumerate(zip(shown, row, strict=True), start=1):
            x = GAP_PX + column * cell_px
            canvas.paste(_panel(overlay(photo, heat / top), side), (x, y))
            if name == explanation.face.emotion:
                draw.rectangle((x, y + side + 2, x + side - 1, y + row_px - 6), fill=COLORS.get(name, OTHER_COLOR))
            draw.text((x + 5, y + side + 4), f"{name} {explanation.face.probs[name]:.0%}", INK, font)
    _draw_scale(draw, canvas, top, note, GAP_PX + len(explanations) * row_px)
    return canvas


def overlay(photo_hwc_u8: np.ndarray, share_hw: np.ndarray) -> np.ndarray:
    """Blend a map, 0 to 1, into a photograph of the same size, uint8 (h, w, 3): the higher, the more opaque."""
    grey_hw1 = photo_hwc_u8.astype(np.float32).mean(axis=2, keepdims=True)
    colors_hwc = _colors(share_hw)
    opaque_hw1 = (0.25 + 0.4 * share_hw[:, :, None]).astype(np.float32)
    return np.rint(grey_hw1 * (1 - opaque_hw1) + colors_hwc * opaque_hw1).clip(0, 255).astype(np.uint8)


def _colors(share_hw: np.ndarray) -> np.ndarray:
    levels_hw = np.rint(np.clip(share_hw, 0, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(levels_hw, cv2.COLORMAP_INFERNO)[:, :, ::-1]


def _panel(picture_hwc_u8: np.ndarray, side: int) -> Image.Image:
    """Fit a picture into a square panel, in its own proportions, in the middle."""
    return ImageOps.pad(Image.fromarray(picture_hwc_u8), (side, side), color=PAPER)


def _draw_scale(draw: ImageDraw.ImageDraw, canvas: Image.Image, top: float, note: str, y: int) -> None:
    font = ImageFont.load_default(NOTE_PX)
    width = 8 * NOTE_PX
    ramp_hwc = _colors(np.linspace(0, 1, width, dtype=np.float32)[None].repeat(NOTE_PX, 0))
    draw.text((GAP_PX, y), "none", FAINT, font)
    x = GAP_PX + math.ceil(font.getlength("none")) + GAP_PX
    canvas.paste(Image.fromarray(np.ascontiguousarray(ramp_hwc)), (x, y + 2))
    draw.text((x + width + GAP_PX, y), f"{top:.1f} times a uniform map", FAINT, font)
    draw.text((GAP_PX, y + 3 * NOTE_PX // 2), note, FAINT, font)
