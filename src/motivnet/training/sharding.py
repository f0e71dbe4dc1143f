"""Weights, gradients and optimizer state shared out over the devices (FSDP2), one transformer block at a time."""

from typing import Any, cast

import lightning
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from motivnet.training.module import Classifier

# Names of the rows of blocks in encoders and decoders.
ROWS = ("blocks", "layers")


def shard(model: nn.Module, mesh: Any, *, methods: tuple[str, ...] = ()) -> None:
    """Share a model's parameters out, in place: each block gathers its own when it is computed, and lets them go.

    Args:
        model: whole, on every device with the same weights.
        mesh: of the devices, of one dimension.
        methods: beside `forward`, which of the model are called from outside.
    """
    for row in rows_of_blocks(model):
        for block in row:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(model, method)


def rows_of_blocks(model: nn.Module) -> list[nn.ModuleList | nn.Sequential]:
    """Find the rows of blocks that encoders and decoders are made of."""
    return [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ROWS and isinstance(module, (nn.ModuleList, nn.Sequential))
    ]


def local(tensor: Any) -> Tensor:
    """Give this device's part of a tensor that is shared out; another as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class Sharded(lightning.LightningModule):
    """What makes a module with a `model` take part in FSDP2; to be inherited from first."""

    model: nn.Module
    # Beside `forward`, which of its model's methods the module calls.
    model_methods: tuple[str, ...] = ()

    def configure_model(self) -> None:
        """Share the model out when the processes know each other; Lightning calls this more than once."""
        if not hasattr(self.model, "unshard"):
            shard(self.model, cast(Any, self.device_mesh)["data_parallel"], methods=self.model_methods)


class ShardedClassifier(Sharded, Classifier):
    """A classifier whose model is shared out."""

    model_methods = ("outputs",)
