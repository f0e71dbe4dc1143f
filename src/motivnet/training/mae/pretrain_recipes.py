"""Pre-training recipes: the settings of masked autoencoding, and functions that return them.

Change settings with `motivnet pretrain RECIPE --set mae.mask_ratio=0.6`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

from motivnet.config import Settings, bounded, check_bounds
from motivnet.errors import require
from motivnet.models.config import ModelConfig, preset
from motivnet.models.mae import MaeConfig
from motivnet.preprocess import MOTIVNET_STRETCH, NANO, Preprocessing
from motivnet.training.settings import SEED, RunConfig, lookup

# The batch size that learning rates refer to, as in Goyal et al., arXiv 1706.02677.
LR_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImagesConfig:
    """The splits that are used; labels are ignored.

    Args:
        train: split to train on, without the images that recur in any other split; None takes the only split.
        select: split that selects the best epoch, never the one that is reported; None holds out images of `train`.
        hold_out: share that is held out if `select` is None.
        seed: of the hold-out.
    """

    train: str | None = None
    select: str | None = None
    hold_out: float = bounded(default=0.01, above=0, below=1)
    seed: int = bounded(default=0, **SEED)

    def __post_init__(self) -> None:
        """Check ranges; ConfigError."""
        check_bounds(self)
        if self.select is not None:
            other = f"images: select must be another split than train, {self.train!r}, or null to hold out"
            require(self.select != self.train, other)
            require(self.train is not None, "images: with select, train must name a split too")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """Random resized crops and mirroring; MAE needs no more augmentation.

    Args:
        area: smallest and largest area of a crop, as a share of the image.
        aspect: largest aspect ratio relative to the image; its inverse is the smallest.
        flip: whether half of the images are mirrored.
    """

    area: tuple[float, float] = bounded(default=(0.2, 1.0), above=0, high=1)
    aspect: float = bounded(default=4 / 3, low=1, below=math.inf)
    flip: bool = True

    def __post_init__(self) -> None:
        """Check ranges; ConfigError."""
        check_bounds(self)
        require(self.area[0] <= self.area[1], f"crop: area must be two shares in order, not {self.area}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainOptimizer(Settings):
    """AdamW with a linear warm-up and a cosine to zero that is stepped with every optimizer step.

    Args:
        lr: peak learning rate for 256 images per optimizer step, on all devices; scaled in proportion to their number.
        warmup_epochs: length of the warm-up.
        weight_decay: of matrices; norms, biases, tokens have none, and positions are fixed.
        betas: of AdamW.
        clip_norm: largest global norm of the gradients; 0 does not clip.
    """

    lr: float = bounded(default=1.5e-4, above=0, below=math.inf)
    warmup_epochs: float = bounded(default=40.0, low=0)
    weight_decay: float = bounded(default=0.05, low=0)
    betas: tuple[float, float] = bounded(default=(0.9, 0.95), low=0, below=1)
    clip_norm: float = bounded(default=0.0, low=0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRecipe:
    """Everything that defines a pre-training run, except its data, its folder and its devices.

    Args:
        name: of the recipe.
        model: dimensions; the head's do not matter.
        preprocessing: from image to pixels.
        images: the splits to train and select on.
        mae: mask ratio and decoder.
        crop: augmentation.
        optimizer: learning rate and schedule.
        run: length, batches, precision.
        recompute: gradient checkpointing in the encoder.
        picture_epochs: epochs between two pictures of reconstructions.
    """

    name: str
    model: ModelConfig
    preprocessing: Preprocessing
    images: ImagesConfig
    mae: MaeConfig
    crop: CropConfig
    optimizer: PretrainOptimizer
    run: RunConfig
    recompute: bool = False
    picture_epochs: int = bounded(default=10, low=1)

    def __post_init__(self) -> None:
        """Check that the settings are consistent; ConfigError."""
        check_bounds(self)
        pixels, model = self.preprocessing, self.model
        sizes = f"preprocessing.size {pixels.size} and model.image_size {model.image_size} must be equal"
        require(pixels.size == model.image_size, sizes)
        channels = f"preprocessing.channels {pixels.channels!r} and model.in_chans {model.in_chans} must fit together"
        require(pixels.num_channels == model.in_chans, channels)
        require(not model.num_frames, "model.num_frames: pre-training takes single images. Allowed: null")
        require(not self.run.mixup, "run: mixup blends labels, which pre-training does not have. Allowed: 0")


# FER-2013's own format: 48 x 48 grey pixels.
MINI_PREPROCESSING = dataclasses.replace(NANO, size=(48, 48))
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
# Sapiens' own statistics are ImageNet's.
SAPIENS_PREPROCESSING = dataclasses.replace(MOTIVNET_STRETCH, size=(1024, 1024), filter="bicubic", **IMAGENET)
# What runs of the large encoders have in common.
LARGE_RUN = {"accumulate": 8, "precision": "bf16-mixed", "ema_decay": 0.0, "cache": False}


def mae() -> PretrainRecipe:
    """Pre-train the preset `mini` on FER-2013's training faces, a miniature of Sapiens' pre-training.

    Cost: 0.8 minutes per epoch on one CPU core, half an hour in total. Expected: a loss of 0.705 on PublicTest, which
    selects the epoch; predicting every patch by its own mean gives 0.984 (`benchmarks/results/mae_faces.json`).

    Departures from the papers, for two CPU cores: a decoder 64 wide with 2 blocks; crops of at least 0.6 of the small
    faces; a higher learning rate, as is usual for small models.
    """
    return PretrainRecipe(
        name="mae",
        model=preset("mini"),
        preprocessing=MINI_PREPROCESSING,
        images=ImagesConfig(train="Training", select="PublicTest"),
        mae=MaeConfig(decoder_dim=64, decoder_depth=2, decoder_heads=4),
        crop=CropConfig(area=(0.6, 1.0)),
        optimizer=PretrainOptimizer(lr=2e-3, warmup_epochs=2, clip_norm=1.0),
        run=RunConfig(epochs=40, batch_size=128, ema_decay=0.0),
    )


def mae_sapiens(size: str) -> PretrainRecipe:
    """Pre-train a Sapiens encoder from random weights, with the published settings.

    From the paper (arXiv 2408.12569) and its authors' configuration files: 1024 x 1024, a class token, 75 % masked,
    decoder 512 x 8 x 16, normalised pixels, AdamW (0.9, 0.95) with weight decay 0.05 and a learning rate of 1.5e-4 per
    256 images, 40 epochs of warm-up in a cosine of 1600, clipping at 1, crops of 0.2 to 1 of the area, mirroring,
    bfloat16.

    Unknown, or not followed: the released files were stopped at epochs 1600 (0.3b, 0.6b), 173 (1b) and 660 (2b), for
    reasons that were not published; the 300 million images (Humans-300M) were never released; the effective batch is
    not stated for each size (the files say 512 per device and scale the learning rate), here 8 x 8 per device, and the
    rate follows. Crops are taken from the image at the size of the input, bilinearly.

    Cost, as published: 18 days on 1024 A100 for 1b.
    """
    dimensions = preset(f"motivnet-{size}", image_size=(1024, 1024))
    assert dimensions.vit
    return PretrainRecipe(
        name=f"mae-{size}",
        model=dataclasses.replace(
            dimensions, vit=dataclasses.replace(dimensions.vit, patch_padding=0, class_token=True)
        ),
        preprocessing=SAPIENS_PREPROCESSING,
        images=ImagesConfig(),
        mae=MaeConfig(),
        crop=CropConfig(),
        optimizer=PretrainOptimizer(clip_norm=1.0),
        run=RunConfig(epochs=1600, batch_size=8, num_workers=8, **LARGE_RUN),
        recompute=True,
        picture_epochs=1,
    )


PRETRAIN_RECIPES: dict[str, Callable[[], PretrainRecipe]] = {
    "mae": mae,
    **{f"mae-{size}": functools.partial(mae_sapiens, size) for size in ("0.3b", "0.6b", "1b", "2b")},
}


def pretrain_recipe(name: str) -> PretrainRecipe:
    """Return the pre-training recipe of a name; ConfigError if there is none."""
    return lookup("pre-training recipe", name, PRETRAIN_RECIPES)
