"""Recipes: functions that return everything a training run is made of.

A recipe's docstring says what it costs and what it should score; `motivnet train RECIPE --show` prints it. Change
settings with `motivnet train RECIPE --set optimizer.head_lr=1e-4`.
"""

import dataclasses
import inspect
from collections.abc import Callable

from motivnet.checkpoints.released import RELEASED
from motivnet.data.augment import NO_CHANGE, AugmentConfig
from motivnet.data.sampling import SamplingConfig
from motivnet.errors import ConfigError, unknown_name
from motivnet.models.config import preset
from motivnet.preprocess import MOTIVNET_STRETCH, NANO
from motivnet.training.settings import (
    BackboneConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    SplitConfig,
)


def nano_fer2013() -> Recipe:
    """Train the embedded model: MobileNetV2 with ImageNet weights, ML-Decoder, FER-2013 at 96 x 96 grey pixels.

    The ImageNet weights are torchvision's: `--set backbone.weights=mobilenet_v2.pth`.

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
    """Go on from the bundle of `nano-fer2013` (`--init`), without mixup: eight more epochs at half the rate.

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


def mini_fer2013() -> Recipe:
    """Train MotivNet in miniature on FER-2013: a vision transformer from random weights, 36 patches of 8 x 8 pixels.

    Made for experiments, not for use: it is the subject of the ablations (`motivnet ablate`), small enough to be
    trained over and over on two CPU cores. Plain on purpose, in float32 and without averaged weights, mixup, or
    weights for the classes, so that what an ablation changes is all that acts.

    Cost: two minutes of one CPU core an epoch, so half an hour in all. What two epochs give, and how much that varies
    with the seed, is in `benchmarks/ablations`; the whole was not measured.
    """
    return Recipe(
        name="mini-fer2013",
        model=preset("mini"),
        preprocessing=dataclasses.replace(NANO, size=(48, 48)),
        split=SplitConfig(train="Training", select="PublicTest"),
        augment=AugmentConfig(),
        loss=LossConfig(label_smoothing=0.1),
        optimizer=OptimizerConfig(backbone_lr=1e-3, head_lr=1e-3, warmup=0.1),
        run=RunConfig(epochs=15, batch_size=64, ema_decay=0.0),
    )


# Recipe -> the weights its encoder starts from: those that know faces best, of each size.
MOTIVNET_WEIGHTS = {
    "motivnet-0.3b": "sapiens-pose-0.3b",
    "motivnet-0.6b": "sapiens-pose-0.6b",
    "motivnet-1b": "sapiens-pose-1b",
    "motivnet-2b": "sapiens-pretrain-2b",
    "motivnet-sapiens2-0.1b": "sapiens2-pretrain-0.1b",
    "motivnet-sapiens2-0.4b": "sapiens2-pose-0.4b",
    "motivnet-sapiens2-0.8b": "sapiens2-pose-0.8b",
    "motivnet-sapiens2-1b": "sapiens2-pose-1b",
}


def motivnet(name: str) -> Recipe:
    """Train MotivNet (arXiv 2512.24231) on AffectNet: {weights} and ML-Decoder, 1024 x 768 pixels.

    As in the paper: the encoder at 1e-7 and the decoder at 1e-5, AdamW, a cosine of ten epochs (T_0 = 10, T_mult = 1:
    ten epochs of training end where it would begin anew, so it never restarts; `run.epochs=20` sees one restart),
    cross-entropy, equally many images of each of the seven classes, batches of 2 x 8 x devices. As in its code: images
    stretched to 1024 x 768 without any random change, AdamW's default betas and weight decay of 0.01, no averaged
    weights. `motivnet train {name} --dry-run` says what it takes.

    What departs from them, and why:

    - The epoch is chosen on images that are held out of `train`, copies of one image together, by the mean of WAR and
      UAR; theirs by the loss on a random fifth. AffectNet's published `val`, which the paper reports, stays unseen
      until then. Of the 3,803 images of disgust, 5 % are held out, so that about 3,613 of each class are trained on.
      `--set split.hold_out=0.2` holds a fifth out, as their code does; `--set split.select=val` trains on all 3,803 and
      chooses on what is reported: its score is then too high.
    - Images of `train` that occur in `val` too, and blank ones, are left out.
    - Faces are cut out by AffectNet's boxes, where there are any; theirs were cut out before.
    - Norms, biases, positions and queries do not decay: pulling them to zero serves nothing.
    - The rate falls with every step, not once an epoch: the same cosine, without its stairs.
    - Arithmetic in bfloat16 where that is safe, over float32 weights, and blocks computed twice (`backbone.recompute`),
      for half the memory of their float32. Results differ by rounding.
    {more}
    How much is trained are settings: `--set backbone.train=none` (frozen encoder), `backbone.train=last` and
    `backbone.last_blocks=4`, `backbone.train=lora` and `backbone.lora_rank=16` (low-rank additions have a rate of
    their own scale: `optimizer.backbone_lr=1e-4`), `backbone.layer_decay=0.9`. So is what the encoder was trained for:
    `--set backbone.weights=NAME`, a file, or one of
    {others}.
    """
    return Recipe(
        name=name,
        model=preset(name),
        preprocessing=MOTIVNET_STRETCH,
        split=SplitConfig(train="train", select=None),
        augment=NO_CHANGE,
        loss=LossConfig(label_smoothing=0.0),
        optimizer=OptimizerConfig(
            backbone_lr=1e-7,
            head_lr=1e-5,
            weight_decay=0.01,
            schedule="warm-restarts",
            warmup=0.0,
            restart_epochs=10.0,
        ),
        run=RunConfig(
            epochs=10,
            batch_size=2,
            accumulate=8,
            precision="bf16-mixed",
            ema_decay=0.0,
            num_workers=4,
            cache=False,
        ),
        backbone=BackboneConfig(weights=MOTIVNET_WEIGHTS[name], recompute=True),
        sampling=SamplingConfig(kind="uniform"),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "nano-fer2013": nano_fer2013,
    "nano-fer2013-finish": nano_fer2013_finish,
    "mini-fer2013": mini_fer2013,
} | {name: (lambda name=name: motivnet(name)) for name in MOTIVNET_WEIGHTS}


def recipe(name: str) -> Recipe:
    """Give a recipe by name.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in RECIPES:
        raise ConfigError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]()


def describe(name: str) -> str:
    """Say what a recipe does, costs and should score.

    Raises:
        ConfigError: if there is none of that name.
    """
    recipe(name)
    if name not in MOTIVNET_WEIGHTS:
        return inspect.getdoc(RECIPES[name]) or ""
    text = inspect.getdoc(motivnet) or ""
    weights = MOTIVNET_WEIGHTS[name]
    others = ", ".join(other for other in _same_encoder(weights) if other != weights)
    return text.format(name=name, weights=weights, more=_departures(name), others=others)


def _same_encoder(weights: str) -> list[str]:
    """Name the released weights of the same dimensions, trained for whatever task."""
    family, _, size = weights.split("-")
    return [entry.name for entry in RELEASED if entry.name.startswith(f"{family}-") and entry.name.endswith(f"-{size}")]


def _departures(name: str) -> str:
    """Say what of a size is not the paper's."""
    if name == "motivnet-1b":
        return ""
    reasons = {
        "motivnet-2b": "No file of its pose encoder was ever released, so it starts from pre-training",
        "motivnet-sapiens2-0.1b": "It has no pose file, so it starts from pre-training",
    }
    more = f"\n  {reasons[name]}." if name in reasons else ""
    return f"- The encoder is not the paper's Sapiens-1B: the rates are untested with it.{more}\n"
