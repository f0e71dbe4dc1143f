"""Cameras: single pictures, the latest frame whenever asked for one, and faces labelled live."""

import collections
import contextlib
import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np

from motivnet.errors import ImageError, needs_extra
from motivnet.frames.reader import Frame, Video
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.remote import without_password
from motivnet.video.video_config import FollowConfig

# Pictures in which a camera that was just switched on adjusts its exposure: a third of a second.
WARM_UP_PICTURES = 10
# How long to wait at the end for a camera that no longer answers, in seconds.
CLOSE_TIMEOUT_S = 2.0
ALLOWED = "Allowed: the number of a connected camera, from 0; a video file; a URL such as rtsp://host/stream"
# Number of latest frames that the frame rate on the picture, and the latency in the statistics, are computed from.
SHOWN_FRAMES, COUNTED_FRAMES = 30, 10_000


def read_camera(camera: int | str) -> Generator[np.ndarray, None, None]:
    """Yield a camera's pictures until it ends; closing the iterator releases the camera.

    Args:
        camera: its number, from 0, the path of its device, or a URL; a video file can stand in for one.

    Returns:
        RGB images, uint8 (h, w, 3).

    Raises:
        ImageError: if there is no such camera, or it yields no picture.
    """
    import cv2

    name = without_password(str(camera))
    capture = cv2.VideoCapture(camera)
    try:
        if not capture.isOpened():
            raise ImageError(f"camera {name}: cannot be opened. {ALLOWED}")
        good, image_hwc_bgr = capture.read()
        if not good:
            raise ImageError(f"camera {name}: gives no picture; another program may be using it")
        while good:
            yield np.ascontiguousarray(image_hwc_bgr[:, :, ::-1])
            good, image_hwc_bgr = capture.read()
    finally:
        capture.release()


def take_picture(camera: int | str) -> np.ndarray:
    """Take one picture after the exposure has settled; arguments and errors are those of `read_camera`."""
    with contextlib.closing(read_camera(camera)) as pictures:
        *_, picture = itertools.islice(pictures, WARM_UP_PICTURES + 1)
    return picture


class LiveFrames:
    """The latest frames of a camera; iterate once, and close.

    A thread takes every frame, and the reader gets the latest: frames are dropped rather than delayed.

    Attributes:
        taken: number of frames that the camera yielded so far.
        dropped: number of those that were never read.
    """

    def __init__(self, camera: str) -> None:
        """Start to take frames.

        Args:
            camera: the number of a camera, from 0; the path of a device; a URL; or a video file, which is played at
                its own speed.
        """
        self.taken = self.dropped = 0
        self._began = time.perf_counter()
        self._ready = threading.Condition()
        self._latest: Frame | None = None
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._thread = threading.Thread(target=self._take, args=(camera,), name="motivnet-camera", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Release the camera; an iteration in progress ends."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._thread.join(CLOSE_TIMEOUT_S)

    def age(self, time_s: float) -> float:
        """Return how long ago the frame of this time was taken, in seconds."""
        return time.perf_counter() - self._began - time_s

    def __iter__(self) -> Iterator[Frame]:
        """Yield the latest frame, none twice; times are seconds from the start.

        Raises:
            ImageError: if there is no such camera or file, or it yields no picture.
        """
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._latest or self._ended or self._closed)
                frame, self._latest = self._latest, None
                if self._closed or frame is None:
                    break
            yield frame
        if self._error is not None and not self._closed:
            raise self._error

    def _take(self, camera: str) -> None:
        is_file = not camera.isdecimal() and Path(camera).is_file()
        frames = _play(Path(camera), self._began) if is_file else _watch(camera, self._began)
        try:
            with contextlib.closing(frames):
                for frame in frames:
                    with self._ready:
                        if self._closed:
                            return
                        self.taken += 1
                        if self._latest is not None:
                            self.dropped += 1
                            frame = dataclasses.replace(frame, jump=max(frame.jump, self._latest.jump))
                        self._latest = frame
                        self._ready.notify_all()
        except BaseException as error:  # any kind: without it the reader would wait forever
            self._error = error
        finally:
            with self._ready:
                self._ended = True
                self._ready.notify_all()


def _play(path: Path, began: float) -> Generator[Frame, None, None]:
    with Video(path) as video:
        start: float | None = None
        for frame in video:
            now = time.perf_counter() - began
            start = now - frame.time_s if start is None else start
            time.sleep(max(0.0, start + frame.time_s - now))
            yield dataclasses.replace(frame, time_s=time.perf_counter() - began)


