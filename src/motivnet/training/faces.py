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

    def train_dataloader(self) -> DataLoader[Any]:
        """Give the batches to learn from."""
        run = self._run
        return self._loader(
            self._train,
            batch_size=run.batch_size,
            shuffle_seed=run.seed,
            sampler=self._sampler,
            accumulate=run.accumulate,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Give the batches to select on."""
        return self._loader(self._select, batch_size=self._select_batch_size, shuffle_seed=None)

    def _loader(self, rows: Manifest, **settings: Any) -> DataLoader[Any]:
        assert self.trainer
        return make_loader(
            FaceDataset(rows, self._preprocessing, cache=self._run.cache),
            num_workers=self._run.num_workers,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            **settings,
        )
