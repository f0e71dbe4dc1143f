"""From a decoded image to what a model sees: the only such path, for training, evaluation, serving and export.

Shape suffixes: h height, w width, c channels; B images, C channels, H height, W width of the model's input.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import numpy as np

from motivnet import config
from motivnet.errors import ConfigError

Geometry = Literal["stretch", "pad", "square"]
Channels = Literal["rgb", "grey"]
Filter = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]

# ITU-R BT.601 luma, as JPEG, OpenCV and Pillow use it.
LUMA_RGB = (0.299, 0.587, 0.114)


class Box(NamedTuple):
    """A rectangle in pixels of the upright image; it may reach beyond the image.

    Attributes:
        x: left edge.
        y: top edge.
        width: of the rectangle.
        height: of the rectangle.
    """

    x: float
    y: float
    width: float
    height: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How a face becomes a tensor. Frozen, serialisable, and known by its fingerprint.

    Args:
        geometry: `stretch` resizes the box to `size` whatever its shape (MotivNet's training code);
            `pad` resizes it to the largest square inside `size` and fills the rest with `fill` on both sides
            (MotivNet's inference code: 768x768, then white rows to 1024x768);
            `square` widens the box by `margin`, squares it about its centre and resizes it.
        size: (height, width) of the model's input, in pixels; equal for `square`.
        channels: `rgb`, or `grey` for one channel of luma.
        filter: resampling filter, OpenCV's.
        mean: subtracted, per channel, on the scale 0 to 255.
        std: divided by, per channel, on the scale 0 to 255.
        margin: share of the box's longer side added on each side, for `square`; a whole image gets none.
        fill: grey value, 0 to 255, of padding rows and of what lies outside the image; None repeats the edge.
    """

    geometry: Geometry
    size: tuple[int, int]
    channels: Channels
    filter: Filter
    mean: tuple[float, ...]
    std: tuple[float, ...]
    margin: float = 0.0
    fill: int | None = None

    def __post_init__(self) -> None:
        """Check that the settings fit together.

        Raises:
            ConfigError: at a value that is out of range.
        """
        height, width = self.size
        problems = {
            f"geometry {self.geometry!r}. Allowed: {', '.join(get_args(Geometry))}": self.geometry
            not in get_args(Geometry),
            f"channels {self.channels!r}. Allowed: {', '.join(get_args(Channels))}": self.channels
            not in get_args(Channels),
            f"filter {self.filter!r}. Allowed: {', '.join(get_args(Filter))}": self.filter not in get_args(Filter),
            f"size {self.size}: both must be positive": height < 1 or width < 1,
            f"size {self.size} is not square, as geometry 'square' needs": self.geometry == "square"
            and height != width,
            f"mean and std must have {self.num_channels} values": len(self.mean) != self.num_channels
            or len(self.std) != self.num_channels,
            f"mean {self.mean} must be finite": not all(map(math.isfinite, self.mean)),
            f"std {self.std} must be positive and finite": not all(0 < value < math.inf for value in self.std),
            f"margin {self.margin} must be from 0 to 2": not 0 <= self.margin <= 2,
            f"fill {self.fill} must be from 0 to 255, or None": self.fill is not None and not 0 <= self.fill <= 255,
        }
        for problem, found in problems.items():
            if found:
                raise ConfigError(f"preprocessing: {problem}")

    @property
    def num_channels(self) -> int:
        """Channels of the model's input."""
        return 1 if self.channels == "grey" else 3

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change whenever any setting changes; stands in every result."""
        return config.fingerprint(self)

    def face(self, image_hwc_u8: np.ndarray, box: Box | None = None) -> np.ndarray:
        """Cut out and resize one face.

        Args:
            image_hwc_u8: upright RGB image, uint8 (h, w, 3).
            box: the face, in its pixels; None takes the whole image.

        Returns:
            uint8 (H, W, C) at the model's size, not yet normalised.
        """
        height, width = self.size
        if self.geometry == "square":
            face = crop(image_hwc_u8, self._square(image_hwc_u8.shape[:2], box), self.fill)
            face = self._resize(face, height, width)
        elif self.geometry == "stretch":
            face = self._resize(_crop_or_whole(image_hwc_u8, box, self.fill), height, width)
        else:
            side = min(height, width)
            face = self._resize(_crop_or_whole(image_hwc_u8, box, self.fill), side, side)
            face = _pad_to(face, height, width, self.fill)
        if self.channels == "grey":
            luma = face.astype(np.float32) @ np.asarray(LUMA_RGB, np.float32)
            face = np.rint(luma).astype(np.uint8)[:, :, None]
        return np.ascontiguousarray(face)

    def placement(self, image_size: tuple[int, int], box: Box | None = None) -> tuple[Box, Box]:
        """Say where `face` takes its pixels from, and where it puts them: what leads from a face back to the image.

        Args:
            image_size: (height, width) of the image, in pixels.
            box: the face, as for `face`.

        Returns:
            The rectangle of the image, in whole pixels and possibly beyond its edges, and the rectangle of the model's
            input that it is resized to; what lies outside the latter is padding.
        """
        height, width = image_size
        wanted = box or Box(0, 0, width, height)
        if self.geometry == "square":
            wanted = self._square(image_size, box)
        left, top, right, bottom = _whole_pixels(wanted)
        rows, columns = self.size
        filled = Box(0, 0, columns, rows)
        if self.geometry == "pad":
            side = min(rows, columns)
            filled = Box((columns - side) // 2, (rows - side) // 2, side, side)
        return Box(left, top, right - left, bottom - top), filled

    def normalise(self, faces_BHWC_u8: np.ndarray) -> np.ndarray:
        """Turn faces of `face`, stacked, uint8 (B, H, W, C), into float32 pixels (B, C, H, W) for the model."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        pixels_BHWC = (faces_BHWC_u8.astype(np.float32) - mean) / std
        return np.ascontiguousarray(pixels_BHWC.transpose(0, 3, 1, 2))

    def __call__(self, image_hwc_u8: np.ndarray, box: Box | None = None) -> np.ndarray:
        """Turn one face of an upright RGB image into float32 pixels (C, H, W)."""
        return self.normalise(self.face(image_hwc_u8, box)[None])[0]

    def _square(self, image_size: tuple[int, ...], box: Box | None) -> Box:
        height, width = image_size
        x, y, w, h = box or Box(0, 0, width, height)
        side = max(w, h) * (1 + 2 * (self.margin if box else 0.0))
        return Box(x + (w - side) / 2, y + (h - side) / 2, side, side)

    def _resize(self, image_hwc: np.ndarray, height: int, width: int) -> np.ndarray:
        if image_hwc.shape[:2] == (height, width):
            return image_hwc
        import cv2

        filters = {
            "nearest": cv2.INTER_NEAREST,
            "bilinear": cv2.INTER_LINEAR,
            "bicubic": cv2.INTER_CUBIC,
            "area": cv2.INTER_AREA,
            "lanczos": cv2.INTER_LANCZOS4,
        }
        chosen = filters[self.filter]
        if self.geometry == "square" and min(image_hwc.shape[:2]) > max(height, width):
            # OpenCV's other filters skip pixels when they shrink; a photograph's face would alias.
            chosen = cv2.INTER_AREA
        return cv2.resize(image_hwc, (width, height), interpolation=chosen)


