"""What training must not see: images of a test split, and images that show nothing. All of it is counted."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from motivnet.data.manifest import Manifest
from motivnet.errors import DataError, ImageError
from motivnet.images import decode_image

# Images of up to so many bytes are decoded to tell copies; of larger ones, the last so many are compared.
KEY_BYTES = 16 * 1024


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


def picture_keys(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Tell pictures apart without decoding large files, which training does anyway: equal keys, equal pictures.

    An image of up to 16 KiB is decoded, and known by its pixels; a larger one is known by its length and its last
    16 KiB. So copies of a large one are found only if they are copies of the file, and a blank one only where it
    compresses to little, as blank ones do.

    Returns:
        The keys, (rows,) of text, and whether the image is of one value throughout, (rows,) of bool.

    Raises:
        DataError: naming an image that is missing or cannot be decoded.
    """
    keys, blank = [], []
    for row in range(len(manifest)):
        source = manifest.source(row)
        try:
            key, flat = _key(source)
        except (OSError, ImageError) as error:
            where = source if isinstance(source, str) else f"row {manifest.table['row'][row].as_py()}"
            raise DataError(f"{where}: {error}") from None
        keys.append(key)
        blank.append(flat)
    return np.array(keys, dtype=np.str_), np.array(blank, dtype=np.bool_)


def _key(source: str | bytes) -> tuple[str, bool]:
    if isinstance(source, bytes):
        length, end = len(source), source[-KEY_BYTES:]
    else:
        with Path(source).open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - KEY_BYTES))
            end = file.read()
    if length > KEY_BYTES:
        return hashlib.sha1(end + str(length).encode(), usedforsecurity=False).hexdigest(), False
    image = decode_image(end)
    return pixel_hash(image), bool(image.min() == image.max())


def clean_training(manifest: Manifest, train_split: str) -> tuple[Manifest, CleanReport]:
    """Take out of training what recurs in any other split, and what is blank; other splits stay as they are.

    Args:
        manifest: all splits; pictures are told apart as `picture_keys` says.
        train_split: name of the one to clean.

    Returns:
        The cleaned training rows, and the report.
    """
    keep, report = fit_for_training(manifest, train_split, *picture_keys(manifest))
    return manifest.select(keep), report


def fit_for_training(
    manifest: Manifest, train_split: str, keys: np.ndarray, blank: np.ndarray
) -> tuple[np.ndarray, CleanReport]:
    """Mark the rows of training that neither recur in any other split nor are blank.

    Args:
        manifest: all splits.
        train_split: name of the one to clean.
        keys: of each row's picture, as `pixel_hashes` or `picture_keys` gives them.
        blank: whether it is of one value throughout.

    Returns:
        bool (rows,), and the report.
    """
    train = np.array(manifest.table["split"].to_pylist(), dtype=object) == train_split
    in_test = train & np.isin(keys, keys[~train])
    keep = train & ~blank & ~in_test
    report = CleanReport(
        rows=int(train.sum()),
        black=int((train & blank).sum()),
        in_test=int((in_test & ~blank).sum()),
        kept=int(keep.sum()),
    )
    return keep, report


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
