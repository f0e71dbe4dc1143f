"""Warnings during training: the symptom, its number, and the remedy.

On stderr, and in `OUT/warnings.jsonl`: step, epoch, kind, subject and message of each.
"""

import collections
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from motivnet.checkpoints.formats import below
from motivnet.config import to_json
from motivnet.storage import write_text
from motivnet.training.callbacks.csv_logger import Curve
from motivnet.training.module import local

WARNINGS_NAME = "warnings.jsonl"
# First part of the names of the encoder's parameter groups.
ENCODER = "backbone"
# Rows of each tensor of the encoder on which its change is measured.
NUM_ROWS = 4
RECALL = "val/recall_"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosticsConfig:
    """Thresholds of the warnings.

    Args:
        every: optimizer steps between two measurements of the encoder's weights.
        early_epochs: epochs within which an encoder should not converge; judged after twice as many.
        early_share: share of the fall of the training loss until then that counts as convergence.
        fast_change: median relative change of the encoder's weights per step, below which it did not converge.
        low_recall: recall of a class that is not recognised.
        patience: consecutive validations with such a recall before the warning.
        gap: accuracy in training less accuracy in validation.
        loss_gap: loss in validation over that in training, less 1; for modules without accuracy.
    """

    every: int = 10
    early_epochs: int = 2
    early_share: float = 0.95
    fast_change: float = 1e-4
    low_recall: float = 0.02
    patience: int = 3
    gap: float = 0.2
    loss_gap: float = 0.5


