"""The page of one video: the file, its tracks, their emotions over time, and what the figures mean."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motivnet.inference.rows import printable
from motivnet.video.summary import Summary, Track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS = 100
MAX_THUMBNAILS = 12
# Of the face's longer side, on each side.
THUMBNAIL_MARGIN = 0.3

READING = (
    "A model has guessed, frame by frame, which expression a face shows. It sees no feelings: people smile when they "
    "are not happy, and are sad without showing it. A probability says how sure the model is, not how strong an "
    "emotion is, and the model is often wrong, more often for some groups of people than for others.",
    "A track is a face that was followed from frame to frame by its place. Nobody is recognised: who leaves the "
    "picture and returns is a new track, and two people who change places quickly may be mixed up.",
    "Do not use these figures to judge a person. In the European Union, inferring emotions at work or in education is "
    "forbidden (Regulation (EU) 2024/1689, Article 5), except for medical or safety reasons.",
)


def video_report(
    path: Path, facts: Mapping[str, object], summary: Summary, timeline: "Figure", thumbnails: Sequence[np.ndarray]
) -> str:
    """Make the page.

    Args:
        path: the video.
        facts: of the file and of how it was read.
        summary: of its rows.
        timeline: the figure of its tracks.
        thumbnails: pictures of the first tracks of the summary.
    """
    from motivnet.report import page as report

    tracks = summary.tracks[:MAX_ROWS]
    left_out = len(summary.tracks) - len(tracks)
    more = f" The {MAX_ROWS} tracks seen longest, of {len(summary.tracks):,}." if left_out else ""
    pictures = [
        report.thumbnail(image, f"#{track.track_id}\n{track.dominant}, {track.seen_s:.1f} s")
        for track, image in zip(summary.tracks[: len(thumbnails)], thumbnails, strict=True)
    ]
    sections = [
        report.Section(
            "What this page shows", report.text(READING[0]) + report.text(READING[1]) + report.text(READING[2])
        ),
        report.Section("The video", report.facts(facts)),
        report.Section(
            "Emotions over time",
            report.figure(
                timeline,
                "Probability of each emotion over time, one panel per track",
                caption="Probabilities of the tracks that are seen longest. Grey: the face is not seen.",
            ),
        ),
    ]
    if pictures:
        sections.append(report.Section("Faces", report.thumbnails(pictures)))
    sections += [
        report.Section(
            "Tracks",
            report.table(
                [_times(track) for track in tracks], caption=f"Times in seconds from the start of the file.{more}"
            ),
        ),
        report.Section(
            "Mean probabilities",
            report.table(
                [
                    {"track": f"#{track.track_id}"}
                    | {
                        label: report.percent(float(value))
                        for label, value in zip(summary.labels, track.mean_C, strict=True)
                    }
                    for track in tracks
                ],
                caption="Mean over the frames in which the face is seen.",
            ),
        ),
        report.Section(
            "Share of time",
            report.table(
                [
                    {"track": f"#{track.track_id}"}
                    | {label: report.percent(track.share(label)) for label in summary.labels}
                    for track in tracks
                ],
                caption="Share of the time that the face is seen in which this was its most probable emotion.",
            ),
        ),
    ]
    return report.render(f"Faces in {printable(path.name)}", sections)


def _times(track: Track) -> dict[str, object]:
    return {
        "track": f"#{track.track_id}",
        "first seen": f"{track.first_s:.2f}",
        "last seen": f"{track.last_s:.2f}",
        "seen for": f"{track.seen_s:.2f}",
        "frames": track.frames,
        "mostly": track.dominant,
        "of its time": f"{100 * track.share(track.dominant):.0f} %",
    }


def grab_thumbnails(path: Path, summary: Summary) -> list[np.ndarray]:
    """Cut the tracks that are seen longest out of the frames that show them best; RGB, uint8 (h, w, 3)."""
    from motivnet.preprocess import Box, crop
    from motivnet.video.reader import Selection, Video

    pictures = []
    for track in summary.tracks[:MAX_THUMBNAILS]:
        with Video(path, Selection(start_s=track.best_s)) as video:
            frames = iter(video)
            image_hwc_u8 = next(frames).image_hwc_u8
            frames.close()
        x, y, width, height = track.best_box
        margin = THUMBNAIL_MARGIN * max(width, height)
        box = Box(x - margin, y - margin, width + 2 * margin, height + 2 * margin)
        pictures.append(np.ascontiguousarray(crop(image_hwc_u8, box, None)))
    return pictures
