"""Decode images from files, bytes, data URLs, PIL images, arrays and tensors into upright 8-bit RGB.

Shape suffixes: h height, w width, c channels.
"""

import binascii
import contextlib
import ctypes
import dataclasses
import functools
import io
import os
import re
import string
import sys
import threading
import warnings
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from motivnet.errors import ImageError, MissingExtraError, reraised
from motivnet.image_files import read_file
from motivnet.input_limits import MAX_ASPECT, MAX_SCANNED_PIXELS, MAX_SCANS, ImageLimits

if TYPE_CHECKING:
    from torch import Tensor

    ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray | Tensor

ColorOrder = Literal["rgb", "bgr"]

# Allowed formats, by Pillow's names. Others may start programs (EPS: Ghostscript) or are not photographs.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# A HEIC file: its first box is `ftyp`, with a brand of HEVC.
_HEIF = re.compile(rb".{4}ftyp.{0,60}?he[iv][cmsx]", re.DOTALL)
START_OF_JPEG, START_OF_SCAN = b"\xff\xd8\xff", b"\xff\xda"
_ESCAPES = {"%2B": "+", "%2F": "/", "%3D": "=", "%0A": "", "%0D": "", "%20": ""}
ORIENTATION_TAG = 0x0112
# EXIF orientation -> the flip of `cv2.flip` that makes the image upright, or None; from 5 on, after transposing it.
FLIPS = {2: 1, 3: -1, 4: 0, 5: None, 6: 1, 7: -1, 8: 0}


@dataclasses.dataclass(frozen=True, slots=True)
class NamedImage:
    """An input of `Predictor` with a name.

    Args:
        name: the `source` of the result.
        image: any input of `Predictor.predict`, or an error: the result is then `unreadable`.
    """

    name: str
    image: "ImageSource | ImageError"


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image, which may be smaller than its file.

    Args:
        image_hwc_u8: upright RGB image, uint8 (h, w, 3).
        size: (height, width) of the upright image at full size, in pixels.
        reduction: by which factor both sides were reduced: 1, 2, 4 or 8.
        jpeg: the bytes of a reduced file, and its EXIF orientation.
    """

    image_hwc_u8: np.ndarray
    size: tuple[int, int]
    reduction: int = 1
    jpeg: tuple[bytes, Any] = (b"", 1)

    def at(self, reduction: int) -> np.ndarray:
        """Return the image at this reduction, which is not above its own.

        Raises:
            ImageError: if it cannot be decoded, for example because memory is exhausted.
        """
        image_hwc_u8 = self.image_hwc_u8 if reduction == self.reduction else _decode_jpeg(*self.jpeg, reduction)
        if image_hwc_u8 is None:
            raise ImageError("damaged image: it can be decoded at reduced size only")
        return image_hwc_u8


if TYPE_CHECKING:
    Input = ImageSource | NamedImage


def decode_image(source: "ImageSource", *, color: ColorOrder = "rgb", limits: ImageLimits | None = None) -> np.ndarray:
    """Decode an image.

    Files and bytes may be JPEG, PNG, WebP, TIFF, GIF, BMP, AVIF, JPEG 2000, PPM or, with `pillow-heif`, HEIC. The EXIF
    orientation is applied, the first frame of an animation is used (of a PIL image, the current one), transparency
    becomes white, 16-bit values are scaled by their full range, CMYK and palettes are converted.

    Args:
        source: a path, the bytes of a file, a data URL (`data:image/png;base64,...` or `data:;base64,...`), a PIL
            image, an array: (h, w) grey, (h, w, 3) or (h, w, 4), or a torch tensor: (h, w) grey, (1, h, w), (3, h, w)
            or (4, h, w). Arrays and tensors are uint8, uint16, or floats from 0 to 1.
        color: colour order of arrays and tensors; ignored for files and PIL images.
        limits: sizes beyond which an image is refused; None: the defaults.

    Returns:
        An upright RGB image, uint8 (h, w, 3), C-contiguous; shares memory with an array of this form.

    Raises:
        ImageError: if the source is missing, not an image, damaged, or beyond the limits.
    """
    return decode_reduced(source, None, color=color, limits=limits).image_hwc_u8


def is_blank(image_hwc_u8: np.ndarray) -> bool:
    """Return whether all values of an image are the same."""
    return bool(image_hwc_u8.min() == image_hwc_u8.max())


def decode_reduced(
    source: "ImageSource", long_side: int | None, *, color: ColorOrder = "rgb", limits: ImageLimits | None = None
) -> Decoded:
    """Decode an image as `decode_image` does, or a JPEG that is larger than needed at a reduced size, which is faster.

    Args:
        source: as for `decode_image`.
        long_side: of a file whose longer side is more than twice this, at least so many pixels of it are decoded; None:
            always the full size.
        color: as for `decode_image`.
        limits: as for `decode_image`; they apply to the full size.

    Raises:
        ImageError: as `decode_image`.
    """
    limits = limits or ImageLimits()
    if is_tensor(source):
        source = _tensor_to_array(source)
    if isinstance(source, np.ndarray):
        return _full(_from_array(source, color, limits))
    if isinstance(source, Image.Image):
        with _pillow():
            return _full(_from_pil(source, limits))
    data = _read(source, limits)
    if not data:
        raise ImageError("the file is empty")
    if _HEIF.match(data) and "HEIF" not in _formats():
        raise ImageError(str(MissingExtraError("pillow-heif", "heif")))
    scans = data.count(START_OF_SCAN) if data.startswith(START_OF_JPEG) else 0
    if scans > MAX_SCANS:
        raise ImageError(f"JPEG of {scans} scans, the limit is {MAX_SCANS}")
    with _pillow(), Image.open(io.BytesIO(data), formats=_formats()) as image:
        width, height = image.size
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise ImageError(f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other")
        if scans * width * height > MAX_SCANNED_PIXELS:
            raise ImageError(f"JPEG of {scans} scans of {width} x {height} pixels: too many for its size")
        return _from_jpeg(image, data, long_side, limits) or _full(_from_pil(image, limits))


def is_data_url(source: object) -> bool:
    """Return whether a source is a data URL; a file with such a name is `./data:...`."""
    return isinstance(source, str) and source[:5].lower() == "data:"


def is_tensor(source: object) -> bool:
    """Return whether a source is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


