"""Near duplicates: copies of an image that were re-encoded, resized, or changed in brightness or contrast.

Small thumbnails are compared place by place: aligned faces are so similar that a perceptual hash, or the correlation of
whole images, would match different people, and one person's expressions.

Shape suffixes: B images, T side of a thumbnail, G side of a grid, P pairs.
"""

from collections.abc import Hashable, Iterable

import cv2
import numpy as np

from motivnet.errors import needs_extra

# Large enough to tell faces apart, small enough to hide the effects of JPEG and resizing.
THUMB_PX = 32
# Thumbnails are compared on a grid of half their side, which ignores lost detail.
GRID_PX = THUMB_PX // 2
# Maximum difference of two copies in any cell of the grid, in standard deviations of the image: calibrated so that few
# photographs of one person before one wall pass for copies of each other (`benchmarks/near_duplicates.py`).
MAX_DIFFERENCE = 0.3
# Candidates differ less, by the root mean square, in the first principal components alone.
MAX_COARSE, NUM_COMPONENTS = 0.15, 8
# Thumbnails from which the components are computed.
MAX_SAMPLED = 10_000


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


def near_duplicates(thumbs_BTT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of near duplicates among thumbnails, none of which may be blank.

    Args:
        thumbs_BTT: uint8.

    Returns:
        Positions, int64 (P, 2), the smaller first, sorted; and the maximum difference of each pair, float32 (P,).

    Raises:
        MissingExtraError: if scipy is not installed.
    """
    with needs_extra("scipy", "evaluate"):
        from scipy.spatial import KDTree
    if len(thumbs_BTT) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    cells = _standardise(thumbs_BTT).reshape(len(thumbs_BTT), -1)
    _, axes = np.linalg.eigh(np.cov(cells[:: 1 + len(cells) // MAX_SAMPLED].T))
    coarse = KDTree(cells @ axes[:, -NUM_COMPONENTS:])
    pairs = coarse.query_pairs(GRID_PX * MAX_COARSE, output_type="ndarray").astype(np.int64)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    # Bounds the memory.
    parts = np.array_split(pairs, 1 + len(pairs) // 8192)
    difference = np.concatenate([np.abs(cells[part[:, 0]] - cells[part[:, 1]]).max(1) for part in parts])
    return pairs[difference <= MAX_DIFFERENCE], difference[difference <= MAX_DIFFERENCE]


def _standardise(thumbs_BTT: np.ndarray) -> np.ndarray:
    """Scale thumbnails to mean 0 and standard deviation 1, and average them onto the grid: float32 (B, G, G)."""
    values = thumbs_BTT.astype(np.float32)
    values -= values.mean((1, 2), keepdims=True)
    deviation = values.std((1, 2), keepdims=True)
    values = np.divide(values, deviation, out=np.full_like(values, np.nan), where=deviation > 0)
    step = THUMB_PX // GRID_PX
    return values.reshape(len(values), GRID_PX, step, GRID_PX, step).mean((2, 4))
