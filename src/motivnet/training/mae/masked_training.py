"""The Lightning module of pre-training, its random crops, and pictures of what it makes of an image.

Shape suffixes: B images, C channels, H height, W width; N patches.
"""

import math
from pathlib import Path
from typing import Any

import lightning
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from motivnet.data.loader import Batch
from motivnet.models.mae import MaskedAutoencoder
from motivnet.preprocess import Preprocessing
from motivnet.training.mae.pretrain_recipes import LR_BATCH, CropConfig, PretrainRecipe
from motivnet.training.optimizers import fuses, warmed_cosine
from motivnet.training.sharding import Sharded

# Rows of a picture.
PICTURED = 8
# Seeds of batches are this far apart, more than there are processes.
SEED_STEP = 1_000_003


class MaskedTraining(lightning.LightningModule):
    """One step of masked autoencoding, one of validation, and pictures of it."""

    def __init__(self, model: MaskedAutoencoder, recipe: PretrainRecipe, pictures: Path) -> None:
        """Wrap a model.

        Args:
            model: to be trained.
            recipe: how.
            pictures: folder for reconstructions of the first held-out images.
        """
        super().__init__()
        self.model = model
        self.recipe = recipe
        self._pictures = pictures

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of one batch, cropped and masked at random."""
        # Seed, epoch and batch decide, so that a resumed run draws what the uninterrupted one would.
        seed = (self.recipe.run.seed * 10_007 + self.current_epoch) * 1_000_003 + batch_idx
        generator = torch.Generator().manual_seed(seed * SEED_STEP % 2**63)
        # Drawn for the whole batch, of which this process has every so many-th image: see `augment`.
        rank, world_size = self.global_rank, self.trainer.world_size
        pixels_BCHW = random_crop(batch.pixels, self.recipe.crop, generator, rank=rank, world_size=world_size)
        order_BN = self.model.draw_order(len(pixels_BCHW) * world_size, generator)[rank::world_size]
        loss = self._loss(pixels_BCHW, order_BN)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(pixels_BCHW))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the loss of whole images, with the same masks after every epoch; draw the first of them."""
        generator = torch.Generator().manual_seed(batch_idx * SEED_STEP + self.global_rank)
        loss = self._loss(batch.pixels, self.model.draw_order(len(batch.pixels), generator))
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.pixels), sync_dist=True)
        if batch_idx == 0 and not self.current_epoch % self.recipe.picture_epochs:
            # All processes compute it, since each may hold a part of the model only.
            picture = picture_of(self.model, self.recipe.preprocessing, batch.pixels[:PICTURED])
            if self.trainer.is_global_zero:
                self._pictures.mkdir(exist_ok=True)
                picture.save(self._pictures / f"epoch_{self.current_epoch:04d}.png")

    def _loss(self, pixels_BCHW: Tensor, order_BN: Tensor) -> Tensor:
        order_BN = order_BN.to(pixels_BCHW.device)
        return self.model.loss(self.model(pixels_BCHW, order_BN), pixels_BCHW, order_BN)

    def configure_optimizers(self) -> Any:
        """Build AdamW, its rate in proportion to the images of an optimizer step."""
        run, settings = self.recipe.run, self.recipe.optimizer
        images = run.batch_size * run.accumulate * self.trainer.world_size
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, settings.weight_decay),
            lr=settings.lr * images / LR_BATCH,
            betas=settings.betas,
            fused=fuses(run.precision),
        )
        num_steps = int(self.trainer.estimated_stepping_batches)
        warmup_steps = round(num_steps * min(1.0, settings.warmup_epochs / run.epochs))
        schedule = LambdaLR(optimizer, warmed_cosine(warmup_steps, num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ShardedMaskedTraining(Sharded, MaskedTraining):
    """The same, of a model that is shared out over devices."""


def parameter_groups(model: MaskedAutoencoder, weight_decay: float) -> list[dict[str, Any]]:
    """Sort what is trained: `backbone`, `backbone_no_decay`, `decoder`, `decoder_no_decay`.

    Norms, biases and tokens do not decay.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "backbone" if name.startswith("backbone.") else "decoder"
        decays = parameter.ndim > 1 and not name.endswith(("cls_token", "mask_token"))
        groups.setdefault(part if decays else f"{part}_no_decay", []).append(parameter)
    return [
        {"name": name, "params": parameters, "weight_decay": 0.0 if name.endswith("no_decay") else weight_decay}
        for name, parameters in sorted(groups.items())
    ]


def random_crop(
    pixels_BCHW: Tensor, crop: CropConfig, generator: torch.Generator, *, rank: int = 0, world_size: int = 1
) -> Tensor:
    """Cut a rectangle out of each image, resize it to the whole again, bilinearly, and mirror half of them.

    Args:
        pixels_BCHW: normalised images, on any device.
        crop: how large rectangles are.
        generator: on the CPU; the same state gives the same crops on every device.
        rank: of this process, among those that share the batch as `augment` says.
        world_size: processes.
    """
    drawn = torch.rand(5, len(pixels_BCHW) * world_size, generator=generator)[:, rank::world_size]
    area, aspect, left, top, mirror = drawn.unbind()
    low, high = crop.area
    area = low + (high - low) * area
    # Even in the logarithm, so that neither direction is preferred; a side longer than the image's is cut to it.
    aspect = ((2 * aspect - 1) * math.log(crop.aspect)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    # affine_grid counts in half sides, so that a crop's centre is up to 1 - side away from the image's.
    x, y = (2 * left - 1) * (1 - width), (2 * top - 1) * (1 - height)
    sign = torch.where(mirror < 0.5, -1.0, 1.0) if crop.flip else torch.ones_like(mirror)
    zero = torch.zeros_like(x)
    rows = [torch.stack([width * sign, zero, x], 1), torch.stack([zero, height, y], 1)]
    theta = torch.stack(rows, 1).to(pixels_BCHW.device)
    grid = functional.affine_grid(theta, list(pixels_BCHW.shape), align_corners=False)
    return functional.grid_sample(pixels_BCHW, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def picture_of(model: MaskedAutoencoder, preprocessing: Preprocessing, pixels_BCHW: Tensor) -> Image.Image:
    """Draw a row for each image: as it is, what the encoder sees of it, and what the decoder makes of that.

    Where the model tells normalised pixels, a patch's mean and contrast are those of the true one.
    """
    order_BN = model.draw_order(len(pixels_BCHW), torch.Generator().manual_seed(0)).to(pixels_BCHW.device)
    left_out, told = model.reconstruct(model(pixels_BCHW, order_BN), pixels_BCHW, order_BN)
    rows_BCHW = torch.cat([pixels_BCHW.float(), left_out.float(), told.float()], 3).cpu()
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    image_CHW = torch.cat(list((rows_BCHW * std + mean).clamp(0, 255).round().to(torch.uint8)), 1)
    image_HWC = image_CHW.permute(1, 2, 0).numpy()
    return Image.fromarray(image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC)
