"""Warnings during training: what goes wrong, by how much, and what helps.

They are for eyes on stderr, and for reports in `OUT/warnings.jsonl`: step, epoch, kind, what it is about and message of
each.
"""

import collections
import json
import os
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from motivnet.checkpoints.load import free_bytes
from motivnet.training.callbacks.data_time import SECONDS, WAITING
from motivnet.training.callbacks.gradients import DiagnosticsConfig, GradientWatch
from motivnet.training.sharding import local

WARNINGS_NAME = "warnings.jsonl"
# How the names of the parameter groups of an encoder begin.
ENCODER = "backbone"

# Of each tensor of the encoder, how many rows its change is measured on.
ROWS = 4


class Diagnostics(Callback):
    """Watch a run and warn, each thing once.

    It reads what modules log: `val/recall_anger` and the like of each class, `train/war` and `val/war`, or `val/loss`,
    and `time/waiting`. What a module does not log is not watched. The encoder is the parameter groups whose names begin
    with `backbone`.
    """

    def __init__(self, out: Path, *, pretrained: bool = True, config: DiagnosticsConfig | None = None) -> None:
        """Prepare the callback.

        Args:
            out: folder of the run.
            pretrained: whether the encoder starts from weights that know something. From random ones the loss always
                falls fast at first, and that is no sign of a learning rate that is too high.
            config: when to warn; None takes the defaults.
        """
        self._file = out / WARNINGS_NAME
        self._config = config or DiagnosticsConfig()
        self._pretrained = pretrained
        self._said: set[str] = set()
        self._names: dict[int, str] = {}
        self._gradients = GradientWatch(self._config)
        self._low_validations: collections.Counter[str] = collections.Counter()
        self._before: list[Tensor] = []
        self._encoder: list[Tensor] = []
        self._changes: list[float] = []
        self._first_losses: list[Tensor] = []
        self._first_loss: float | None = None
        self._loss_sum: Tensor | float = 0.0
        self._loss_count = 0
        self._epoch_losses: list[float] = []

    # What Lightning calls, in the order of a step.

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Drop warnings that the checkpoint which the run goes on from does not know: they will come again."""
        self._names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        if trainer.is_global_zero and self._file.is_file():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _key(json.loads(line)) in self._said]
            self._file.write_text("".join(kept), encoding="utf-8")

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        """Look at memory where a step holds most of it."""
        if trainer.global_step % self._config.every == 0:
            self._check_memory(trainer, trainer.strategy.root_device)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at gradients, and remember some weights."""
        if trainer.global_step % self._config.every:
            return
        self._check_gradients(trainer, optimizer)
        if self._pretrained and len(self._epoch_losses) < self._config.early_epochs:
            self._encoder = [
                parameter
                for group in optimizer.param_groups
                if group.get("name", "").startswith(ENCODER)
                for parameter in group["params"]
            ]
            self._before = [_some(parameter).clone() for parameter in self._encoder]

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the loss, and see how far the step moved the encoder."""
        # Lightning has divided the loss by the number of batches to a step.
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        self._loss_sum = self._loss_sum + loss
        self._loss_count += 1
        if self._first_loss is None:  # of the weights that no step has changed
            self._first_losses.append(loss)
            if trainer.global_step:
                self._first_loss = float(torch.stack(self._first_losses).mean())
        if self._before:
            after = [_some(parameter) for parameter in self._encoder]
            moved = torch._foreach_sub(after, self._before)
            if size := _norm(self._before):
                self._changes.append(_norm(moved) / size)
            self._before, self._encoder = [], []

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the recall of each class."""
        if not trainer.sanity_checking:
            self._check_recall(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Judge the epoch."""
        self._epoch_losses.append(float(self._loss_sum) / max(1, self._loss_count))
        self._loss_sum, self._loss_count = 0.0, 0
        self._check_convergence(trainer)
        self._check_gap(trainer)
        self._check_waiting(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run must remember."""
        return {
            "said": sorted(self._said),
            "first_loss": self._first_loss,
            "epoch_losses": self._epoch_losses,
            "loss": (float(self._loss_sum), self._loss_count),
            "changes": self._changes,
            "norms": self._gradients.norms,
            "low": dict(self._low_validations),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self._said = set(state_dict["said"])
        self._first_loss = state_dict["first_loss"]
        self._epoch_losses = list(state_dict["epoch_losses"])
        self._loss_sum, self._loss_count = state_dict["loss"]
        self._changes = list(state_dict["changes"])
        self._gradients.norms = list(state_dict["norms"])
        self._low_validations.update(state_dict["low"])

    # What is looked at.

    def _check_gradients(self, trainer: lightning.Trainer, optimizer: torch.optim.Optimizer) -> None:
        groups = {
            group.get("name", f"group {number}"): group["params"] for number, group in enumerate(optimizer.param_groups)
        }
        names = {
            name: [self._names.get(id(parameter), f"{name}, tensor {number}") for number, parameter in enumerate(own)]
            for name, own in groups.items()
        }
        norms = _gradient_norms(trainer, [parameter for own in groups.values() for parameter in own])
        found = self._gradients.look(
            names,
            dict(zip((name for own in names.values() for name in own), norms, strict=True)),
            # Where the loss is scaled, some overflow is expected: the scaler leaves the step out and scales less.
            scaled=getattr(trainer.precision_plugin, "scaler", None) is not None,
        )
        for kind, about, message in found:
            self._warn(trainer, kind, message, about=about)

    def _check_memory(self, trainer: lightning.Trainer, device: torch.device) -> None:
        found = device_memory(device)
        if found is None or found[0] >= self._config.memory * found[1]:
            return
        free, total = found
        self._warn(
            trainer,
            "memory nearly full",
            f"{free / 1e9:.2f} of {total / 1e9:.1f} GB are free on {device} ({free / total:.0%}). What helps: a "
            "smaller run.batch_size with more run.accumulate, backbone.recompute=true, or images of a lower resolution "
            "(model.image_size and preprocessing.size)",
            everywhere=True,
        )

    def _check_recall(self, trainer: lightning.Trainer) -> None:
        prefix = "val/recall_"
        recalls = {
            name.removeprefix(prefix): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(prefix)
        }
        low = [name for name, recall in recalls.items() if recall <= self._config.low_recall]
        self._low_validations = collections.Counter({name: self._low_validations[name] + 1 for name in low})
        for name, validations in self._low_validations.items():
            if validations >= self._config.patience:
                self._warn(
                    trainer,
                    "class not recognised",
                    f"the recall of {name} was at most {self._config.low_recall:.0%} in {validations} validations in a "
                    f"row, and is {recalls[name]:.1%}. What helps: sampling.kind=balanced or class-weighted, or "
                    "loss.prior_weight=0.5",
                    about=name,
                )

    def _check_convergence(self, trainer: lightning.Trainer) -> None:
        early, losses, first = self._config.early_epochs, self._epoch_losses, self._first_loss
        if len(losses) != 2 * early or first is None or not self._changes or not first > min(losses):
            return
        share = (first - losses[early - 1]) / (first - min(losses))
        change = statistics.median(self._changes)
        if share < self._config.early_share or change < self._config.fast_change:
            return
        rates = {
            group.get("initial_lr", group["lr"])
            for group in trainer.optimizers[0].param_groups
            if group.get("name", "").startswith(ENCODER)
        }
        self._warn(
            trainer,
            "encoder converges early",
            f"of the fall of the training loss in {len(losses)} epochs, from {first:.3g} to {min(losses):.3g}, "
            f"{min(share, 1):.0%} came in the first {early}, while a step changed the encoder's weights by "
            f"{change:.1e} of their size: its learning rate, {max(rates):.1e}, is probably too high. What helps: a "
            "tenth of optimizer.backbone_lr, or a longer optimizer.warmup",
        )

    def _check_gap(self, trainer: lightning.Trainer) -> None:
        found = trainer.callback_metrics
        remedy = (
            "it learns the training images by heart. What helps: more data, stronger augment.* and run.mixup=0.2, more "
            "optimizer.weight_decay, backbone.train=last or lora, fewer run.epochs"
        )
        if {"train/war", "val/war"} <= found.keys():
            learnt, told = float(found["train/war"]), float(found["val/war"])
            if learnt - told > self._config.gap:
                self._warn(
                    trainer,
                    "training and validation apart",
                    f"accuracy is {learnt:.1%} in training and {told:.1%} in validation: {remedy}",
                )
        elif "val/loss" in found:
            learnt, told = self._epoch_losses[-1], float(found["val/loss"])
            if told > (1 + self._config.loss_gap) * learnt:
                self._warn(
                    trainer,
                    "training and validation apart",
                    f"the loss is {learnt:.3g} in training and {told:.3g} in validation: {remedy}",
                )

    def _check_waiting(self, trainer: lightning.Trainer) -> None:
        if trainer.current_epoch == 0 or WAITING not in trainer.callback_metrics:
            return
        share, seconds = (float(trainer.callback_metrics[name]) for name in (WAITING, SECONDS))
        if share <= self._config.waiting or share * seconds <= self._config.waiting_seconds:
            return
        self._warn(
            trainer,
            "waiting for data",
            f"{share:.0%} of the epoch's time ({share * seconds:.0f} of {seconds:.0f} s) went by waiting for data. "
            f"What helps: more run.num_workers (this machine has {os.cpu_count()} cores), run.cache=true with "
            "run.num_workers=0 if the faces fit into memory, or "
            "faces cut out and resized once beforehand",
        )

    def _warn(
        self, trainer: lightning.Trainer, kind: str, message: str, *, about: str = "", everywhere: bool = False
    ) -> None:
        """Warn of a thing, unless that was done before; the first process does, or every one that finds it."""
        line = {"step": trainer.global_step, "epoch": trainer.current_epoch, "kind": kind, "about": about}
        if _key(line) in self._said:
            return
        self._said.add(_key(line))
        if trainer.is_global_zero or everywhere:
            sys.stderr.write(f"warning: step {trainer.global_step}: {kind}: {message}\n")
        if trainer.is_global_zero:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | {"message": message}) + "\n")


