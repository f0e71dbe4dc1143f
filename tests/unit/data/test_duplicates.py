"""Copies are found, strangers are not, and the search misses no pair."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from motivnet.data.duplicates import (
    MAX_DIFFERENCE,
    first_of,
    near_duplicates,
    thumbnail,
)


def faces(number: int, side: int = 96, seed: int = 0) -> list[Image.Image]:
    """Draw pictures that share most of their structure, as aligned faces do, each with its own smooth variation."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    common = 90 * np.exp(-(x**2 + y**2) * 2) - 60 * np.exp(-((abs(x) - 0.4) ** 2 + (y + 0.2) ** 2) * 40)
    pictures = []
    for _ in range(number):
        own = Image.fromarray(rng.normal(0, 30, (9, 9)).astype(np.float32))
        values = 100 + common + np.asarray(own.resize((side, side), Image.Resampling.BICUBIC))
        pictures.append(Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB"))
    return pictures


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


CHANGES = {
    "jpeg 75": lambda image: jpeg(image, 75),
    "jpeg 30": lambda image: jpeg(image, 30),
    "half size": lambda image: image.resize((48, 48), Image.Resampling.BICUBIC),
    "twice the size": lambda image: image.resize((192, 192), Image.Resampling.BILINEAR),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.05),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


def thumbs(images: list[Image.Image]) -> np.ndarray:
    return np.stack([thumbnail(np.asarray(image)) for image in images])


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_and_nothing_else(change: str) -> None:
    originals = faces(40)
    copies = [CHANGES[change](image) for image in originals[:15]]
    pairs, difference = near_duplicates(thumbs([*originals, *copies]))
    assert pairs.tolist() == [[i, 40 + i] for i in range(15)]
    assert difference.max() <= MAX_DIFFERENCE


def test_another_expression_is_no_copy() -> None:
    calm = faces(40)
    crying = [image.copy() for image in calm]
    for image in crying:
        ImageDraw.Draw(image).ellipse((40, 62, 56, 74), (30, 30, 30))
    assert len(near_duplicates(thumbs([*calm, *crying]))[0]) == 0


def test_photographs_of_one_person_before_one_wall_are_no_copies() -> None:
    (person,) = faces(1)
    photographs = []
    for number in range(12):
        wall = Image.new("RGB", (128, 128), (210, 210, 210))
        head = person.copy()
        ImageDraw.Draw(head).ellipse((36, 62, 60, 64 + 2 * number), (60, 60, 60))
        wall.paste(head, (16 + number % 3, 16 + number // 4))
        photographs.append(wall)
    pairs, _ = near_duplicates(thumbs([*photographs, jpeg(photographs[5], 75)]))
    assert pairs.tolist() == [[5, 12]]


def test_pairs_are_those_of_a_comparison_of_all_with_all() -> None:
    """Of images that differ by any amount: none within the distance is missed."""
    rng = np.random.default_rng(2)
    images = np.stack([np.asarray(image.convert("L").resize((32, 32))) for image in faces(30)]).repeat(6, 0)
    noisy = np.clip(images + rng.normal(0, 1, images.shape) * rng.uniform(0, 16, (180, 1, 1)), 0, 255).astype(np.uint8)
    values = noisy - noisy.mean((1, 2), keepdims=True)
    cells = (values / noisy.std((1, 2), keepdims=True)).reshape(180, 16, 2, 16, 2).mean((2, 4))
    distances = np.abs(cells[:, None] - cells[None]).max((2, 3))
    expected = np.argwhere(np.triu(distances <= MAX_DIFFERENCE, 1))
    assert 20 < len(expected) < 400
    found, difference = near_duplicates(noisy)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(difference, distances[tuple(found.T)], atol=1e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_too_few_for_a_pair(number: int) -> None:
    pairs, difference = near_duplicates(np.zeros((number, 32, 32), np.uint8))
    assert pairs.shape == (0, 2)
    assert difference.shape == (0,)


def test_difference_is_of_places_whatever_the_light() -> None:
    one = np.random.default_rng(0).integers(60, 160, (32, 32), dtype=np.uint8)
    darker, changed = one // 2 + 7, one.copy()
    changed[4:6, 8:10] += 8  # one cell of the grid
    pairs, difference = near_duplicates(np.stack([one, darker, changed]))
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert difference[0] < 0.05
    assert difference[1] == pytest.approx(8 / one.std(), rel=0.1)


def test_first_of() -> None:
    assert first_of(["a", "b", "a", None, None, "b", ("a", 1)]).tolist() == [0, 1, 0, 3, 4, 1, 6]
    assert first_of([]).tolist() == []
