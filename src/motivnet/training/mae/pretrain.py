"""Pre-training by masked autoencoding (MAE): images in, the bundle of an encoder out.

Shape suffixes: B images, C channels, H height, W width; N patches.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from motivnet.checkpoints.bundle import Bundle, BundleConfig
from motivnet.checkpoints.load import load_strict
from motivnet.data.loader import Batch, FaceDataset
from motivnet.data.manifest import Manifest
from motivnet.errors import ConfigError, DataError, reraised
from motivnet.models.mae import MaskedAutoencoder, build_mae
from motivnet.models.motivnet import build_backbone
from motivnet.preprocess import Preprocessing
from motivnet.training.data_module import Splits, clean_split, random_order, readable
from motivnet.training.fit import Job, override, run
from motivnet.training.mae.pretrain_recipes import LR_BATCH, CropConfig, ImagesConfig, PretrainRecipe, pretrain_recipe
from motivnet.training.module import TrainedModule, compile_parts
from motivnet.training.optimizers import decay_groups, fuses, warmed_cosine
from motivnet.training.run_dir import BEST, BUNDLE_NAME, weights_in, write_bundle
from motivnet.training.settings import Place

PICTURES = "reconstructions"
# Rows of a picture.
NUM_PICTURED = 8
# Distance between the seeds of batches, larger than the number of processes.
SEED_STEP = 1_000_003


def pretrain(
    recipe: str | PretrainRecipe,
    data: str | Manifest,
    out: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    place: Place | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Bundle:
    """Pre-train with a recipe and write the encoder of the best epoch as a bundle, as `motivnet pretrain` does.

    Everything is checked before anything is written. With more than one device, every process of the run calls this,
    and the bundle exists when it returns.

    Args:
        recipe: a name from `motivnet pretrain`, or the recipe itself.
        data: `KIND:PATH`, such as `images:FOLDER`, or a manifest; its labels do not matter.
        out: folder of the run, see `run_dir`, and `reconstructions/`: a picture every few epochs, and `final.png` with
            the weights of the bundle. They show images of the data.
        overrides: settings of the recipe to change, by dotted names.
        place: devices; None takes one.
        resume: continue from the last checkpoint in `out`, or from step zero if there is none yet.
        progress: show a progress bar.

    Raises:
        OutputError: if `out` holds a run and `resume` is False, another process is training in it, or the disk is full.
        CheckpointError: if there is nothing to resume.
        ConfigError: if a setting is unknown or out of range, devices are missing, or the run to resume has another
            recipe; the differences are listed.
        DataError: if there are no such images, or too few, or the run to resume has other rows.
        TrainingError: if loss or weights become NaN or infinite.
    """
    chosen = override(pretrain_recipe(recipe) if isinstance(recipe, str) else recipe, overrides)

    def prepare(manifest: Manifest, start: bool) -> Job:
        images = choose_images(readable(manifest, skip=chosen.run.skip_unreadable), chosen.images)
        return Job(
            rows=images,
            build=lambda: MaskedTraining(prepare_model(chosen), chosen, Path(out) / PICTURES),
            write_bundle=lambda bundle_config: write_encoder(Path(out), chosen, images.select, bundle_config),
            select=chosen.images.select,
            described={"summary": f"an encoder, pre-trained with the recipe {chosen.name}", "part": "encoder"},
            rows_name="images",
            monitor="val/loss",
            mode="min",
        )

    return run(chosen, data, Path(out), prepare, place or Place(), resume=resume, progress=progress)


def prepare_model(recipe: PretrainRecipe) -> MaskedAutoencoder:
    """Build encoder and decoder with random weights, for training."""
    model = build_pretraining(recipe)
    if recipe.recompute:
        model.backbone.net.set_grad_checkpointing()  # type: ignore[operator]
    if recipe.run.compile:
        compile_parts(model)
    return model


def write_encoder(out: Path, recipe: PretrainRecipe, select: Manifest, bundle_config: BundleConfig) -> None:
    """Draw the last picture of a run, and write the bundle of its encoder."""
    model = load_pretraining(out / BEST, recipe)
    rows = list(range(min(NUM_PICTURED, len(select))))
    shown = FaceDataset(select, recipe.preprocessing).__getitems__(rows)
    (out / PICTURES).mkdir(exist_ok=True)
    picture_of(model, recipe.preprocessing, shown.pixels).save(out / PICTURES / "final.png")
    write_bundle(out / BUNDLE_NAME, bundle_config, model.backbone, out / BEST)


def build_pretraining(recipe: PretrainRecipe) -> MaskedAutoencoder:
    """Build encoder and decoder with random weights; ConfigError if their dimensions are inconsistent."""
    with reraised(ConfigError, "model", ValueError):
        backbone = build_backbone(recipe.model)
    return build_mae(backbone, recipe.mae)


def load_pretraining(checkpoint: Path, recipe: PretrainRecipe) -> MaskedAutoencoder:
    """Load encoder and decoder from a training checkpoint, in eval mode; CheckpointError if it is another recipe's."""
    model = build_pretraining(recipe)
    load_strict(model, weights_in(checkpoint), checkpoint)
    return model.eval()


