"""Parameter groups by name, and the learning-rate schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from motivnet.models.motivnet import MotivNet
from motivnet.training.freezing import layers
from motivnet.training.settings import OptimizerConfig, Precision, Recipe

# Positions, tokens and queries, by the last part of their names; vectors do not decay either.
NOT_DECAYED = (
    *("pos_embed", "cls_token", "reg_token", "dist_token", "relative_position_bias_table"),
    *("query", "queries", "affect_queries"),
)


def parameter_groups(model: MotivNet, recipe: Recipe, *, loss: Iterable[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Sort the parameters that are trained by part, and by whether they decay.

    `backbone`, `backbone_no_decay`, `head`, `head_no_decay`. Where the learning rate falls layer by layer, there is a
    pair for each in place of the first: `backbone_embed`, `backbone_00`, ..., `backbone_norm`; the last has the full
    rate (as in BEiT, Bao et al., arXiv 2106.08254). Norms, biases and other vectors do not decay, nor do positions,
    tokens and queries.

    Args:
        model: frozen where it is to be frozen.
        recipe: rates.
        loss: what the loss itself learns: a group `loss`, with the head's rate and no decay.

    Raises:
        ConfigError: if rates are to fall by layer and the backbone has no row of blocks.
    """
    config = recipe.optimizer
    undecayed = {id(parameter) for name, parameter in model.named_parameters() if not _decays(name, parameter)}
    groups: list[dict[str, Any]] = []

    def add(name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if trained:
            groups.append({"name": name, "params": trained, "lr": lr, "weight_decay": weight_decay})

    for part, parameters, lr in _parts(model, recipe):
        add(part, (p for p in parameters if id(p) not in undecayed), lr, config.weight_decay)
        add(f"{part}_no_decay", (p for p in parameters if id(p) in undecayed), lr, 0.0)
    add("loss", loss, config.head_lr, 0.0)
    return groups


def _parts(model: MotivNet, recipe: Recipe) -> list[tuple[str, list[nn.Parameter], float]]:
    """Give name, parameters and learning rate of each part of the model."""
    config, decay = recipe.optimizer, recipe.backbone.layer_decay
    head = ("head", list(model.head.parameters()), config.head_lr)
    if decay == 1:
        return [("backbone", list(model.backbone.parameters()), config.backbone_lr), head]
    found = layers(model.backbone, "layer_decay")
    return [
        *(
            (f"backbone_{name}", parameters, config.backbone_lr * decay**above)
            for above, (name, parameters) in zip(reversed(range(len(found))), found, strict=True)
        ),
        head,
    ]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in NOT_DECAYED


def make_optimizer(
    model: MotivNet, recipe: Recipe, *, num_steps: int, steps_per_epoch: float, loss: Iterable[nn.Parameter] = ()
) -> tuple[torch.optim.AdamW, LRScheduler]:
    """Build AdamW and its schedule, which is stepped after every optimizer step.

    Args:
        model: frozen where it is to be frozen.
        recipe: rates.
        num_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of an epoch.
        loss: what the loss itself learns.

    Raises:
        ConfigError: see `parameter_groups`.
    """
    config = recipe.optimizer
    groups = parameter_groups(model, recipe, loss=loss)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=fuses(recipe.run.precision))
    return optimizer, LambdaLR(optimizer, rate_factor(config, num_steps, steps_per_epoch))


def fuses(precision: Precision) -> bool:
    """Say whether AdamW is fused: not where it would undo the scaling of half precision by itself.

    That would come after gradients were clipped and looked at.
    """
    return precision != "16-mixed"


def rate_factor(config: OptimizerConfig, num_steps: int, steps_per_epoch: float) -> Callable[[int], float]:
    """Give the learning rate over its peak as a function of the optimizer steps that were made.

    A function of the step alone, so that a resumed run goes on exactly.

    Args:
        config: the schedule.
        num_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of an epoch.
    """
    warmup_steps = round(config.warmup * num_steps)
    if config.schedule == "cosine":
        return warmed_cosine(warmup_steps, num_steps)
    restart_steps = config.restart_epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if config.schedule == "constant":
            return 1.0
        return _cosine(_in_cycle((step - warmup_steps) / restart_steps, config.restart_factor))

    return factor


def warmed_cosine(warmup_steps: int, num_steps: int) -> Callable[[int], float]:
    """Give the factor of a linear warm-up and a cosine to zero, of `num_steps` together."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return _cosine(min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps)))

    return factor


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def _in_cycle(cycles: float, growth: int) -> float:
    """Give the share of the present cycle that is over.

    Args:
        cycles: time since the first began, in lengths of the first.
        growth: length of each over that of the one before.
    """
    length = 1
    while cycles >= length:
        cycles -= length
        length *= growth
    return cycles / length
