"""Figures of results: each image with its faces, and bars of their probabilities next to it."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from motivnet.errors import ImageError, MissingExtraError
from motivnet.inference.rows import marked, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from motivnet.inference.results import FaceResult, ImageResult

MAX_IMAGES = 8
MAX_FACES = 4
# Okabe and Ito's colours, which are safe for colour blindness: one per face, for its box and bars, which also have a
# number.
FACE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
OTHER_COLOR = "#999999"
ROW_INCHES, LOW_ROW_INCHES = 3.0, 1.4
PICTURE_INCHES, BARS_INCHES = 4.4, 2.2


def plot_results(results: "Sequence[ImageResult]") -> "Figure":
    """Draw the first `MAX_IMAGES` images, one per row, with bars for the `MAX_FACES` largest faces.

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
    shown = results[:MAX_IMAGES]
    num_bars = max([1, *(min(len(result.faces), MAX_FACES) for result in shown)])
    # Created by pyplot, which registers how notebooks show figures; closed, so that it is not shown twice.
    widths = [PICTURE_INCHES, *[BARS_INCHES] * num_bars]
    heights = [ROW_INCHES if result.faces else LOW_ROW_INCHES for result in shown] or [LOW_ROW_INCHES]
    figure = plt.figure(figsize=(sum(widths), sum(heights)), layout="constrained")
    plt.close(figure)
    grid = figure.add_gridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights)
    for row, result in enumerate(shown):
        _draw_image(figure.add_subplot(grid[row, 0]), result)
        for number, face in enumerate(result.faces[:MAX_FACES]):
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
    left = len(result.faces) - MAX_FACES
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
    if number < MAX_FACES:
        frame: dict[str, Any] = {"facecolor": color, "edgecolor": "white", "boxstyle": "round,pad=0.2"}
        text = f"{number + 1} {marked(face)}"
        # Above the box if there is room, else inside.
        align = "bottom" if y > axes.get_ylim()[0] / 8 else "top"
        axes.text(max(0, x), max(0, y), text, color="white", fontsize=8, va=align, bbox=frame, parse_math=False)


def _draw_bars(axes: "Axes", face: "FaceResult", number: int) -> None:
    labels, probs = list(face.probs), list(face.probs.values())
    colors = [_color(number) if label == face.emotion else OTHER_COLOR for label in labels]
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
    return FACE_COLORS[number] if number < len(FACE_COLORS) else OTHER_COLOR


def _write(axes: "Axes", text: str) -> None:
    lines = textwrap.fill(printable(text), 44, max_lines=4)
    axes.text(0.5, 0.5, lines, transform=axes.transAxes, fontsize=9, ha="center", va="center", parse_math=False)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"...{text[-57:]}"
