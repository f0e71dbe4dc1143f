"""Recipes: functions that return all settings of a training run.

The docstring of a recipe gives its cost and expected scores; `motivnet train RECIPE --show` prints it. Change settings
with `motivnet train RECIPE --set optimizer.head_lr=1e-4`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from motivnet.checkpoints.released import RELEASED
from motivnet.data.augment import NO_CHANGE, AugmentConfig, DegradeConfig
from motivnet.data.sampling import SamplingConfig
from motivnet.errors import require, unknown_name
from motivnet.models.config import HeadConfig, ModelConfig, preset
from motivnet.preprocess import MOTIVNET_STRETCH, NANO
from motivnet.training import settings
from motivnet.training.mae.pretrain_recipes import IMAGENET, LARGE_RUN, MINI_PREPROCESSING, PRETRAIN_RECIPES
from motivnet.training.settings import BackboneConfig, LossConfig, OptimizerConfig, Recipe, RunConfig, SplitConfig


def nano_fer2013() -> Recipe:
    """Train the embedded model's architecture: MobileNet-v1 from faceres, ML-Decoder, 96 x 96 grey pixels.

    faceres is part of the npm package @vladmandic/human: `--set backbone.weights=faceres.json`. Half of the target is
    FER-2013's label, half the votes of FERPlus' ten annotators: with labels alone, the model learns their noise.
    `benchmarks/nano.py` makes the embedded model: it trains teachers with this recipe, and a student on their labels.

    Cost and scores: `benchmarks/results/nano.json`.
    """
    return Recipe(
        name="nano-fer2013",
        model=preset("nano"),
        preprocessing=NANO,
        split=SplitConfig(train="Training", select="PublicTest"),
        augment=AugmentConfig(),
        loss=LossConfig(label_smoothing=0.05, vote_weight=0.5),
        optimizer=OptimizerConfig(backbone_lr=1e-3, head_lr=1e-3),
        run=RunConfig(epochs=12, batch_size=64, precision="bf16-mixed", mixup=0.2, mixup_epochs=9),
        degrade=DegradeConfig(prob=0.25),
    )


def own_faces() -> Recipe:
    """Fine-tune the embedded model's encoder on pictures of your own: FOLDER/LABEL/*.jpg, with labels of any names.

    `motivnet train own-faces --data folder:FOLDER --out runs/own`. The classes are the labels of the data. A fifth of
    each class, the same in every run, selects the epoch: by person where the data know people, else by picture, copies
    together. Each picture should be the crop of one face. Folders FOLDER/SPLIT/LABEL take
    `--set split.train=SPLIT --set split.select=SPLIT`.

    Cost and scores: as the data are; neither was measured.
    """
    return dataclasses.replace(
        nano_fer2013(),
        name="own-faces",
        labels=(),
        split=SplitConfig(train="all", hold_out=0.2),
        optimizer=OptimizerConfig(backbone_lr=1e-4, head_lr=1e-3),
        run=RunConfig(epochs=20, batch_size=16, ema_decay=0.99),
        backbone=BackboneConfig(weights="nano"),
    )


def mini_fer2013() -> Recipe:
    """Train MotivNet in miniature on FER-2013: a vision transformer from random weights, 36 patches of 8 x 8 pixels.

    For experiments, not for use: it is the subject of the ablations (`motivnet ablate`), small enough to be trained
    many times on two CPU cores. It is plain on purpose, in float32 and without averaged weights, mixup or class
    weights, so that an ablation isolates what it changes.

    Cost: two minutes of one CPU core per epoch, half an hour in total. The scores after two epochs, and how much they
    vary with the seed, are in `benchmarks/ablations`; the whole run was not measured.
    """
    return Recipe(
        name="mini-fer2013",
        model=preset("mini"),
        preprocessing=MINI_PREPROCESSING,
        split=SplitConfig(train="Training", select="PublicTest"),
        augment=AugmentConfig(),
        loss=LossConfig(label_smoothing=0.1),
        optimizer=OptimizerConfig(backbone_lr=1e-3, head_lr=1e-3, warmup=0.1),
        run=RunConfig(epochs=15, batch_size=64, ema_decay=0.0),
    )


# Recipe -> initial weights of its encoder: of each size, those that were trained most on faces.
MOTIVNET_WEIGHTS = {
    "motivnet-0.3b": "sapiens-pose-0.3b",
    "motivnet-0.6b": "sapiens-pose-0.6b",
    "motivnet-1b": "sapiens-pose-1b",
    "motivnet-2b": "sapiens-pretrain-2b",  # its pose encoder was never released
    "motivnet-sapiens2-0.1b": "sapiens2-pretrain-0.1b",  # it has no pose file
    "motivnet-sapiens2-0.4b": "sapiens2-pose-0.4b",
    "motivnet-sapiens2-0.8b": "sapiens2-pose-0.8b",
    "motivnet-sapiens2-1b": "sapiens2-pose-1b",
}


def motivnet(name: str) -> Recipe:
    """Train MotivNet (arXiv 2512.24231) on AffectNet: {weights} and ML-Decoder, 1024 x 768 pixels.

    As in the paper: learning rates of 1e-7 (encoder) and 1e-5 (decoder), AdamW, a cosine of ten epochs (T_0 = 10,
    T_mult = 1: it would restart after ten epochs, so it never restarts; with `run.epochs=20` it does once),
    cross-entropy, equally many images of each of the seven classes, batches of 2 x 8 x devices. As in its code: images
    stretched to 1024 x 768 without augmentation, AdamW's default betas and weight decay of 0.01, no averaged weights.
    `motivnet train {name} --dry-run` estimates memory and arithmetic.

    Departures, and the reasons:

    - The epoch is selected on images held out of `train`, copies of one image together, by the mean of WAR and UAR; in
      their code by the loss on a random fifth. AffectNet's published `val`, which the paper reports, stays unseen until
      then. Of the 3,803 images of disgust, 5 % are held out, so that about 3,613 of each class are trained on.
      `--set split.hold_out=0.2` holds out a fifth, as their code does; `--set split.select=val` trains on all 3,803 and
      selects on the reported split: its score is then too high.
    - Images of `train` that also occur in `val`, and blank ones, are left out.
    - Faces are cropped by AffectNet's boxes, if there are any; theirs were cropped before.
    - Norms, biases, positions and queries have no weight decay.
    - ML-Decoder's initial weights preserve the scale of the tokens: standard deviations of 0.0361 (embedding
      of the tokens), 0.0295 (query, key and value) and 0.0295 (output) with Sapiens-1B; in their code 0.0147, 0.0208
      and 0.0170, and both layers start alike: `--set model.head.reference_init=true`.
    - The learning rate changes with every step, not with every epoch.
    - Mixed precision (bfloat16) and gradient checkpointing (`backbone.recompute`), for half the memory of float32;
      results differ by rounding.
    {more}
    How much is trained can be set: `--set backbone.train=none` (frozen encoder), `backbone.train=last` with
    `backbone.last_blocks=4`, `backbone.train=lora` with `backbone.lora_rank=16` (LoRA needs a higher learning rate:
    `optimizer.backbone_lr=1e-4`), `backbone.layer_decay=0.9`. So can the initial weights of the encoder:
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
            backbone_lr=1e-7, head_lr=1e-5, weight_decay=0.01, schedule="warm-restarts", warmup=0.0, restart_epochs=10.0
        ),
        run=RunConfig(epochs=10, batch_size=2, num_workers=4, **LARGE_RUN),
        backbone=BackboneConfig(weights=MOTIVNET_WEIGHTS[name], recompute=True),
        sampling=SamplingConfig(kind="uniform"),
    )


