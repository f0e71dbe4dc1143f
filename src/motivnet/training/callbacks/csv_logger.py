"""The curves of a run as CSV files: one row per optimizer step, one per validation.

Not Lightning's CSVLogger, which starts a new file at resume: the curves of a killed and resumed run equal those of an
uninterrupted one byte for byte, since rows after the checkpoint are cut off and written again.
"""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from motivnet.checkpoints.formats import below
from motivnet.storage import write_text

METRICS_NAME = "metrics.csv"
VALIDATION_NAME = "validation.csv"
VAL_PREFIX = "val/"


class CsvFile:
    """Rows that begin with the step, each written at once."""

    def __init__(self, path: Path, columns: list[str], *, until: int) -> None:
        """Open a file, and remove the rows after a step.

        Args:
            path: of the file, which need not exist.
            columns: names of the columns; the first is `step`.
            until: last step to keep; 0 starts a new file.
        """
        kept = [",".join(columns) + "\n"]
        if until and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
            kept += [line for line in lines if line.endswith("\n") and int(line.partition(",")[0]) <= until]
        write_text(path, "".join(kept))
        # Unbuffered: what was written survives the death of the process.
        self._file = path.open("ab", buffering=0)

    def write(self, values: list[Any]) -> None:
        """Append a row."""
        self._file.write((",".join(map(str, values)) + "\n").encode())

    def sync(self) -> None:
        """Have the system write the file to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Curve(Callback):
    """Write `metrics.csv` and `validation.csv`.

    The loss of a step is the mean over its batches and processes. Checkpoints hold what the averages of an epoch need.

    Attributes:
        last_loss: of the last step.
        epoch_loss: mean of the steps of the epoch so far.
        rates: learning rate of each parameter group in the last step.
    """

    def __init__(self, out: Path) -> None:
        """Set the folder.

        Args:
            out: folder of the run.
        """
        self._out = out
        self._metrics: CsvFile | None = None
        self._validation: CsvFile | None = None
        self._step = 0
        self._batches: list[Tensor] = []
        self._epoch_sum, self._epoch_steps = 0.0, 0
        self.last_loss = 0.0
        self.rates: dict[str, float] = {}

    @property
    def epoch_loss(self) -> float:
        """Mean loss of the epoch so far."""
        return self._epoch_sum / max(1, self._epoch_steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file of the steps, without rows after the checkpoint that the run resumes from."""
        self._step = trainer.global_step
        if trainer.is_global_zero:
            names = [group["name"] for group in trainer.optimizers[0].param_groups]
            columns = ["step", "epoch", "loss", *(f"lr_{name}" for name in names)]
            self._metrics = CsvFile(self._out / METRICS_NAME, columns, until=self._step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the averages; Lightning does not call this when a run resumes within an epoch."""
        self._epoch_sum, self._epoch_steps = 0.0, 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Keep the learning rates of the step: when the batch ends, they are those of the next one."""
        self.rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Write a row if the batch completed a step."""
        # Lightning has divided the loss by the number of batches per step.
        self._batches.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        loss = trainer.strategy.reduce(torch.stack(self._batches).mean(), reduce_op="mean")
        self._batches.clear()
        self.last_loss = float(loss)
        self._epoch_sum += self.last_loss
        self._epoch_steps += 1
        if self._metrics:
            self._metrics.write([self._step, trainer.current_epoch, _short(self.last_loss), *self.rates.values()])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the scores of the epoch, and its mean training loss."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        scores = {name: float(value) for name, value in below(trainer.callback_metrics, VAL_PREFIX).items()}
        if self._validation is None:
            columns = ["step", "epoch", "train_loss", *scores]
            self._validation = CsvFile(self._out / VALIDATION_NAME, columns, until=self._step - 1)
        losses = map(_short, [self.epoch_loss, *scores.values()])
        self._validation.write([self._step, trainer.current_epoch, *losses])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Make sure that no checkpoint is ahead of the files."""
        for file in filter(None, (self._metrics, self._validation)):
            file.sync()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the files, since Lightning does not call `teardown` after an exception."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the files."""
        for file in filter(None, (self._metrics, self._validation)):
            file.close()
        self._metrics = self._validation = None

    def state_dict(self) -> dict[str, Any]:
        """Return what the averages of the epoch need."""
        return {"epoch_sum": self._epoch_sum, "epoch_steps": self._epoch_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages of the epoch."""
        self._epoch_sum, self._epoch_steps = state_dict["epoch_sum"], state_dict["epoch_steps"]


def _short(value: float) -> str:
    """Write nine digits, which distinguish all float32 numbers."""
    return f"{value:.9g}"
