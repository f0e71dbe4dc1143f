"""What the rows of one video say of its tracks, in one or two passes over them, in memory that its length does not ask.

Shape suffixes: K tracks, N bins of frames, C classes.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
# Longest time that a frame without a successor counts, where no other frame tells how long one lasts; in seconds.
FRAME_S = 0.04


@dataclasses.dataclass(slots=True)
class Track:
    """One face, followed.

    Args:
        track_id: its number.
        first_s: when it is first seen, in seconds.
        last_s: when it is last seen, in seconds.
        frames: frames in which it is seen.
        seen_s: how long those frames are shown together, in seconds.
        mean_C: mean probability of each label.
        time_s: label -> seconds during which it was the most probable.
        best_s: time of the frame that shows it best: large and sure.
        best_box: (x, y, width, height) of it there, in pixels.
    """

    track_id: int
    first_s: float
    last_s: float
    frames: int
    seen_s: float
    mean_C: np.ndarray
    time_s: dict[str, float]
    best_s: float
    best_box: tuple[float, float, float, float]
    _best: float = 0.0

    @property
    def dominant(self) -> str:
        """The label that was the most probable for the longest time."""
        return max(self.time_s, key=self.time_s.__getitem__)

    def share(self, label: str) -> float:
        """Say in what share of its time, 0 to 1, a label was the most probable."""
        return self.time_s.get(label, 0.0) / self.seen_s if self.seen_s else 0.0

    def _see(self, row: Row, labels: Sequence[str]) -> None:
        self.frames += 1
        self.last_s = row["time_s"]
        probs_C = np.array([row[f"prob_{label}"] for label in labels])
        self.mean_C = self.mean_C + (probs_C - self.mean_C) / self.frames
        size = row["width"] * row["height"] * row["face_score"]
        if size > self._best:
            self._best, self.best_s = size, row["time_s"]
            self.best_box = (row["x"], row["y"], row["width"], row["height"])


@dataclasses.dataclass(slots=True)
class Summary:
    """What the rows of one video say.

    Args:
        labels: of the model, in order.
        frames: that were looked at.
        empty: of them without a face.
        faces: rows of faces.
        start_s: time of the first frame, in seconds.
        end_s: time of the last, in seconds.
        tracks: those seen longest first.
    """

    labels: tuple[str, ...]
    frames: int = 0
    empty: int = 0
    faces: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    tracks: list[Track] = dataclasses.field(default_factory=list)


def summarise(rows: Iterable[Row], labels: Sequence[str]) -> Summary:
    """Sum up the rows of one video, which come in order."""
    summary, tracks = Summary(tuple(labels)), dict[int, Track]()
    shown: list[Row] = []  # the faces of the frame before
    for time_s, faces in _frames(rows):
        if summary.frames:
            _count_time(tracks, shown, time_s - summary.end_s)
        else:
            summary.start_s = time_s
        summary.frames, summary.faces, summary.end_s = summary.frames + 1, summary.faces + len(faces), time_s
        summary.empty += not faces
        for row in faces:
            key = row["track"]
            if key not in tracks:
                zeros = np.zeros(len(labels))
                tracks[key] = Track(key, time_s, time_s, 0, 0.0, zeros, {}, time_s, (0, 0, 0, 0))
            tracks[key]._see(row, labels)
        shown = faces
    length_s = summary.end_s - summary.start_s
    _count_time(tracks, shown, length_s / (summary.frames - 1) if summary.frames > 1 else FRAME_S)
    summary.tracks = sorted(tracks.values(), key=lambda track: (-track.seen_s, track.track_id))
    return summary


def _frames(rows: Iterable[Row]) -> Iterator[tuple[float, list[Row]]]:
    for _, group in itertools.groupby(rows, key=lambda row: row["frame"]):
        listed = list(group)
        yield listed[0]["time_s"], [row for row in listed if row["status"] == "ok"]


def _count_time(tracks: dict[int, Track], shown: Iterable[Row], seconds: float) -> None:
    for row in shown:
        track = tracks[row["track"]]
        track.seen_s += seconds
        track.time_s[row["emotion"]] = track.time_s.get(row["emotion"], 0.0) + seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Curves:
    """The probabilities of some tracks over time.

    Args:
        time_N: mean time of each bin of frames, in seconds.
        probs_KNC: mean probabilities of each track in each bin; NaN where it is not seen.
    """

    time_N: np.ndarray
    probs_KNC: np.ndarray


def curves(rows: Iterable[Row], summary: Summary, tracks: Sequence[Track], bins: int) -> Curves:
    """Give the probabilities of some tracks over time.

    Args:
        rows: those that were summed up, once more.
        summary: of them.
        tracks: those that are wanted.
        bins: most points of a curve; with more frames than that, some share one.
    """
    places = {track.track_id: place for place, track in enumerate(tracks)}
    per_bin = max(1, -(-summary.frames // bins))
    number = max(1, -(-summary.frames // per_bin))
    sums_KNC = np.zeros((len(tracks), number, len(summary.labels)))
    counts_KN, times_N, frames_N = np.zeros(sums_KNC.shape[:2]), np.zeros(number), np.zeros(number)
    for position, (time_s, faces) in enumerate(_frames(rows)):
        at = position // per_bin
        times_N[at] += time_s
        frames_N[at] += 1
        for row in faces:
            place = places.get(row["track"])
            if place is not None:
                sums_KNC[place, at] += [row[f"prob_{label}"] for label in summary.labels]
                counts_KN[place, at] += 1
    with np.errstate(invalid="ignore"):
        return Curves(times_N / frames_N, sums_KNC / counts_KN[:, :, None])
