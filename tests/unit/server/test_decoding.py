import asyncio
import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from motivnet.errors import ImageError
from motivnet.images import NamedImage, decode_image
from motivnet.input_limits import ImageLimits
from motivnet.server.decoding import Decoders, is_quick

SHADES = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


def encode(kind: str, side: int = 0, **options) -> bytes:
    image = Image.fromarray(SHADES)
    file = io.BytesIO()
    (image.resize((side, side)) if side else image).save(file, kind, **options)
    return file.getvalue()


def decode(*files: bytes, timeout_s: float = 60.0, close: bool = True) -> list:
    held = []

    async def go() -> list:
        decoders = Decoders(ImageLimits(), timeout_s)
        try:
            images = await decoders.decode([NamedImage(str(n), file) for n, file in enumerate(files)], held.append)
            return [image.image for image in images]
        finally:
            decoders.close()

    return [*asyncio.run(go()), sum(held)]


JPEG, PNG = encode("JPEG"), encode("PNG")
# A comment between the start of a JPEG and its first segment; a text chunk behind the header of a PNG.
COMMENT = b"\xff\xfe\x00\x03x"
CHUNK = b"\x00\x00\x00\x00tEXt" + zlib.crc32(b"tEXt").to_bytes(4, "big")


@pytest.mark.parametrize(
    ("data", "quick"),
    [
        (JPEG, True),
        (encode("JPEG", progressive=True), True),
        (PNG, True),
        # Refused at once.
        (b"", True),
        (b"no image", True),
        (encode("WEBP"), False),
        (encode("GIF"), False),
        (encode("TIFF"), False),
        (encode("BMP"), False),
        # 2048 x 2048 pixels in 12 kB, and a JPEG of 10 scans of 2048 x 2048 pixels.
        (encode("PNG", 2048), False),
        (encode("JPEG", 2048, progressive=True), False),
        (encode("JPEG", 2048), True),
        (JPEG[:2] + COMMENT * 1000 + JPEG[2:], False),
        (PNG[:33] + CHUNK * 5000 + PNG[33:], False),
        (JPEG[:100], False),
    ],
)
def test_what_is_quick(data, quick):
    assert is_quick(data) is quick


def test_unusual_images_are_decoded_elsewhere_and_the_others_left_alone():
    webp = encode("WEBP", lossless=True)
    pixels, jpeg, damaged, held = decode(webp, JPEG, webp[:100])
    np.testing.assert_array_equal(pixels, decode_image(webp))
    assert jpeg == JPEG
    assert isinstance(damaged, ImageError)
    assert str(damaged).startswith("damaged image")
    assert held == SHADES.nbytes


@pytest.mark.parametrize(
    ("code", "timeout_s", "error"),
    [
        ("import time; time.sleep(600)", 0.05, "such images of a request may take 0.05 s in all"),
        ("import os; os._exit(9)", 60, "damaged image: the decoder crashed"),
    ],
)
def test_a_process_that_hangs_or_crashes_is_replaced(monkeypatch, code, timeout_s, error):
    processes = []

    def start(module):
        command = [sys.executable, "-c", code]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return processes[-1]

    monkeypatch.setattr("motivnet.child_process.start", start)
    first, second, held = decode(encode("WEBP"), encode("WEBP"), timeout_s=timeout_s)
    assert str(first).endswith(error)
    assert str(second).endswith(error)
    assert held == 0
    # No time is left for the second one where the first took it all.
    assert len(processes) == (1 if timeout_s < 1 else 2)
    assert all(process.poll() is not None for process in processes)
