"""Batches: shared out between processes, gone on with within an epoch."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from motivnet.data.loader import BalancedSampler, EvenBatches, FaceDataset, ResumableLoader, StepBatches, make_loader
from motivnet.data.manifest import Manifest, make_manifest
from motivnet.errors import DataError
from motivnet.labels import EMOTIONS
from motivnet.preprocess import NANO


class Numbers(Dataset[list[int]]):
    """Rows that are their own numbers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, rows: list[int]) -> list[int]:
        return rows


def unequal() -> Manifest:
    """2, 3, ... 8 rows of the seven classes."""
    labels = [name for number, name in enumerate(EMOTIONS, start=2) for _ in range(number)]
    return make_manifest({"image": [b""] * 35, "label": labels, "split": ["Training"] * 35})


def batches(rank: int, world_size: int, *, size: int, accumulate: int = 1, balanced: bool = False) -> ResumableLoader:
    loader = make_loader(
        Numbers(35),
        batch_size=size,
        shuffle_seed=3,
        sampler=BalancedSampler(unequal(), 5) if balanced else None,
        accumulate=accumulate,
        rank=rank,
        world_size=world_size,
    )
    assert isinstance(loader, ResumableLoader)
    return loader


def at_epoch(loader: ResumableLoader, epoch: int) -> list[list[int]]:
    sampler = loader.batch_sampler
    assert isinstance(sampler, StepBatches)
    sampler.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


@pytest.mark.parametrize("balanced", [False, True])
def test_processes_share_the_batches_of_one(balanced: bool) -> None:
    for epoch in (0, 1):
        whole = at_epoch(batches(0, 1, size=6, balanced=balanced), epoch)
        shares = [at_epoch(batches(rank, 3, size=2, balanced=balanced), epoch) for rank in range(3)]
        assert len(whole) == 5
        for number, batch in enumerate(whole):
            # The order within a batch is that of the draw: image i * 3 + rank.
            assert [share[number] for share in shares] == [batch[rank::3] for rank in range(3)]
    assert at_epoch(batches(0, 1, size=6), 0) != at_epoch(batches(0, 1, size=6), 1)


def test_an_epoch_is_whole_steps() -> None:
    loader = batches(0, 1, size=5, accumulate=2)
    assert len(loader) == len(at_epoch(loader, 0)) == 6  # of 7 batches
    with pytest.raises(DataError, match="35 training rows do not fill one step of 36: 6 in a batch, 3 batches to a"):
        batches(0, 2, size=6, accumulate=3)


@pytest.mark.parametrize("shuffle_seed", [None, 3])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_line(num_workers: int, shuffle_seed: int | None) -> None:
    rows = make_manifest({"image": [b"no image"] * 2, "label": ["anger"] * 2, "split": ["Training"] * 2})
    faces = FaceDataset(rows, NANO)
    with pytest.raises(DataError) as raised:
        list(make_loader(faces, batch_size=2, shuffle_seed=shuffle_seed, num_workers=num_workers))
    assert str(raised.value).startswith("row ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_it_goes_on_with_the_next_batch(num_workers: int) -> None:
    def fresh() -> ResumableLoader:
        loader = make_loader(Numbers(35), batch_size=4, shuffle_seed=3, num_workers=num_workers)
        assert isinstance(loader, ResumableLoader)
        return loader

    whole = [at_epoch(fresh(), epoch) for epoch in range(3)]
    loader, seen = fresh(), []
    loader.batch_sampler.sampler.set_epoch(1)  # type: ignore[union-attr]
    for batch in loader:
        seen.append(batch)
        if len(seen) == 3:
            break
    resumed = fresh()
    resumed.skip(3)
    iterator = iter(resumed)  # before the epoch is known, as Lightning does
    resumed.batch_sampler.sampler.set_epoch(1)  # type: ignore[union-attr]
    assert [*seen, *iterator] == whole[1]
    assert at_epoch(resumed, 2) == whole[2]


@pytest.mark.parametrize(
    ("num_rows", "size", "world_size"), [(28, 8, 1), (29, 8, 2), (7, 4, 3), (3, 56, 2), (100, 3, 4)]
)
def test_validation_counts_every_row_once(num_rows: int, size: int, world_size: int) -> None:
    shares: Sequence[list[list[int]]] = [
        list(EvenBatches(num_rows, batch_size=size, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(num_rows))
    assert len({len(share) for share in shares}) == 1
    assert all(0 < len(batch) <= size for share in shares for batch in share)


def test_validation_with_fewer_rows_than_processes() -> None:
    with pytest.raises(DataError, match="2 validation rows are too few for 3 devices"):
        EvenBatches(2, batch_size=8, rank=0, world_size=3)


def test_validation_loads_in_order() -> None:
    loader = make_loader(Numbers(10), batch_size=4, shuffle_seed=None)
    given = np.concatenate(list(loader))
    torch.testing.assert_close(torch.from_numpy(given), torch.arange(10))
