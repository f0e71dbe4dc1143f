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
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from motivnet import child_process
from motivnet.errors import ConfigError, ImageError
from motivnet.frames.reader import Frame, Video
from motivnet.frames.selection import Selection
from motivnet.images import ImageLimits, NamedImage
from motivnet.inference.predictor import Predictor
from motivnet.inference.rows import Row, printable
from motivnet.server.batching import Batcher
from motivnet.server.decoding import NICENESS
from motivnet.server.limits import RefusedError
from motivnet.server.settings import ServerSettings
from motivnet.video.follow import follow


class Videos:
    """Labels the videos of all requests, one after another, as `motivnet video` would."""

    def __init__(self, predictor: Predictor, settings: ServerSettings, batcher: Batcher) -> None:
        """Prepare.

        Args:
            predictor: of the server.
            settings: limits of a video, and of how many there are.
            batcher: classifies the faces, in turns with those of images.
        """
        self._predictor, self._settings = copy.copy(predictor), settings
        # One thread detects faces, so that images find others.
        self._predictor.workers, self._predictor.classify = 1, batcher.classify
        self._turn, self._number = asyncio.Lock(), 0

    def check_room(self) -> None:
        """Check that a video would be accepted; RefusedError 429 if there are too many."""
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
        except TimeoutError:
            detail = f"the video took longer than {self._settings.video_timeout_s:g} s"
            raise RefusedError(504, "slow_video", detail) from None
        finally:
            self._number -= 1

    async def _label_in_time(self, video: NamedImage) -> dict[str, Any]:
        process = child_process.start(__spec__.name)
        call = asyncio.ensure_future(asyncio.to_thread(self._label, process, video))
        try:
            async with asyncio.timeout(self._settings.video_timeout_s):
                return await asyncio.shield(call)
        finally:
            # Without it, the thread has no more frames and ends.
            process.kill()
            await asyncio.wait([call])
            child_process.end(process)

    def _label(self, process: Any, video: NamedImage) -> dict[str, Any]:
        config, notes, rows = self._predictor.config, list[str](), list[Row]()
        source, preprocessing = printable(video.name), config.preprocessing.fingerprint
        shared = {"source": source, "model": config.name, "preprocessing": preprocessing}
        try:
            for result in follow(self._predictor, _frames(process, (video.image, self._settings), notes)):
                rows += result.rows(shared)
        except ImageError as error:
            rows = [shared | {"status": "unreadable", "error": printable(str(error))}]
        columns = dict.fromkeys(self._predictor.columns)
        complete = [columns | row | ({"short_track": False} if "track" in row else {}) for row in rows]
        return {"source": source, "notes": notes, "rows": complete}


def _frames(process: Any, request: tuple[Any, ServerSettings], notes: list[str]) -> Iterator[Frame]:
    """Yield the frames that a process decodes, and at the end add its notes."""
    try:
        child_process.send(process.stdin, request)
        while isinstance(message := pickle.load(process.stdout), Frame):
            yield message
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        raise ImageError("damaged video: the decoder crashed") from None
    if isinstance(message, ImageError):
        raise message
    notes += message


def decode(data: bytes, settings: ServerSettings) -> Iterator[Frame | list[str] | ImageError]:
    """Yield the frames of a video that are looked at, and at the end notes on the file, or why it cannot be read."""
    # In memory; elsewhere than on Linux a file without a name, which is gone with this process.
    memory = os.memfd_create("video") if hasattr(os, "memfd_create") else None
    file = tempfile.TemporaryFile() if memory is None else open(memory, "wb")  # noqa: SIM115, PTH123
    file.write(data)
    file.seek(0)
    path, most_s = f"/dev/fd/{file.fileno()}", settings.max_video_s
    limits, selection = ImageLimits(max_pixels=settings.max_video_pixels), Selection(fps=settings.video_fps)
    try:
        with file, Video(path, selection, limits=limits) as video:
            last_s = video.info.duration_s or 0
            for frame in video if last_s <= most_s else ():
                last_s = max(last_s, frame.time_s)
                if last_s > most_s:
                    break
                yield dataclasses.replace(frame, picture=None)
            if last_s > most_s:
                raise ImageError(f"lasts {last_s:.0f} s or more, the limit is {most_s:g} s")
            corrupt = f"{video.corrupt} corrupt frames skipped" if video.corrupt else None
            yield [*video.notes(), *filter(None, (corrupt, video.damage))]
    except (ImageError, ConfigError) as error:
        yield ImageError(str(error).removeprefix(f"{path}: "))


def main() -> None:
    """Decode one video for the parent."""
    replies = child_process.take_over_output()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with contextlib.suppress(BrokenPipeError):
        for message in decode(*pickle.load(sys.stdin.buffer)):
            child_process.send(replies, message)


if __name__ == "__main__":
    main()
