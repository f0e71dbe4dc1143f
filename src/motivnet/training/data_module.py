"""The loaders of a run."""

from typing import Any

import lightning
from torch.utils.data import DataLoader

from motivnet.data.loader import BalancedSampler, FaceDataset, make_loader
from motivnet.data.manifest import Manifest
from motivnet.preprocess import Preprocessing
from motivnet.training.settings import RunConfig


class FaceData(lightning.LightningDataModule):
    """Batches to learn from and to select on, made when this process knows which of how many it is."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        run: RunConfig,
        train: Manifest,
        select: Manifest,
        *,
        sampler: BalancedSampler | None = None,
        select_batch_size: int | None = None,
    ) -> None:
        """Keep what they are made of.

        Args:
            preprocessing: from image to pixels.
            run: batch size, seed and workers.
            train: rows to learn from.
            select: rows to select on.
            sampler: names the rows of each epoch; None shuffles them all.
            select_batch_size: of the batches to select on; None takes the run's.
        """
        super().__init__()
        self._preprocessing, self._run = preprocessing, run
        self._train, self._select = train, select
        self._sampler, self._select_batch_size = sampler, select_batch_size or run.batch_size

    def check(self, world_size: int) -> None:
        """Refuse rows that are too few for so many processes, before there are any.

        Raises:
            DataError: saying how many there are.
        """
        self._to_learn_from(0, world_size)
        self._to_select_on(0, world_size)

    def train_dataloader(self) -> DataLoader[Any]:
        """Give the batches to learn from."""
        assert self.trainer
        return self._to_learn_from(self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Give the batches to select on."""
        assert self.trainer
        return self._to_select_on(self.trainer.global_rank, self.trainer.world_size)

    def _to_learn_from(self, rank: int, world_size: int) -> DataLoader[Any]:
        run = self._run
        return make_loader(
            self._faces(self._train),
            num_workers=run.num_workers,
            rank=rank,
            world_size=world_size,
            batch_size=run.batch_size,
            shuffle_seed=run.seed,
            sampler=self._sampler,
            accumulate=run.accumulate,
        )

    def _to_select_on(self, rank: int, world_size: int) -> DataLoader[Any]:
        return make_loader(
            self._faces(self._select),
            num_workers=self._run.num_workers,
            rank=rank,
            world_size=world_size,
            batch_size=self._select_batch_size,
            shuffle_seed=None,
        )

    def _faces(self, rows: Manifest) -> FaceDataset:
        return FaceDataset(rows, self._preprocessing, cache=self._run.cache)
