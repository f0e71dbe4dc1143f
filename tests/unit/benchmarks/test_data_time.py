"""What counts as waiting for data."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lightning", reason="the extra `train` is not installed")

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader, IterableDataset

from motivnet.training.callbacks.stopping import handle_exits

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import data_time
    from data_time import FETCH, WAITING, DataTime, FetchProfiler


class Clock:
    """Time passes only when told to, so that shares are exact, however busy the machine is."""

    def __init__(self) -> None:
        self.now = 1000.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(data_time, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


class Slow(IterableDataset[torch.Tensor]):
    """Two batches, each of which takes a while."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(2):
            self.clock.pass_by(self.seconds)
            yield torch.ones(1)


class Step(lightning.LightningModule):
    """A step, and a validation, that take a while."""

    def __init__(self, clock: Clock, train: float, validation: float) -> None:
        super().__init__()
        self.clock = clock
        self.train_seconds, self.validation_seconds = train, validation
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.clock.pass_by(self.train_seconds)
        return self.weight.square().sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.pass_by(self.validation_seconds)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Shares(Callback):
    """Keep what is logged."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if WAITING in trainer.callback_metrics:
            self.shares.append(float(trainer.callback_metrics[WAITING]))


def run(clock: Clock, out: Path, *, load: float, train: float, validation: float = 0.0, **settings: Any) -> list[float]:
    kept = Shares()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[DataTime(), kept],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    with handle_exits(trainer, out):
        trainer.fit(Step(clock, train, validation), DataLoader(Slow(clock, load)), DataLoader(Slow(clock, 0.0)))
    return kept.shares


# The first batch of the first epoch is there before the epoch begins, so that one of its two is waited for.
@pytest.mark.parametrize(
    ("load", "train", "shares"), [(0.5, 0.0, [1, 1]), (0.0, 0.5, [0, 0]), (0.5, 1.5, [0.5 / 3.5, 1 / 4])]
)
def test_it_tells_slow_data_from_slow_steps(
    load: float, train: float, shares: list[float], clock: Clock, tmp_path: Path
) -> None:
    assert run(clock, tmp_path, load=load, train=train) == pytest.approx(shares)


def test_validation_is_not_an_epochs_time(clock: Clock, tmp_path: Path) -> None:
    assert run(clock, tmp_path, load=0.5, train=0.5, validation=2.0) == pytest.approx([0.5 / 1.5, 1 / 2])


def test_anothers_profiler_stays(clock: Clock, tmp_path: Path) -> None:
    profiler = SimpleProfiler(dirpath=tmp_path, filename="profile")
    assert run(clock, tmp_path, load=0.0, train=0.0, profiler=profiler) == []
    assert (tmp_path / "fit-profile.txt").exists()


def test_what_passes_while_the_device_is_busy_is_no_waiting(clock: Clock) -> None:
    busy = [True, False]
    fetches = FetchProfiler(lambda: busy.pop(0))
    for expected in (0.0, 0.5):
        fetches.start(f"[Loop]{FETCH}")
        clock.pass_by(0.5)
        fetches.stop(f"[Loop]{FETCH}")
        assert fetches.seconds == expected
    fetches.start("[Callback]on_train_batch_end")
    clock.pass_by(0.5)
    fetches.stop("[Callback]on_train_batch_end")
    assert fetches.seconds == 0.5