def _watch(camera: str, began: float) -> Generator[Frame, None, None]:
    if not camera.isdecimal() and "://" not in camera and not Path(camera).exists():
        raise ImageError(f"camera {camera}: no such file or device. {ALLOWED}")
    with contextlib.closing(read_camera(int(camera) if camera.isdecimal() else camera)) as pictures:
        for index, image_hwc_u8 in enumerate(pictures):
            yield Frame(index, time.perf_counter() - began, image_hwc_u8)


@dataclasses.dataclass(slots=True)
class LiveStats:
    """Statistics of a live run; as text, a summary in one line.

    Args:
        frames: number of frames that were shown.
        first_s: time of the first of them, in seconds from the start; None before.
        seconds: from the first of them to the last.
        latencies_s: time from taking to showing a frame, in seconds, of the latest frames.
        taken: number of frames that the camera yielded.
        dropped: number of those that were not shown.
        error: why the camera ended early; None if it did not.
    """

    frames: int = 0
    first_s: float | None = None
    seconds: float = 0.0
    latencies_s: collections.deque[float] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=COUNTED_FRAMES)
    )
    taken: int = 0
    dropped: int = 0
    error: str | None = None

    def add(self, time_s: float, latency_s: float) -> None:
        """Count a frame that has been shown."""
        self.first_s = time_s if self.first_s is None else self.first_s
        self.frames, self.seconds = self.frames + 1, time_s - self.first_s
        self.latencies_s.append(latency_s)

    def __str__(self) -> str:
        if not self.frames:
            return "no frame was shown"
        median_ms, late_ms = 1000 * np.quantile(list(self.latencies_s), (0.5, 0.95))
        fps = f" ({(self.frames - 1) / self.seconds:.1f} per second)" if self.seconds > 0 else ""
        return (
            f"{self.frames:,} frames in {self.seconds:.1f} s{fps}; latency {median_ms:.0f} ms, "
            f"95 % below {late_ms:.0f} ms; {self.dropped:,} of {self.taken:,} frames dropped"
        )


def label_live(
    camera: str = "0",
    out: str | os.PathLike[str] | None = None,
    *,
    show: Callable[[np.ndarray], bool] | None = None,
    seconds: float | None = None,
    model: str | Path = "nano",
    config: PredictorConfig | None = None,
    follow: FollowConfig | None = None,
    overwrite: bool = False,
) -> LiveStats:
    """Draw the faces and emotions on a camera's pictures as they come, until it ends or Ctrl-C is pressed.

    Args:
        camera: the number of a camera, from 0; the path of a device; a URL; or a video file, played at its own speed.
        out: an .mp4 file for the pictures; complete whatever ends the run, unless it is killed.
        show: called with every picture, RGB, uint8 (h, w, 3); stops the run by returning False.
        seconds: duration of the run; None does not end it.
        model: as for `Predictor.load`.
        config: options of the predictor; None takes the defaults.
        follow: how faces are detected, tracked and smoothed; None takes the defaults.
        overwrite: replace `out` if it exists.

    Raises:
        OutputError: if `out` exists or cannot be written.
    """
    with needs_extra("av", "video"):
        import av  # noqa: F401
    from motivnet.inference.draw import draw_frame
    from motivnet.inference.predictor import Predictor
    from motivnet.inference.tables import check_output
    from motivnet.video.follow import follow as follow_faces
    from motivnet.video.writer import encodable, write_video

    if out is not None:
        check_output(Path(out), overwrite=overwrite, formats=(".mp4",))
    predictor = Predictor.load(model, config)
    stats, times_s = LiveStats(), collections.deque[float](maxlen=SHOWN_FRAMES)
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(write_video(Path(out))) if out is not None else None
        frames = stack.enter_context(contextlib.closing(LiveFrames(camera)))
        results = stack.enter_context(contextlib.closing(follow_faces(predictor, frames, follow, live=True)))
        try:
            for result in results:
                time_s = result.frame.time_s
                times_s.append(time_s)
                lasted_s = time_s - times_s[0]
                fps = f"{(len(times_s) - 1) / lasted_s:.0f}" if lasted_s > 0 else "-"
                note = f"{fps} fps   {1000 * frames.age(time_s):.0f} ms"
                picture = draw_frame(result.frame.image_hwc_u8, result.faces, result.tracks, note)
                if write:
                    write(encodable(picture), time_s)
                go_on = show is None or show(picture)
                stats.add(time_s, frames.age(time_s))
                if not go_on or (seconds is not None and time_s >= seconds):
                    break
        except KeyboardInterrupt:
            pass
        except ImageError as error:  # what was recorded before a camera was unplugged is kept
            stats.error = str(error)
        stats.taken, stats.dropped = frames.taken, frames.dropped
    return stats
