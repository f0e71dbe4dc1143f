"""What training must not see: images of a test split, and images that show nothing. All of it is counted."""

import dataclasses
import hashlib

import numpy as np

from motivnet.data.manifest import Manifest
from motivnet.errors import DataError
from motivnet.images import decode_image


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CleanReport:
    """How many rows of training were there, and how many were removed, by reason.

    Args:
        rows: of the training split, before.
        black: wholly of one value.
        in_test: with exactly the pixels of an image of another split.
        kept: after.
    """

    rows: int
    black: int
    in_test: int
    kept: int


def pixel_hash(image_hwc_u8: np.ndarray) -> str:
    """Hash pixels and shape, so that one picture in two files has one hash: 40 hex digits."""
    return hashlib.sha1(image_hwc_u8.tobytes() + str(image_hwc_u8.shape).encode(), usedforsecurity=False).hexdigest()


def pixel_hashes(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Hash the decoded pixels of every row, so that one picture in two files counts as one.

    Returns:
        The hashes, (rows,) of hex text, and whether the image is of one value throughout, (rows,) of bool.
    """
    hashes, flat = [], []
    for row in range(len(manifest)):
        image = decode_image(manifest.source(row))
        hashes.append(pixel_hash(image))
        flat.append(bool(image.min() == image.max()))
    return np.array(hashes), np.array(flat)


def clean_training(manifest: Manifest, train_split: str) -> tuple[Manifest, CleanReport]:
    """Take out of training what recurs in any other split, and what is blank; other splits stay as they are.

    Args:
        manifest: all splits.
        train_split: name of the one to clean.

    Returns:
        The cleaned training rows, and the report.
    """
    hashes, flat = pixel_hashes(manifest)
    train = np.array(manifest.table["split"].to_pylist(), dtype=object) == train_split
    in_test = train & np.isin(hashes, hashes[~train])
    keep = train & ~flat & ~in_test
    report = CleanReport(
        rows=int(train.sum()),
        black=int((train & flat).sum()),
        in_test=int((in_test & ~flat).sum()),
        kept=int(keep.sum()),
    )
    return manifest.select(keep), report


def repeated_rows(manifest: Manifest, split: str, train_split: str) -> np.ndarray:
    """Mark the rows of `split` whose exact pixels also occur in training: bool (rows of the split,)."""
    hashes, _ = pixel_hashes(manifest)
    splits = np.array(manifest.table["split"].to_pylist(), dtype=object)
    return np.isin(hashes[splits == split], hashes[splits == train_split])


def leave_out_repeated(manifest: Manifest, split: str, train_split: str) -> Manifest:
    """Take a split without the images whose exact pixels also occur in training; they are counted as dropped.

    Raises:
        DataError: if there is no such split, or nothing is left.
    """
    part = manifest.split(split)
    manifest.split(train_split)  # says so if there is none
    repeated = repeated_rows(manifest, split, train_split)
    if repeated.all():
        raise DataError(f"every image of {split} also occurs in {train_split}")
    counted = {f"pixels that occur in {train_split}": int(repeated.sum())} if repeated.any() else {}
    return dataclasses.replace(part.select(~repeated), dropped={**part.dropped, **counted})
