"""Copies are found, strangers are not, and the search misses no pair."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from motivnet.data.duplicates import (
    HASH_BITS,
    MAX_BITS,
    MAX_DIFFERENCE,
    close_pairs,
    count_bits,
    first_of,
    largest_differences,
    near_duplicates,
    perceptual_hashes,
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
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
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
    """The reason for the second look: the hashes of some of these are close, as little of the image changed."""
    calm = faces(40)
    crying = [image.copy() for image in calm]
    for image in crying:
        ImageDraw.Draw(image).ellipse((40, 62, 56, 74), (30, 30, 30))
    both = thumbs([*calm, *crying])
    candidates = {tuple(sorted(pair)) for block in close_pairs(perceptual_hashes(both)) for pair in block.tolist()}
    assert len(candidates & {(i, 40 + i) for i in range(40)}) >= 5
    assert len(near_duplicates(both)[0]) == 0


def test_pairs_are_those_of_a_comparison_of_all_with_all() -> None:
    rng = np.random.default_rng(2)
    centres = rng.integers(0, 1 << 64, 30, dtype=np.uint64)
    hashes = np.repeat(centres, 12)
    for row, flips in enumerate(rng.integers(0, 7, len(hashes))):
        for bit in rng.choice(HASH_BITS, flips, replace=False):
            hashes[row] ^= np.uint64(1) << np.uint64(bit)
    distances = count_bits(hashes[:, None] ^ hashes[None])
    expected = set(zip(*np.nonzero(np.triu(distances <= MAX_BITS, 1)), strict=True))
    found = [tuple(sorted(pair)) for block in close_pairs(hashes) for pair in block.tolist()]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert {distances[pair] for pair in expected} == set(range(MAX_BITS + 1))


@pytest.mark.parametrize("number", [0, 1])
def test_too_few_for_a_pair(number: int) -> None:
    assert list(close_pairs(np.zeros(number, np.uint64))) == []
    pairs, difference = near_duplicates(np.zeros((number, 32, 32), np.uint8))
    assert pairs.shape == (0, 2)
    assert difference.shape == (0,)


def test_hash_bits_are_signs_of_scipys_cosine_transform() -> None:
    fft = pytest.importorskip("scipy.fft")
    images = thumbs(faces(5))
    spectrum = fft.dctn(images.astype(np.float64), axes=(1, 2))
    order = sorted(((u, v) for u in range(32) for v in range(32)), key=lambda uv: (sum(uv), uv))[1:65]
    for image, found in zip(spectrum, perceptual_hashes(images), strict=True):
        expected = "".join("1" if image[place] > 0 else "0" for place in order)
        assert "".join(f"{byte:08b}" for byte in np.array([found]).view(np.uint8)) == expected


def test_difference_is_of_places_whatever_the_light() -> None:
    one = np.random.default_rng(0).integers(60, 160, (3, 32, 32), dtype=np.uint8)
    other = one.copy()
    other[0] = one[0] // 2 + 7  # another brightness
    other[1, 4:6, 8:10] += 90  # one place of the grid
    other[2] = 7  # blank
    found = largest_differences(one, other)
    assert found[0] < 0.05
    assert found[1] == pytest.approx(90 / one[1].std(), rel=0.1)
    assert np.isnan(found[2])


def test_first_of() -> None:
    assert first_of(["a", "b", "a", None, None, "b", ("a", 1)]).tolist() == [0, 1, 0, 3, 4, 1, 6]
    assert first_of([]).tolist() == []


def test_bits_are_counted() -> None:
    numbers = np.array([[0, 1, 2**64 - 1], [2**63, 2**32 - 1, 2**17 + 3]], np.uint64)
    assert count_bits(numbers).tolist() == [[0, 1, 64], [1, 32, 3]]
