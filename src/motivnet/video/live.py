"""Frames as they are taken: of a camera, or of a file that is played as if it were one.

A thread takes every frame, and whoever looks at them gets the latest: frames are dropped, so that nothing lags behind.
"""

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Self

from motivnet.errors import ImageError
from motivnet.remote import without_password
from motivnet.video.camera import read_camera
from motivnet.video.reader import Frame

# How long a camera that no longer answers is waited for at the end, in seconds.
PATIENCE_S = 2.0
ALLOWED = "Allowed: the number of a camera that is connected, from 0; a video file; a URL such as rtsp://host/stream"


class LiveFrames:
    """The frames of a camera; iterate once, and close.

    Attributes:
        taken: frames that the camera gave, so far.
        dropped: frames of them that nobody looked at, so far.
    """

    def __init__(self, camera: str) -> None:
        """Begin to take frames.

        Args:
            camera: the number of a camera, from 0; the path of a device; a URL; or a video file, whose frames then come
                when they are shown.
        """
        self.taken = self.dropped = 0
        self._began = time.perf_counter()
        self._ready = threading.Condition()
        self._latest: Frame | None = None
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._thread = threading.Thread(target=self._take, args=(camera,), name="motivnet-camera", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the camera; an iteration that is under way ends."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._thread.join(PATIENCE_S)

    def age(self, time_s: float) -> float:
        """Say how long ago a frame was taken, in seconds, by its time."""
        return time.perf_counter() - self._began - time_s

    def __iter__(self) -> Iterator[Frame]:
        """Give the latest frame whenever asked for one, none twice; times are seconds from the beginning.

        Raises:
            ImageError: if there is no such camera or file, or it gives no picture.
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
        try:
            with contextlib.closing(_open(camera, self._began)) as frames:
                for frame in frames:
                    with self._ready:
                        if self._closed:
                            return
                        self.taken += 1
                        self.dropped += self._latest is not None
                        self._latest = frame
                        self._ready.notify_all()
        except BaseException as error:  # whatever it is belongs to the reader, who would wait for ever without it
            self._error = error
        finally:
            with self._ready:
                self._ended = True
                self._ready.notify_all()


def _open(camera: str, began: float) -> Generator[Frame, None, None]:
    if is_file(camera):
        return _play(Path(camera), began)
    return _watch(camera, began)


def is_file(camera: str) -> bool:
    """Tell whether a camera is a file that stands in for one."""
    return not camera.isdecimal() and Path(camera).is_file()


def _play(path: Path, began: float) -> Generator[Frame, None, None]:
    from motivnet.video.reader import Video

    with Video(path) as video:
        start: float | None = None
        for frame in video:
            now = time.perf_counter() - began
            start = now - frame.time_s if start is None else start
            time.sleep(max(0.0, start + frame.time_s - now))
            yield Frame(frame.index, time.perf_counter() - began, frame.image_hwc_u8)


def _watch(camera: str, began: float) -> Generator[Frame, None, None]:
    is_url = "://" in camera
    name = without_password(camera) if is_url else camera
    if not camera.isdecimal() and not is_url and not Path(camera).exists():
        raise ImageError(f"camera {name}: no such file or device. {ALLOWED}")
    pictures = read_camera(int(camera) if camera.isdecimal() else camera)
    try:
        with contextlib.closing(pictures):
            for index, image_hwc_u8 in enumerate(pictures):
                yield Frame(index, time.perf_counter() - began, image_hwc_u8)
    except ImageError as error:
        reason = "gives no picture" if "gives no picture" in str(error) else "cannot be opened"
        raise ImageError(f"camera {name}: {reason}. {ALLOWED}") from None