def _key(line: dict[str, Any]) -> str:
    """Give what no two warnings of a run share."""
    return f"{line['kind']}: {line['about']}"


def read_warnings(out: Path) -> list[dict[str, Any]]:
    """Give the warnings of a run: step, epoch, kind, about and message of each."""
    file = out / WARNINGS_NAME
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Give the bytes that a device had free when it held most, and all that it has; None where nobody says."""
    free = free_bytes(device)
    if free is None:
        return None
    if device.type == "cuda":
        # What torch holds in reserve is free for the next step.
        spare = torch.cuda.memory_reserved(device) - torch.cuda.max_memory_allocated(device)
        return free + spare, torch.cuda.mem_get_info(device)[1]
    return free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gradient_norms(trainer: lightning.Trainer, parameters: list[Tensor]) -> list[float]:
    """Give the norm of each parameter's gradient, 0 where there is none."""
    present = [number for number, parameter in enumerate(parameters) if parameter.grad is not None]
    norms = torch.zeros(len(parameters))
    if present:
        gradients = [local(parameters[number].grad) for number in present]
        found = torch.stack(list(torch._foreach_norm(gradients, dtype=torch.float32)))
        if any(hasattr(parameters[number], "to_local") for number in present):  # each device has a part
            found = trainer.strategy.reduce(found**2, reduce_op="sum").sqrt()  # pyright: ignore
        norms[present] = found.cpu()
    return norms.tolist()


def _some(parameter: Tensor) -> Tensor:
    """Give some rows of a tensor, not copied."""
    return torch.atleast_1d(local(parameter).detach())[:ROWS]


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack(list(torch._foreach_norm(list(tensors), dtype=torch.float32))).norm())
