"""The share of a training epoch that the device spends waiting for data, measured by a Lightning profiler."""

import time
from collections.abc import Callable
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PassThroughProfiler

# Names in logs and callback metrics: seconds of an epoch without validation, and the share of them spent waiting.
SECONDS, WAITING = "time/epoch", "time/waiting"

# Lightning's name for fetching a batch from the loader.
FETCH = ".train_dataloader_next"


class FetchProfiler(PassThroughProfiler):
    """Measure only the time spent waiting for the next batch; Lightning's own profilers keep a record of every action.

    Args:
        is_busy: whether the device is still computing, in which case it does not wait.

    Attributes:
        seconds: spent waiting so far.
    """

    def __init__(self, is_busy: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.is_busy = is_busy
        self.seconds = self._start = 0.0

    def start(self, action_name: str) -> None:
        """Note when a batch is fetched."""
        if action_name.endswith(FETCH):
            self._start = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add the time that it took, unless the device was busy meanwhile."""
        if action_name.endswith(FETCH) and not self.is_busy():
            self.seconds += time.perf_counter() - self._start


class DataTime(Callback):
    """Log the duration of each epoch without validation, and the share of it spent waiting for data.

    As `time/epoch` and `time/waiting`. A GPU still computes while the next batch is fetched: fetching counts as waiting
    only if the GPU is done before the batch arrives.
    """

    def __init__(self) -> None:
        self.profiler = FetchProfiler()
        self._start = self._paused_at = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the profiler, unless the user has chosen another one."""
        if isinstance(cast(Any, trainer).profiler, PassThroughProfiler):
            cast(Any, trainer).profiler = self.profiler
        if trainer.strategy.root_device.type == "cuda":
            self._done = torch.cuda.Event()
            self.profiler.is_busy = lambda: not self._done.query()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start timing the epoch."""
        self.profiler.seconds, self._start = 0.0, time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Mark the end of the device's work on this batch."""
        if trainer.strategy.root_device.type == "cuda":
            self._done.record()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause."""
        self._paused_at = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue, as if the epoch had started later."""
        if self._start:
            self._start += time.perf_counter() - self._paused_at

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log both; of several processes, those of the slowest."""
        # The start of an epoch that was resumed is unknown.
        if cast(Any, trainer).profiler is not self.profiler or not self._start:
            return
        seconds = max(time.perf_counter() - self._start, self.profiler.seconds)
        share = self.profiler.seconds / seconds if seconds else 0.0
        values = {SECONDS: seconds, WAITING: share}
        pl_module.log_dict(values, reduce_fx="max", sync_dist=trainer.world_size > 1)
