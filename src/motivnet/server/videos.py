"""Label the video of a request: another process decodes it, its faces are followed here, one video at a time.

    python -m motivnet.server.videos

is such a process, see `motivnet.child_process`: FFmpeg may crash at a hostile file, or never end.
"""

import asyncio
import contextlib
import copy
import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from motivnet import child_process
from motivnet.errors import ConfigError, ImageError
from motivnet.images import ImageLimits, NamedImage
from motivnet.inference.predictor import Answer, Predictor
from motivnet.inference.rows import Row, printable
from motivnet.server.decoding import NICENESS
from motivnet.server.limits import RefusedError
from motivnet.server.settings import ServerSettings
from motivnet.video.follow import follow
from motivnet.video.reader import Frame, Video
from motivnet.video.video_config import Selection


class Videos:
    """Labels the videos of all requests, one after another, as `motivnet video` would."""

    def __init__(
        self,
        predictor: Predictor,
        settings: ServerSettings,
        classify: Callable[[list[np.ndarray]], Iterator[Answer]],
    ) -> None:
        """Prepare.

        Args:
            predictor: of the server.
            settings: limits of a video, and of how many there are.
            classify: stands for the predictor's: takes its turn with the images of other requests.
        """
        self._predictor, self._settings = copy.copy(predictor), settings
        # One thread detects faces, so that images find others.
        self._predictor.workers, self._predictor.classify = 1, classify
        self._turn, self._number = asyncio.Lock(), 0

    @property
    def limits(self) -> dict[str, float] | None:
        """What a video may be, for `schemas.VideoLimits`; None if videos cannot be read here."""
        if find_spec("av") is None or not os.path.isdir("/dev/fd"):  # noqa: PTH112
            return None
        settings = self._settings
        limits = {"seconds": settings.max_video_s, "bytes": settings.max_video_bytes}
        return limits | {"pixels": settings.max_video_pixels, "fps": settings.video_fps}

    def check_room(self) -> None:
        """Check that a video would be accepted; RefusedError 429 if there are too many, 501 if none can be read."""
        if self.limits is None:
            raise RefusedError(501, "no_video", "this server reads no videos: they need PyAV, and Linux or macOS")
        if self._number >= self._settings.max_videos:
            raise RefusedError(429, "videos", f"{self._number} videos are in progress; retry later")

    async def label(self, video: NamedImage) -> dict[str, Any]:
        """Wait for the video's turn, and label it.

        Returns:
            A `schemas.VideoResult`; of what is no video, or beyond the limits, with one row that states the error.

        Raises:
            RefusedError: as `check_room`; 504 if it takes too long.
        """
        self.check_room()
        self._number += 1
        try:
            async with self._turn:
                return await self._label_in_time(video)
        finally:
            self._number -= 1

    async def _label_in_time(self, video: NamedImage) -> dict[str, Any]:
        process = child_process.start(__spec__.name)
        call = asyncio.ensure_future(asyncio.to_thread(self._label, process, video))
        try:
            async with asyncio.timeout(self._settings.video_timeout_s):
                return await asyncio.shield(call)
        except TimeoutError:
            detail = f"the video took longer than {self._settings.video_timeout_s:g} s"
            raise RefusedError(504, "slow_video", detail) from None
        finally:
            # Without it, the thread has no more frames and ends.
            process.kill()
            await asyncio.wait([call])
            child_process.end(process)

    def _label(self, process: "subprocess.Popen[bytes]", video: NamedImage) -> dict[str, Any]:
        config = self._predictor.config
        shared: Row = {"source": printable(video.name), "model": config.name}
        shared["preprocessing"] = config.preprocessing.fingerprint
        rows: list[Row] = []
        notes: list[str] = []
        try:
            for result in follow(self._predictor, self._frames(process, video.image, notes)):
                rows += result.rows(shared)
        except ImageError as error:
            rows = [{**shared, "status": "unreadable", "error": printable(str(error))}]
        rows = [row | {"short_track": False} if "track" in row else row for row in rows]
        return {"source": shared["source"], "notes": notes, "rows": [self._complete(row) for row in rows]}

    def _complete(self, row: Row) -> Row:
        return {name: row.get(name) for name in self._predictor.columns}

    def _frames(self, process: "subprocess.Popen[bytes]", data: object, notes: list[str]) -> Iterator[Frame]:
        try:
            child_process.send(process.stdin, (data, self._settings))
            while isinstance(message := pickle.load(process.stdout), Frame):  # type: ignore[arg-type]
                yield message
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            raise ImageError("damaged video: the decoder crashed") from None
        if isinstance(message, ImageError):
            raise message
        notes += message


def decode(data: bytes, settings: ServerSettings) -> Iterator[Frame | list[str]]:
    """Yield the frames of a video that are looked at, and at the end what was special or wrong in the file.

    Raises:
        ImageError: if it is no video, or beyond the limits.
    """
    # In memory; elsewhere than on Linux a file without a name, which is gone with this process.
    file = os.fdopen(os.memfd_create("video"), "wb") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()
    with file:
        file.write(data)
        file.seek(0)
        path, most_s = f"/dev/fd/{file.fileno()}", settings.max_video_s
        limits = ImageLimits(max_pixels=settings.max_video_pixels)
        try:
            with Video(path, Selection(fps=settings.video_fps), limits=limits) as video:
                length_s = video.info.duration_s or 0
                for frame in video if length_s <= most_s else ():
                    length_s = max(length_s, frame.time_s)
                    if frame.time_s > most_s:
                        break
                    yield dataclasses.replace(frame, picture=None)
                if length_s > most_s:
                    raise ImageError(f"lasts {length_s:.0f} s or more, the limit is {most_s:g} s")
                corrupt = [f"{video.corrupt} corrupt frames skipped"] if video.corrupt else []
                yield [*video.notes(), *corrupt, *([video.damage] if video.damage else [])]
        except (ImageError, ConfigError) as error:
            raise ImageError(str(error).removeprefix(f"{path}: ")) from None


def main() -> None:
    """Decode one video for the parent."""
    replies = child_process.take_over_output()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with contextlib.suppress(BrokenPipeError):
        try:
            for message in decode(*pickle.load(sys.stdin.buffer)):
                child_process.send(replies, message)
        except ImageError as error:
            child_process.send(replies, error)


if __name__ == "__main__":
    main()
