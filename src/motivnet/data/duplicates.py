"""Near duplicates: copies of an image that were re-encoded, resized, or changed in brightness or contrast.

A perceptual hash finds the candidates, and a comparison of small thumbnails decides: aligned faces are so similar that
a hash alone would match different people.

Shape suffixes: B images, T side of a thumbnail, G side of a grid, F coefficients, P pairs.
"""

import itertools
from collections.abc import Hashable, Iterable, Iterator

import cv2
import numpy as np

# Large enough to tell faces apart, small enough to hide the effects of JPEG and resizing.
THUMB_PX = 32
HASH_BITS = 64
# Maximum number of bits in which the hashes of two copies differ.
MAX_BITS = 7
# Thumbnails are compared on a grid of half their side, which ignores lost detail.
GRID_PX = THUMB_PX // 2
# Maximum difference of two copies in any cell of the grid, in standard deviations of the image. Of copies of FER-2013's
# faces, all re-encoded and resized ones are below it, 96 % of those so bright that highlights clip, and nearly all
# others with changed brightness or contrast; of faces with the mouth of another face, which resembles another
# expression of the same person, less than 1 % are (`benchmarks/results/data_tools.json`). The maximum separates the two
# better than the correlation of the whole image, in which a mouth has little weight.
MAX_DIFFERENCE = 0.8
# Hashes are searched by chunks. Hashes that differ in at most r bits differ in at most r of m chunks, so m - r chunks
# are equal: here two of nine, which few unrelated images share.
NUM_CHUNKS = MAX_BITS + 2

_BITS_SET = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def thumbnail(image_hwc_u8: np.ndarray) -> np.ndarray:
    """Shrink an RGB image of any shape to a grey thumbnail, uint8 (T, T), by averaging pixels."""
    small = cv2.resize(image_hwc_u8, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def first_of(keys: Iterable[Hashable | None]) -> np.ndarray:
    """Return the position of each key's first occurrence, int64; no two None are the same key."""
    first: dict[Hashable, int] = {}
    return np.array(
        [place if key is None else first.setdefault(key, place) for place, key in enumerate(keys)], np.int64
    )


def perceptual_hashes(thumbs_BTT: np.ndarray) -> np.ndarray:
    """Return perceptual hashes of thumbnails, which differ in few bits for copies: uint64 (B,).

    Each bit is the sign of one of the 64 lowest frequencies of the discrete cosine transform without the mean, so
    brightness and contrast do not matter.
    """
    # In order of the frequency u + v, without the mean at 0: the first 64 reach the tenth diagonal.
    order = sorted(itertools.product(range(THUMB_PX), repeat=2), key=lambda uv: (sum(uv), uv))[1 : HASH_BITS + 1]
    u, v = np.array(order).T
    hashes = np.empty(len(thumbs_BTT), np.uint64)
    for place, thumb_TT in enumerate(thumbs_BTT):
        hashes[place] = np.packbits(cv2.dct(thumb_TT.astype(np.float32))[u, v] > 0).view(np.uint64)[0]
    return hashes


def close_pairs(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield every pair of hashes that differ in at most MAX_BITS bits exactly once.

    Hashes are sorted by two of the nine chunks at a time, and compared with those whose chunks are equal.

    Args:
        hashes: uint64 (B,).

    Yields:
        Blocks of positions, int64 (P, 2), in no particular order.
    """
    edges = np.linspace(0, HASH_BITS, NUM_CHUNKS + 1).round().astype(int)
    chunks = [np.uint64((1 << int(end)) - (1 << int(start))) for start, end in itertools.pairwise(edges)]
    for chosen in itertools.combinations(range(NUM_CHUNKS), NUM_CHUNKS - MAX_BITS):
        mask = np.bitwise_or.reduce([chunks[number] for number in chosen])
        # A pair that shares more chunks is yielded by the first combination of them only.
        earlier = [chunks[number] for number in range(chosen[-1]) if number not in chosen]
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[order], hashes[order]
        left = np.arange(len(keys))
        for step in range(1, len(keys)):
            # Equal keys are adjacent: a key without an equal `step` positions away has none further away.
            left = left[left + step < len(keys)]
            left = left[keys[left] == keys[left + step]]
            if not left.size:
                break
            differing = sorted_hashes[left] ^ sorted_hashes[left + step]
            close = count_bits(differing) <= MAX_BITS
            for chunk in earlier:
                close &= (differing & chunk) != 0
            if close.any():
                yield np.stack([order[left[close]], order[left[close] + step]], axis=1)


def count_bits(numbers: np.ndarray) -> np.ndarray:
    """Return the number of set bits of each uint64 in an array."""
    return _BITS_SET[np.ascontiguousarray(numbers).view(np.uint16)].reshape(*numbers.shape, 4).sum(-1, dtype=np.uint8)


def near_duplicates(thumbs_BTT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of near duplicates among thumbnails, none of which may be blank.

    Args:
        thumbs_BTT: uint8.

    Returns:
        Positions, int64 (P, 2), the smaller first, sorted; and the maximum difference of each pair, float32 (P,).
    """
    hashes = perceptual_hashes(thumbs_BTT)
    pairs, differing = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for block in close_pairs(hashes):
        # Bounds the memory of the float copies.
        for start in range(0, len(block), 8192):
            part = block[start : start + 8192]
            difference = largest_differences(thumbs_BTT[part[:, 0]], thumbs_BTT[part[:, 1]])
            alike = difference <= MAX_DIFFERENCE
            pairs.append(np.sort(part[alike], axis=1))
            differing.append(difference[alike])
    found, difference = np.concatenate(pairs), np.concatenate(differing)
    order = np.lexsort((found[:, 1], found[:, 0]))
    return found[order], difference[order]


def largest_differences(first_BTT: np.ndarray, second_BTT: np.ndarray) -> np.ndarray:
    """Compare thumbnails pair by pair, independently of brightness and contrast.

    Returns:
        The maximum difference of each pair in any cell of the grid, in standard deviations, float32 (B,); NaN if one is
        blank.
    """
    return np.abs(_standardise(first_BTT) - _standardise(second_BTT)).max((1, 2))


def _standardise(thumbs_BTT: np.ndarray) -> np.ndarray:
    """Scale thumbnails to mean 0 and standard deviation 1, and average them onto the grid: float32 (B, G, G)."""
    values = thumbs_BTT.astype(np.float32)
    values -= values.mean((1, 2), keepdims=True)
    deviation = values.std((1, 2), keepdims=True)
    values = np.divide(values, deviation, out=np.full_like(values, np.nan), where=deviation > 0)
    step = THUMB_PX // GRID_PX
    return values.reshape(len(values), GRID_PX, step, GRID_PX, step).mean((2, 4))
