"""The curves of a run as CSV files: a row for each optimizer step, a row for each validation.

Of a run that was killed and resumed they equal those of the run that was not, byte for byte: what came after the
checkpoint is cut off, and written again.
"""

import os
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

METRICS_NAME = "metrics.csv"
VALIDATION_NAME = "validation.csv"
VAL_PREFIX = "val/"


class CsvFile:
    """Rows that begin with the step, each written at once and whole."""

    def __init__(self, path: Path, columns: list[str], *, until: int) -> None:
        """Open a file, and cut it off behind a step.

        Args:
            path: of the file, which need not exist.
            columns: the first of them `step`.
            until: last step to keep; 0 begins anew.
        """
        header = ",".join(columns) + "\n"
        kept = header
        if until and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join([header, *(line for line in lines[1:] if line.endswith("\n") and _step(line) <= until)])
        unfinished = path.with_name(f".{path.name}.tmp")
        unfinished.write_text(kept, encoding="utf-8")
        unfinished.replace(path)
        # Without a buffer: what was written survives the death of the process.
        self._file = path.open("ab", buffering=0)

    def write(self, values: list[Any]) -> None:
        """Add a row; floats in the fewest digits that tell them apart."""
        self._file.write((",".join(map(str, values)) + "\n").encode())

    def sync(self) -> None:
        """Have the system write to the disk what it has."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Curve(Callback):
    """Write `metrics.csv` and `validation.csv`.

    The loss of a step is the mean over the batches and the processes that took part in it. What the averages of an
    epoch need is kept in checkpoints.

    Attributes:
        last_loss: of the last step.
        rates: learning rate of each parameter group in the last step.
    """

    def __init__(self, out: Path) -> None:
        """Prepare the callback.

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

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the file of the steps, cut off behind the checkpoint that the run goes on from."""
        self._step = trainer.global_step
        if trainer.is_global_zero:
            names = [group["name"] for group in trainer.optimizers[0].param_groups]
            columns = ["step", "epoch", "loss", *(f"lr_{name}" for name in names)]
            self._metrics = CsvFile(self._out / METRICS_NAME, columns, until=self._step)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin the averages of an epoch; Lightning leaves this out where a run goes on within one."""
        self._epoch_sum, self._epoch_steps = 0.0, 0

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep the learning rates of the step: when the batch ends, they are those of the next."""
        self.rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a row, if the batch completed a step."""
        # Lightning has divided the loss by the number of batches to a step.
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

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the scores of the epoch, and the mean of its training loss."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        scores = {
            name.removeprefix(VAL_PREFIX): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(VAL_PREFIX)
        }
        if self._validation is None:
            columns = ["step", "epoch", "train_loss", *scores]
            self._validation = CsvFile(self._out / VALIDATION_NAME, columns, until=self._step - 1)
        train_loss = self._epoch_sum / max(1, self._epoch_steps)
        self._validation.write([self._step, trainer.current_epoch, _short(train_loss), *map(_short, scores.values())])

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """See to it that no checkpoint knows more than the files."""
        for file in (self._metrics, self._validation):
            if file:
                file.sync()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the files; Lightning tears nothing down then."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the files."""
        for file in (self._metrics, self._validation):
            if file:
                file.close()
        self._metrics = self._validation = None

    def state_dict(self) -> dict[str, Any]:
        """Give what the averages of the epoch need."""
        return {"epoch_sum": self._epoch_sum, "epoch_steps": self._epoch_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self._epoch_sum, self._epoch_steps = state_dict["epoch_sum"], state_dict["epoch_steps"]


def _short(value: float) -> str:
    """Give nine digits, which tell all numbers of float32 apart."""
    return f"{value:.9g}"


def _step(line: str) -> int:
    return int(line.partition(",")[0])
