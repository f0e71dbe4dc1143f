"""Real files of every kind, made here, in every state of repair."""

import io
import os
import struct
import threading
import warnings
import zlib
from base64 import b64encode

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from motivnet.errors import ImageError
from motivnet.images import ImageLimits, decode_image, decode_reduced


def photograph(height=40, width=60):
    """A smooth picture with a different colour in each corner, so that no turn or flip of it looks like it."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    blue = 255 * (x + y < (height + width) / 4)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def encode(image, file_format, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width, height, bits, color_type, compressed_rows, extra=b""):
    """A PNG of any kind, also of those that Pillow does not write."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0))
    body = header + extra + png_chunk(b"IDAT", compressed_rows) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_16_bit(values, color_type, extra=b""):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values.reshape(values.shape[0], -1))
    return raw_png(values.shape[1], values.shape[0], 16, color_type, zlib.compress(rows), extra)


def assert_decoded(image, shape):
    assert image.dtype == np.uint8
    assert image.shape == shape
    assert image.flags.c_contiguous


def closeness(found, expected):
    return np.abs(found.astype(int) - expected.astype(int)).mean()


# Files


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 90}, 6),
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
        ("GIF", {}, 20),
    ],
)
def test_formats_by_path_bytes_and_pillow(tmp_path, file_format, options, tolerance):
    original = photograph()
    data = encode(original, file_format, **options)
    path = tmp_path / "no_telling_suffix.bin"
    path.write_bytes(data)
    image = decode_image(data)
    assert_decoded(image, (40, 60, 3))
    assert closeness(image, original) <= tolerance
    with Image.open(path) as opened:
        others = [path, str(path), bytearray(data), memoryview(data), opened]
        for source in others:
            np.testing.assert_array_equal(decode_image(source), image)


def test_the_result_may_be_written_to():
    image = decode_image(encode(photograph(), "PNG"))
    image[:] = 0
    assert not image.any()


