"""Manifest rows as batches of normalised pixels, through the one preprocessing.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

import contextlib
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from motivnet.data.manifest import Manifest
from motivnet.data.sampling import balanced_rows
from motivnet.errors import DataError, ImageError
from motivnet.images import decode_image
from motivnet.preprocess import Box, Preprocessing


class Batch(NamedTuple):
    """A batch.

    Attributes:
        pixels: normalised faces, float32 (B, C, H, W).
        labels: label indices, int64 (B,).
        votes: annotators a label, float32 (B, C); zeros where there are none.
        affect: valence and arousal, float32 (B, 2); NaN where there is none.
    """

    pixels: Tensor
    labels: Tensor
    votes: Tensor
    affect: Tensor


class FaceDataset(Dataset[Batch]):
    """Faces of a manifest: what its `box` says of an image, else all of it."""

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
        self.affect = manifest.affect
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
        columns = (self.labels, self.votes, self.affect)
        return Batch(pixels_BCHW, *(torch.from_numpy(column[rows]) for column in columns))

    def _face(self, row: int) -> np.ndarray:
        if self._faces is not None and self._known[row]:
            return self._faces[row]
        source, box = self.manifest.source(row), self.manifest.table["box"][row].as_py()
        try:
            face = self.preprocessing.face(decode_image(source), box and Box(*box))
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


class StepBatches(Sampler[list[int]]):
    """The batches of one process in an epoch, for training: whole optimizer steps only, what is left over is not seen.

    The k-th batches of all processes together are the k-th batch of one process alone with as many times the size.
    """

    def __init__(self, sampler: Sampler[int], *, batch_size: int, accumulate: int, rank: int, world_size: int) -> None:
        """Prepare an epoch.

        Args:
            sampler: gives all rows of an epoch in order, the same to every process.
            batch_size: of one process.
            accumulate: batches to an optimizer step.
            rank: of this process.
            world_size: processes.

        Raises:
            DataError: if the rows do not fill one optimizer step.
        """
        self.sampler = sampler  # by this name Lightning finds it, to tell it the epoch
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
        """Give the rows of each batch; once, those after the first `skip`."""
        rows, first, self.skip = list(self.sampler), self.skip, 0
        for start in range(first * self._size, self._count * self._size, self._size):
            yield rows[start + self._rank : start + self._size : self._world_size]


class EvenBatches(Sampler[list[int]]):
    """The batches of one process, for validation: every row in one batch of one process, as many batches for each.

    Nobody waits for a batch that another process does not have, and no row counts twice.
    """

    def __init__(self, num_rows: int, *, batch_size: int, rank: int, world_size: int) -> None:
        """Share rows out.

        Args:
            num_rows: of the data set.
            batch_size: largest of a batch.
            rank: of this process.
            world_size: processes.

        Raises:
            DataError: if there are too few rows for every process to have some.
        """
        num_batches = -(-num_rows // (batch_size * world_size)) * world_size
        if num_rows < num_batches:
            raise DataError(f"{num_rows} rows to select by are too few for {world_size} devices")
        self._batches = np.array_split(np.arange(num_rows), num_batches)[rank::world_size]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self._batches)


class ResumableLoader(DataLoader[Any]):
    """A loader that can begin within an epoch."""

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the epoch that is about to begin, without loading them."""
        cast(StepBatches, self.batch_sampler).skip = batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Give the batches of an epoch."""
        # Nothing of a generator runs before its first batch is asked for. Lightning makes its iterator before it tells
        # the sampler the epoch, and worker processes would at once take the order of the epoch before.
        with _clear_errors():
            yield from super().__iter__()


class PlainLoader(DataLoader[Any]):
    """A loader whose errors are those of its data set."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Give the batches."""
        with _clear_errors():
            yield from super().__iter__()


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """Raise what a worker process raised; torch puts the whole traceback before it."""
    try:
        yield
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
    """Batch a data set, for one of the processes that share it.

    Args:
        dataset: whose `__getitems__` gives a batch, such as `FaceDataset`.
        batch_size: of each batch of one process.
        shuffle_seed: None keeps the order and all rows, for validation; a number shuffles anew each epoch, by that
            number and the epoch's alone, and drops what does not fill an optimizer step.
        num_workers: processes that decode; 0 decodes in this one.
        sampler: names the rows of each epoch in place of the shuffle.
        accumulate: batches to an optimizer step.
        rank: of this process.
        world_size: processes that share the data set.

    Raises:
        DataError: if there are fewer rows than the processes need.
    """
    num_rows = len(cast(Sized, dataset))
    if shuffle_seed is None:
        batches = EvenBatches(num_rows, batch_size=batch_size, rank=rank, world_size=world_size)
        return PlainLoader(dataset, batch_sampler=batches, **_loading(num_workers))
    if sampler is None:
        # With one replica this is torch's sampler whose order depends on seed and epoch only, as a resumed run needs.
        sampler = DistributedSampler(dataset, num_replicas=1, rank=0, seed=shuffle_seed)
    steps = StepBatches(sampler, batch_size=batch_size, accumulate=accumulate, rank=rank, world_size=world_size)
    return ResumableLoader(dataset, batch_sampler=steps, **_loading(num_workers))


def _loading(num_workers: int) -> dict[str, Any]:
    return {
        "num_workers": num_workers,
        "collate_fn": _identity,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }


def _identity(batch: Any) -> Any:
    return batch
