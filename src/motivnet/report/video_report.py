"""The page of one video, and its timeline: the emotions of its tracks over time."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motivnet.inference.draw import COLORS
from motivnet.inference.rows import printable
from motivnet.report import page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from motivnet.video.summary import Curves, Summary, Track

MAX_ROWS = 100
MAX_THUMBNAILS = 12


def video_report(
    path: Path, facts: Mapping[str, object], summary: "Summary", timeline: "Figure", thumbnails: Sequence[np.ndarray]
) -> str:
    """Return the page as HTML.

    Args:
        path: the video.
        facts: about the file, and how it was processed.
        summary: of its rows.
        timeline: the figure of its tracks.
        thumbnails: pictures of the first tracks of the summary.
    """
    tracks, times = summary.tracks[:MAX_ROWS], "Times in seconds from the start of the file."
    if len(summary.tracks) > MAX_ROWS:
        times += f" The {MAX_ROWS} longest visible tracks, of {len(summary.tracks):,}."
    pictures = [
        page.thumbnail(image, f"{track.name}\n{track.dominant}, {track.visible_s:.1f} s")
        for track, image in zip(summary.tracks[: len(thumbnails)], thumbnails, strict=True)
    ]
    caption = "Probabilities of the longest visible tracks. Grey: the face is not visible."
    curves = page.figure(timeline, "Probability of each emotion over time, one panel per track", caption=caption)
    means = [_label_row(track, summary, track.mean_C.tolist()) for track in tracks]
    shares = [_label_row(track, summary, map(track.share, summary.labels)) for track in tracks]
    prose = page.PROSE["video"]
    blocks = [
        page.Block("What this page shows", tuple(prose["reading"])),
        page.Block("The video", html=page.facts(facts)),
        page.Block("Emotions over time", html=curves),
        *([page.Block("Faces", html=page.thumbnails(pictures))] if pictures else []),
        page.Block("Tracks", (), [_track_row(track) for track in tracks], (times,)),
        page.Block("Mean probabilities", (), means, (prose["means"],)),
        page.Block("Share of time", (), shares, (prose["shares"],)),
    ]
    return page.to_html(f"Faces in {printable(path.name)}", blocks)


def _track_row(track: "Track") -> dict[str, object]:
    return {
        "track": track.name,
        "first visible": f"{track.first_s:.2f}",
        "last visible": f"{track.last_s:.2f}",
        "visible for": f"{track.visible_s:.2f}",
        "frames": track.frames,
        "dominant": track.dominant,
        "of its time": f"{100 * track.share(track.dominant):.0f} %",
    }


def _label_row(track: "Track", summary: "Summary", shares: Iterable[float]) -> dict[str, object]:
    return {"track": track.name, **dict(zip(summary.labels, map(page.percent, shares), strict=True))}


# Of other labels; white, as in pictures, cannot be seen on white.
OTHER_COLOR = "#000000"
MAX_TRACKS = 8
BINS = 600
DPI = 160
PANEL_IN, MARGIN_IN, WIDTH_IN = 1.35, 0.75, 9.0
GAP_COLOR = "#eef1f4"


def shown_tracks(summary: "Summary") -> list["Track"]:
    """Return the tracks that get a panel: the longest visible, in the order in which they appear."""
    return sorted(summary.tracks[:MAX_TRACKS], key=lambda track: track.track_id)


def draw_timeline(summary: "Summary", tracks: Sequence["Track"], curves: "Curves", title: str) -> "Figure":
    """Plot the curves of some tracks; where a face is not visible, there is a gap.

    Args:
        summary: of the video.
        tracks: one panel each.
        curves: of these tracks.
        title: of the figure; empty for none.
    """
    height = PANEL_IN * max(1, len(tracks)) + MARGIN_IN
    with page.new_figure(WIDTH_IN, height) as figure:
        panels = figure.subplots(max(1, len(tracks)), 1, sharex=True, squeeze=False)[:, 0]
        for place, track in enumerate(tracks):
            _draw_panel(panels[place], track, curves.time_N, curves.probs_KNC[place], summary.labels)
        if tracks:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        else:
            panels[0].text(0.5, 0.5, "no face was detected", ha="center", va="center", transform=panels[0].transAxes)
            panels[0].set_ylim(0, 1)
        left, right = summary.start_s, max(summary.end_s, summary.start_s + 0.04)
        panels[-1].set_xlim(left, right)
        more = len(summary.tracks) - len(tracks)
        note = f"; {more} more {'track is' if more == 1 else 'tracks are'} visible for less time" if more > 0 else ""
        panels[-1].set_xlabel(f"seconds from the start of the file{note}")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return figure


def _draw_panel(axes: "Axes", track: "Track", time_N: np.ndarray, probs_NC: np.ndarray, labels: Sequence[str]) -> None:
    unseen_N = np.isnan(probs_NC[:, 0])
    axes.fill_between(time_N, 0, 1, where=list(unseen_N), color=GAP_COLOR, step="mid", linewidth=0)
    alone_N = ~unseen_N & np.r_[True, unseen_N[:-1]] & np.r_[unseen_N[1:], True]
    for place, label in enumerate(labels):
        color = COLORS.get(label, OTHER_COLOR)
        axes.plot(time_N, probs_NC[:, place], color=color, linewidth=1.5, solid_capstyle="round", label=label)
        # A line through one point is invisible.
        axes.plot(time_N[alone_N], probs_NC[alone_N, place], ".", color=color, markersize=3)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    title = f"{track.name}: visible for {track.visible_s:.1f} s, mostly {track.dominant}"
    axes.set_title(title, loc="left", fontsize=9, pad=3)


def write_timeline(figure: "Figure", path: Path) -> None:
    """Write the figure as PNG."""
    figure.savefig(path, format="png", dpi=DPI, facecolor="white")
