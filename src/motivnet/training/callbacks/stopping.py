"""How a run ends before its end: early stopping, numbers that are none, a full disk, Ctrl-C. A checkpoint is left."""

import contextlib
import errno
import math
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, EarlyStopping

from motivnet.errors import OutputError, TrainingError
from motivnet.training.callbacks.csv_logger import Curve
from motivnet.training.run_dir import LAST
from motivnet.training.sharding import local

# The disk is full, the share of it used up, a file too large, the disk gone.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# What Windows has instead is SIGTERM.
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
GRACE_SECONDS = 30.0
# What Lightning says of things that are meant to be so.
UNTOLD: tuple[tuple[type[Warning], str], ...] = (
    (PossibleUserWarning, ""),
    (UserWarning, "Checkpoint directory .* exists and is not empty"),
    (FutureWarning, ".*LeafSpec"),
)


class StopEarly(EarlyStopping):
    """Early stopping that does not begin another epoch where a run that had stopped is resumed."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once what had been stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class StopAtNan(Callback):
    """End a run whose loss or weights are no longer numbers, before its checkpoint is overwritten with them."""

    def __init__(self, curve: Curve, out: Path) -> None:
        """Prepare the callback.

        Args:
            curve: that knows the loss of each step; it must come before this.
            out: folder of the run.
        """
        self._curve, self._last = curve, out / LAST

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss.

        Raises:
            TrainingError: if it is not finite.
        """
        # Gradients need no check here: those that overflow in half precision are expected, and the scaler skips them.
        if not math.isfinite(self._curve.last_loss):
            raise self._error(trainer, f"the loss is {self._curve.last_loss}")

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the weights.

        Raises:
            TrainingError: if they are not all finite.
        """
        finite = all(bool(torch.isfinite(local(parameter.detach())).all()) for parameter in pl_module.parameters())
        if not trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise self._error(trainer, "weights are not finite")

    def _error(self, trainer: lightning.Trainer, what: str) -> TrainingError:
        rates = ", ".join(dict.fromkeys(f"{rate:.3g}" for rate in self._curve.rates.values()))
        kept = f"; {self._last} is from before" if self._last.is_file() else ""
        return TrainingError(
            f"{what} at step {trainer.global_step} (epoch {trainer.current_epoch}), learning rates {rates}{kept}. "
            "Allowed: lower optimizer rates, optimizer.clip_norm=1, a longer optimizer.warmup, or run.precision=32-true"
        )


@contextlib.contextmanager
def clear_endings(trainer: lightning.Trainer, out: Path) -> Iterator[None]:
    """Turn what ends a run from outside into what the program has a clear line for.

    Args:
        trainer: of the run.
        out: folder of the run.

    Raises:
        OutputError: if the disk is full.
        KeyboardInterrupt: at Ctrl-C, of which Lightning makes an exit with code 1.
    """
    try:
        with _ends_others(trainer), warnings.catch_warnings():
            for category, message in UNTOLD:
                warnings.filterwarnings("ignore", message, category)
            yield
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has had it ignored
            raise KeyboardInterrupt from None
        raise
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise disk_error(error, out) from None


@contextlib.contextmanager
def _ends_others(trainer: lightning.Trainer) -> Iterator[None]:
    """At an error, let the first process speak, and end those that it started, which may wait for it forever."""
    try:
        yield
    except BaseException as error:
        if trainer.is_global_zero:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(KILL)
        elif isinstance(error, TrainingError):
            # All processes know of it. Were this one gone before the first, Lightning would kill that.
            time.sleep(GRACE_SECONDS)
            sys.exit(2)
        raise


def disk_error(error: OSError, out: Path) -> OutputError:
    """Say that a run could not write, and from where it can go on."""
    last = out / LAST
    kept = f"{last} is whole: make room, and go on with --resume" if last.is_file() else "there is no checkpoint yet"
    return OutputError(f"{error.filename or out}: cannot be written: {error.strerror or error}; {kept}")
