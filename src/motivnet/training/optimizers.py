"""Parameter groups, the learning-rate schedule, and the moving average of the weights."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from motivnet.models.motivnet import MotivNet
from motivnet.training.freezing import layers
from motivnet.training.settings import OptimizerConfig, Precision, Recipe

# Positions, tokens and queries, by the last part of their names; vectors have no weight decay either.
NOT_DECAYED = (
    *("pos_embed", "cls_token", "reg_token", "dist_token", "mask_token", "relative_position_bias_table"),
    *("position_embeddings", "register_tokens"),
    *("query", "queries", "affect_queries", "frame_embed"),
)


def parameter_groups(model: MotivNet, recipe: Recipe, *, loss: Iterable[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Group the trained parameters by part, and by whether they have weight decay.

    `backbone`, `backbone_no_decay`, `head`, `head_no_decay`. With layer-wise decay of the learning rate, the first two
    are replaced by a pair for each layer: `backbone_embed`, `backbone_00`, ..., `backbone_norm`; the last has the full
    rate (as in BEiT, Bao et al., arXiv 2106.08254). Norms, biases and other vectors have no weight decay, nor have
    positions, tokens and queries.

    Args:
        model: already frozen as the recipe says.
        recipe: with the learning rates.
        loss: parameters of the loss: a group `loss`, with the head's rate and no weight decay.

    Raises:
        ConfigError: with layer-wise decay, if the backbone has no list of blocks.
    """
    groups = decay_groups(model, _parts(model, recipe), recipe.optimizer.weight_decay)
    learned = list(loss)
    extra = {"name": "loss", "params": learned, "lr": recipe.optimizer.head_lr, "weight_decay": 0.0}
    return [*groups, extra] if learned else groups


def decay_groups(
    model: nn.Module, parts: Iterable[tuple[str, Iterable[nn.Parameter], float]], weight_decay: float
) -> list[dict[str, Any]]:
    """Split each part of a model into a group with weight decay and one without, `NAME_no_decay`.

    Args:
        model: whose names tell which parameters have weight decay.
        parts: name, parameters and learning rate of each; frozen parameters are left out.
        weight_decay: of the parameters that have any.
    """
    decayed = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1
        and name.rpartition(".")[2] not in NOT_DECAYED
        and not name.endswith("position_embedding.weight")
    }
    groups = []
    for part, parameters, lr in parts:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for name, decay in ((part, weight_decay), (f"{part}_no_decay", 0.0)):
            own = [parameter for parameter in trained if (id(parameter) in decayed) == (name == part)]
            if own:
                groups.append({"name": name, "params": own, "lr": lr, "weight_decay": decay})
    return groups


def _parts(model: MotivNet, recipe: Recipe) -> list[tuple[str, list[nn.Parameter], float]]:
    """Return the name, parameters and learning rate of each part of the model."""
    config, decay = recipe.optimizer, recipe.backbone.layer_decay
    head = ("head", list(model.head.parameters()), config.head_lr)
    if decay == 1:
        return [("backbone", list(model.backbone.parameters()), config.backbone_lr), head]
    found = layers(model.backbone, "layer_decay")
    rates = [config.backbone_lr * decay**above for above in reversed(range(len(found)))]
    return [*((f"backbone_{name}", own, rate) for (name, own), rate in zip(found, rates, strict=True)), head]


def make_optimizer(
    model: MotivNet, recipe: Recipe, *, num_steps: int, steps_per_epoch: float, loss: Iterable[nn.Parameter] = ()
) -> tuple[torch.optim.AdamW, LRScheduler]:
    """Build AdamW and its schedule, which is stepped after every optimizer step.

    Args:
        model: already frozen as the recipe says.
        recipe: with the learning rates.
        num_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of an epoch.
        loss: parameters of the loss.

    Raises:
        ConfigError: see `parameter_groups`.
    """
    config = recipe.optimizer
    groups = parameter_groups(model, recipe, loss=loss)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=fuses(recipe.run.precision, config.clip_norm))
    return optimizer, LambdaLR(optimizer, rate_factor(config, num_steps, steps_per_epoch))


def fuses(precision: Precision, clip_norm: float) -> bool:
    """Return whether AdamW is fused: not where gradients are clipped in mixed precision, which Lightning refuses."""
    return not (clip_norm and precision.endswith("-mixed"))


def rate_factor(config: OptimizerConfig, num_steps: int, steps_per_epoch: float) -> Callable[[int], float]:
    """Return the learning rate over its peak as a function of the number of steps, so that runs resume exactly.

    Args:
        config: of the schedule.
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
        # In lengths of the first cycle; each cycle is longer than the one before.
        cycles, length = (step - warmup_steps) / restart_steps, 1
        while cycles >= length:
            cycles -= length
            length *= config.restart_factor
        return _cosine(cycles / length)

    return factor


def warmed_cosine(warmup_steps: int, num_steps: int) -> Callable[[int], float]:
    """Return the factor of a linear warm-up and a cosine to zero, `num_steps` long in total."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return _cosine(min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps)))

    return factor


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


class WarmedAverage(WeightAveraging):
    """Exponential moving average (EMA) of the weights, whose decay rises to its value in the first steps."""

    def __init__(self, decay: float) -> None:
        """Set the decay.

        Args:
            decay: final share of the average that remains at each step.
        """

        @torch.no_grad()
        def update(averages: list[Tensor], currents: list[Tensor], num_averaged: Tensor | int) -> None:
            count = int(num_averaged)
            keep = min(decay, (1 + count) / (10 + count))
            if torch.is_floating_point(averages[0]):
                torch._foreach_lerp_(averages, currents, 1 - keep)
            else:  # counters, such as those of batch norm
                torch._foreach_copy_(averages, currents)

        super().__init__(multi_avg_fn=update)
