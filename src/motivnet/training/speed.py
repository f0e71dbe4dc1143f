"""What makes steps faster and results no different."""

import lightning
from lightning.pytorch.callbacks import Callback
from torch import nn

from motivnet.models.backbone import write_out_short_attention
from motivnet.training.sharding import rows_of_blocks


class FastAttention(Callback):
    """Choose the faster of torch's two ways to attend, once the device is known."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Choose."""
        if trainer.strategy.root_device.type == "cpu" and str(trainer.precision).startswith("bf16"):
            write_out_short_attention(pl_module)


def compile_parts(model: nn.Module) -> None:
    """Compile the parts of a model, in place, since it is not only called by its name; names of weights stay.

    Of a transformer each block by itself: they are alike, so that one compilation serves all of them.
    """
    for part in model.children():
        blocks = [block for row in rows_of_blocks(part) for block in row]
        alike = len({type(block) for block in blocks}) == 1 and not isinstance(blocks[0], nn.Sequential)
        for module in blocks if alike else [part]:
            module.compile()
