"""The emotions of a video's tracks over time, as a figure: a panel for each of those seen longest.

Shape suffixes: N bins of frames, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motivnet.video.summary import Curves, Summary, Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLORS = {
    "neutral": "#7d8790",
    "happiness": "#e69f00",
    "sadness": "#0072b2",
    "surprise": "#56b4e9",
    "fear": "#cc79a7",
    "disgust": "#009e73",
    "anger": "#d55e00",
}
OTHER_COLOR = "#000000"
MAX_TRACKS = 8
BINS = 600
DPI = 160
PANEL_IN, MARGIN_IN, WIDTH_IN = 1.35, 0.75, 9.0
# An emotion that never reaches this probability gets no label.
LABEL_FROM = 0.15
# Least distance of two labels, as a share of a panel's height.
LABEL_STEP = 0.135
GAP_COLOR = "#eef1f4"


def shown_tracks(summary: Summary) -> list[Track]:
    """Choose the tracks that get a panel: those seen longest, in the order in which they appear."""
    return sorted(summary.tracks[:MAX_TRACKS], key=lambda track: track.track_id)


def draw_timeline(summary: Summary, tracks: Sequence[Track], found: Curves, title: str) -> "Figure":
    """Draw the curves of `tracks`, which belong to `found`; where a face is not seen, there is a gap.

    Args:
        summary: of the video.
        tracks: a panel each.
        found: their curves.
        title: of the figure; empty for none.
    """
    from motivnet.report.page import new_figure

    height = PANEL_IN * max(1, len(tracks)) + MARGIN_IN
    with new_figure(WIDTH_IN, height) as figure:
        panels = figure.subplots(max(1, len(tracks)), 1, sharex=True, squeeze=False)[:, 0]
        for place, track in enumerate(tracks):
            _draw_panel(panels[place], track, found.time_N, found.probs_KNC[place], summary.labels)
        if not tracks:
            panels[0].text(0.5, 0.5, "no face was found", ha="center", va="center", transform=panels[0].transAxes)
            panels[0].set_ylim(0, 1)
        left, right = summary.start_s, max(summary.end_s, summary.start_s + 0.04)
        panels[-1].set_xlim(left, right)
        more = len(summary.tracks) - len(tracks)
        note = f"; {more} more {'track is' if more == 1 else 'tracks are'} seen for less time" if more > 0 else ""
        panels[-1].set_xlabel(f"seconds from the start of the file{note}")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return figure


def _draw_panel(axes: "Axes", track: Track, time_N: np.ndarray, probs_NC: np.ndarray, labels: Sequence[str]) -> None:
    unseen_N = np.isnan(probs_NC[:, 0])
    axes.fill_between(time_N, 0, 1, where=list(unseen_N), color=GAP_COLOR, step="mid", linewidth=0)
    alone_N = ~unseen_N & np.r_[True, unseen_N[:-1]] & np.r_[unseen_N[1:], True]
    for place, label in enumerate(labels):
        color = COLORS.get(label, OTHER_COLOR)
        axes.plot(time_N, probs_NC[:, place], color=color, linewidth=1.5, solid_capstyle="round")
        # A line through one point is not seen.
        axes.plot(time_N[alone_N], probs_NC[alone_N, place], ".", color=color, markersize=3)
    _label_lines(axes, probs_NC, labels)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.set_title(
        f"#{track.track_id}: seen for {track.seen_s:.1f} s, mostly {track.dominant}", loc="left", fontsize=9, pad=3
    )


def _label_lines(axes: "Axes", probs_NC: np.ndarray, labels: Sequence[str]) -> None:
    """Write the names of the lines beside their ends, as far apart as letters need."""
    seen_NC = probs_NC[~np.isnan(probs_NC[:, 0])]
    if not len(seen_NC):
        return
    named = sorted(
        (seen_NC[-1, place], label) for place, label in enumerate(labels) if seen_NC[:, place].max() >= LABEL_FROM
    )
    heights = spread([height for height, _ in named], LABEL_STEP)
    for height, (end, label) in zip(heights, named, strict=True):
        axes.annotate(
            label,
            xy=(1, end),
            xytext=(1.015, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=COLORS.get(label, OTHER_COLOR),
            fontsize=8,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": COLORS.get(label, OTHER_COLOR),
                "linewidth": 0.6,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: Sequence[float], step: float) -> list[float]:
    """Move sorted heights, from 0 to 1, as little as need be for neighbours to be `step` apart."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + step) if moved else max(height, 0.02))
    ceiling = max(1.0, 0.02 + step * (len(moved) - 1))
    for place in range(len(moved) - 1, -1, -1):
        moved[place] = min(moved[place], ceiling)
        ceiling = moved[place] - step
    return moved


def write_timeline(figure: "Figure", path: Path) -> None:
    """Write the figure as PNG."""
    figure.savefig(path, format="png", dpi=DPI, facecolor="white")
