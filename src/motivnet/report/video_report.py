"""The page of one video: the file, its tracks, their emotions over time, and what the figures mean."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motivnet.inference.rows import printable
from motivnet.report import page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from motivnet.video.summary import Summary, Track

MAX_ROWS = 100
MAX_THUMBNAILS = 12
MEANS = "Mean over the frames in which the face is visible."
SHARES = "Share of the time in which the face is visible for which this was its most probable emotion."

READING = (
    "A model has guessed, frame by frame, which expression a face shows. It sees no feelings: people smile when they "
    "are not happy, and are sad without showing it. A probability says how sure the model is, not how strong an "
    "emotion is, and the model is often wrong, more often for some groups of people than for others.",
    "A track is a face that was followed from frame to frame by its place. Nobody is recognised: a person who leaves "
    "the picture and returns is a new track, and two people who change places quickly may be mixed up.",
    "Do not use these figures to judge a person. In the European Union, inferring emotions at work or in education is "
    "forbidden (Regulation (EU) 2024/1689, Article 5), except for medical or safety reasons.",
)


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
    tracks = summary.tracks[:MAX_ROWS]
    times = "Times in seconds from the start of the file."
    if len(summary.tracks) > MAX_ROWS:
        times += f" The {MAX_ROWS} longest visible tracks, of {len(summary.tracks):,}."
    pictures = [
        page.thumbnail(image, f"#{track.track_id}\n{track.dominant}, {track.visible_s:.1f} s")
        for track, image in zip(summary.tracks[: len(thumbnails)], thumbnails, strict=True)
    ]
    caption = "Probabilities of the longest visible tracks. Grey: the face is not visible."
    curves = page.figure(timeline, "Probability of each emotion over time, one panel per track", caption=caption)
    sections = [
        page.Section("What this page shows", "".join(map(page.text, READING))),
        page.Section("The video", page.facts(facts)),
        page.Section("Emotions over time", curves),
        *([page.Section("Faces", page.thumbnails(pictures))] if pictures else []),
        page.Section("Tracks", page.table(map(_track_row, tracks), caption=times)),
        page.Section("Mean probabilities", _label_table(summary, lambda track: track.mean_C.tolist(), MEANS)),
        page.Section("Share of time", _label_table(summary, lambda track: map(track.share, summary.labels), SHARES)),
    ]
    return page.render(f"Faces in {printable(path.name)}", sections)


def _track_row(track: "Track") -> dict[str, object]:
    return {
        "track": f"#{track.track_id}",
        "first visible": f"{track.first_s:.2f}",
        "last visible": f"{track.last_s:.2f}",
        "visible for": f"{track.visible_s:.2f}",
        "frames": track.frames,
        "dominant": track.dominant,
        "of its time": f"{100 * track.share(track.dominant):.0f} %",
    }


def _label_table(summary: "Summary", values: "Callable[[Track], Iterable[float]]", caption: str) -> str:
    """Return a table with a row per track and a column per label."""
    rows = []
    for track in summary.tracks[:MAX_ROWS]:
        shares = map(page.percent, values(track))
        rows.append({"track": f"#{track.track_id}", **dict(zip(summary.labels, shares, strict=True))})
    return page.table(rows, caption=caption)
