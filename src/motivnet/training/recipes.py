"""Recipes: functions that return everything a training run is made of.

A recipe's docstring says what it costs and what it should score. Change settings with
`motivnet train RECIPE --set optimizer.head_lr=1e-4`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from motivnet.data.augment import AugmentConfig
from motivnet.data.sampling import SamplingConfig
from motivnet.errors import ConfigError, unknown_name
from motivnet.models.config import ModelConfig, preset
from motivnet.preprocess import NANO, Preprocessing


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Which rows are for what.

    Args:
        train: split that is learnt from, cleaned of what recurs in any other.
        select: split that the best epoch is chosen on; never the one that is reported.
    """

    train: str
    select: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Cross-entropy against a blend of label and votes.

    Args:
        label_smoothing: share of the target that is spread evenly over the classes.
        vote_weight: share of the target that follows the annotators' votes, where a row has any.
        prior_weight: how much of the log of each class's frequency is added to the logits in training only, so that
            the model need not learn it and rare classes gain (Menon et al., arXiv 2007.07314); 0 adds nothing.
    """

    label_smoothing: float = 0.1
    vote_weight: float = 0.0
    prior_weight: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine to zero, stepped every batch.

    Args:
        backbone_lr: peak learning rate of the backbone.
        head_lr: peak learning rate of the head.
        weight_decay: of matrices; norms, biases and position embeddings have none.
        warmup: share of all steps.
    """

    backbone_lr: float
    head_lr: float
    weight_decay: float = 0.05
    warmup: float = 0.05

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a rate that trains nothing.
        """
        if self.backbone_lr < 0 or self.head_lr <= 0:
            raise ConfigError("optimizer: head_lr must be positive, backbone_lr positive, or 0 to freeze the backbone")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How long, and on what terms.

    Args:
        epochs: passes over the training rows.
        batch_size: faces a step.
        accumulate: batches whose gradients make one optimizer step.
        precision: Lightning's; under autocast, depthwise convolutions stay in float32.
        ema_decay: of the averaged weights, which are the ones selected and kept; 0 keeps none.
        mixup: alpha of mixup; 0 is none.
        seed: of initialisation, order and augmentation.
        num_workers: processes that decode images; 0 for a data set cached in memory.
        cache: keep decoded faces in memory.
    """

    epochs: int
    batch_size: int
    accumulate: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    ema_decay: float = 0.999
    mixup: float = 0.0
    seed: int = 0
    num_workers: int = 0
    cache: bool = True

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a number out of range.
        """
        if min(self.epochs, self.batch_size, self.accumulate) < 1:
            raise ConfigError("run: epochs, batch_size and accumulate must be at least 1")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"run: ema_decay must be from 0 to below 1, not {self.ema_decay}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything a training run is made of, but its data and its folder.

    Args:
        name: of the recipe.
        model: dimensions.
        preprocessing: from image to pixels.
        split: which rows are for what.
        augment: random changes in training.
        loss: what is minimised.
        optimizer: how.
        run: how long.
        sampling: which of the training rows an epoch sees, and how much each counts.
    """

    name: str
    model: ModelConfig
    preprocessing: Preprocessing
    split: SplitConfig
    augment: AugmentConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    run: RunConfig
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)


def nano_fer2013() -> Recipe:
    """Train the embedded model: MobileNetV2 with ImageNet weights, ML-Decoder, FER-2013 at 96 x 96 grey pixels.

    Cost: 2.3 minutes an epoch on two CPU cores, 47 minutes in all. Should give about 67.7 % WAR and 64.6 % UAR on
    PublicTest, which the epoch is chosen on (`benchmarks/results/nano_fer2013_training.csv`).
    """
    return Recipe(
        name="nano-fer2013",
        model=preset("nano"),
        preprocessing=NANO,
        split=SplitConfig(train="Training", select="PublicTest"),
        augment=AugmentConfig(),
        loss=LossConfig(label_smoothing=0.1, prior_weight=0.5),
        optimizer=OptimizerConfig(backbone_lr=1e-3, head_lr=1e-3),
        run=RunConfig(epochs=20, batch_size=64, precision="bf16-mixed", mixup=0.2),
    )


def nano_fer2013_finish() -> Recipe:
    """Go on from the bundle of `nano-fer2013`, without mixup: eight more epochs at half the rate.

    Cost: two minutes an epoch on two CPU cores. Should give about 68.6 % WAR and 66.4 % UAR on PublicTest
    (`benchmarks/results/nano_fer2013_finish_training.csv`).
    """
    first = nano_fer2013()
    return dataclasses.replace(
        first,
        name="nano-fer2013-finish",
        optimizer=OptimizerConfig(backbone_lr=5e-4, head_lr=5e-4),
        run=dataclasses.replace(first.run, epochs=8, mixup=0.0, seed=1),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "nano-fer2013": nano_fer2013,
    "nano-fer2013-finish": nano_fer2013_finish,
}


def recipe(name: str) -> Recipe:
    """Give a recipe by name.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in RECIPES:
        raise ConfigError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]()
