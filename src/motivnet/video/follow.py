"""From frames to faces with emotions: detect in threads, track and crop in one, classify in batches across frames.

The detector runs on every N-th frame (`detect_every`) and where the picture jumps. The frames in between wait for the
next search, as their boxes move evenly from one to the next, which is closer to a search in each frame than optical
flow (`benchmarks/video_boxes.py`). Memory does not grow with the video: a frame is dropped as soon as its faces are
cropped, and at most one batch of faces waits.

Shape suffixes: B faces of a batch, H height, W width, C channels (pixels) or classes (probs).
"""

import dataclasses
import functools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from motivnet.faces import Detection
from motivnet.frames.ahead import map_ahead, read_ahead
from motivnet.frames.cuts import CUT, SAME
from motivnet.frames.reader import Frame
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult
from motivnet.inference.rows import Row, face_rows
from motivnet.preprocess import Box
from motivnet.video.tracking import Smoother, Tracker
from motivnet.video.video_config import FollowConfig

# Frames whose faces have been cropped and wait for the model: detection goes on during a batch.
CROPPED_AHEAD = 64
# Where searches are farther apart, in frames, boxes stand still, as the frames in between would fill the memory.
MAX_WAITING = 30
NO_IMAGE = np.empty((0, 0, 3), np.uint8)

Faces = dict[int, Detection]  # by track


@dataclasses.dataclass(frozen=True, slots=True)
class FrameResult:
    """The faces of one frame.

    Args:
        frame: the frame; its image is empty unless the video is live.
        size: (height, width) of the frame, in pixels.
        faces: largest first in the last frame that was searched.
        tracks: of each face.
        state: at checkpoints, plain data from which `follow` resumes after this frame; None elsewhere.
    """

    frame: Frame
    size: tuple[int, int]
    faces: tuple[FaceResult, ...]
    tracks: tuple[int, ...]
    state: dict[str, Any] | None = None

    def rows(self, video: Row) -> Iterator[Row]:
        """Yield one row per face, or one with the status `no_face`.

        Args:
            video: the columns that all rows of the video share.
        """
        height, width = self.size
        frame = {
            "frame": self.frame.index,
            "time_s": round(self.frame.time_s, 6),
            "status": "ok" if self.faces else "no_face",
            "image_width": width,
            "image_height": height,
        }
        return face_rows(video | frame, self.faces, self.tracks)


@dataclasses.dataclass(frozen=True, slots=True)
class _Cropped:
    frame: Frame
    size: tuple[int, int]
    faces: Faces
    crops: tuple[np.ndarray, ...]
    tracker: dict[str, Any] | None  # its state, at checkpoints


def follow(
    predictor: Predictor,
    frames: Iterable[Frame],
    config: FollowConfig | None = None,
    *,
    state: Mapping[str, Any] | None = None,
    live: bool = False,
) -> Generator[FrameResult, None, None]:
    """Yield one result per frame of a video, in order.

    Args:
        predictor: detector and model.
        frames: of one video, in order; may be endless.
        config: how faces are detected, tracked and smoothed; None takes the defaults.
        state: from a result of an earlier run with the same settings: continues exactly as that run would have. The
            frames begin after that result's.
        live: finish each frame before asking for the next one, and keep its image: no latency, but slower, and boxes
            stand still between searches.

    Raises:
        ImageError: if the frames raise it.
    """
    config = config or FollowConfig()
    tracker, smoother = Tracker(config.min_iou, config.max_gap_s), Smoother(config.smooth_s)
    if state is not None:
        tracker.restore(state["tracker"])
        smoother.restore(state["smoother"])
    cropped = _crop(predictor, frames, config, tracker, live=live)
    if not live:
        cropped = read_ahead(cropped, CROPPED_AHEAD)
    pending: list[_Cropped] = []
    num_faces = 0
    try:
        for item in cropped:
            pending.append(item)
            num_faces += len(item.crops)
            # Batches end at checkpoints, so that a resumed run has the same batches, and the same figures to the bit.
            if live or max(num_faces, len(pending)) >= predictor.batch_size or item.tracker is not None:
                yield from _classify(predictor, pending, smoother)
                pending, num_faces = [], 0
        yield from _classify(predictor, pending, smoother)
    finally:
        cropped.close()


