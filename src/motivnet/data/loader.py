"""Data sets, samplers and loaders: batches of normalised pixels from the rows of a manifest.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

from collections.abc import Iterator, Sized
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from motivnet.data.manifest import Manifest
from motivnet.data.sampling import balanced_rows
from motivnet.errors import DataError, ImageError, require
from motivnet.preprocess import Box, Preprocessing


class Batch(NamedTuple):
    """A batch.

    Attributes:
        pixels: normalised faces, float32 (B, C, H, W), or clips, (B, T * C, H, W).
        labels: label indices, int64 (B,).
        votes: annotators per label, float32 (B, C); zeros if unknown.
        affect: valence and arousal, float32 (B, 2); NaN if unknown.
    """

    pixels: Tensor
    labels: Tensor
    votes: Tensor
    affect: Tensor


class FaceDataset(Dataset[Batch]):
    """The faces of a manifest: the `box` of an image, or the whole image; or frames of its clips."""

    def __init__(
        self, manifest: Manifest, preprocessing: Preprocessing, *, cache: bool = False, num_frames: int | None = None
    ) -> None:
        """Wrap a manifest.

        Args:
            manifest: the rows.
            preprocessing: turns images into pixels.
            cache: keep decoded faces in memory, as uint8.
            num_frames: of a clip; None takes the one in the middle. An image is repeated.
        """
        self.manifest = manifest
        self.preprocessing = preprocessing
        self.labels = manifest.targets
        self.votes = manifest.votes
        self.affect = manifest.affect
        height, width = preprocessing.size
        self.num_frames = num_frames or 1
        shape = (len(manifest), self.num_frames, height, width, preprocessing.num_channels)
        self._faces = np.zeros(shape, np.uint8) if cache else None
        self._known = np.zeros(len(manifest), np.bool_)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> Batch:
        """Return one row as a batch of one."""
        return self.__getitems__([row])

    def __getitems__(self, rows: list[int]) -> Batch:
        """Return rows as one batch; torch's `DataLoader` calls this with the rows of a batch."""
        faces_BTHWC = np.stack([self._face(row) for row in rows])
        pixels_BCHW = torch.from_numpy(self.preprocessing.normalise(faces_BTHWC))
        columns = (self.labels, self.votes, self.affect)
        return Batch(pixels_BCHW, *(torch.from_numpy(column[rows]) for column in columns))

    def _face(self, row: int) -> np.ndarray:
        if self._faces is not None and self._known[row]:
            return self._faces[row]
        box = self.manifest.table["box"][row].as_py()
        try:
            images = self.manifest.read(row, self.num_frames)
            faces = [self.preprocessing.face(image, box and Box(*box).inside(image.shape)) for image in images]
            face = np.stack(faces * (self.num_frames // len(faces)))
        except ImageError as error:
            raise DataError(f"{self.manifest.where(row)}: {error}") from None
        if self._faces is not None:
            self._faces[row], self._known[row] = face, True
        return face


class EpochSampler(Sampler[int]):
    """Gives the rows of an epoch, which `set_epoch` of a subclass draws."""

    _rows: np.ndarray

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows.tolist())


class BalancedSampler(EpochSampler):
    """Draws rows for each epoch, every class equally often, by seed and epoch only, so that runs can be resumed."""

    def __init__(self, manifest: Manifest, seed: int) -> None:
        """Prepare the first epoch.

        Args:
            manifest: the rows to draw from.
            seed: random seed.

        Raises:
            DataError: if a class has no rows.
        """
        self._targets, self._labels, self._seed = manifest.targets, manifest.labels, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the rows of an epoch; Lightning calls this before each."""
        self._rows = balanced_rows(self._targets, self._labels, seed=self._seed, epoch=epoch)


class StepBatches(Sampler[list[int]]):
    """The training batches of one process in an epoch; rows that do not fill an optimizer step are dropped.

    The k-th batches of all processes together are the k-th batch of a single process with `world_size` times the size.
    """

    def __init__(self, sampler: Sampler[int], *, batch_size: int, accumulate: int, rank: int, world_size: int) -> None:
        """Prepare an epoch.

        Args:
            sampler: yields all rows of an epoch in order, the same in every process.
            batch_size: batch size of one process.
            accumulate: batches per optimizer step.
            rank: rank of this process.
            world_size: number of processes.

        Raises:
            DataError: if the rows do not fill one optimizer step.
        """
        self.sampler = sampler  # Lightning looks for this attribute to call `set_epoch`
        self.skip = 0
        self._size, self._rank, self._world_size = batch_size * world_size, rank, world_size
        rows = len(cast(Sized, sampler))
        self._count = rows // (self._size * accumulate) * accumulate
        if not self._count:
            raise DataError(
                f"{rows} training rows do not fill one step of {self._size * accumulate}: {batch_size} in a batch, "
                f"{accumulate} batches to a step, {world_size} device(s)"
            )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of each batch, the first time after the first `skip` ones."""
        rows, first, self.skip = list(self.sampler), self.skip, 0
        for start in range(first * self._size, self._count * self._size, self._size):
            yield rows[start + self._rank : start + self._size : self._world_size]


class EvenBatches(Sampler[list[int]]):
    """The validation batches of one process: every row once, and the same number of batches in every process.

    So no process waits for another one, and no row counts twice.
    """

    def __init__(self, num_rows: int, *, batch_size: int, rank: int, world_size: int) -> None:
        """Distribute rows.

        Args:
            num_rows: size of the data set.
            batch_size: maximum batch size.
            rank: rank of this process.
            world_size: number of processes.

        Raises:
            DataError: if there are fewer rows than processes.
        """
        num_batches = -(-num_rows // (batch_size * world_size)) * world_size
        require(num_rows >= num_batches, f"{num_rows} validation rows are too few for {world_size} devices", DataError)
        self._batches = np.array_split(np.arange(num_rows), num_batches)[rank::world_size]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self._batches)


class ResumableLoader(DataLoader[Any]):
    """A loader that can start within an epoch, and raises a worker's DataError without torch's traceback."""

    def skip(self, batches: int) -> None:
        """Skip the first batches of the next epoch, without loading them."""
        cast(StepBatches, self.batch_sampler).skip = batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of an epoch."""
        # A generator does nothing before its first batch is requested. Lightning creates the iterator before it calls
        # `set_epoch`, and worker processes would immediately use the order of the previous epoch.
        try:
            yield from super().__iter__()
        except DataError as error:
            raise DataError(str(error).rstrip().rpartition(f"{DataError.__name__}: ")[2]) from None


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    shuffle_seed: int | None,
    num_workers: int = 0,
    sampler: Sampler[int] | None = None,
    accumulate: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Any]:
    """Make the loader of one process.

    Args:
        dataset: its `__getitems__` returns a batch, as that of `FaceDataset`.
        batch_size: batch size of one process.
        shuffle_seed: None keeps the order and all rows, for validation; a number shuffles each epoch, by this number
            and the epoch's number only, and drops rows that do not fill an optimizer step.
        num_workers: worker processes; 0 loads in this one.
        sampler: draws the rows of each epoch instead of shuffling.
        accumulate: batches per optimizer step.
        rank: rank of this process.
        world_size: number of processes.

    Raises:
        DataError: if there are too few rows.
    """
    num_rows = len(cast(Sized, dataset))
    if shuffle_seed is None:
        batches = EvenBatches(num_rows, batch_size=batch_size, rank=rank, world_size=world_size)
    else:
        # With one replica, the order of torch's sampler depends on seed and epoch only, as resuming needs.
        sampler = sampler or DistributedSampler(dataset, num_replicas=1, rank=0, seed=shuffle_seed)
        batches = StepBatches(sampler, batch_size=batch_size, accumulate=accumulate, rank=rank, world_size=world_size)
    return ResumableLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_identity,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _identity(batch: Any) -> Any:
    return batch