def choose_images(manifest: Manifest, images: ImagesConfig) -> Splits:
    """Choose the images to train on and those to select on, without copies of one in the other.

    Raises:
        DataError: naming a missing split or image; if no split is named where there are several; or if nothing is left
            to train on.
    """
    splits = sorted(set(manifest.table["split"].to_pylist()))
    if images.train is None and len(splits) > 1:
        # All of them would include those of the tests.
        raise DataError(f"the data have the splits {', '.join(splits)}. Allowed: images.train=SPLIT, one of them")
    split = images.train or splits[0]
    train, keys, report = clean_split(manifest, split, images.select)
    if images.select is not None:
        select = manifest.split(images.select)
    else:
        pictures = np.unique(keys)
        order = random_order(len(pictures), images.seed)
        held = np.isin(keys, pictures[order[: max(1, round(images.hold_out * len(pictures)))]])
        train, select = train.select(~held), train.select(held)
    if not len(train) or not len(select):
        raise DataError(f"split {split!r}: nothing is left to train or to select on, after cleaning")
    return Splits(train, select, report | {"train": len(train), "selection": len(select)})


class MaskedTraining(TrainedModule):
    """Train a masked autoencoder, and draw its reconstructions."""

    model: MaskedAutoencoder

    def __init__(self, model: MaskedAutoencoder, recipe: PretrainRecipe, pictures: Path) -> None:
        """Wrap a model.

        Args:
            model: to train.
            recipe: how to train it.
            pictures: folder for reconstructions of the first validation images.
        """
        super().__init__()
        self.model = model
        self.recipe = recipe
        self._pictures = pictures

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, randomly cropped and masked."""
        # Determined by seed, epoch and batch, so that a resumed run draws the same numbers.
        seed = (self.recipe.run.seed * 10_007 + self.current_epoch) * 1_000_003 + batch_idx
        generator = torch.Generator().manual_seed(seed * SEED_STEP % 2**63)
        # Drawn for the whole batch, of which this process has every N-th image: see `augment`.
        rank, world_size = self.global_rank, self.trainer.world_size
        pixels_BCHW = random_crop(batch.pixels, self.recipe.crop, generator, rank=rank, world_size=world_size)
        order_BN = self.model.draw_order(len(pixels_BCHW) * world_size, generator)[rank::world_size]
        loss = self._loss(pixels_BCHW, order_BN)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(pixels_BCHW))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compute the loss of uncropped images, with the same masks in every epoch, and draw the first ones."""
        generator = torch.Generator().manual_seed(batch_idx * SEED_STEP + self.global_rank)
        loss = self._loss(batch.pixels, self.model.draw_order(len(batch.pixels), generator))
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.pixels), sync_dist=True)
        if batch_idx == 0 and not self.current_epoch % self.recipe.picture_epochs:
            # All processes compute it, since each may hold only a shard of the model.
            picture = picture_of(self.model, self.recipe.preprocessing, batch.pixels[:NUM_PICTURED])
            if self.trainer.is_global_zero:
                self._pictures.mkdir(exist_ok=True)
                picture.save(self._pictures / f"epoch_{self.current_epoch:04d}.png")

    def _loss(self, pixels_BCHW: Tensor, order_BN: Tensor) -> Tensor:
        order_BN = order_BN.to(pixels_BCHW.device)
        return self.model.loss(self.model(pixels_BCHW, order_BN), pixels_BCHW, order_BN)

    def configure_optimizers(self) -> Any:
        """Build AdamW, with a learning rate in proportion to the images per optimizer step."""
        run, settings = self.recipe.run, self.recipe.optimizer
        images = run.batch_size * run.accumulate * self.trainer.world_size
        groups = parameter_groups(self.model, settings.lr * images / LR_BATCH, settings.weight_decay)
        optimizer = torch.optim.AdamW(groups, betas=settings.betas, fused=fuses(run.precision, settings.clip_norm))
        num_steps = int(self.trainer.estimated_stepping_batches)
        warmup_steps = round(num_steps * min(1.0, settings.warmup_epochs / run.epochs))
        schedule = LambdaLR(optimizer, warmed_cosine(warmup_steps, num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def parameter_groups(model: MaskedAutoencoder, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Group the trained parameters: `backbone`, `backbone_no_decay`, `decoder`, `decoder_no_decay`."""
    decoder = [parameter for name, parameter in model.named_parameters() if not name.startswith("backbone.")]
    return decay_groups(model, [("backbone", model.backbone.parameters(), lr), ("decoder", decoder, lr)], weight_decay)


def random_crop(
    pixels_BCHW: Tensor, crop: CropConfig, generator: torch.Generator, *, rank: int = 0, world_size: int = 1
) -> Tensor:
    """Crop a rectangle of each image, resize it bilinearly to the full size, and mirror half of the images.

    Args:
        pixels_BCHW: normalised images, on any device.
        crop: range of sizes and aspect ratios.
        generator: on the CPU; the same state gives the same crops on every device.
        rank: of this process, among those that share the batch (see `augment`).
        world_size: number of processes.
    """
    drawn = torch.rand(5, len(pixels_BCHW) * world_size, generator=generator)[:, rank::world_size]
    area, aspect, left, top, mirror = drawn.unbind()
    low, high = crop.area
    area = low + (high - low) * area
    # Uniform in the logarithm, so that neither direction is preferred; a side longer than the image's is clipped.
    aspect = ((2 * aspect - 1) * math.log(crop.aspect)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    # The unit of affine_grid is half a side, so that a crop's centre is up to 1 - side away from the image's.
    x, y = (2 * left - 1) * (1 - width), (2 * top - 1) * (1 - height)
    sign = torch.where(mirror < 0.5, -1.0, 1.0) if crop.flip else torch.ones_like(mirror)
    zero = torch.zeros_like(x)
    rows = [torch.stack([width * sign, zero, x], 1), torch.stack([zero, height, y], 1)]
    theta = torch.stack(rows, 1).to(pixels_BCHW.device)
    grid = functional.affine_grid(theta, list(pixels_BCHW.shape), align_corners=False)
    return functional.grid_sample(pixels_BCHW, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def picture_of(model: MaskedAutoencoder, preprocessing: Preprocessing, pixels_BCHW: Tensor) -> Image.Image:
    """Draw a row per image: the original, the masked image and the reconstruction.

    If the model predicts normalised pixels, the mean and contrast of each patch are the true ones.
    """
    order_BN = model.draw_order(len(pixels_BCHW), torch.Generator().manual_seed(0)).to(pixels_BCHW.device)
    masked, predicted = model.reconstruct(model(pixels_BCHW, order_BN), pixels_BCHW, order_BN)
    rows_BCHW = torch.cat([pixels_BCHW.float(), masked.float(), predicted.float()], 3).cpu()
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    image_CHW = torch.cat(list((rows_BCHW * std + mean).clamp(0, 255).round().to(torch.uint8)), 1)
    image_HWC = image_CHW.permute(1, 2, 0).numpy()
    return Image.fromarray(image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC)