def _crop(
    predictor: Predictor, frames: Iterable[Frame], config: FollowConfig, tracker: Tracker, *, live: bool
) -> Generator[_Cropped, None, None]:
    def search(item: tuple[int, Frame]) -> tuple[int, Frame, list[Detection] | None]:
        count, frame = item
        due = count % config.detect_every == 0 or frame.jump != SAME
        return count, frame, predictor.detector.detect(frame.image_hwc_u8) if due else None

    crop = functools.partial(_crop_faces, predictor, keep_image=live)
    # A resumed run begins with a search.
    checkpoint_every = -(-config.checkpoint_every // config.detect_every) * config.detect_every
    stand_still = live or config.detect_every > MAX_WAITING
    faces: Faces = {}
    waiting: list[Frame] = []  # the last frame that was searched, and those since
    numbered = enumerate(frames)
    for count, frame, found in map(search, numbered) if live else map_ahead(search, numbered, predictor.workers):
        if found is not None:
            state = tracker.state() if waiting and count % checkpoint_every == 0 else None
            if frame.jump == CUT:
                tracker.end()
            following = dict(zip(tracker.update([face.box for face in found], frame.time_s), found, strict=True))
            for place, each in enumerate(waiting, 1):
                share = (each.time_s - waiting[0].time_s) / ((frame.time_s - waiting[0].time_s) or 1)
                yield crop(each, between(faces, following, share), state if place == len(waiting) else None)
            faces, waiting = following, []
        if stand_still:
            yield crop(frame, faces, None if (count + 1) % checkpoint_every else tracker.state())
        else:
            waiting.append(frame)
    for each in waiting:
        yield crop(each, faces, None)


def between(before: Faces, after: Faces, share: float) -> Faces:
    """Move the faces of a search towards their places in the next one; a face that is not in both stays.

    Args:
        before: of the search.
        after: of the next one.
        share: of the time between the two that has passed, 0 to 1.
    """

    def move(start: Sequence[float], end: Sequence[float]) -> Iterator[float]:
        return (one + share * (other - one) for one, other in zip(start, end, strict=True))

    moved = dict(before)
    for key in before.keys() & after.keys() if share else ():
        one, other = before[key], after[key]
        landmarks = one.landmarks
        if landmarks and other.landmarks:
            landmarks = tuple((x, y) for x, y in map(move, landmarks, other.landmarks))
        moved[key] = dataclasses.replace(one, box=Box(*move(one.box, other.box)), landmarks=landmarks)
    return moved


def _crop_faces(
    predictor: Predictor, frame: Frame, faces: Faces, tracker: dict[str, Any] | None, *, keep_image: bool
) -> _Cropped:
    image_hwc_u8, crop_face = frame.image_hwc_u8, predictor.config.preprocessing.face
    height, width, _ = image_hwc_u8.shape
    crops = tuple(crop_face(image_hwc_u8, face.crop_box, face.landmarks) for face in faces.values())
    kept = frame if keep_image else dataclasses.replace(frame, image_hwc_u8=NO_IMAGE)
    return _Cropped(kept, (height, width), faces, crops, tracker)


def _classify(predictor: Predictor, pending: list[_Cropped], smoother: Smoother) -> Iterator[FrameResult]:
    answers = predictor.classify_all(crop for item in pending for crop in item.crops)
    for item in pending:
        faces = []
        for track_id, face in item.faces.items():
            probs, affect = next(answers)
            smooth = smoother.update(track_id, item.frame.time_s, np.asarray(probs)).tolist()
            faces.append(predictor.face_result(face, smooth, affect))
        state = None if item.tracker is None else {"tracker": item.tracker, "smoother": smoother.state()}
        yield FrameResult(item.frame, item.size, tuple(faces), tuple(item.faces), state)
