"""How much of a training epoch its device spends waiting for data."""

import time
from collections.abc import Callable
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PassThroughProfiler

# Names in logs and callback metrics: seconds of an epoch without validation, and the share of them spent waiting.
SECONDS, WAITING = "time/epoch", "time/waiting"

# How Lightning names the moment at which it asks the loader for a batch.
FETCH = ".train_dataloader_next"


class FetchClock(PassThroughProfiler):
    """A profiler that times nothing but the wait for the next batch.

    Args:
        is_busy: says whether the device still computes what it was given; what passes meanwhile is no waiting.

    Attributes:
        seconds: waited so far.
    """

    def __init__(self, is_busy: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.is_busy = is_busy
        self.seconds = 0.0
        self._begun = 0.0

    def start(self, action_name: str) -> None:
        """Note when a batch is asked for."""
        if action_name.endswith(FETCH):
            self._begun = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add the time until it came, if the device had nothing to do by then."""
        if action_name.endswith(FETCH) and not self.is_busy():
            self.seconds += time.perf_counter() - self._begun


class Waiting(Callback):
    """Log how long each epoch took without validation, and the share of that which went by waiting for data.

    As `time/epoch` and `time/waiting`. A GPU computes while the program already asks for the next batch: that
    wait counts only if the GPU is done before the batch is there.
    """

    def __init__(self) -> None:
        self.clock = FetchClock()
        self._begun = self._paused_at = self._paused = 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Put the clock where Lightning tells of each batch that it asks for, unless a profiler is there already."""
        if isinstance(cast(Any, trainer).profiler, PassThroughProfiler):
            cast(Any, trainer).profiler = self.clock
        if trainer.strategy.root_device.type == "cuda":
            self._done = torch.cuda.Event()
            self.clock.is_busy = lambda: not self._done.query()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin the epoch's time."""
        self.clock.seconds, self._paused, self._begun = 0.0, 0.0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Mark where the device's work of this batch ends."""
        if trainer.strategy.root_device.type == "cuda":
            self._done.record()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the epoch's time."""
        self._paused_at = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Let it go on."""
        self._paused += time.perf_counter() - self._paused_at

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log both; of several processes, those of the slowest."""
        # Of an epoch that was resumed within it, the beginning is unknown.
        if cast(Any, trainer).profiler is not self.clock or not self._begun:
            return
        seconds = max(time.perf_counter() - self._begun - self._paused, self.clock.seconds)
        share = self.clock.seconds / seconds if seconds else 0.0
        values = {SECONDS: seconds, WAITING: share}
        pl_module.log_dict(values, reduce_fx="max", sync_dist=trainer.world_size > 1)
