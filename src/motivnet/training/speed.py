"""What makes steps faster and results no different."""

import lightning
from lightning.pytorch.callbacks import Callback
from torch import nn

from motivnet.errors import ConfigError
from motivnet.models.backbone import has_depthwise, write_out_short_attention
from motivnet.training.settings import Precision
from motivnet.training.sharding import rows_of_blocks


class FastAttention(Callback):
    """Choose the faster of torch's two ways to attend, once the device is known."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Choose."""
        if trainer.strategy.root_device.type == "cpu" and str(trainer.precision).startswith("bf16"):
            write_out_short_attention(pl_module)


def check_precision(model: nn.Module, precision: Precision) -> None:
    """Refuse a precision that a model cannot be trained in.

    Raises:
        ConfigError: saying why.
    """
    if precision == "bf16-true" and has_depthwise(model):
        raise ConfigError(
            "run.precision bf16-true: this model has depthwise convolutions, which stay in float32. Allowed: "
            "bf16-mixed, 32-true"
        )


def compile_parts(model: nn.Module) -> None:
    """Compile the parts of a model, in place, since it is not only called by its name; names of weights stay.

    Of a transformer each block by itself: they are alike, so that one compilation serves all of them.
    """
    for part in model.children():
        blocks = [block for row in rows_of_blocks(part) for block in row]
        alike = len({type(block) for block in blocks}) == 1 and not isinstance(blocks[0], nn.Sequential)
        for module in blocks if alike else [part]:
            module.compile()
