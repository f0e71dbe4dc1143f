"""Manifest rows as batches of normalised pixels, through the one preprocessing.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from motivnet.data.manifest import Manifest
from motivnet.data.sampling import balanced_rows
from motivnet.errors import DataError, ImageError
from motivnet.images import decode_image
from motivnet.preprocess import Preprocessing


class Batch(NamedTuple):
    """A batch.

    Attributes:
        pixels: normalised faces, float32 (B, C, H, W).
        labels: label indices, int64 (B,).
        votes: annotators a label, float32 (B, C); zeros where there are none.
    """

    pixels: Tensor
    labels: Tensor
    votes: Tensor


class FaceDataset(Dataset[Batch]):
    """Faces of a manifest whose images are already crops."""

    def __init__(self, manifest: Manifest, preprocessing: Preprocessing, *, cache: bool = False) -> None:
        """Wrap a manifest.

        Args:
            manifest: its rows.
            preprocessing: from image to pixels.
            cache: keep every face in memory, uint8, once it was decoded.
        """
        self.manifest = manifest
        self.preprocessing = preprocessing
        self.labels = manifest.targets
        self.votes = manifest.votes
        height, width = preprocessing.size
        shape = (len(manifest), height, width, preprocessing.num_channels)
        self._faces = np.zeros(shape, np.uint8) if cache else None
        self._known = np.zeros(len(manifest), np.bool_)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> Batch:
        """Give one row as a batch of one."""
        return self.__getitems__([row])

    def __getitems__(self, rows: list[int]) -> Batch:
        """Give rows as one batch; the loader of torch calls this with the rows of a batch."""
        faces_BHWC = np.stack([self._face(row) for row in rows])
        pixels_BCHW = torch.from_numpy(self.preprocessing.normalise(faces_BHWC))
        return Batch(pixels_BCHW, torch.from_numpy(self.labels[rows]), torch.from_numpy(self.votes[rows]))

    def _face(self, row: int) -> np.ndarray:
        if self._faces is not None and self._known[row]:
            return self._faces[row]
        source = self.manifest.source(row)
        try:
            face = self.preprocessing.face(decode_image(source))
        except ImageError as error:
            where = source if isinstance(source, str) else f"row {self.manifest.table['row'][row].as_py()}"
            raise DataError(f"{where}: {error}") from None
        if self._faces is not None:
            self._faces[row], self._known[row] = face, True
        return face


class BalancedSampler(Sampler[int]):
    """Rows drawn for each epoch, every class equally often; seed and epoch alone decide, as a resumed run needs."""

    def __init__(self, manifest: Manifest, seed: int) -> None:
        """Prepare the first epoch.

        Args:
            manifest: the rows to draw from.
            seed: of all draws.

        Raises:
            DataError: naming a class without rows.
        """
        self._targets, self._labels, self._seed = manifest.targets, manifest.labels, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the rows of an epoch; Lightning calls this before each."""
        self._rows = balanced_rows(self._targets, self._labels, seed=self._seed, epoch=epoch)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows.tolist())


def make_loader(
    dataset: FaceDataset,
    *,
    batch_size: int,
    shuffle_seed: int | None,
    num_workers: int = 0,
    sampler: Sampler[int] | None = None,
) -> DataLoader[Batch]:
    """Batch a data set.

    Args:
        dataset: the faces.
        batch_size: of each batch.
        shuffle_seed: None keeps the order and all rows; a number shuffles anew each epoch, by that number and the
            epoch's alone, and drops the last incomplete batch.
        num_workers: processes that decode; 0 decodes in this one.
        sampler: names the rows of each epoch in place of the shuffle.
    """
    shuffled = shuffle_seed is not None
    if shuffled and sampler is None:
        # With one replica this is torch's sampler whose order depends on seed and epoch only, as a resumed run needs.
        sampler = DistributedSampler(dataset, num_replicas=1, rank=0, seed=shuffle_seed)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=shuffled,
        num_workers=num_workers,
        collate_fn=_identity,
    )


def _identity(batch: Any) -> Any:
    return batch