@functools.cache
def _formats() -> list[str]:
    """Return the allowed formats that this Pillow supports; not all support AVIF, and HEIF comes with `pillow-heif`."""
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    # libtiff prints on stderr what Pillow raises. Where it is linked into Pillow, there is no such name.
    libtiff = ctypes.CDLL(Image.core.__file__)
    for setter in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        with contextlib.suppress(AttributeError):
            getattr(libtiff, setter)(None)
    return [name for name in FORMATS if name in Image.OPEN]


@contextlib.contextmanager
def _pillow() -> Iterator[None]:
    """Turn Pillow's errors into ImageError, and hide its warnings."""
    try:
        with _QUIET:
            yield
    except Image.UnidentifiedImageError:
        raise ImageError("not an image in a format that can be read") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels: {error}") from None
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("not enough memory to decode it") from None
    except Exception as error:  # the plugins of the formats raise nearly all kinds on damaged files
        raise ImageError(f"damaged image: {str(error) or type(error).__name__}") from None


class _QuietPillow:
    """Ignore Pillow's warnings (oddities of a file, its own pixel limit) while any thread decodes.

    With `warnings.catch_warnings` alone, overlapping threads would restore each other's filters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_users = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._num_users += 1
            if self._num_users == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._num_users -= 1
            if not self._num_users:
                self._caught.__exit__(None, None, None)


_QUIET = _QuietPillow()


def _read(source: object, limits: ImageLimits) -> bytes:
    if isinstance(source, str) and is_data_url(source):
        data = decode_data_url(source, limits)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        data = read_file(Path(source), limits.max_bytes)
    else:
        raise ImageError(
            f"cannot read an image from {type(source).__name__}. Allowed: path, bytes, data URL, PIL image, "
            "numpy array, torch tensor"
        )
    if len(data) > limits.max_bytes:
        raise ImageError(f"file of {len(data)} bytes, the limit is {limits.max_bytes}")
    return data


def decode_data_url(url: str, limits: ImageLimits) -> bytes:
    """Decode `data:image/png;base64,...`, with line breaks or escaped characters.

    Raises:
        ImageError: if it is no base64, or larger than the limit.
    """
    head, _, text = url.partition(",")
    if not head.lower().endswith(";base64"):
        raise ImageError("a data URL without base64. Allowed: data:image/png;base64,... and similar")
    if len(text) > 4 * limits.max_bytes:  # three quarters are left, or a quarter of what is escaped
        raise ImageError(f"text of {len(text)} characters, the limit is {limits.max_bytes} bytes")
    escapes = text.count("%")
    if escapes > len(text) // 8 + 8:
        raise ImageError("not base64: too many escaped characters")
    # `urllib.parse.unquote` would need gigabytes for millions of escapes.
    for escaped, plain in _ESCAPES.items() if escapes else ():
        text = text.replace(escaped, plain).replace(escaped.lower(), plain)
    with reraised(ImageError, "not base64", binascii.Error, UnicodeEncodeError):
        return b64decode(text.encode().translate(None, string.whitespace.encode()), validate=True)


def _tensor_to_array(tensor: Any) -> np.ndarray:
    shape = tuple(tensor.shape)
    if not (tensor.ndim == 2 or (tensor.ndim == 3 and shape[0] in (1, 3, 4))):
        raise ImageError(
            f"tensor of shape {shape}. Allowed: (height, width), (3, height, width), also with 1 or 4 channels; "
            "list(batch) for a batch, tensor.numpy() for channels-last"
        )
    with reraised(ImageError, "tensor without plain values", RuntimeError, TypeError):
        tensor = tensor.detach().cpu()
        # numpy has no bfloat16.
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def _full(image_hwc_u8: np.ndarray) -> Decoded:
    return Decoded(image_hwc_u8, image_hwc_u8.shape[:2])


def _from_jpeg(image: Image.Image, data: bytes, long_side: int | None, limits: ImageLimits) -> Decoded | None:
    """Decode an open file with OpenCV if it is a colour JPEG: the same pixels in two thirds of Pillow's time.

    Returns:
        None if it is another file, or damaged, for which Pillow has better messages.
    """
    # Older versions of OpenCV pass over the missing end of a file.
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB" or not data.endswith(b"\xff\xd9"):
        return None
    width, height = image.size
    _check_size(height, width, limits)
    reduction = 1
    if long_side and max(height, width) > 2 * long_side:
        reduction = next(factor for factor in (8, 4, 2) if max(height, width) >= factor * long_side)
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    pixels = _decode_jpeg(data, orientation, reduction)
    turned = orientation in FLIPS and orientation >= 5
    size = (width, height) if turned else (height, width)
    return None if pixels is None else Decoded(pixels, size, reduction, (data, orientation))


def _decode_jpeg(data: bytes, orientation: Any, reduction: int) -> np.ndarray | None:
    """Decode a JPEG with OpenCV, at a reduced size by fewer coefficients of its blocks; None if that fails."""
    import cv2

    size = cv2.IMREAD_COLOR if reduction == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{reduction}")
    try:
        # OpenCV reads the orientation otherwise than Pillow where the EXIF data are odd.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), size | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if image is None else _turn(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), orientation)


def _from_pil(image: Image.Image, limits: ImageLimits) -> np.ndarray:
    width, height = image.size
    _check_size(height, width, limits)
    image.load()  # before its orientation is read, because loading a TIFF applies it
    # Pillow's `exif_transpose` also rewrites the EXIF data, and fails on invalid tags.
    return _turn(_to_rgb(image, limits), image.getexif().get(ORIENTATION_TAG, 1))


def _to_rgb(image: Image.Image, limits: ImageLimits) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_array(_sixteen_bit(np.asarray(image)), "rgb", limits)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    # A copy, because the array of a PIL image is read-only.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _turn(image_hwc_u8: np.ndarray, orientation: Any) -> np.ndarray:
    """Make an image upright by its EXIF orientation; one that does not exist is passed over."""
    if orientation not in FLIPS:
        return image_hwc_u8
    import cv2

    upright = cv2.transpose(image_hwc_u8) if orientation >= 5 else image_hwc_u8
    flip = FLIPS[orientation]
    return upright if flip is None else cv2.flip(upright, flip)


def _sixteen_bit(values_hw: np.ndarray) -> np.ndarray:
    """Convert Pillow's wide grey modes, which also hold 16-bit files, back to 16 bits."""
    if np.issubdtype(values_hw.dtype, np.floating):
        # TIFF floats have no defined range: up to 1 they are treated as fractions, otherwise as 8-bit values.
        top = 1.0 if np.nanmax(values_hw, initial=0.0) <= 1.0 else 255.0
        return np.clip(np.nan_to_num(values_hw) / top, 0.0, 1.0)
    return np.clip(values_hw, 0, 65_535).astype(np.uint16)


