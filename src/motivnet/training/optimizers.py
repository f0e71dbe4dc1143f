"""Parameter groups and the learning-rate schedule."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from motivnet.models.motivnet import MotivNet
from motivnet.training.recipes import OptimizerConfig


def parameter_groups(model: MotivNet, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Sort parameters by part and by whether they decay: `backbone`, `backbone_no_decay`, `head`, `head_no_decay`.

    Vectors (norms, biases) and position embeddings do not decay. A backbone with learning rate 0 is frozen.
    """
    groups: list[dict[str, Any]] = []
    for part, module, lr in (
        ("backbone", model.backbone, config.backbone_lr),
        ("head", model.head, config.head_lr),
    ):
        if lr == 0:
            module.requires_grad_(False)
            continue
        decay, keep = _by_decay(module)
        groups.append({"name": part, "params": decay, "lr": lr, "weight_decay": config.weight_decay})
        groups.append({"name": f"{part}_no_decay", "params": keep, "lr": lr, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    decay, keep = [], []
    for name, parameter in module.named_parameters():
        without = parameter.ndim <= 1 or name.endswith(("pos_embed", "cls_token", "query"))
        (keep if without else decay).append(parameter)
    return decay, keep


def make_optimizer(model: MotivNet, config: OptimizerConfig, num_steps: int) -> tuple[torch.optim.AdamW, LambdaLR]:
    """Build AdamW and its schedule.

    Args:
        model: to be trained.
        config: rates.
        num_steps: optimizer steps of the whole run.
    """
    optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
    warmup_steps = round(config.warmup * num_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return optimizer, LambdaLR(optimizer, factor)
