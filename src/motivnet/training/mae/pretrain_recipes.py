"""Recipes of pre-training: settings of masked autoencoding, and functions that return them.

Change settings with `motivnet pretrain RECIPE --set mae.mask_ratio=0.6`.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable

from motivnet.errors import ConfigError, unknown_name
from motivnet.models.config import ModelConfig, preset
from motivnet.models.mae import MaeConfig
from motivnet.preprocess import Preprocessing
from motivnet.training.settings import RunConfig, check_seed

# The batch that a learning rate is stated for, as in Goyal et al., arXiv 1706.02677.
LR_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImagesConfig:
    """Which images are for what. Labels are never looked at.

    Args:
        train: split that is learnt from, less what recurs in any other; None takes data of one split in whole.
        select: split that the best epoch is chosen on, never the one that is reported; None holds images of `train`
            out.
        hold_out: share that is held out where `select` is None.
        seed: of what is held out.
    """

    train: str | None = None
    select: str | None = None
    hold_out: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a share that leaves nothing, or a split that is both.
        """
        if not 0 < self.hold_out < 1:
            raise ConfigError(f"images: hold_out must be between 0 and 1, not {self.hold_out}")
        check_seed("images", self.seed)
        if self.select is not None and self.select == self.train:
            raise ConfigError(f"images: select must be another split than train, {self.train!r}, or null to hold out")
        if self.select is not None and self.train is None:
            raise ConfigError("images: with select, train must name a split too")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """Random crops, resized to the whole image again, and mirror images; masks do the rest.

    Args:
        area: smallest and largest share of the image that a crop takes.
        aspect: largest ratio of its sides over that of the image, or the other way round.
        flip: whether half of the images are mirrored.
    """

    area: tuple[float, float] = (0.2, 1.0)
    aspect: float = 4 / 3
    flip: bool = True

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a share or ratio that no crop has.
        """
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ConfigError(f"crop: area must be two shares above 0 and up to 1, in order, not {self.area}")
        if not 1 <= self.aspect < math.inf:
            raise ConfigError(f"crop: aspect must be at least 1, not {self.aspect}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainOptimizer:
    """AdamW with a linear warm-up, then a cosine to zero, stepped with every optimizer step.

    Args:
        lr: peak learning rate for a batch of 256 images; of others, in proportion, however many devices, and batches
            that accumulate, they come from.
        warmup_epochs: length of the warm-up.
        weight_decay: of matrices; norms, biases, tokens have none, and positions are fixed.
        betas: of AdamW.
        clip_norm: largest norm of all gradients together; 0 does not clip.
    """

    lr: float = 1.5e-4
    warmup_epochs: float = 40.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a rate that trains nothing, or a number out of range.
        """
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"optimizer: lr must be positive, not {self.lr}")
        if min(self.warmup_epochs, self.weight_decay, self.clip_norm) < 0:
            raise ConfigError("optimizer: warmup_epochs, weight_decay and clip_norm must not be negative")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer: betas must be from 0 to below 1, not {self.betas}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRecipe:
    """Everything a pre-training run is made of, but its data, its folder and its devices.

    Args:
        name: of the recipe.
        model: dimensions; the head's do not matter.
        preprocessing: from image to pixels.
        images: which are for what.
        mae: the task and the decoder.
        crop: random changes in training.
        optimizer: how.
        run: how long.
        recompute: keep only each block's input for the backward pass (gradient checkpointing), in the encoder.
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
    picture_epochs: int = 10

    def __post_init__(self) -> None:
        """Check that the settings fit together.

        Raises:
            ConfigError: at sizes that differ, or a setting that has no meaning here.
        """
        if self.preprocessing.size != self.model.image_size:
            raise ConfigError(
                f"preprocessing.size {self.preprocessing.size} and model.image_size {self.model.image_size} must be one"
            )
        if self.preprocessing.num_channels != self.model.in_chans:
            raise ConfigError(
                f"preprocessing.channels {self.preprocessing.channels!r} and model.in_chans {self.model.in_chans} "
                f"must fit together"
            )
        if self.run.mixup:
            raise ConfigError("run: mixup blends labels, which pre-training has none of. Allowed: 0")
        if self.picture_epochs < 1:
            raise ConfigError(f"picture_epochs must be at least 1, not {self.picture_epochs}")


# The faces of FER-2013 as they are: 48 x 48 grey pixels.
MINI_PREPROCESSING = Preprocessing(
    geometry="square", size=(48, 48), channels="grey", filter="bicubic", mean=(127.5,), std=(64.0,), margin=0.0
)
# Sapiens' own statistics, which are ImageNet's.
SAPIENS_PREPROCESSING = Preprocessing(
    geometry="stretch",
    size=(1024, 1024),
    channels="rgb",
    filter="bicubic",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
)


def mae() -> PretrainRecipe:
    """Pre-train the preset `mini` on FER-2013's training faces, a miniature of Sapiens' pre-training.

    Cost: 0.8 minutes an epoch on one CPU core that has nothing else to do, half an hour in all. The loss on PublicTest,
    which the epoch is chosen on, should end at 0.705; telling every patch by its own mean would be 0.984
    (`benchmarks/results/mae_faces.json`).

    Departures from the papers, for two CPU cores: a decoder 64 wide with 2 blocks; crops of at least 0.6 of the face,
    which has no more pixels to give; a higher learning rate, as small models take it.
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
    """Pre-train a Sapiens encoder from random weights, with the settings that were published.

    From the paper (arXiv 2408.12569) and its authors' configuration files: 1024 x 1024, a class token, 75 % masked,
    decoder 512 x 8 x 16, normalised pixels, AdamW (0.9, 0.95) with weight decay 0.05 and 1.5e-4 a batch of 256, 40
    epochs of warm-up in 1600 of a cosine, clipping at 1, crops of 0.2 to 1 of the area, mirror images, bfloat16.

    Not known, or not followed: the released files were stopped at epochs 1600 (0.3b, 0.6b), 173 (1b) and 660 (2b),
    and which was chosen how was not said, so that the length is a setting; the 300 million images (Humans-300M) were
    never released; the effective batch is not stated for each size (the files say 512 a device and scale the rate),
    here 8 x 8 on each device, and the rate follows. Crops are cut from the image at the size of the input, bilinearly.

    Cost, as published: 1b for 18 days on 1024 A100.
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
        run=RunConfig(
            epochs=1600,
            batch_size=8,
            accumulate=8,
            precision="bf16-mixed",
            ema_decay=0.0,
            num_workers=8,
            cache=False,
        ),
        recompute=True,
        picture_epochs=1,
    )


PRETRAIN_RECIPES: dict[str, Callable[[], PretrainRecipe]] = {
    "mae": mae,
    **{f"mae-{size}": functools.partial(mae_sapiens, size) for size in ("0.3b", "0.6b", "1b", "2b")},
}


def pretrain_recipe(name: str) -> PretrainRecipe:
    """Give a recipe of pre-training by name.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in PRETRAIN_RECIPES:
        raise ConfigError(unknown_name("recipe of pre-training", name, PRETRAIN_RECIPES))
    return PRETRAIN_RECIPES[name]()


def describe(name: str) -> str:
    """Say what a recipe does and costs.

    Raises:
        ConfigError: if there is none of that name.
    """
    pretrain_recipe(name)
    made = PRETRAIN_RECIPES[name]
    return inspect.getdoc(made.func if isinstance(made, functools.partial) else made) or ""
