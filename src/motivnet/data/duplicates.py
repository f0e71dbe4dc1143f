"""Pictures that occur more than once: with the very same pixels, or encoded, resized or lit anew.

A perceptual hash finds the candidates, and a comparison of small thumbnails decides: aligned faces are so much alike
that a hash alone would call strangers copies of one another.

Shape suffixes: B images, T side of a thumbnail, G side of a grid, F coefficients, P pairs.
"""

import itertools
from collections.abc import Hashable, Iterable, Iterator

import numpy as np

# A thumbnail keeps what makes a face this one, and little of what JPEG or another size changes.
THUMB_PX = 32
HASH_BITS = 64
# Most bits in which the hashes of two copies may differ.
MAX_BITS = 7
# Thumbnails are compared on a grid of half their side, which forgives lost detail.
GRID_PX = THUMB_PX // 2
# Most that two copies may differ at any place of the grid, in standard deviations of the image. Of copies of FER-2013's
# faces, those encoded or resized anew stay below, 96 % of those so bright that they lose their lights, and nearly all
# others that are lit anew; of faces that were given another's mouth, which is what one person's next expression looks
# like, less than 1 % do (`benchmarks/results/data_tools.json`). The largest difference tells the two apart better than
# the correlation of the whole, in which a mouth weighs little.
MAX_DIFFERENCE = 0.8
# A hash is searched by chunks. Hashes that differ in at most r bits differ in at most r of the m chunks, so that m - r
# chunks are equal: two of nine here, which few strangers share.
NUM_CHUNKS = MAX_BITS + 2

_BITS_SET = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def thumbnail(image_hwc_u8: np.ndarray) -> np.ndarray:
    """Shrink an RGB image to grey, uint8 (T, T), whatever its shape: the average of the pixels under each."""
    import cv2

    small = cv2.resize(image_hwc_u8, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def first_of(keys: Iterable[Hashable | None]) -> np.ndarray:
    """Give for each key the position of its first occurrence, int64; None equals nothing but itself."""
    first: dict[Hashable, int] = {}
    return np.array(
        [place if key is None else first.setdefault(key, place) for place, key in enumerate(keys)], np.int64
    )


def perceptual_hashes(thumbs_BTT: np.ndarray) -> np.ndarray:
    """Hash thumbnails so that copies differ in few bits: uint64 (B,).

    Each bit is the sign of one of the 64 lowest frequencies of the discrete cosine transform, the mean left out, so
    that neither brightness nor contrast matters.
    """
    basis_FT = _cosines(THUMB_PX)
    # By rising frequency u + v, the mean at 0 left out: 64 of them reach to the tenth diagonal.
    order = sorted(itertools.product(range(THUMB_PX), repeat=2), key=lambda uv: (sum(uv), uv))[1 : HASH_BITS + 1]
    u, v = np.array(order).T
    hashes = np.empty(len(thumbs_BTT), np.uint64)
    for start in range(0, len(thumbs_BTT), 4096):
        block = thumbs_BTT[start : start + 4096].astype(np.float32)
        spectrum = basis_FT @ block @ basis_FT.T
        bits = np.packbits(spectrum[:, u, v] > 0, axis=1)
        hashes[start : start + 4096] = np.ascontiguousarray(bits).view(np.uint64)[:, 0]
    return hashes


def _cosines(size: int) -> np.ndarray:
    """Give the basis of the type II transform, float32 (size, size), a row a frequency."""
    frequency, place = np.mgrid[:size, :size]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * size)).astype(np.float32)


def close_pairs(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Find every pair of hashes that differ in at most MAX_BITS bits, each exactly once.

    Hashes are sorted by two of the nine chunks at a time, and compared with those of equal chunks.

    Args:
        hashes: uint64 (B,).

    Yields:
        Blocks of positions, int64 (P, 2), in no order.
    """
    edges = np.linspace(0, HASH_BITS, NUM_CHUNKS + 1).round().astype(int)
    chunks = [np.uint64((1 << int(end)) - (1 << int(start))) for start, end in itertools.pairwise(edges)]
    for chosen in itertools.combinations(range(NUM_CHUNKS), NUM_CHUNKS - MAX_BITS):
        mask = np.bitwise_or.reduce([chunks[number] for number in chosen])
        # A pair may share more chunks; it belongs to the search of the first of them.
        earlier = [chunks[number] for number in range(chosen[-1]) if number not in chosen]
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[order], hashes[order]
        left = np.arange(len(keys))
        for step in range(1, len(keys)):
            # Equal keys stand together: who has no equal a step away has none further away.
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
    """Count the bits that are set in each of an array of uint64."""
    return _BITS_SET[np.ascontiguousarray(numbers).view(np.uint16)].reshape(*numbers.shape, 4).sum(-1, dtype=np.uint8)


def near_duplicates(thumbs_BTT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of near copies among thumbnails, none of which is of one value.

    Args:
        thumbs_BTT: uint8.

    Returns:
        Positions, int64 (P, 2), the smaller first, sorted; and the largest difference of each pair, float32 (P,).
    """
    hashes = perceptual_hashes(thumbs_BTT)
    pairs, differing = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for block in close_pairs(hashes):
        # Two float copies of the thumbnails at a time, not of a whole block's.
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
    """Compare thumbnails pair by pair, whatever their brightness and contrast.

    Returns:
        The most that a pair differs at any place of the grid, in standard deviations, float32 (B,); not a number
        where one is of one value.
    """
    return np.abs(_standardise(first_BTT) - _standardise(second_BTT)).max((1, 2))


def _standardise(thumbs_BTT: np.ndarray) -> np.ndarray:
    """Give thumbnails mean 0 and standard deviation 1, and average them onto the grid: float32 (B, G, G)."""
    values = thumbs_BTT.astype(np.float32)
    values -= values.mean((1, 2), keepdims=True)
    deviation = values.std((1, 2), keepdims=True)
    values = np.divide(values, deviation, out=np.full_like(values, np.nan), where=deviation > 0)
    step = THUMB_PX // GRID_PX
    return values.reshape(len(values), GRID_PX, step, GRID_PX, step).mean((2, 4))
