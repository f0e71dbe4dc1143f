"""How much of a model is trained: all of its backbone, none of it, the last blocks, or LoRA."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from motivnet.errors import ConfigError
from motivnet.models.backbone import Backbone
from motivnet.models.motivnet import MotivNet
from motivnet.training.settings import BackboneConfig

# Names that peft gives to a matrix with LoRA, and to its low-rank matrices.
BASE = ".base_layer"
LORA = ".lora_"


def set_trained(model: MotivNet, config: BackboneConfig) -> None:
    """Freeze what is not trained, add LoRA and switch on recomputation, as a recipe says. The head is always trained.

    LoRA changes the names of the model's state; `plain_state` restores them.

    Args:
        model: with the weights that training starts from; changed in place, once.
        config: how much is trained.

    Raises:
        ConfigError: if the backbone has no blocks, too few of them, no matrices in them, or cannot recompute.
    """
    net = model.backbone.net
    if config.recompute:
        if not hasattr(net, "set_grad_checkpointing"):
            raise ConfigError(f"backbone.recompute: {type(net).__name__} does not support it. Allowed: false")
        cast(Any, net).set_grad_checkpointing(True)
    if config.train != "all":
        model.backbone.requires_grad_(False)
    if config.train == "last":
        blocks, after = _split(model.backbone, "train=last")
        if config.last_blocks > len(blocks):
            raise ConfigError(
                f"backbone.last_blocks {config.last_blocks}: the backbone has {len(blocks)}. Allowed: up to that, or "
                "backbone.train=all"
            )
        for module in (*blocks[-config.last_blocks :], *after):
            module.requires_grad_(True)
    if config.train == "lora":
        _add_lora(model.backbone, config)
    keep_frozen_eval(model)


def keep_frozen_eval(model: MotivNet) -> None:
    """Put the backbone's frozen modules into eval mode, so that dropout and batch norm do nothing.

    `Module.train()` undoes it: call this after.
    """
    for module in model.backbone.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def layers(backbone: Backbone, setting: str) -> list[tuple[str, list[nn.Parameter]]]:
    """Return a backbone's parameters from input to output: `embed`, the blocks as `00`, `01`, ..., and `norm`.

    Args:
        backbone: a transformer.
        setting: that needs the layers, for the message.

    Raises:
        ConfigError: if it has no list of blocks.
    """
    blocks, after = _split(backbone, setting)
    parts = [(f"{number:02d}", list(block.parameters())) for number, block in enumerate(blocks)]
    parts.append(("norm", [parameter for module in after for parameter in module.parameters()]))
    known = {id(parameter) for _, parameters in parts for parameter in parameters}
    embed = [parameter for parameter in backbone.parameters() if id(parameter) not in known]
    return [("embed", embed), *parts]


def plain_state(model: MotivNet) -> dict[str, Tensor]:
    """Return the state under MotivNet's own names, with LoRA merged into the matrices.

    The model does not change. Without LoRA, the tensors are the model's own, not copies.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if LORA not in name}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            with torch.no_grad():
                delta = cast(Any, module).get_delta_weight("default")
            weight = f"{name}{BASE}.weight"
            state[weight] = state[weight] + delta.to(state[weight].dtype)
    return {name.replace(BASE, ""): tensor for name, tensor in state.items()}


def _split(backbone: Backbone, setting: str) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the blocks of a backbone, and the modules after them."""
    *parents, name = _block_list(backbone).split(".")
    module, after = backbone.net, []
    for part in (*parents, name):
        children = dict(module.named_children())
        after += list(children.values())[[*children, part].index(part) + 1 :]
        module = children.get(part, nn.Identity())
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        raise ConfigError(
            f"backbone.{setting}: {type(backbone.net).__name__} has no list of blocks. Allowed: a transformer, or the "
            "defaults of backbone.train and backbone.layer_decay"
        )
    return list(module), after


def _block_list(backbone: Backbone) -> str:
    return cast(str, getattr(backbone.net, "block_list", "blocks"))


def _add_lora(backbone: Backbone, config: BackboneConfig) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    blocks, _ = _split(backbone, "train=lora")
    targets = [
        f"{_block_list(backbone)}.{number}.{name}"
        for number, block in enumerate(blocks)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]
    if not targets:
        raise ConfigError(
            f"backbone.train=lora: the blocks of {type(backbone.net).__name__} have no linear layers. Allowed: a "
            "transformer, or all, none, last"
        )
    settings = LoraConfig(r=config.lora_rank, lora_alpha=cast(int, config.lora_alpha), target_modules=targets)
    inject_adapter_in_model(settings, backbone.net)
