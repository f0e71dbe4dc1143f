"""Pictures of a camera, as OpenCV finds it."""

import contextlib
import itertools
from collections.abc import Generator

import numpy as np

from motivnet.errors import ImageError

# Pictures in which a camera that was just switched on finds its exposure: a third of a second.
WARM_UP_PICTURES = 10


def read_camera(camera: int | str) -> Generator[np.ndarray, None, None]:
    """Give a camera's pictures as it takes them, until it ends; close the iterator to let go of the camera.

    Args:
        camera: its number, from 0, or the path of its device; a video file stands in for one.

    Returns:
        RGB images, uint8 (h, w, 3).

    Raises:
        ImageError: if there is no such camera, or it gives no picture.
    """
    import cv2

    capture = cv2.VideoCapture(camera)
    with contextlib.ExitStack() as stack:
        stack.callback(capture.release)
        if not capture.isOpened():
            raise ImageError(f"camera {camera}: not found. Allowed: the number of a camera that is connected, from 0")
        num_pictures = 0
        while True:
            good, image_hwc_bgr = capture.read()
            if not good:
                break
            num_pictures += 1
            yield np.ascontiguousarray(image_hwc_bgr[:, :, ::-1])
        if not num_pictures:
            raise ImageError(f"camera {camera}: gives no picture; another program may be using it")


def take_picture(camera: int | str) -> np.ndarray:
    """Take one picture, once the camera has found its exposure; arguments and errors are those of `read_camera`."""
    with contextlib.closing(read_camera(camera)) as pictures:
        *_, picture = itertools.islice(pictures, WARM_UP_PICTURES + 1)
    return picture