def crop(image_hwc: np.ndarray, box: Box, fill: int | None) -> np.ndarray:
    """Cut `box`, rounded to whole pixels, out of an image; at least one pixel.

    Args:
        image_hwc: any image.
        box: what to cut; may reach beyond the image.
        fill: value of what lies outside; None repeats the nearest edge.
    """
    height, width = image_hwc.shape[:2]
    left, top, right, bottom = _whole_pixels(box)
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return image_hwc[top:bottom, left:right]
    if fill is None:
        rows, columns = np.arange(top, bottom).clip(0, height - 1), np.arange(left, right).clip(0, width - 1)
        return image_hwc[rows][:, columns]
    inside = image_hwc[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    filled = np.full((bottom - top, right - left, image_hwc.shape[2]), fill, image_hwc.dtype)
    y, x = max(0, -top), max(0, -left)
    filled[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return filled


def _whole_pixels(box: Box) -> tuple[int, int, int, int]:
    left, top = round(box.x), round(box.y)
    return left, top, max(left + 1, round(box.x + box.width)), max(top + 1, round(box.y + box.height))


def _crop_or_whole(image_hwc: np.ndarray, box: Box | None, fill: int | None) -> np.ndarray:
    return image_hwc if box is None else crop(image_hwc, box, fill)


def _pad_to(image_hwc: np.ndarray, height: int, width: int, fill: int | None) -> np.ndarray:
    top, left = (height - image_hwc.shape[0]) // 2, (width - image_hwc.shape[1]) // 2
    bottom, right = height - image_hwc.shape[0] - top, width - image_hwc.shape[1] - left
    padding = ((top, bottom), (left, right), (0, 0))
    return np.pad(image_hwc, padding, mode="edge") if fill is None else np.pad(image_hwc, padding, constant_values=fill)


# MotivNet's own statistics: ImageNet's, rounded by its authors.
MOTIVNET_MEAN = (123.5, 116.5, 103.5)
MOTIVNET_STD = (58.5, 57.0, 57.5)

MOTIVNET_STRETCH = Preprocessing(
    geometry="stretch",
    size=(1024, 768),
    channels="rgb",
    filter="bilinear",
    mean=MOTIVNET_MEAN,
    std=MOTIVNET_STD,
)
MOTIVNET_PAD = dataclasses.replace(MOTIVNET_STRETCH, geometry="pad", fill=255)
# No margin: a detector's box on FER-2013's training images is, in the median, as large as those images
# (`benchmarks/crop_margin.py`).
NANO = Preprocessing(
    geometry="square",
    size=(96, 96),
    channels="grey",
    filter="bicubic",
    mean=(127.5,),
    std=(64.0,),
    margin=0.0,
)
PREPROCESSINGS = {"motivnet-stretch": MOTIVNET_STRETCH, "motivnet-pad": MOTIVNET_PAD, "nano": NANO}
