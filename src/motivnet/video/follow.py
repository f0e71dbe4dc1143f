"""From the frames of a video to rows: search, follow and crop in a thread, classify in batches across frames.

The detector looks at each `detect_every`-th frame; in between, faces stand where they were last found, are cropped
there and classified all the same. Memory does not grow with the video: a frame is dropped as soon as its faces are cut
out, unless it is wanted for drawing, and no more than one batch of faces waits.

Shape suffixes: B faces of a batch, H height, W width, C channels (pixels) or classes (probs).
"""

import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from motivnet.errors import ConfigError
from motivnet.faces import Detection
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult
from motivnet.inference.rows import Row, face_rows
from motivnet.video.read_ahead import read_ahead
from motivnet.video.reader import Frame
from motivnet.video.smoothing import Smoother
from motivnet.video.tracking import Tracker, TrackingConfig

# Frames whose faces have been cut out and wait for the model.
SEARCHED_AHEAD = 8
# Most frames that wait for a batch to fill while they are kept for drawing, 3 MB each at 1280 x 720.
KEPT_FRAMES = 16
NO_IMAGE = np.empty((0, 0, 3), np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FollowConfig:
    """How faces are followed through a video.

    Args:
        detect_every: the detector looks at each so-many-th of the frames that are given.
        tracking: when two boxes are one face.
        smooth_s: time constant of the smoothing of each track's probabilities, in seconds; 0 for none.
        keep_images: results hold their frame's image.
        checkpoint_every: every so-many-th result holds the state from which to go on; a multiple of `detect_every`.
            None for no states. Batches end there, so that going on gives the same figures to the last bit.
        live: each frame is answered before the next is asked for: slower, and with nothing that waits in between.
    """

    detect_every: int = 1
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    smooth_s: float = 0.0
    keep_images: bool = False
    checkpoint_every: int | None = None
    live: bool = False

    def __post_init__(self) -> None:
        """Check the ranges; those of the tracking and smoothing are checked where they are used.

        Raises:
            ConfigError: at a value that is out of range.
        """
        if self.detect_every < 1:
            raise ConfigError(f"detect_every {self.detect_every}: must be at least 1")
        every = self.checkpoint_every
        if every is not None and (every < 1 or every % self.detect_every):
            raise ConfigError(f"checkpoint_every {every}: must be a multiple of detect_every, {self.detect_every}")


@dataclasses.dataclass(frozen=True, slots=True)
class FrameResult:
    """What is seen in one frame.

    Args:
        index: number of the frame in the file, from 0.
        time_s: when it is shown, in seconds from the start of the file.
        faces: largest first, of the last frame that was searched.
        tracks: of each face.
        image_hwc_u8: upright RGB, uint8 (h, w, 3), if it was to be kept.
        corrupt: frames that could not be decoded before it.
        state: plain data for `follow` to go on after this frame, at checkpoints; None elsewhere.
    """

    index: int
    time_s: float
    faces: tuple[FaceResult, ...]
    tracks: tuple[int, ...]
    image_hwc_u8: np.ndarray | None = None
    corrupt: int = 0
    state: dict[str, Any] | None = None

    def rows(self, video: Row) -> Iterator[Row]:
        """Yield one row per face, or one with the status `no_face`.

        Args:
            video: the columns that all rows of the video share.
        """
        frame = {"frame": self.index, "time_s": round(self.time_s, 6), "status": "ok" if self.faces else "no_face"}
        return face_rows(video | frame, self.faces, self.tracks)


@dataclasses.dataclass(frozen=True, slots=True)
class _Searched:
    frame: Frame  # without its image, unless that is wanted
    faces: tuple[tuple[int, Detection], ...]  # with their tracks
    crops: tuple[np.ndarray, ...]
    tracker: dict[str, Any] | None  # its state, at checkpoints


def follow(
    predictor: Predictor,
    frames: Iterable[Frame],
    config: FollowConfig | None = None,
    *,
    state: Mapping[str, Any] | None = None,
) -> Generator[FrameResult, None, None]:
    """Tell the emotions of the faces in the frames of one video: one result per frame, in order.

    Args:
        predictor: its detector, model, batch size and threshold are used.
        frames: of one video, in order; they may be endless.
        config: how faces are followed; None takes the defaults.
        state: of a result of an earlier run with the same settings: goes on as that would have done. The frames begin
            after that result's.

    Raises:
        ConfigError: if a setting is out of range.
        ImageError: if the frames raise it.
    """
    config = config or FollowConfig()
    smoother, tracker = Smoother(config.smooth_s), Tracker(config.tracking)
    if state is not None:
        smoother.restore(state["smoother"])
        tracker.restore(state["tracker"])
    most = min(predictor.batch_size, KEPT_FRAMES) if config.keep_images else predictor.batch_size
    most = 1 if config.live else most
    pending: list[_Searched] = []
    num_faces = 0
    searched = _search(predictor, frames, config, tracker)
    if not config.live:
        searched = read_ahead(searched, SEARCHED_AHEAD)
    try:
        for frame in searched:
            pending.append(frame)
            num_faces += len(frame.crops)
            if num_faces >= predictor.batch_size or len(pending) >= most or frame.tracker is not None:
                yield from _classify(predictor, pending, smoother)
                pending, num_faces = [], 0
        yield from _classify(predictor, pending, smoother)
    finally:
        searched.close()


def _search(
    predictor: Predictor, frames: Iterable[Frame], config: FollowConfig, tracker: Tracker
) -> Generator[_Searched, None, None]:
    face = predictor.config.preprocessing.face
    known: tuple[tuple[int, Detection], ...] = ()
    for count, frame in enumerate(frames):
        image_hwc_u8 = frame.image_hwc_u8
        if count % config.detect_every == 0:
            found = predictor.detector.detect(image_hwc_u8)
            known = tuple(zip(tracker.update([one.box for one in found], frame.time_s), found, strict=True))
        crops = tuple(face(image_hwc_u8, one.crop_box) for _, one in known)
        kept = frame if config.keep_images else dataclasses.replace(frame, image_hwc_u8=NO_IMAGE)
        is_checkpoint = config.checkpoint_every is not None and (count + 1) % config.checkpoint_every == 0
        yield _Searched(kept, known, crops, tracker.state() if is_checkpoint else None)


def _classify(predictor: Predictor, pending: list[_Searched], smoother: Smoother) -> Iterator[FrameResult]:
    crops = [crop for searched in pending for crop in searched.crops]
    starts = range(0, len(crops), predictor.batch_size)
    answers = itertools.chain.from_iterable(predictor.classify(crops[at : at + predictor.batch_size]) for at in starts)
    for searched in pending:
        frame = searched.frame
        faces = []
        for track_id, found in searched.faces:
            probs, affect = next(answers)
            smooth = smoother.update(track_id, frame.time_s, np.asarray(probs)).tolist()
            faces.append(predictor.face_result(found, smooth, affect))
        yield FrameResult(
            frame.index,
            frame.time_s,
            tuple(faces),
            tuple(track_id for track_id, _ in searched.faces),
            None if frame.image_hwc_u8 is NO_IMAGE else frame.image_hwc_u8,
            frame.corrupt,
            None if searched.tracker is None else {"tracker": searched.tracker, "smoother": smoother.state()},
        )
