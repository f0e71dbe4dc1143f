"""Summarise the rows of one video by track, in one or two passes over them, in memory that does not grow with it.

Shape suffixes: K tracks, N bins of frames, C classes.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from motivnet.inference.rows import Row

# Duration of a frame, in seconds, where no other frame shows how long one lasts.
FRAME_S = 0.04


@dataclasses.dataclass(slots=True)
class Track:
    """One tracked face.

    Args:
        track_id: its number.
        first_s: time of the first frame with it, in seconds.
        last_s: time of the last frame with it, in seconds.
        mean_C: mean probability of each label.
        frames: number of frames with it.
        visible_s: how long these frames are shown, in seconds.
        time_s: label -> seconds for which it was the most probable.
        short: whether it is visible for less than `min_track_s` of the summary.
    """

    track_id: int
    first_s: float
    last_s: float
    mean_C: np.ndarray
    frames: int = 0
    visible_s: float = 0.0
    time_s: dict[str, float] = dataclasses.field(default_factory=dict)
    short: bool = False
    # Of each label: how typical the frame is, its time, and the box of the face.
    _typical: dict[str, tuple[float, float, tuple[float, float, float, float]]] = dataclasses.field(
        default_factory=dict
    )

    @property
    def name(self) -> str:
        """How it is named for display."""
        return f"#{self.track_id}{' (short)' if self.short else ''}"

    @property
    def dominant(self) -> str:
        """The label that was the most probable for the longest time."""
        return max(self.time_s, key=self.time_s.__getitem__)

    @property
    def typical(self) -> tuple[float, tuple[float, float, float, float]]:
        """Time of the most typical frame of `dominant`, and the face's box (x, y, width, height) in its pixels.

        That is where the label's probability, times the detector's score, is highest.
        """
        return self._typical[self.dominant][1:]

    def share(self, label: str) -> float:
        """Return the share of its time, 0 to 1, for which a label was the most probable."""
        return self.time_s.get(label, 0.0) / self.visible_s if self.visible_s else 0.0

    def _add(self, row: Row, labels: Sequence[str]) -> None:
        self.frames += 1
        self.last_s = row["time_s"]
        self.mean_C = self.mean_C + (_probs(row, labels) - self.mean_C) / self.frames
        box = (row["x"], row["y"], row["width"], row["height"])
        found = (row[f"prob_{row['emotion']}"] * row["face_score"], row["time_s"], box)
        self._typical[row["emotion"]] = max(self._typical.get(row["emotion"], found), found, key=lambda it: it[0])


@dataclasses.dataclass(slots=True)
class Summary:
    """The rows of one video, summarised.

    Args:
        labels: of the model, in order.
        frames: number of processed frames.
        empty: number of those without a face.
        faces: number of rows with a face.
        start_s: time of the first frame, in seconds.
        end_s: time of the last frame, in seconds.
        tracks: the longest visible first.
    """

    labels: tuple[str, ...]
    frames: int = 0
    empty: int = 0
    faces: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    tracks: list[Track] = dataclasses.field(default_factory=list)


def summarise(rows: Iterable[Row], labels: Sequence[str], min_track_s: float = 0.0) -> Summary:
    """Summarise the rows of one video, which come in order; tracks visible for less than `min_track_s` are short."""
    summary, tracks = Summary(tuple(labels)), dict[int, Track]()
    shown: list[Row] = []  # the faces of the frame before
    for _, time_s, faces in by_frame(rows):
        if summary.frames:
            _add_time(tracks, shown, time_s - summary.end_s)
        else:
            summary.start_s = time_s
        summary.frames, summary.faces, summary.end_s = summary.frames + 1, summary.faces + len(faces), time_s
        summary.empty += not faces
        for row in faces:
            key = row["track"]
            tracks.setdefault(key, Track(key, time_s, time_s, np.zeros(len(labels))))._add(row, labels)
        shown = faces
    length_s = summary.end_s - summary.start_s
    _add_time(tracks, shown, length_s / (summary.frames - 1) if summary.frames > 1 else FRAME_S)
    for track in tracks.values():
        track.short = track.visible_s < min_track_s
    summary.tracks = sorted(tracks.values(), key=lambda track: (-track.visible_s, track.track_id))
    return summary


def by_frame(rows: Iterable[Row]) -> Iterator[tuple[int, float, list[Row]]]:
    """Yield index and time in seconds of each frame, and the rows of its faces."""
    for index, group in itertools.groupby(rows, key=lambda row: row["frame"]):
        listed = list(group)
        yield index, listed[0]["time_s"], [row for row in listed if row["status"] == "ok"]


def _add_time(tracks: dict[int, Track], shown: Iterable[Row], seconds: float) -> None:
    for row in shown:
        track = tracks[row["track"]]
        track.visible_s += seconds
        track.time_s[row["emotion"]] = track.time_s.get(row["emotion"], 0.0) + seconds


def _probs(row: Row, labels: Sequence[str]) -> np.ndarray:
    return np.array([row[f"prob_{label}"] for label in labels])


@dataclasses.dataclass(frozen=True, slots=True)
class Curves:
    """The probabilities of some tracks over time.

    Args:
        time_N: mean time of each bin of frames, in seconds.
        probs_KNC: mean probabilities of each track in each bin; NaN where it is not visible.
    """

    time_N: np.ndarray
    probs_KNC: np.ndarray


def curves(rows: Iterable[Row], summary: Summary, tracks: Sequence[Track], bins: int) -> Curves:
    """Return the probabilities of some tracks over time.

    Args:
        rows: of the video, a second time.
        summary: of these rows.
        tracks: some of the summary's.
        bins: maximum number of points per curve; longer videos are averaged over neighbouring frames.
    """
    places = {track.track_id: place for place, track in enumerate(tracks)}
    per_bin = max(1, -(-summary.frames // bins))
    number = max(1, -(-summary.frames // per_bin))
    sums_KNC = np.zeros((len(tracks), number, len(summary.labels)))
    counts_KN, times_N, frames_N = np.zeros(sums_KNC.shape[:2]), np.zeros(number), np.zeros(number)
    for position, (_, time_s, faces) in enumerate(by_frame(rows)):
        at = position // per_bin
        times_N[at] += time_s
        frames_N[at] += 1
        for row in faces:
            place = places.get(row["track"])
            if place is not None:
                sums_KNC[place, at] += _probs(row, summary.labels)
                counts_KN[place, at] += 1
    with np.errstate(invalid="ignore"):
        return Curves(times_N / frames_N, sums_KNC / counts_KN[:, :, None])
