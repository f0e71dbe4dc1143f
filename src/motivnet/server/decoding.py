"""Decode unusual images in other processes, which are killed at a deadline; usual ones need no such care.

    python -m motivnet.server.decoding

is such a process, see `motivnet.child_process`.
"""

import asyncio
import contextlib
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from motivnet import child_process
from motivnet.errors import ImageError
from motivnet.images import START_OF_SCAN, NamedImage, decode_image
from motivnet.input_limits import ImageLimits
from motivnet.machine import KEEP_LITTLE, keep_freed_memory

NUM_PROCESSES = 2
# Their priority is lower by this, so that the others' images stay quick.
NICENESS = 10
# Up to these, a file is decoded in a fraction of a second: pixels times scans of a JPEG, pixels of a PNG, and the
# pieces of either, which Pillow goes through one by one.
QUICK_JPEG, QUICK_PNG = 30_000_000, 2_000_000
QUICK_SEGMENTS, QUICK_CHUNKS = 200, 4_000
_PNG = b"\x89PNG\r\n\x1a\n"
# Sizes and codings that OpenCV decodes: baseline, extended and progressive JPEG.
_FRAMES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2")
# How the other formats begin.
_UNUSUAL = re.compile(rb"BM|GIF8|II|MM|P[1-7Ffy]|RIFF|\xff\x4f|.{4}(?:ftyp|jP  )", re.DOTALL)


def is_quick(data: bytes) -> bool:
    """Tell whether a file is decoded, or refused, in a short time that is known beforehand."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_pixels(data) * data.count(START_OF_SCAN) <= QUICK_JPEG
    if data.startswith(_PNG):
        pixels = int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
        return pixels <= QUICK_PNG and _has_few_chunks(data)
    return not _UNUSUAL.match(data)


def _jpeg_pixels(data: bytes) -> float:
    """Return height x width by the segments before the first scan; infinite if there are many or odd ones."""
    place, pixels = 2, float("inf")
    for _ in range(QUICK_SEGMENTS):
        marker = data[place : place + 2]
        if marker == START_OF_SCAN or marker[:1] != b"\xff":
            break
        if marker in _FRAMES:
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            pixels = int.from_bytes(height, "big") * int.from_bytes(width, "big")
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return pixels if data[place : place + 2] == START_OF_SCAN else float("inf")


def _has_few_chunks(data: bytes) -> bool:
    place = len(_PNG)
    for _ in range(QUICK_CHUNKS):
        if place >= len(data):
            return True
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return False


class Decoders:
    """Processes that decode the unusual images of all requests; they start when there is one."""

    def __init__(self, limits: ImageLimits, timeout_s: float) -> None:
        """Prepare.

        Args:
            limits: of an image.
            timeout_s: for the unusual images of a request together.
        """
        self._limits, self._timeout_s = limits, timeout_s
        self._threads = ThreadPoolExecutor(NUM_PROCESSES, thread_name_prefix="motivnet-decode")
        self._idle: list[subprocess.Popen[bytes]] = []

    async def decode(self, images: list[NamedImage], hold: Callable[[int], None]) -> list[NamedImage]:
        """Decode the unusual images of a request, one at a time, so that requests take turns.

        Args:
            images: of a request; those that are quick stay as they are.
            hold: told the bytes of each decoded image.

        Returns:
            The images, decoded, or with the error of those that cannot be or that there was no time for.
        """
        left_s = self._timeout_s
        decoded = []
        for image in images:
            if isinstance(image.image, bytes) and not is_quick(image.image):
                call = asyncio.get_running_loop().run_in_executor(self._threads, self._run, image.image, left_s)
                pixels, seconds = await call
                left_s -= seconds
                hold(0 if isinstance(pixels, ImageError) else pixels.nbytes)
                image = NamedImage(image.name, pixels)
            decoded.append(image)
        return decoded

    def close(self) -> None:
        """End the threads, and the processes when theirs have nothing more to do."""
        self._threads.shutdown(cancel_futures=True)
        for process in self._idle:
            child_process.end(process)

    def _run(self, data: bytes, seconds: float) -> tuple[np.ndarray | ImageError, float]:
        """Decode in a process, within this time; return also how long it took."""
        late = ImageError(f"not decoded: such images of a request may take {self._timeout_s:g} s in all")
        if seconds <= 0:
            return late, 0.0
        process = self._idle.pop() if self._idle else child_process.start(__spec__.name)
        began_s = time.monotonic()
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            child_process.send(process.stdin, (data, self._limits))
            answer = pickle.load(process.stdout)  # type: ignore[arg-type]
            self._idle.append(process)
        except (EOFError, OSError, pickle.UnpicklingError):
            child_process.end(process)
            answer = late if time.monotonic() - began_s >= seconds else ImageError("damaged image: the decoder crashed")
        finally:
            timer.cancel()
        return answer, time.monotonic() - began_s


def main() -> None:
    """Decode until the parent ends."""
    replies = child_process.take_over_output()
    keep_freed_memory(KEEP_LITTLE)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            data, limits = pickle.load(sys.stdin.buffer)
            try:
                answer: np.ndarray | ImageError = decode_image(data, limits=limits)
            except ImageError as error:
                answer = error
            child_process.send(replies, answer)


if __name__ == "__main__":
    main()
