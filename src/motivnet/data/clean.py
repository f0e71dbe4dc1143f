"""Remove images from training that are in another split, or blank, and count them."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motivnet.data.manifest import Manifest
from motivnet.data.sampling import fold_of
from motivnet.errors import DataError, ImageError, require
from motivnet.frames.clips import Clip
from motivnet.images import decode_image, is_blank

# Copies of images of up to this size are found by their pixels, of larger ones by the last bytes of their files.
KEY_BYTES = 16 * 1024
# Number of pictures by which a later command knows whether a model was trained on a data set: with half of them in it,
# it errs once in 2^16 times; and characters of each key.
NUM_PICTURES, KEY_LENGTH = 16, 12


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CleanReport:
    """Number of training rows, and of those removed, by reason.

    Args:
        rows: rows of the training split before cleaning.
        black: blank images, all of whose pixels have the same value.
        in_test: images with the same pixels as an image of another split.
        kept: rows after cleaning.
    """

    rows: int
    black: int
    in_test: int
    kept: int


def pixel_hash(image_hwc_u8: np.ndarray) -> str:
    """Return a hash of shape and pixels, 40 hex digits: the same for the same picture in different files."""
    return hashlib.sha1(image_hwc_u8.tobytes() + str(image_hwc_u8.shape).encode(), usedforsecurity=False).hexdigest()


def picture_keys(manifest: Manifest, *, unreadable: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return keys that are equal for copies of an image, without decoding large files.

    The key of an image of up to 16 KiB is the hash of its pixels; of a larger one, of its size and last 16 KiB. So
    copies of large images are found only if the files are identical, and blank images only if they are small files,
    as they usually are. The key of a clip is that of its file and stretch.

    Args:
        manifest: the rows.
        unreadable: whether images that are missing or cannot be decoded are allowed; their key is empty.

    Returns:
        The keys, (rows,) of text, and whether the image is blank, (rows,) of bool.

    Raises:
        DataError: naming an image that is missing or cannot be decoded.
    """
    keys, blank = [], []
    for row in range(len(manifest)):
        try:
            key, flat = _key(manifest.source(row))
        except (OSError, ImageError) as error:
            if not unreadable:
                raise DataError(f"{manifest.where(row)}: {error}") from None
            key, flat = "", False
        keys.append(key)
        blank.append(flat)
    return np.array(keys, dtype=np.str_), np.array(blank, dtype=np.bool_)


def some_pictures(keys: np.ndarray) -> list[str]:
    """Return the first hex digits of the smallest keys of a data set, which are those of random pictures."""
    return [str(key)[:KEY_LENGTH] for key in np.unique(keys)[:NUM_PICTURES]]


def unfitted(provenance: Any, subjects: Sequence[str | None], keys: np.ndarray) -> np.ndarray:
    """Mark the rows whose labels neither a model nor those that it started from were trained on.

    These are the rows of the fold that its training left out, or all, if its training set was another one: it had none
    of the pictures by which its provenance describes the set (`some_pictures`). A model whose provenance is not of
    `motivnet train` is taken to be trained elsewhere.

    Args:
        provenance: of a bundle.
        subjects: person shown in each row, or None.
        keys: of each row's picture.

    Returns:
        bool (B,).
    """
    rows, known = np.ones(len(keys), np.bool_), {str(key)[:KEY_LENGTH] for key in keys}
    while isinstance(provenance, Mapping):
        # Pre-training, which uses no labels, has no split.
        split, report = provenance.get("recipe", {}).get("split"), provenance.get("training_rows", {})
        if split and ("pictures" not in report or not known.isdisjoint(report["pictures"])):
            folds = split.get("folds", 1)
            rows &= (fold_of(subjects, keys.tolist(), folds) == split["fold"]) if folds > 1 else False
        init = provenance.get("init")
        provenance = init.get("provenance") if isinstance(init, Mapping) else None
    return rows


def _key(source: str | bytes | Clip) -> tuple[str, bool]:
    stretch = ""
    if isinstance(source, Clip):
        # Of a folder, the frame in the middle.
        files, stretch = source.files(), f" {source.start_s} {source.end_s}"
        source = str(files[len(files) // 2])
    if isinstance(source, bytes):
        length, end = len(source), source[-KEY_BYTES:]
    else:
        with Path(source).open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - KEY_BYTES))
            end = file.read()
    if length > KEY_BYTES or stretch:
        return hashlib.sha1(end + f"{length}{stretch}".encode(), usedforsecurity=False).hexdigest(), False
    image = decode_image(end)
    return pixel_hash(image), is_blank(image)


def clean_training(manifest: Manifest, train_split: str) -> tuple[Manifest, CleanReport]:
    """Remove images from training that are blank or occur in any other split, by `picture_keys`.

    Args:
        manifest: all splits.
        train_split: name of the training split.

    Returns:
        The cleaned training rows, and the report.
    """
    keep, report = fit_for_training(manifest, train_split, *picture_keys(manifest))
    return manifest.select(keep), report


def fit_for_training(
    manifest: Manifest, train_split: str, keys: np.ndarray, blank: np.ndarray
) -> tuple[np.ndarray, CleanReport]:
    """Mark the training rows that are neither blank nor in any other split.

    Args:
        manifest: all splits.
        train_split: name of the training split.
        keys: key of each row's image, as of `picture_keys`.
        blank: whether each image is blank.

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


def repeated_rows(manifest: Manifest, training: Manifest) -> np.ndarray:
    """Mark the rows whose exact pixels also occur in training: bool (rows,)."""
    own, known = ([pixel_hash(each.read(row)[0]) for row in range(len(each))] for each in (manifest, training))
    return np.isin(own, known)


def leave_out_repeated(manifest: Manifest, split: str, train_split: str) -> Manifest:
    """Return a split without the images whose exact pixels also occur in training; they are counted as dropped.

    Raises:
        DataError: if one of the splits does not exist, or no image is left.
    """
    part = manifest.split(split)
    repeated = repeated_rows(part, manifest.split(train_split))
    require(not repeated.all(), f"every image of {split} also occurs in {train_split}", DataError)
    counted = {f"pixels that occur in {train_split}": int(repeated.sum())} if repeated.any() else {}
    return dataclasses.replace(part.select(~repeated), dropped={**part.dropped, **counted})