def _from_array(array: np.ndarray, color: ColorOrder, limits: ImageLimits) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise ImageError(
            f"array of shape {array.shape}. Allowed: (height, width), (height, width, 3), (height, width, 4)"
        )
    _check_size(array.shape[0], array.shape[1], limits)
    if color not in ("rgb", "bgr"):
        raise ImageError(f"unknown color order {color!r}. Allowed: rgb, bgr")
    image = _to_uint8(array)
    if image.ndim == 2:
        return np.ascontiguousarray(np.repeat(image[:, :, None], 3, axis=2))
    if image.shape[2] == 4:
        alpha = image[:, :, 3:].astype(np.uint16)
        image = ((image[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(image[:, :, ::-1] if color == "bgr" else image)


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.type is np.uint16:  # either byte order
        return ((array.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError(f"float array from {array.min():.4g} to {array.max():.4g}. Allowed: finite values, 0 to 1")
        return np.rint(array * 255).astype(np.uint8)
    raise ImageError(f"array of {array.dtype}. Allowed: uint8, uint16, bool, floats from 0 to 1")


def _check_size(height: int, width: int, limits: ImageLimits) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"image of {width} x {height} pixels")
    if height * width > limits.max_pixels:
        raise ImageError(f"{width} x {height} pixels, the limit is {limits.max_pixels} in all")
