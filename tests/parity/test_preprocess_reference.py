"""Preprocessing against other people's arithmetic: torch's interpolation, torchvision's normalisation, Pillow.

OpenCV weighs in fixed point, hence one grey level of tolerance.
"""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from motivnet.images import decode_image
from motivnet.preprocess import MOTIVNET_PAD, MOTIVNET_STRETCH, NANO, Box, Preprocessing

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

IMAGE = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)


def interpolate(image_hwc, size, mode="bilinear"):
    """Resize as torch does, without antialiasing; float64 (H, W, C) on the scale 0 to 255."""
    pixels = torch.from_numpy(np.ascontiguousarray(image_hwc)).double().permute(2, 0, 1)[None]
    return functional.interpolate(pixels, size, mode=mode, align_corners=False)[0].permute(1, 2, 0).numpy()


def normalise(image_hwc, mean, std):
    transforms = pytest.importorskip("torchvision.transforms.functional")
    return transforms.normalize(torch.from_numpy(image_hwc).float().permute(2, 0, 1), mean, std).numpy()


def assert_within_a_grey_level(found_CHW, expected_CHW, std):
    difference = np.abs(found_CHW - expected_CHW) * np.asarray(std)[:, None, None]
    assert difference.max() <= 1.001


MEAN, STD = (123.5, 116.5, 103.5), (58.5, 57.0, 57.5)


@pytest.mark.parametrize("size", [(128, 96), (32, 24), (61, 47), (100, 30)])
def test_stretch(size):
    small = dataclasses.replace(MOTIVNET_STRETCH, size=size)
    expected = normalise(interpolate(IMAGE, size), MEAN, STD)
    assert_within_a_grey_level(small(IMAGE), expected, STD)


@pytest.mark.parametrize(("size", "side", "rows"), [((128, 96), 96, 16), ((64, 48), 48, 8)])
def test_pad(size, side, rows):
    small = dataclasses.replace(MOTIVNET_PAD, size=size)
    canvas = np.full((*size, 3), 255.0)
    canvas[rows : rows + side] = interpolate(IMAGE, (side, side))
    assert_within_a_grey_level(small(IMAGE), normalise(canvas, MEAN, STD), STD)


def test_pad_at_its_full_size():
    face = MOTIVNET_PAD.face(IMAGE).astype(float)
    assert np.abs(face[128:896] - interpolate(IMAGE, (768, 768))).max() <= 1.001
    assert MOTIVNET_PAD(IMAGE).shape == (3, 1024, 768)
    np.testing.assert_allclose(MOTIVNET_PAD(IMAGE)[:, 0, 0], (255 - np.array(MEAN)) / np.array(STD), rtol=1e-6)


def test_the_boxes_of_stretch_and_pad_are_cut_before_resizing():
    box = Box(5, 9, 30, 40)
    cut = np.asarray(Image.fromarray(IMAGE).crop((5, 9, 35, 49)))
    for preprocessing in (MOTIVNET_STRETCH, MOTIVNET_PAD):
        small = dataclasses.replace(preprocessing, size=(64, 48))
        np.testing.assert_array_equal(small(IMAGE, box), small(cut))


def test_nano_enlarges_as_torch_does_bicubically():
    small = IMAGE[:40, :40]
    luma = interpolate(small, (96, 96), "bicubic").clip(0, 255) @ [0.299, 0.587, 0.114]
    expected = (luma - 127.5) / 64.0
    preprocessing = dataclasses.replace(NANO, size=(96, 96), filter="bicubic", mean=(127.5,), std=(64.0,))
    # Three channels, each rounded, and rounded again as grey: two levels at most.
    assert np.abs(preprocessing(small)[0] - expected).max() * 64.0 <= 2.0


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_square_shrinks_by_averaging_areas(factor):
    image = np.random.default_rng(factor).integers(0, 256, (24 * factor, 24 * factor, 3), dtype=np.uint8)
    preprocessing = Preprocessing(
        geometry="square", size=(24, 24), channels="rgb", filter="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    pixels = torch.from_numpy(image).double().permute(2, 0, 1)[None]
    expected = functional.avg_pool2d(pixels, factor)[0].numpy()
    assert np.abs(preprocessing(image) - expected).max() <= 1.001


def test_a_file_and_its_pixels_give_the_same_input(tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(IMAGE).save(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    for preprocessing in (dataclasses.replace(MOTIVNET_PAD, size=(64, 48)), NANO):
        np.testing.assert_array_equal(preprocessing(decode_image(path)), preprocessing(expected))
