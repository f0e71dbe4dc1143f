"""How a run ends early: early stopping, NaN loss, a full disk, Ctrl-C, SIGTERM. A checkpoint is left."""

import contextlib
import errno
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, EarlyStopping

from motivnet.errors import OutputError, TrainingError
from motivnet.training.callbacks.csv_logger import Curve
from motivnet.training.module import local
from motivnet.training.run_dir import LAST, disk_advice

# The disk or the quota is full, the file too large, the disk gone or read-only.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# What Windows has instead is SIGTERM.
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
GRACE_SECONDS = 30.0
# Lightning's warnings about things that are intended.
IGNORED: tuple[tuple[type[Warning], str], ...] = (
    (PossibleUserWarning, ""),
    (UserWarning, "Checkpoint directory .* exists and is not empty"),
    (FutureWarning, ".*LeafSpec"),
    (UserWarning, "You're using the WeightAveraging callback with a model that overrides the configure_model"),
)


class StopEarly(EarlyStopping):
    """Early stopping that does not start another epoch when a stopped run is resumed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if the run had stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class StopAtNan(Callback):
    """End a run with a NaN or infinite loss or weights, before its checkpoint is overwritten with them."""

    def __init__(self, curves: Curve, out: Path) -> None:
        """Set what to watch.

        Args:
            curves: with the loss of each step; it must come before this.
            out: folder of the run.
        """
        self._curves, self._last = curves, out / LAST

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Check the loss; TrainingError if it is not finite."""
        # Gradients need no check: in half precision some overflow is expected, and the scaler skips these steps.
        if not math.isfinite(self._curves.last_loss):
            raise self._error(trainer, f"the loss is {self._curves.last_loss}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Check the weights; TrainingError if they are not all finite."""
        finite = all(bool(torch.isfinite(local(parameter.detach())).all()) for parameter in pl_module.parameters())
        if not trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise self._error(trainer, "weights are not finite")

    def _error(self, trainer: Trainer, what: str) -> TrainingError:
        rates = ", ".join(dict.fromkeys(f"{rate:.3g}" for rate in self._curves.rates.values()))
        kept = f"; {self._last} is from before" if self._last.is_file() else ""
        return TrainingError(
            f"{what} at step {trainer.global_step} (epoch {trainer.current_epoch}), learning rates {rates}{kept}. "
            "Allowed: lower optimizer rates, optimizer.clip_norm=1, a longer optimizer.warmup, or run.precision=32-true"
        )


@contextlib.contextmanager
def handle_exits(trainer: Trainer, out: Path) -> Iterator[None]:
    """Fit inside: turn what ends a run from outside into errors with a clear message.

    SIGTERM ends the run after the current batch: Lightning handles it, if nobody else does.

    Args:
        trainer: of the run.
        out: folder of the run.

    Raises:
        OutputError: if the disk is full.
        KeyboardInterrupt: at Ctrl-C, for which Lightning would exit with code 1.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL) if main_thread else None
    try:
        with _end_others(trainer), warnings.catch_warnings():
            for category, message in IGNORED:
                warnings.filterwarnings("ignore", message, category)
            yield
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has set it to be ignored
            raise KeyboardInterrupt from None
        raise
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        reason = error.strerror or error
        raise OutputError(f"{error.filename or out}: cannot be written: {reason}{disk_advice(out)}") from None
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextlib.contextmanager
def _end_others(trainer: Trainer) -> Iterator[None]:
    """At an error, let the first process report it, and end those that it started, which may wait for it forever."""
    try:
        yield
    except BaseException as error:
        if trainer.is_global_zero:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(KILL)
        elif isinstance(error, TrainingError):
            # All processes raise it. If this one ended before the first, Lightning would kill that.
            time.sleep(GRACE_SECONDS)
            sys.exit(2)
        raise
