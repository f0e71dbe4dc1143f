"""A video for benchmarks: 1280 x 720, two real faces that wander, 30 frames per second, H.264."""

from fractions import Fraction
from pathlib import Path

import av
import matplotlib
import numpy as np
from skimage import data

from motivnet.images import decode_image

HEIGHT, WIDTH, FPS = 720, 1280, 30


def draw_clip(path: Path, frames: int) -> Path:
    """Write the video; each frame differs from the one before, and none is empty.

    Args:
        path: the file, .mp4.
        frames: how many.
    """
    hopper = decode_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    portraits = [np.ascontiguousarray(data.astronaut()), hopper[:512]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            for place, portrait in enumerate(portraits):
                phase = number / 45 + 2 * place
                x = 60 + 620 * place + round(30 * np.sin(phase))
                y = 104 + round(80 * np.cos(phase / 2))
                image[y : y + 512, x : x + 512] = portrait
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
