"""From frames to faces with emotions: detect, track and crop in a thread, classify in batches across frames.

The detector runs on every N-th frame (`detect_every`); in between, faces keep their last boxes, and are cropped and
classified all the same. Memory does not grow with the video: a frame is dropped as soon as its faces are cropped, and
at most one batch of faces waits.

Shape suffixes: B faces of a batch, H height, W width, C channels (pixels) or classes (probs).
"""

import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from motivnet.faces import Detection
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult
from motivnet.inference.rows import Row, face_rows
from motivnet.video.reader import Frame, read_ahead
from motivnet.video.tracking import Smoother, Tracker
from motivnet.video.video_config import FollowConfig

# Frames whose faces have been cropped and wait for the model.
CROPPED_AHEAD = 8
NO_IMAGE = np.empty((0, 0, 3), np.uint8)


@dataclasses.dataclass(frozen=True, slots=True)
class FrameResult:
    """The faces of one frame.

    Args:
        frame: the frame; its image is empty unless the video is live.
        size: (height, width) of the frame, in pixels.
        faces: largest first; from the last frame in which faces were detected.
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
    faces: tuple[tuple[int, Detection], ...]  # with their tracks
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
        live: finish each frame before asking for the next one, and keep its image: no latency, but slower.

    Raises:
        ImageError: if the frames raise it.
    """
    config = config or FollowConfig()
    tracker, smoother = Tracker(config.min_iou, config.max_gap_s), Smoother(config.smooth_s)
    if state is not None:
        tracker.restore(state["tracker"])
        smoother.restore(state["smoother"])
    cropped = _crop(predictor, frames, config, tracker, keep_images=live)
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
    predictor: Predictor, frames: Iterable[Frame], config: FollowConfig, tracker: Tracker, *, keep_images: bool
) -> Generator[_Cropped, None, None]:
    crop_face = predictor.config.preprocessing.face
    # A resumed run begins with a detection.
    checkpoint_every = -(-config.checkpoint_every // config.detect_every) * config.detect_every
    faces: tuple[tuple[int, Detection], ...] = ()
    for count, frame in enumerate(frames):
        if count % config.detect_every == 0:
            found = predictor.detector.detect(frame.image_hwc_u8)
            faces = tuple(zip(tracker.update([face.box for face in found], frame.time_s), found, strict=True))
        height, width, _ = frame.image_hwc_u8.shape
        crops = tuple(crop_face(frame.image_hwc_u8, face.crop_box, face.landmarks) for _, face in faces)
        kept = frame if keep_images else dataclasses.replace(frame, image_hwc_u8=NO_IMAGE)
        yield _Cropped(kept, (height, width), faces, crops, None if (count + 1) % checkpoint_every else tracker.state())


def _classify(predictor: Predictor, pending: list[_Cropped], smoother: Smoother) -> Iterator[FrameResult]:
    crops = [crop for item in pending for crop in item.crops]
    starts = range(0, len(crops), predictor.batch_size)
    answers = itertools.chain.from_iterable(predictor.classify(crops[at : at + predictor.batch_size]) for at in starts)
    for item in pending:
        faces = []
        for track_id, face in item.faces:
            probs, affect = next(answers)
            smooth = smoother.update(track_id, item.frame.time_s, np.asarray(probs)).tolist()
            faces.append(predictor.face_result(face, smooth, affect))
        state = None if item.tracker is None else {"tracker": item.tracker, "smoother": smoother.state()}
        tracks = tuple(track_id for track_id, _ in item.faces)
        yield FrameResult(item.frame, item.size, tuple(faces), tracks, state)