class Diagnostics(Callback):
    """Watch a run and give each warning once.

    It reads what modules log: `val/recall_anger` and the like, `train/war` and `val/war`, or `val/loss`. What a module
    does not log is not watched. The encoder is the parameter groups whose names start with `backbone`.
    """

    def __init__(
        self, out: Path, curves: Curve, *, pretrained: bool = True, config: DiagnosticsConfig | None = None
    ) -> None:
        """Set what to watch.

        Args:
            out: folder of the run.
            curves: with the losses; it must come before this.
            pretrained: whether the encoder is pretrained. From random weights the loss always falls fast at first,
                which is no sign of a learning rate that is too high.
            config: thresholds; None takes the defaults.
        """
        self._file, self._curves = out / WARNINGS_NAME, curves
        self._config = config or DiagnosticsConfig()
        self._pretrained = pretrained
        self._said: set[str] = set()
        self._low_validations: collections.Counter[str] = collections.Counter()
        self._before: list[tuple[Tensor, Tensor]] = []
        self._changes: list[float] = []
        self._first_loss: float | None = None
        self._epoch_losses: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove warnings from after the checkpoint that the run resumes from: they will be given again."""
        if trainer.is_global_zero and self._file.is_file():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _key(json.loads(line)) in self._said]
            write_text(self._file, "".join(kept))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Copy some rows of the encoder's weights."""
        early = self._pretrained and len(self._epoch_losses) < self._config.early_epochs
        if early and trainer.global_step % self._config.every == 0:
            some = [_some(parameter) for group in _encoder_groups([optimizer]) for parameter in group["params"]]
            self._before = [(rows, rows.clone()) for rows in some]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Measure how far the step moved the encoder."""
        if trainer.global_step == 1 and self._first_loss is None:
            self._first_loss = self._curves.last_loss
        if self._before:
            after, before = zip(*self._before, strict=True)
            if size := _norm(before):
                self._changes.append(_norm(torch._foreach_sub(after, before)) / size)
            self._before = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the recall of each class."""
        if trainer.sanity_checking:
            return
        recalls = {name: float(value) for name, value in below(trainer.callback_metrics, RECALL).items()}
        low = {name: value for name, value in recalls.items() if value <= self._config.low_recall}
        self._low_validations = collections.Counter({name: self._low_validations[name] + 1 for name in low})
        for name, validations in self._low_validations.items():
            if validations >= self._config.patience:
                message = (
                    f"the recall of {name} was at most {self._config.low_recall:.0%} in {validations} validations in a "
                    f"row, and is {low[name]:.1%}. Try sampling.kind=balanced or class-weighted, or "
                    "loss.prior_weight=0.5"
                )
                self._warn(trainer, "class not recognised", message, about=name)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the epoch."""
        self._epoch_losses.append(self._curves.epoch_loss)
        self._check_convergence(trainer)
        self._check_gap(trainer)

    def _check_convergence(self, trainer: Trainer) -> None:
        early, losses, first = self._config.early_epochs, self._epoch_losses, self._first_loss
        if len(losses) != 2 * early or first is None or not self._changes or not first > min(losses):
            return
        share, change = (first - losses[early - 1]) / (first - min(losses)), statistics.median(self._changes)
        if share < self._config.early_share or change < self._config.fast_change:
            return
        rate = max(group.get("initial_lr", group["lr"]) for group in _encoder_groups(trainer.optimizers))
        message = (
            f"{min(share, 1):.0%} of the fall of the training loss in {len(losses)} epochs, from {first:.3g} to "
            f"{min(losses):.3g}, came in the first {early}, while a step changed the encoder's weights by {change:.1e} "
            f"of their norm: its learning rate, {rate:.1e}, is probably too high. Try a tenth of "
            "optimizer.backbone_lr, or a longer optimizer.warmup"
        )
        self._warn(trainer, "encoder converges early", message)

    def _check_gap(self, trainer: Trainer) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if {"train/war", "val/war"} <= found.keys():
            trained, validated = found["train/war"], found["val/war"]
            apart = trained - validated > self._config.gap
            numbers = f"accuracy is {trained:.1%} in training and {validated:.1%} in validation"
        else:
            trained, validated = self._epoch_losses[-1], found.get("val/loss", 0.0)
            apart = validated > (1 + self._config.loss_gap) * trained
            numbers = f"the loss is {trained:.3g} in training and {validated:.3g} in validation"
        if apart:
            remedy = (
                "the model overfits. Try more data, stronger augment.* and run.mixup=0.2, more optimizer.weight_decay, "
                "backbone.train=last or lora, fewer run.epochs"
            )
            self._warn(trainer, "training and validation apart", f"{numbers}: {remedy}")

    def _warn(self, trainer: Trainer, kind: str, message: str, *, about: str = "") -> None:
        """Give a warning once, from the first process."""
        line = {"step": trainer.global_step, "epoch": trainer.current_epoch, "kind": kind, "about": about}
        if _key(line) in self._said:
            return
        self._said.add(_key(line))
        if trainer.is_global_zero:
            sys.stderr.write(f"warning: step {trainer.global_step}: {kind}: {message}\n")
            with self._file.open("a", encoding="utf-8") as file:
                file.write(to_json(line | {"message": message}) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {
            "said": sorted(self._said),
            "first_loss": self._first_loss,
            "epoch_losses": self._epoch_losses,
            "changes": self._changes,
            "low": dict(self._low_validations),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self._said = set(state_dict["said"])
        self._first_loss = state_dict["first_loss"]
        self._epoch_losses, self._changes = list(state_dict["epoch_losses"]), list(state_dict["changes"])
        self._low_validations = collections.Counter(state_dict["low"])


def _key(line: dict[str, Any]) -> str:
    """Return what identifies a warning within a run."""
    return f"{line['kind']}: {line['about']}"


def _encoder_groups(optimizers: Iterable[Any]) -> list[dict[str, Any]]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [group for group in groups if group.get("name", "").startswith(ENCODER)]


def _some(parameter: Tensor) -> Tensor:
    """Return some rows of a tensor, as a view."""
    return torch.atleast_1d(local(parameter).detach())[:NUM_ROWS]


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack(list(torch._foreach_norm(list(tensors), dtype=torch.float32))).norm())