ORIENTATIONS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image),
    7: lambda image: np.rot90(image, 2).transpose(1, 0, 2),
    8: lambda image: np.rot90(image, -1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(orientation, file_format):
    original = photograph()
    stored = np.ascontiguousarray(ORIENTATIONS[orientation](original))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if file_format in ("JPEG", "WEBP") else {}
    image = decode_image(encode(stored, file_format, exif=exif, **options))
    assert_decoded(image, original.shape)
    assert closeness(image, original) < 6


def jpegs(image):
    """Return JPEG files of every kind that differs for a decoder."""
    pil = Image.fromarray(image)
    frames = {"save_all": True, "append_images": [pil.rotate(180)]}
    kinds = {
        "fine": {"subsampling": 0},
        "coarse": {"subsampling": 2, "quality": 30},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_rows": 1},
        "profile": {"icc_profile": b"of a camera"},
        "RGB": {"keep_rgb": True},
    }
    files = {name: encode(image, "JPEG", **{"quality": 90, **options}) for name, options in kinds.items()}
    files |= {mode: encode(pil.convert(mode), "JPEG") for mode in ("L", "CMYK")}
    return files | {"several": encode(pil, "MPO", **frames), "trailing": files["fine"] + b"of the maker"}


def test_jpegs_have_the_pixels_that_pillow_gives_them():
    for name, data in jpegs(photograph(45, 61)).items():
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        # Versions of libjpeg may round otherwise.
        assert np.abs(decode_image(data).astype(int) - expected).max() <= 2, name


@pytest.mark.parametrize(("long_side", "reduction"), [(None, 1), (200, 1), (150, 2), (100, 2), (75, 4), (20, 8)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_decoded_at_the_size_that_is_enough(long_side, reduction, orientation):
    original = photograph(201, 301)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, data in jpegs(ORIENTATIONS[orientation](original)).items():
        if name in ("L", "CMYK", "trailing"):
            assert decode_reduced(data, long_side).reduction == 1, name
        elif name == "fine":
            data = encode(ORIENTATIONS[orientation](original), "JPEG", exif=exif, quality=90, subsampling=0)
            decoded = decode_reduced(data, long_side)
            assert (decoded.size, decoded.reduction) == (original.shape[:2], reduction)
            full = decode_image(data)
            np.testing.assert_array_equal(decoded.at(1), full)
            height, width = -(-201 // reduction), -(-301 // reduction)
            assert_decoded(decoded.image_hwc_u8, (height, width, 3))
            padded = np.pad(full, ((0, -201 % reduction), (0, -301 % reduction), (0, 0)), mode="edge")
            means = padded.reshape(height, reduction, width, reduction, 3).mean((1, 3))
            assert closeness(decoded.image_hwc_u8, means) < 1.5
        else:
            assert decode_reduced(data, long_side).reduction == reduction, name


def test_what_is_no_jpeg_is_never_reduced():
    for source in (encode(photograph(), "PNG"), photograph(), Image.fromarray(photograph())):
        assert decode_reduced(source, 8).image_hwc_u8.shape == (40, 60, 3)


def test_limits_are_of_the_full_size():
    with pytest.raises(ImageError, match="60 x 40 pixels, the limit is 1000"):
        decode_reduced(encode(photograph(), "JPEG"), 8, limits=ImageLimits(max_pixels=1000))


@pytest.mark.parametrize("long_side", [None, 8])
def test_a_jpeg_that_ends_too_early_is_damaged(long_side):
    data = encode(photograph(), "JPEG")
    for end in (-2, -20, 300):
        with pytest.raises(ImageError, match="damaged image"):
            decode_reduced(data[:end], long_side)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_passed_over(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encode(photograph(), "PNG", exif=exif))
    np.testing.assert_array_equal(image, photograph())


def test_an_odd_exif_tag_beside_the_orientation_does_no_harm():
    # FillOrder, a number, given as text; then orientation 6.
    exif = (
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x0a\0\x02\0\0\0\x05\0\0\0&\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0text\0"
    )
    stored = np.ascontiguousarray(np.rot90(photograph()))
    image = decode_image(encode(stored, "JPEG", exif=exif, quality=95))
    assert_decoded(image, photograph().shape)
    assert closeness(image, photograph()) < 6


def test_exif_that_is_damaged_is_passed_over():
    image = decode_image(encode(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", quality=95))
    assert closeness(image, photograph()) < 6


def test_scans_of_a_progressive_jpeg_are_counted():
    data = encode(photograph(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    repeated = data[:-2] + data[last:-2] * 60_000 + b"\xff\xd9"
    with pytest.raises(ImageError, match="JPEG of 60010 scans, the limit is 100"):
        decode_image(repeated)
    # Few scans of a large image are as much work; the size is that of the frame's segment.
    frame = data.index(b"\xff\xc2") + 5
    large = data[:frame] + (9000).to_bytes(2, "big") * 2 + data[frame + 4 : -2] + data[last:-2] * 30 + b"\xff\xd9"
    with pytest.raises(ImageError, match="JPEG of 40 scans of 9000 x 9000 pixels: too many"):
        decode_image(large)


@pytest.mark.parametrize("shape", [(1, 16_000), (16_000, 1), (10, 2001)])
def test_strips_are_no_images(shape):
    with pytest.raises(ImageError, match="one side is more than 200 times the other"):
        decode_image(encode(np.zeros(shape, np.uint8), "PNG"))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    for file_format in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], duration=40, **options)
        with Image.open(io.BytesIO(data)) as animation:
            assert animation.n_frames == 3
        assert (decode_image(data) == (255, 0, 0)).all()


def test_a_pillow_image_gives_the_frame_it_stands_at_and_stays_there():
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40)
    with Image.open(io.BytesIO(data)) as animation:
        animation.seek(2)
        assert (decode_image(animation) == (0, 0, 255)).all()
        assert animation.tell() == 2


def test_first_page_of_a_tiff():
    pages = [Image.new("RGB", size, color) for size, color in [((8, 6), "red"), ((4, 4), "blue")]]
    image = decode_image(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert_decoded(image, (6, 8, 3))
    assert (image == (255, 0, 0)).all()


def test_grey_one_bit_and_palette():
    grey = photograph()[:, :, 0]
    for image in (decode_image(encode(grey, "PNG")), decode_image(encode(grey, "TIFF"))):
        np.testing.assert_array_equal(image, np.repeat(grey[:, :, None], 3, axis=2))
    one_bit = decode_image(encode(Image.fromarray(grey > 100), "PNG"))
    np.testing.assert_array_equal(one_bit[:, :, 1], np.where(grey > 100, 255, 0))
    palette = Image.fromarray(photograph()).quantize(16)
    np.testing.assert_array_equal(decode_image(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))


def test_transparency_is_laid_on_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = [(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 51)]
    rgba[1] = [(0, 0, 0, 128), (255, 255, 255, 128), (10, 20, 30, 254)]
    alpha = rgba[:, :, 3:] / 255
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    for source in (encode(rgba, "PNG"), encode(rgba, "WEBP", lossless=True, exact=True), encode(rgba, "TIFF"), rgba):
        assert np.abs(decode_image(source) - expected).max() <= 1
    la = np.array([[[100, 255], [100, 0], [100, 51]]], np.uint8)
    grey = decode_image(encode(Image.fromarray(la, "LA"), "PNG"))
    assert np.abs(grey[0, :, 0].astype(int) - [100, 255, 224]).max() <= 1


def test_palette_with_transparency():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    one_index = decode_image(encode(image, "PNG", transparency=1))
    assert one_index.tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    by_table = decode_image(encode(image, "PNG", transparency=bytes([255, 255, 0])))
    assert by_table.tolist() == [[[255, 0, 0], [0, 255, 0], [255, 255, 255]]]
    gif = decode_image(encode(image, "GIF", transparency=0))
    assert gif.tolist() == [[[255, 255, 255], [0, 255, 0], [0, 0, 255]]]


def test_a_transparent_grey_value_or_colour():
    grey = np.array([[0, 100, 200]], np.uint8)
    assert decode_image(encode(grey, "PNG", transparency=100))[0, :, 0].tolist() == [0, 255, 200]
    color = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    image = decode_image(encode(color, "PNG", transparency=(4, 5, 6)))
    assert image.tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_sixteen_bit_grey_is_scaled_by_its_full_range():
    values = np.array([[0, 128, 129, 257, 1000], [32_768, 40_000, 65_278, 65_407, 65_535]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    files = {
        "png": png_16_bit(values, color_type=0),
        "tiff": encode(values, "TIFF"),
        "big-endian tiff": encode(Image.fromarray(values.astype(">u2")), "TIFF"),
    }
    for name, data in files.items():
        image = decode_image(data)
        assert_decoded(image, (2, 5, 3))
        for channel in range(3):
            np.testing.assert_array_equal(image[:, :, channel], expected, err_msg=name)
    np.testing.assert_array_equal(decode_image(values)[:, :, 0], expected)


def test_a_dark_sixteen_bit_image_stays_dark():
    # Scaling by the image's own maximum, or cutting off at 255, would make this white.
    values = np.full((4, 4), 2570, np.uint16)
    assert (decode_image(encode(values, "TIFF")) == 10).all()


def test_sixteen_bit_colour_and_alpha():
    values = np.random.default_rng(0).integers(0, 65_536, (5, 7, 3), dtype=np.uint16)
    found = decode_image(png_16_bit(values, color_type=2))
    assert np.abs(found - values / 257).max() <= 1
    alpha = np.random.default_rng(1).integers(0, 65_536, (5, 7, 1), dtype=np.uint16)
    found = decode_image(png_16_bit(np.concatenate([values, alpha], axis=2), color_type=6))
    share = alpha / 65_535
    assert np.abs(found - (values / 257 * share + 255 * (1 - share))).max() <= 2.5
    found = decode_image(png_16_bit(np.concatenate([values[:, :, :1], alpha], axis=2), color_type=4))
    assert np.abs(found - (values[:, :, :1] / 257 * share + 255 * (1 - share))).max() <= 2.5


def test_wide_integer_and_float_tiffs():
    integers = Image.fromarray(np.array([[0, 25_700, 70_000, -5]], np.int32))
    assert decode_image(encode(integers, "TIFF"))[0, :, 0].tolist() == [0, 100, 255, 0]
    fractions = Image.fromarray(np.array([[0, 0.2, 1.0]], np.float32))
    assert decode_image(encode(fractions, "TIFF"))[0, :, 0].tolist() == [0, 51, 255]
    bytes_as_floats = Image.fromarray(np.array([[0, 51, 255, 300, -4, np.nan, np.inf]], np.float32))
    assert decode_image(encode(bytes_as_floats, "TIFF"))[0, :, 0].tolist() == [0, 51, 255, 255, 0, 0, 255]


def test_cmyk():
    cmyk = Image.fromarray(photograph()).convert("CMYK")
    image = decode_image(encode(cmyk, "JPEG", quality=95))
    assert_decoded(image, (40, 60, 3))
    assert closeness(image, photograph()) < 6
    np.testing.assert_array_equal(decode_image(encode(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB")))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]
)
def test_pillow_images_of_every_mode(mode):
    image = Image.new(mode, (5, 4))
    assert_decoded(decode_image(image), (4, 5, 3))


def test_pillow_images_are_turned_upright_and_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(encode(photograph(), "PNG", exif=exif))) as image:
        assert decode_image(image).shape == (60, 40, 3)
        assert image.size == (60, 40)
        assert image.getexif()[0x0112] == 6


# Arrays


def test_arrays_of_every_type():
    rgb = photograph()
    np.testing.assert_array_equal(decode_image(rgb), rgb)
    np.testing.assert_array_equal(decode_image(rgb[:, :, ::-1], color="bgr"), rgb)
    np.testing.assert_array_equal(decode_image(rgb[:, :, 0]), np.repeat(rgb[:, :, :1], 3, axis=2))
    np.testing.assert_array_equal(decode_image(rgb[:, :, :1]), np.repeat(rgb[:, :, :1], 3, axis=2))
    np.testing.assert_array_equal(decode_image(rgb.astype(np.uint16) * 257), rgb)
    np.testing.assert_array_equal(decode_image((rgb.astype(np.uint16) * 257).astype(">u2")), rgb)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(decode_image(rgb.astype(dtype) / 255), rgb)
    assert decode_image(np.array([[True, False]]))[0, :, 2].tolist() == [255, 0]


def test_arrays_of_every_layout_become_contiguous():
    rgb = photograph()
    views = {"flipped": rgb[::-1, ::-1], "strided": rgb[::2, ::3], "fortran": np.asfortranarray(rgb)}
    for name, view in views.items():
        image = decode_image(view)
        assert_decoded(image, view.shape)
        np.testing.assert_array_equal(image, view, err_msg=name)


def test_alpha_of_arrays_in_both_orders():
    bgra = np.array([[[0, 100, 200, 255], [0, 100, 200, 0]]], np.uint8)
    assert decode_image(bgra, color="bgr").tolist() == [[[200, 100, 0], [255, 255, 255]]]
    floats = np.array([[[1.0, 0.0, 0.0, 0.2]]])
    assert decode_image(floats).tolist() == [[[255, 204, 204]]]
    wide = np.array([[[0, 0, 0, 0], [65_535, 0, 0, 65_535]]], np.uint16)
    assert decode_image(wide).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_colour_order_is_of_arrays_only():
    data = encode(np.full((2, 2, 3), (9, 0, 0), np.uint8), "PNG")
    assert decode_image(data, color="bgr")[0, 0].tolist() == [9, 0, 0]


def test_every_fraction_rounds_to_the_nearest_byte():
    steps = np.linspace(0, 1, 1001)[None]
    np.testing.assert_array_equal(decode_image(steps)[0, :, 0], np.rint(steps[0] * 255))
    wide = np.arange(65_536, dtype=np.uint16)[None]
    np.testing.assert_array_equal(decode_image(wide)[0, :, 0], np.rint(wide[0] / 257))


@pytest.mark.parametrize(
    "shape", [(), (4,), (4, 4, 2), (4, 4, 5), (4, 4, 0), (0, 4), (0, 4, 3), (4, 0, 3), (1, 4, 4, 3), (3, 40, 60)]
)
def test_array_shapes_that_are_no_image(shape):
    with pytest.raises(ImageError, match=r"Allowed: \(height, width\), \(height, width, 3\)"):
        decode_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.int64), "array of int64. Allowed: uint8, uint16, bool, floats"),
        (np.zeros((4, 4), np.int8), "array of int8"),
        (np.zeros((4, 4), np.complex64), "array of complex64"),
        (np.full((4, 4), "a"), "array of <U1"),
        (np.full((4, 4), None), "array of object"),
        (np.full((4, 4), np.nan), "Allowed: finite values, 0 to 1"),
        (np.full((4, 4), np.inf), "Allowed: finite values, 0 to 1"),
        (np.full((4, 4), 1.5), "float array from 1.5 to 1.5"),
        (np.full((4, 4, 3), -0.1), "float array from -0.1"),
    ],
)
def test_array_values_that_are_no_image(array, message):
    with pytest.raises(ImageError, match=message):
        decode_image(array)


def test_unknown_colour_order():
    with pytest.raises(ImageError, match=r"unknown color order 'gbr'. Allowed: rgb, bgr"):
        decode_image(photograph(), color="gbr")  # type: ignore[arg-type]


# Limits


def one_bit_png(side):
    """A side x side black PNG, a few kilobytes small whatever its side."""
    compressor = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    rows = b"".join(compressor.compress(row * 100) for _ in range(side // 100)) + compressor.flush()
    return raw_png(side, side, 1, 0, rows)


@pytest.mark.parametrize("side", [20_000, 12_000, 10_100])
def test_a_decompression_bomb_is_refused_before_it_unfolds(monkeypatch, side):
    def load(image):
        raise AssertionError("pixels were decoded")

    bomb = one_bit_png(side)
    assert len(bomb) < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageError, match="pixels"):
        decode_image(bomb)


def test_the_bomb_is_a_bomb():
    assert decode_image(one_bit_png(1000)).shape == (1000, 1000, 3)


def test_the_pixel_limit_is_exact_and_holds_for_every_source():
    limits = ImageLimits(max_pixels=40 * 60)
    assert decode_image(photograph(40, 60), limits=limits).shape == (40, 60, 3)
    for source in (photograph(41, 60), Image.fromarray(photograph(41, 60)), encode(photograph(41, 60), "PNG")):
        with pytest.raises(ImageError, match="60 x 41 pixels, the limit is 2400 in all"):
            decode_image(source, limits=limits)


def test_the_byte_limit_is_exact(tmp_path):
    data = encode(photograph(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    enough, too_small = ImageLimits(max_bytes=len(data)), ImageLimits(max_bytes=len(data) - 1)
    assert decode_image(path, limits=enough).shape == (40, 60, 3)
    for source in (path, data, memoryview(data)):
        with pytest.raises(ImageError, match=f"file of {len(data)} bytes, the limit is {len(data) - 1}"):
            decode_image(source, limits=too_small)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs a device without an end")  # noqa: PTH110
def test_a_device_without_an_end_is_refused():
    with pytest.raises(ImageError, match="file of 1001 bytes, the limit is 1000"):
        decode_image("/dev/zero", limits=ImageLimits(max_bytes=1000))


# Broken input


def test_what_is_no_file(tmp_path):
    for source, message in [
        (tmp_path / "missing.jpg", "no such file"),
        (tmp_path, "is a folder, not an image"),
        (str(tmp_path), "is a folder, not an image"),
        ("", "is a folder|no such file"),
        ("a\0b.jpg", "cannot be read"),
        (tmp_path / ("x" * 5000), "cannot be read"),
    ]:
        with pytest.raises(ImageError, match=message):
            decode_image(source)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is readable to root")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(photograph(), "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match="cannot be read"):
        decode_image(path)


@pytest.mark.parametrize("source", [None, 5, 1.5, [1, 2], {"path": "a.jpg"}, object()])
def test_what_is_no_source(source):
    with pytest.raises(ImageError, match=r"cannot read an image from .* Allowed: path, bytes, data URL, PIL image"):
        decode_image(source)


def test_empty_text_and_truncated_files(tmp_path):
    jpeg = encode(photograph(200, 300), "JPEG")
    for name, data, message in [
        ("empty.jpg", b"", "the file is empty"),
        ("text.jpg", b"This is a letter, not a photograph.\n" * 50, "not an image"),
        ("half.jpg", jpeg[: len(jpeg) // 2], "damaged image"),
        ("head.jpg", jpeg[:20], "not an image|damaged"),
        ("one_byte.png", b"\x89", "not an image"),
    ]:
        path = tmp_path / name
        path.write_bytes(data)
        for source in (path, data):
            with pytest.raises(ImageError, match=message):
                decode_image(source)


def test_pillow_images_that_cannot_be_loaded():
    jpeg = encode(photograph(200, 300), "JPEG")
    with Image.open(io.BytesIO(jpeg[: len(jpeg) // 2])) as truncated, pytest.raises(ImageError, match="damaged image"):
        decode_image(truncated)
    closed = Image.new("RGB", (4, 4))
    closed.close()
    with pytest.raises(ImageError):
        decode_image(closed)


def samples():
    """One small file of each format and kind; noise, so that no byte is without meaning."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (12, 16, 4), dtype=np.uint8)
    rgb, rgba, grey = Image.fromarray(noise[:, :, :3]), Image.fromarray(noise), Image.fromarray(noise[:, :, 0])
    frames = [rgb, rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    animation = {"save_all": True, "append_images": frames[1:]}
    return {
        "jpeg": encode(rgb, "JPEG", exif=exif),
        "progressive jpeg": encode(rgb, "JPEG", progressive=True),
        "cmyk jpeg": encode(rgb.convert("CMYK"), "JPEG"),
        "png": encode(rgba, "PNG", exif=exif),
        "palette png": encode(rgb.quantize(8), "PNG", transparency=bytes([0, 128, 255])),
        "16-bit png": encode(Image.fromarray(noise[:, :, 0].astype(np.uint16) * 250), "PNG"),
        "animated png": encode(rgb, "PNG", **animation),
        "gif": encode(rgb, "GIF", **animation),
        "webp": encode(rgba, "WEBP", lossless=True, exif=exif),
        "lossy webp": encode(rgb, "WEBP", **animation),
        "tiff": encode(rgb, "TIFF", exif=exif),
        "lzw tiff": encode(grey, "TIFF", compression="tiff_lzw"),
        "16-bit tiff": encode(Image.fromarray(noise[:, :, 0].astype(np.uint16) * 250), "TIFF"),
        "float tiff": encode(Image.fromarray(noise[:, :, 0].astype(np.float32)), "TIFF"),
        "bmp": encode(rgb, "BMP"),
        "ppm": encode(rgb, "PPM"),
    } | ({"avif": encode(rgb, "AVIF", quality=80)} if features.check("avif") else {})


SAMPLES = samples()


def damaged(data, seed, count):
    """Cut, flip, overwrite, remove and repeat parts of a file; most of all its head, where the structure is."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        broken = bytearray(data)
        for _ in range(int(rng.integers(1, 5))):
            end = len(broken) if rng.random() < 0.5 else min(len(broken), 128)
            at = int(rng.integers(0, max(1, end)))
            length = int(rng.integers(1, 9))
            kind = (number + int(rng.integers(0, 2))) % 5
            if kind == 0:
                del broken[at + length :]
            elif kind == 1 and broken:
                broken[min(at, len(broken) - 1)] ^= 1 << int(rng.integers(0, 8))
            elif kind == 2:
                broken[at : at + length] = rng.bytes(length)
            elif kind == 3:
                broken[at : at + length] = b"\xff" * length
            else:
                broken[at:at] = broken[at : at + length]
        yield bytes(broken)


@pytest.mark.parametrize("kind", SAMPLES)
def test_whatever_is_done_to_a_file_only_image_errors_come_out(kind):
    # Small limits: a damaged header may ask for a huge image, which is refused, not decoded.
    limits = ImageLimits(max_pixels=100_000)
    num_refused = 0
    for number, data in enumerate(damaged(SAMPLES[kind], seed=len(kind), count=300)):
        try:
            image = decode_image(data, limits=limits)
        except ImageError:
            num_refused += 1
        except Exception as error:
            pytest.fail(f"{kind}, damage {number}: {error!r}")
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
    assert num_refused > 10


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_file_cut_anywhere_is_refused_or_read(kind):
    data = SAMPLES[kind]
    for length in range(1, len(data), max(1, len(data) // 60)):
        try:
            assert decode_image(data[:length]).ndim == 3
        except ImageError:
            continue
        except Exception as error:
            pytest.fail(f"{kind}, cut at {length} of {len(data)}: {error!r}")


class Failing(Image.Image):
    """A PIL image whose decoder raises something."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._size, self._mode, self.error = (4, 4), "RGB", error

    def load(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory to decode it"),
        (OverflowError("int too large"), "damaged image: int too large"),
        (RuntimeError("Failed to decode frame 0"), "damaged image: Failed to decode frame 0"),
        (ZeroDivisionError(), "damaged image: ZeroDivisionError"),
        (ImageError("of our own"), "of our own"),
    ],
)
def test_whatever_a_decoder_raises_is_an_image_error(error, message):
    with pytest.raises(ImageError) as caught:
        decode_image(Failing(error))
    assert str(caught.value) == message


def test_libtiff_prints_nothing(capfd):
    for data in damaged(SAMPLES["lzw tiff"], seed=7, count=60):
        try:
            decode_image(data, limits=ImageLimits(max_pixels=100_000))
        except ImageError:
            continue
    assert capfd.readouterr() == ("", "")


# HEIC


def test_heic_is_read_upright():
    pillow_heif = pytest.importorskip("pillow_heif")
    stored = np.ascontiguousarray(np.rot90(photograph()))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(stored)).save(buffer, quality=95, exif=exif.tobytes())
    image = decode_image(buffer.getvalue())
    assert_decoded(image, (40, 60, 3))
    assert closeness(image, photograph()) < 8


def test_heic_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("motivnet.images._formats", lambda: ["JPEG", "PNG"])
    with pytest.raises(ImageError, match=r"pillow-heif, which is not installed: pip install 'motivnet\[heif\]'"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


# Warnings and threads


def test_oddities_of_a_file_are_not_warned_of_and_no_filter_is_left_behind():
    corrupt = encode(photograph(), "TIFF")
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(ImageError):
            decode_image(one_bit_png(10_000), limits=ImageLimits(max_pixels=1000))  # Pillow warns at this size
        decode_image(corrupt)
    assert shown == []
    assert warnings.filters == before


def test_threads_that_overlap_leave_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    data = encode(photograph(200, 300), "JPEG")
    expected = decode_image(data)
    wrong = []

    def work():
        for _ in range(20):
            try:
                if not np.array_equal(decode_image(data), expected):
                    wrong.append("pixels")
                decode_image(data[:200])
            except ImageError:
                continue
            wrong.append("no error")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert warnings.filters == before


def test_formats_that_could_start_a_program_are_not_opened():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n%%EOF\n"
    with pytest.raises(ImageError, match="not an image in a format that can be read"):
        decode_image(postscript)


class TestDataUrls:
    @pytest.fixture
    def data(self) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(buffer, "PNG")
        return buffer.getvalue()

    @pytest.mark.parametrize("head", ["data:image/png;base64,", "data:;base64,", "DATA:text/plain;charset=x;BASE64,"])
    def test_the_file_is_in_the_text(self, data, head):
        text = b64encode(data).decode()
        np.testing.assert_array_equal(decode_image(head + text), decode_image(data))

    def test_broken_lines_and_escapes(self, data):
        text = b64encode(data).decode()
        escaped = text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
        np.testing.assert_array_equal(decode_image(f"data:;base64,{text[:20]}\r\n {escaped[20:]}"), decode_image(data))

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("data:", "without base64. Allowed: data:image/png;base64"),
            ("data:image/png,abc", "without base64"),
            ("data:image/png;base64", "the file is empty"),
            ("data:;base64,", "the file is empty"),
            ("data:;base64,AAA", "not base64"),
            ("data:;base64,A\N{SNOWMAN}==", "not base64"),
            ("data:;base64,-_-_", "not base64"),
            ("data:;base64," + "%2B" * 1000, "not base64: too many escaped characters"),
            ("data:;base64,AAAA", "not an image in a format"),
        ],
    )
    def test_garbage(self, url, message):
        with pytest.raises(ImageError, match=message):
            decode_image(url)

    def test_the_limit_is_of_the_file(self, data):
        url = f"data:;base64,{b64encode(data).decode()}"
        decode_image(url, limits=ImageLimits(max_bytes=len(data)))
        with pytest.raises(ImageError, match=f"file of {len(data)} bytes, the limit is {len(data) - 1}"):
            decode_image(url, limits=ImageLimits(max_bytes=len(data) - 1))


class TestTensors:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.fixture
    def image(self):
        return np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)

    @pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
    def test_channels_come_first(self, torch, image, dtype):
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        tensor = tensor if dtype == "uint8" else tensor.to(getattr(torch, dtype)) / 255
        np.testing.assert_array_equal(decode_image(tensor), image)
        np.testing.assert_array_equal(decode_image(tensor, color="bgr"), image[:, :, ::-1])

    def test_grey_and_transparent(self, torch, image):
        grey = torch.from_numpy(image[:, :, 0])
        np.testing.assert_array_equal(decode_image(grey), np.repeat(image[:, :, :1], 3, axis=2))
        np.testing.assert_array_equal(decode_image(grey[None]), decode_image(grey))
        clear = torch.zeros(4, 6, 5)
        np.testing.assert_array_equal(decode_image(clear), np.full((6, 5, 3), 255))

    def test_half_precision_and_gradients(self, torch):
        for dtype in (torch.bfloat16, torch.float16):
            assert decode_image(torch.ones(3, 2, 2, dtype=dtype, requires_grad=True)).min() == 255

    @pytest.mark.parametrize("shape", [(6, 5, 3), (1, 3, 6, 5), (2, 6, 5), (7,), ()])
    def test_shapes_that_could_mean_anything(self, torch, shape):
        with pytest.raises(ImageError, match=r"tensor of shape \(.*\)\. Allowed: .*list\(batch\).*tensor\.numpy\(\)"):
            decode_image(torch.zeros(shape))

    def test_values_that_are_no_image(self, torch):
        with pytest.raises(ImageError, match="float array from -2 to 2"):
            decode_image(torch.tensor([[-2.0, 2.0]]))
        with pytest.raises(ImageError, match="array of int64"):
            decode_image(torch.zeros(3, 4, 4, dtype=torch.int64))
        with pytest.raises(ImageError, match="without plain values"):
            decode_image(torch.zeros(3, 4, 4, device="meta"))