def vjepa2_probe() -> Recipe:
    """Train an attentive probe on a frozen V-JEPA 2 encoder (ViT-L, 256 x 256 pixels), or on another encoder.

    After Eing et al. (arXiv 2601.09524), who probe V-JEPA on clips of RAVDESS and CREMA-D, and after their code: a
    frozen encoder, attention pooling with one query, AdamW with a learning rate of 1e-3 and a weight decay of 0.01, a
    cosine to zero over 20 epochs without warm-up, gradients clipped at a norm of 1, cross-entropy.

    `--set backbone.weights=FOLDER` takes the weights from a folder instead of the hub. That of another encoder, such as
    DINOv2, may need `--set model.image_size=[224,224] --set preprocessing.size=[224,224]`.

    Departures, and the reasons:

    - V-JEPA 2 instead of V-JEPA's ViT-H/16 at 384 x 384, which transformers does not have.
    - An image is one frame, repeated for one patch in time (2 frames); theirs are eight segments of 16 frames, attended
      to together, and three views in testing. Clips are for `forward_features`: `(B, T, C, H, W)`.
    - The probe normalises the tokens and pools them with one attention layer; theirs follows that by a feed-forward
      layer, both with residuals, after Bardes et al. (arXiv 2404.08471).
    - Steps of 64 images on one device; theirs have 4 for each of up to 64 devices. Their weight decay falls in a cosine
      from 0.01 to 1e-6; here it stays.
    - Augmentation as in the other recipes, with mirrored faces; theirs crops 8 to 100 % of a clip at random, with
      AutoAugment and erased rectangles, and does not mirror.
    - The epoch is selected on images held out of `train`, people apart; they report folds of people.

    Cost and scores: not measured with released weights.
    """
    size = (256, 256)
    return Recipe(
        name="vjepa2-probe",
        model=ModelConfig(
            backbone="transformers",
            transformers={"model_type": "vjepa2"},
            image_size=size,
            head=HeadConfig(kind="attention_pool", num_heads=16, dropout=0.0),
        ),
        preprocessing=dataclasses.replace(NANO, size=size, channels="rgb", **IMAGENET),
        split=SplitConfig(train="train", select=None),
        augment=AugmentConfig(),
        loss=LossConfig(label_smoothing=0.0),
        optimizer=OptimizerConfig(backbone_lr=1e-3, head_lr=1e-3, weight_decay=0.01, warmup=0.0, clip_norm=1.0),
        run=RunConfig(epochs=20, batch_size=16, accumulate=4, precision="bf16-mixed", ema_decay=0.0, num_workers=4),
        backbone=BackboneConfig(weights="hf:facebook/vjepa2-vitl-fpc64-256", train="none"),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "own-faces": own_faces,
    "nano-fer2013": nano_fer2013,
    "mini-fer2013": mini_fer2013,
    "vjepa2-probe": vjepa2_probe,
    **{name: functools.partial(motivnet, name) for name in MOTIVNET_WEIGHTS},
}


def recipe(name: str) -> Recipe:
    """Return the recipe of a name; ConfigError if there is none."""
    return settings.lookup("recipe", name, RECIPES)


def describe(name: str) -> str:
    """Return what a recipe of training or pre-training does, with its cost and expected scores; ConfigError."""
    known: dict[str, Callable[[], Any]] = {**RECIPES, **PRETRAIN_RECIPES}
    require(name in known, unknown_name("recipe", name, known))
    make: Any = known[name]
    text = inspect.getdoc(make.func if isinstance(make, functools.partial) else make) or ""
    if name not in MOTIVNET_WEIGHTS:
        return text
    weights = MOTIVNET_WEIGHTS[name]
    # Released weights of the same dimensions, trained for other tasks.
    family, _, size = weights.split("-")
    alike = [file.name for file in RELEASED if file.name.startswith(f"{family}-") and file.name.endswith(f"-{size}")]
    others = ", ".join(other for other in alike if other != weights)
    other_size = "- The encoder is not the paper's Sapiens-1B: the learning rates are untested with it.\n"
    return text.format(name=name, weights=weights, more="" if name == "motivnet-1b" else other_size, others=others)
