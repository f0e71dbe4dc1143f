"""What counts as waiting for data."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning", reason="the extra `train` is not installed")

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader, IterableDataset

from motivnet.training.stopping import clear_endings
from motivnet.training.waiting import FETCH, WAITING, FetchClock, Waiting

LONG = 0.1


class Slow(IterableDataset[torch.Tensor]):
    """Two batches, each of which takes a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(2):
            time.sleep(self.seconds)
            yield torch.ones(1)


class Step(lightning.LightningModule):
    """A step, and a validation, that take a while."""

    def __init__(self, train: float, validation: float) -> None:
        super().__init__()
        self.train_seconds, self.validation_seconds = train, validation
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        time.sleep(self.train_seconds)
        return self.weight.square().sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(self.validation_seconds)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Shares(Callback):
    """Keep what is logged."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if WAITING in trainer.callback_metrics:
            self.shares.append(float(trainer.callback_metrics[WAITING]))


def run(out: Path, *, load: float, train: float, validation: float = 0.0, **settings: Any) -> list[float]:
    kept = Shares()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[Waiting(), kept],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    with clear_endings(trainer, out):
        trainer.fit(Step(train, validation), DataLoader(Slow(load)), DataLoader(Slow(0.0)))
    return kept.shares


def test_it_tells_slow_data_from_slow_steps(tmp_path: Path) -> None:
    slow_data, slow_steps = run(tmp_path, load=LONG, train=0.0), run(tmp_path, load=0.0, train=LONG)
    assert len(slow_data) == len(slow_steps) == 2
    assert min(slow_data) > max(slow_steps)
    assert all(0 <= share <= 1 for share in slow_data + slow_steps)


def test_validation_is_not_an_epochs_time(tmp_path: Path) -> None:
    # Were it, less than a third of the time would go by waiting.
    assert min(run(tmp_path, load=LONG, train=0.0, validation=4 * LONG)) > 0.35


def test_anothers_profiler_stays(tmp_path: Path) -> None:
    profiler = SimpleProfiler(dirpath=tmp_path, filename="profile")
    assert run(tmp_path, load=0.0, train=0.0, profiler=profiler) == []
    assert (tmp_path / "fit-profile.txt").exists()


def test_what_passes_while_the_device_is_busy_is_no_waiting() -> None:
    busy = [True, False]
    clock = FetchClock(lambda: busy.pop(0))
    for expected in (False, True):
        clock.start(f"[Loop]{FETCH}")
        clock.stop(f"[Loop]{FETCH}")
        assert (clock.seconds > 0) is expected
    clock.start("[Callback]on_train_batch_end")
    seconds = clock.seconds
    clock.stop("[Callback]on_train_batch_end")
    assert clock.seconds == seconds
