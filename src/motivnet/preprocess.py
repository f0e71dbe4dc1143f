"""Preprocessing from a decoded image to a model's input, the same in training, evaluation, serving and export.

Shape suffixes: h height, w width, c channels; B images, C channels, H height, W width of the model's input.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from motivnet import config
from motivnet.errors import ImageError, require

Geometry = Literal["stretch", "pad", "square"]
Channels = Literal["rgb", "grey"]
Filter = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]
# OpenCV's names of these.
INTERPOLATIONS = {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "CUBIC", "area": "AREA", "lanczos": "LANCZOS4"}
Change = Callable[[np.ndarray], np.ndarray]
Landmarks = Sequence[tuple[float, float]]

# ITU-R BT.601 luma, as JPEG, OpenCV and Pillow use it.
LUMA_RGB = (0.299, 0.587, 0.114)

# Right eye, left eye, nose, and right and left corner of the mouth in a detector's box, made square and of side 1: the
# medians of faces of FER-2013's Training split, made symmetric (`benchmarks/alignment.py`).
TEMPLATE = ((0.303, 0.36), (0.697, 0.36), (0.5, 0.577), (0.344, 0.743), (0.656, 0.743))
MAX_ALIGNED_PX = 20_000
# Of a crop, before it is resized: the square around a strip, or a box far beyond its image, has any number.
MAX_CROP_PX = 100_000_000


class Box(NamedTuple):
    """A rectangle in pixels of the upright image; it may reach beyond the image.

    Attributes:
        x: left edge.
        y: top edge.
        width: width.
        height: height.
    """

    x: float
    y: float
    width: float
    height: float

    def iou(self, other: "Box") -> float:
        """Return the intersection over union of two boxes, 0 to 1."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        shared = max(0.0, width) * max(0.0, height)
        return shared / (self.width * self.height + other.width * other.height - shared) if shared else 0.0

    def scaled(self, factor: float) -> "Box":
        """Return the box in an image whose sides are longer by this factor."""
        return Box(*(factor * value for value in self))

    def inside(self, image_size: tuple[int, ...]) -> "Box":
        """Return the box, if at least half of its area is inside the image.

        Raises:
            ImageError: if not: the face would be made up of padding.
        """
        height, width = image_size[:2]
        x, y, w, h = (math.nan if value is None else value for value in self)
        inner_w, inner_h = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
        # Written so that NaN is refused, too.
        if not (inner_w > 0 and inner_h > 0 and inner_w * inner_h >= w * h / 2):
            shown = ", ".join(f"{value:g}" for value in (x, y, w, h))
            raise ImageError(f"a box of {shown} is not at least half in an image of {width} x {height} pixels")
        return self


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """The preprocessing of faces: serialisable, and identified by its fingerprint.

    Args:
        geometry: `stretch` resizes the box to `size` regardless of its aspect ratio (MotivNet's training code);
            `pad` resizes it to the largest square inside `size` and pads with `fill` on both sides (MotivNet's
            inference code: 768x768, then white rows to 1024x768);
            `square` enlarges the box by `margin`, makes it square about its centre, and resizes it.
        size: (height, width) of the model's input, in pixels; equal for `square`.
        channels: `rgb`, or `grey` for one channel of luma.
        filter: OpenCV's resampling filter.
        mean: subtracted, per channel, on the scale 0 to 255.
        std: divided by, per channel, on the scale 0 to 255.
        margin: for `square`: fraction of the box's longer side added on each side; a whole image gets none.
        fill: grey value, 0 to 255, of padding and of pixels outside the image; None repeats the edge.
        align: for `square`: turn, scale and shift a face so that its landmarks come as near as can be to where they are
            in the box of an average face; without landmarks it is cropped as without `align`.
    """

    geometry: Geometry
    size: tuple[int, int]
    channels: Channels
    filter: Filter
    mean: tuple[float, ...]
    std: tuple[float, ...]
    margin: float = 0.0
    fill: int | None = None
    align: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: if a value is not allowed.
        """
        for name, choices in (("geometry", Geometry), ("channels", Channels), ("filter", Filter)):
            value, allowed = getattr(self, name), get_args(choices)
            require(value in allowed, f"preprocessing: {name} {value!r}. Allowed: {', '.join(allowed)}")
        height, width = self.size
        lengths = {len(self.mean), len(self.std)}
        checks = {
            f"size {self.size}: both must be positive": height >= 1 and width >= 1,
            f"size {self.size} must be square for geometry 'square'": self.geometry != "square" or height == width,
            f"mean and std must have {self.num_channels} values": lengths == {self.num_channels},
            f"mean {self.mean} must be finite, below a million": all(abs(value) < 1e6 for value in self.mean),
            f"std {self.std} must be positive, from 1e-6 to 1e6": all(1e-6 <= value <= 1e6 for value in self.std),
            f"align needs geometry 'square', found {self.geometry!r}": not self.align or self.geometry == "square",
            f"margin {self.margin} must be from 0 to 2": 0 <= self.margin <= 2,
            f"fill {self.fill} must be from 0 to 255, or None": self.fill is None or 0 <= self.fill <= 255,
        }
        for rule, holds in checks.items():
            require(holds, f"preprocessing: {rule}")

    @property
    def num_channels(self) -> int:
        """Number of channels of the model's input."""
        return 1 if self.channels == "grey" else 3

    @property
    def fingerprint(self) -> str:
        """The letter `p` and 12 hex digits that change with any setting; a column of every result."""
        return config.fingerprint(self, added=("align",))

    def face(
        self,
        image_hwc_u8: np.ndarray,
        box: Box | None = None,
        landmarks: Landmarks | None = None,
        *,
        change: Change | None = None,
    ) -> np.ndarray:
        """Crop and resize one face.

        Args:
            image_hwc_u8: upright RGB image, uint8 (h, w, 3).
            box: the face, in pixels of the image; None: the whole image.
            landmarks: of the face, as a `Detection` has them; used by `align` alone.
            change: what is done to the crop, uint8 (h, w, 3), before it is resized, such as a degradation.

        Returns:
            uint8 (H, W, C) at the model's size, not yet normalised.
        """
        face = self._aligned(image_hwc_u8, landmarks) if self.align and landmarks else None
        if face is None:
            wanted = self._square(image_hwc_u8.shape[:2], box) if self.geometry == "square" else box
            face = image_hwc_u8 if wanted is None else crop(*_bounded(image_hwc_u8, wanted), self.fill)
        face = change(face) if change else face
        if self.geometry == "pad":
            face = _pad_to(self._resize(face, min(self.size), min(self.size)), *self.size, self.fill)
        else:
            face = self._resize(face, *self.size)
        if self.channels == "grey":
            luma = face.astype(np.float32) @ np.asarray(LUMA_RGB, np.float32)
            face = np.rint(luma).astype(np.uint8)[:, :, None]
        return np.ascontiguousarray(face)

    def placement(self, image_size: tuple[int, int], box: Box | None = None) -> tuple[Box, Box]:
        """Return the source and target rectangles of `face`, which map a face back to its image.

        Args:
            image_size: (height, width) of the image, in pixels.
            box: the face, as for `face`.

        Returns:
            The rectangle of the image, in whole pixels and possibly beyond its edges, and the rectangle of the model's
            input that it is resized to; the rest of the input is padding.

        Raises:
            ConfigError: with `align`, as an aligned face comes from no upright rectangle.
        """
        require(not self.align, "aligned faces cannot be mapped back to their image. Allowed: a model without align")
        return self._placement(image_size, box)

    def _placement(self, image_size: tuple[int, int], box: Box | None) -> tuple[Box, Box]:
        whole = Box(0, 0, image_size[1], image_size[0])
        wanted = self._square(image_size, box) if self.geometry == "square" else box or whole
        left, top, right, bottom = _whole_pixels(wanted)
        rows, columns = self.size
        filled = Box(0, 0, columns, rows)
        if self.geometry == "pad":
            side = min(rows, columns)
            filled = Box((columns - side) // 2, (rows - side) // 2, side, side)
        return Box(left, top, right - left, bottom - top), filled

    def fills(self, box: Box) -> bool:
        """Return whether a face has at least as many pixels in both directions as the model's input shows of it."""
        source, target = self._placement((0, 0), box)
        return source.width >= target.width and source.height >= target.height

    def normalise(self, faces_BHWC_u8: np.ndarray) -> np.ndarray:
        """Normalise faces returned by `face`, uint8 (B, H, W, C), to the model's input, float32 (B, C, H, W).

        The T frames of clips, (B, T, H, W, C), become (B, T * C, H, W).
        """
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        pixels = np.moveaxis((faces_BHWC_u8.astype(np.float32) - mean) / std, -1, -3)
        return np.ascontiguousarray(pixels.reshape(len(pixels), -1, *pixels.shape[-2:]))

    def denormalise(self, pixels_BCHW: np.ndarray) -> np.ndarray:
        """Undo `normalise`, of float32 (B, C, H, W): uint8 (B, H, W, C), rounded and clipped; of clips every frame."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        frames = pixels_BCHW.reshape(-1, self.num_channels, *pixels_BCHW.shape[2:])
        return np.clip(np.rint(frames.transpose(0, 2, 3, 1) * std + mean), 0, 255).astype(np.uint8)

    def __call__(self, image_hwc_u8: np.ndarray, box: Box | None = None) -> np.ndarray:
        """Crop, resize and normalise one face of an upright RGB image: float32 (C, H, W)."""
        return self.normalise(self.face(image_hwc_u8, box)[None])[0]

    def _square(self, image_size: tuple[int, ...], box: Box | None) -> Box:
        height, width = image_size
        x, y, w, h = box or Box(0, 0, width, height)
        side = max(w, h) * (1 + 2 * (self.margin if box else 0.0))
        return Box(x + (w - side) / 2, y + (h - side) / 2, side, side)

    def _aligned(self, image_hwc_u8: np.ndarray, landmarks: Landmarks) -> np.ndarray | None:
        """Cut out the turned square in which landmarks fit `TEMPLATE` best; None if they determine none."""
        import cv2

        # Points as complex numbers: the least squares fit of Umeyama's similarity is then `turn * template + centre`.
        template, points = (np.asarray(values, float) @ (1, 1j) for values in (TEMPLATE, landmarks))
        template = (template - (0.5 + 0.5j)) / (1 + 2 * self.margin)
        offsets = template - template.mean()
        turn = np.vdot(offsets, points) / np.vdot(offsets, offsets)
        centre, side = points.mean() - turn * template.mean(), abs(turn)
        if not 1 <= side <= MAX_ALIGNED_PX:
            return None
        # OpenCV's images have at most 32767 pixels a side: only what is around the square takes part.
        half = (abs(turn.real) + abs(turn.imag)) / 2 + 2
        around = Box(centre.real - half, centre.imag - half, 2 * half, 2 * half)
        left, top, _, _ = _whole_pixels(around)
        pixels = max(round(side), *self.size)
        turn /= pixels
        # Coordinates count from the edge of the first pixel, OpenCV's from its centre.
        start = centre - (left + 0.5 + (top + 0.5) * 1j) + turn * (0.5 - pixels / 2) * (1 + 1j)
        matrix = np.array([(turn.real, -turn.imag, start.real), (turn.imag, turn.real, start.imag)])
        flags, border = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
        patch_hwc = crop(image_hwc_u8, around, self.fill)
        return cv2.warpAffine(patch_hwc, matrix, (pixels, pixels), flags=flags, borderMode=border)

    def _resize(self, image_hwc: np.ndarray, height: int, width: int) -> np.ndarray:
        if image_hwc.shape[:2] == (height, width):
            return image_hwc
        import cv2

        chosen = getattr(cv2, f"INTER_{INTERPOLATIONS[self.filter]}")
        if self.geometry == "square" and min(image_hwc.shape[:2]) > max(height, width):
            # OpenCV's other filters skip pixels when downscaling, which causes aliasing.
            chosen = cv2.INTER_AREA
        return cv2.resize(image_hwc, (width, height), interpolation=chosen)


def crop(image_hwc: np.ndarray, box: Box, fill: int | None) -> np.ndarray:
    """Crop an image to a box, rounded to whole pixels and at least one pixel wide and high.

    Args:
        image_hwc: any image.
        box: may reach beyond the image.
        fill: value of pixels outside the image; None repeats the edge.
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


def _bounded(image_hwc: np.ndarray, box: Box) -> tuple[np.ndarray, Box]:
    """Shrink an image and a box of which a crop would have more than `MAX_CROP_PX` pixels, by a whole number."""
    factor = math.ceil(math.sqrt(box.width * box.height / MAX_CROP_PX))
    if factor <= 1:
        return image_hwc, box
    import cv2

    height, width = (max(1, side // factor) for side in image_hwc.shape[:2])
    return cv2.resize(image_hwc, (width, height), interpolation=cv2.INTER_AREA), Box(*(n / factor for n in box))


def _whole_pixels(box: Box) -> tuple[int, int, int, int]:
    left, top = round(box.x), round(box.y)
    return left, top, max(left + 1, round(box.x + box.width)), max(top + 1, round(box.y + box.height))


def _pad_to(image_hwc: np.ndarray, height: int, width: int, fill: int | None) -> np.ndarray:
    top, left = (height - image_hwc.shape[0]) // 2, (width - image_hwc.shape[1]) // 2
    bottom, right = height - image_hwc.shape[0] - top, width - image_hwc.shape[1] - left
    padding = ((top, bottom), (left, right), (0, 0))
    return np.pad(image_hwc, padding, mode="edge") if fill is None else np.pad(image_hwc, padding, constant_values=fill)


# MotivNet's own statistics: ImageNet's, rounded by its authors.
MOTIVNET_MEAN = (123.5, 116.5, 103.5)
MOTIVNET_STD = (58.5, 57.0, 57.5)

MOTIVNET_STRETCH = Preprocessing(
    geometry="stretch", size=(1024, 768), channels="rgb", filter="bilinear", mean=MOTIVNET_MEAN, std=MOTIVNET_STD
)
MOTIVNET_PAD = dataclasses.replace(MOTIVNET_STRETCH, geometry="pad", fill=255)
# No margin: the median of the detector's boxes on FER-2013's training images is the whole image
# (`benchmarks/crop_margin.py`).
NANO = Preprocessing(
    geometry="square", size=(96, 96), channels="grey", filter="bicubic", mean=(127.5,), std=(64.0,), margin=0.0
)
PREPROCESSINGS = {"motivnet-stretch": MOTIVNET_STRETCH, "motivnet-pad": MOTIVNET_PAD, "nano": NANO}
