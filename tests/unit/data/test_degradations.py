"""Degradations of a face: each does what its name says, and nothing else."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from motivnet.data.degradations import DEGRADATIONS, Degradation


def face(side: int = 96, channels: int = 1) -> np.ndarray:
    """A smooth picture with an edge."""
    y, x = np.mgrid[:side, :side] / side
    waves = 120 + 60 * np.sin(9 * x) * np.cos(7 * y) + 40 * (x > 0.5)
    return np.stack([np.clip(waves + 20 * channel, 0, 255) for channel in range(channels)], 2).astype(np.uint8)


def edge(pixels: np.ndarray) -> float:
    """The steepest step between two columns."""
    return float(np.abs(np.diff(pixels.astype(float), axis=1)).max())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_shape_stays_and_the_same_is_done_each_time(name: str, channels: int) -> None:
    original, degrade = face(channels=channels), DEGRADATIONS[name]
    kept = original.copy()
    degraded = degrade(original)
    assert (degraded.shape, degraded.dtype) == (original.shape, np.uint8)
    assert not np.array_equal(degraded, original)
    np.testing.assert_array_equal(degrade(original), degraded)
    np.testing.assert_array_equal(original, kept)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_default_changes_nothing(channels: int) -> None:
    np.testing.assert_array_equal(Degradation()(face(channels=channels)), face(channels=channels))


def test_gain_and_gamma() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    expected = np.minimum(np.rint(grey * 1.6), 255)
    np.testing.assert_array_equal(Degradation(gain=1.6)(grey), expected)
    np.testing.assert_allclose(Degradation(gamma=2.0)(grey), 255 * (grey / 255) ** 2, atol=0.51)
    both = Degradation(gain=2.0, gamma=0.5)(grey)
    np.testing.assert_allclose(both, 255 * np.clip(grey / 255 * 2, 0, 1) ** 0.5, atol=0.51)


def test_blur_is_stated_for_a_face_of_48_pixels() -> None:
    spread = []
    for side in (48, 96):
        point = np.zeros((side, side, 1), np.uint8)
        point[side // 2, side // 2] = 255
        weights = Degradation(blur=1.0)(point)[:, :, 0].sum(0).astype(float)
        places = np.arange(side) - side // 2
        spread.append(np.sqrt((weights * places**2).sum() / weights.sum()) * 48 / side)
    assert spread == pytest.approx([1.0, 1.0], abs=0.15)


def test_fewer_pixels() -> None:
    degraded = Degradation(side=24)(face())
    assert edge(degraded) < edge(face()) / 1.5
    reduced = cv2.resize(face(), (24, 24), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(cv2.resize(degraded, (24, 24), interpolation=cv2.INTER_AREA), reduced, atol=12)
    for side in (96, 200):  # faces that are smaller stay
        np.testing.assert_array_equal(Degradation(side=side)(face()), face())


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_as_pillow_packs_it(channels: int) -> None:
    noisy = np.clip(face(channels=channels) + np.random.default_rng(0).normal(0, 20, (96, 96, 1)), 0, 255)
    noisy = noisy.astype(np.uint8)
    worse, better = Degradation(quality=10)(noisy), Degradation(quality=90)(noisy)
    assert np.abs(worse - noisy.astype(float)).mean() > 2 * np.abs(better - noisy.astype(float)).mean()
    buffer = io.BytesIO()
    Image.fromarray(noisy.squeeze()).save(buffer, "JPEG", quality=10)
    expected = np.asarray(Image.open(buffer)).reshape(noisy.shape)
    # Two codecs of one standard.
    np.testing.assert_allclose(worse.astype(float).mean((0, 1)), expected.astype(float).mean((0, 1)), atol=1)
    assert np.abs(worse.astype(float) - expected).mean() < 3


def test_jpeg_is_packed_at_the_reduced_size() -> None:
    small = cv2.resize(face(), (24, 24), interpolation=cv2.INTER_AREA)[:, :, None]
    packed = Degradation(quality=20)(small)
    expected = cv2.resize(packed, (96, 96), interpolation=cv2.INTER_CUBIC)[:, :, None]
    np.testing.assert_array_equal(Degradation(side=24, quality=20)(face()), expected)
