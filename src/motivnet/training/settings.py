"""Settings of a training run: everything that a recipe consists of.

Change one with `motivnet train RECIPE --set optimizer.head_lr=1e-4`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from motivnet.config import Settings, bounded, check_bounds
from motivnet.data.augment import AugmentConfig, DegradeConfig
from motivnet.data.sampling import SamplingConfig
from motivnet.errors import require, unknown_name
from motivnet.labels import EMOTIONS, WITH_CONTEMPT, LabelSet
from motivnet.models.config import ModelConfig
from motivnet.preprocess import Preprocessing

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"]
Schedule = Literal["cosine", "warm-restarts", "constant"]
Logger = Literal["tensorboard", "mlflow", "wandb", "none"]
TrainedPart = Literal["all", "none", "last", "lora"]


T = TypeVar("T")


def lookup(kind: str, name: str, recipes: Mapping[str, Callable[[], T]]) -> T:
    """Return the recipe of a name.

    Args:
        kind: of recipe, for the message.
        name: of the recipe.
        recipes: functions that return recipes, by name.

    Raises:
        ConfigError: if there is no such recipe.
    """
    require(name in recipes, unknown_name(kind, name, recipes))
    return recipes[name]()


# Seeds that every random generator accepts.
SEED = {"low": 0, "high": 2**32 - 1}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig(Settings):
    """The splits that are used.

    Args:
        train: split to train on, without the images that recur in any other split.
        select: split for selecting the best epoch, never the one that is reported; None holds out rows of `train`.
        hold_out: share of each class of `train` that is held out if `select` is None: by subject where subjects are
            known, else by image, copies of one image together.
        seed: of the hold-out.
        folds: number of parts that the rows of `train` fall into, by subject or picture; 1 trains on all of them.
        fold: part that is left out, from 0, so that the trained model can label it (`motivnet distil`).
    """

    train: str
    select: str | None = None
    hold_out: float = bounded(default=0.05, above=0, below=1)
    seed: int = bounded(default=0, **SEED)
    folds: int = bounded(default=1, low=1)
    fold: int = bounded(default=0, low=0)

    def __post_init__(self) -> None:
        """Check ranges."""
        check_bounds(self)
        require(self.fold < self.folds, f"split: fold must be below folds={self.folds}, not {self.fold}")
        other = f"split: select must be another split than train, {self.train!r}, or null to hold out"
        require(self.select != self.train, other)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig(Settings):
    """Cross-entropy against a blend of label and votes; for valence and arousal, 1 - CCC.

    Args:
        label_smoothing: share of the target that is spread evenly over the classes.
        vote_weight: share of the target that follows the annotators' votes, in rows that have any.
        prior_weight: weight of the log frequency of each class, added to the logits in training only, which favours
            rare classes (logit adjustment, Menon et al., arXiv 2007.07314); 0 adds nothing.
        affect_weight: weight of the loss of valence and arousal, if the model predicts them; None learns both weights
            from the uncertainties (Kendall et al., arXiv 1705.07115).
    """

    label_smoothing: float = bounded(default=0.1, low=0, high=1)
    vote_weight: float = bounded(default=0.0, low=0, high=1)
    prior_weight: float = 0.0
    affect_weight: float | None = bounded(default=None, above=0, below=math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig(Settings):
    """Initial weights of the encoder, and how much of it is trained.

    Args:
        weights: initial weights: the bundle of `motivnet pretrain` or of a trained model, a file in any released
            format, a name from `motivnet weights list`; for `timm:NAME` a file of that model by timm, or of the same
            model by torchvision (convolutional models, vision transformers), or of EfficientNet-Lite by
            efficientnet-lite-pytorch; for `timm:mobilenetv1_100` also `faceres.json`. A folder of timm, or of
            transformers (ViT, DINOv2, DINOv3, the vision part of CLIP and SigLIP, V-JEPA 2), or `hf:OWNER/NAME` of one:
            the recipe then takes encoder, colours and normalisation from it, and the size from `model.image_size` and
            `preprocessing.size`. Nothing in any of them is executed. None: random.
        train: `all` of it, `none` (frozen), the `last` blocks, or LoRA (`lora`, Hu et al., arXiv 2106.09685), which is
            merged into the matrices at the end.
        last_blocks: number of blocks that `last` trains, with the final norm.
        lora_rank: rank of LoRA.
        lora_alpha: scale of LoRA, over the rank.
        layer_decay: learning rate of a block over that of the next one; 1 gives all the same.
        recompute: gradient checkpointing: a third more arithmetic, a fraction of the memory.
    """

    weights: str | None = None
    train: TrainedPart = "all"
    last_blocks: int = bounded(default=4, low=1)
    lora_rank: int = bounded(default=16, low=1)
    lora_alpha: float = bounded(default=32.0, above=0)
    layer_decay: float = bounded(default=1.0, above=0, high=1)
    recompute: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig(Settings):
    """AdamW with a linear warm-up and a schedule that is stepped with every optimizer step.

    Args:
        backbone_lr: peak learning rate of the backbone; to freeze it, set backbone.train=none.
        head_lr: peak learning rate of the head.
        weight_decay: of matrices; norms, biases, position embeddings, tokens and queries have none.
        betas: of AdamW.
        schedule: after the warm-up: `cosine` to zero over the run; `warm-restarts` (SGDR, Loshchilov and Hutter, arXiv
            1608.03983); or `constant`.
        warmup: share of all steps.
        restart_epochs: length of the first cosine of `warm-restarts`, in epochs (T_0).
        restart_factor: length of each cosine over that of the one before (T_mult).
        clip_norm: largest global norm of the gradients; 0 does not clip.
    """

    backbone_lr: float = bounded(above=0, below=math.inf)
    head_lr: float = bounded(above=0, below=math.inf)
    weight_decay: float = bounded(default=0.05, low=0)
    betas: tuple[float, float] = bounded(default=(0.9, 0.999), low=0, below=1)
    schedule: Schedule = "cosine"
    warmup: float = bounded(default=0.05, low=0, below=1)
    restart_epochs: float = bounded(default=10.0, above=0)
    restart_factor: int = bounded(default=1, low=1)
    clip_norm: float = bounded(default=0.0, low=0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(Settings):
    """Length of the run, batches, precision, and how data is loaded.

    Args:
        epochs: passes over the training rows.
        batch_size: faces per batch and device.
        accumulate: batches per optimizer step.
        precision: Lightning's; under autocast, depthwise convolutions stay in float32. `bf16-true` keeps the weights
            themselves in bfloat16, where small learning rates are lost in rounding: for measuring, not for training.
        ema_decay: of the averaged weights (EMA), which are validated and kept; 0 averages nothing.
        mixup: alpha of mixup; 0 switches it off.
        mixup_epochs: epochs with mixup, after which the run goes on without; None: all of them.
        patience: epochs without a better score after which the run stops early; None runs to the end.
        seed: of initialisation, order and augmentation.
        num_workers: processes that decode images; 0 for a data set cached in memory.
        cache: keep decoded faces in memory.
        compile: compile the model with torch.compile.
        checkpoint_minutes: time between checkpoints within an epoch; every epoch ends with one in any case.
        logger: of Lightning, which also gets the curves: `tensorboard`, `mlflow` or `wandb`, with the settings that
            these take from the environment; or `none`. It may change when a run is resumed.
        skip_unreadable: leave out, and count, images that cannot be read, which otherwise are named before training.
    """

    epochs: int = bounded(low=1)
    batch_size: int = bounded(low=1)
    accumulate: int = bounded(default=1, low=1)
    precision: Precision = "32-true"
    ema_decay: float = bounded(default=0.999, low=0, below=1)
    mixup: float = bounded(default=0.0, low=0)
    mixup_epochs: int | None = bounded(default=None, low=0)
    patience: int | None = bounded(default=None, low=1)
    seed: int = bounded(default=0, **SEED)
    num_workers: int = bounded(default=0, low=0)
    cache: bool = True
    compile: bool = False
    checkpoint_minutes: float = bounded(default=15.0, above=0)
    logger: Logger = "tensorboard"
    skip_unreadable: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that defines a training run, except its data, its folder and its devices.

    Args:
        name: of the recipe.
        labels: names of the classes, as many as `model.num_classes`; rows of other labels are left out. None: the seven
            emotions, or with 8 classes contempt as well. Empty: those that the data have, and as many classes.
        model: dimensions.
        preprocessing: from image to pixels.
        split: the splits to train and select on.
        augment: augmentation.
        loss: loss function.
        optimizer: learning rates and schedule.
        run: length, batches, precision.
        backbone: initial weights of the encoder, and how much of it is trained.
        sampling: which training rows an epoch has, and the weights of the classes.
        degrade: random blur, low resolution, JPEG and light, before the augmentation.
    """

    name: str
    model: ModelConfig
    preprocessing: Preprocessing
    split: SplitConfig
    augment: AugmentConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    run: RunConfig
    backbone: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
    labels: tuple[str, ...] | None = None
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    degrade: DegradeConfig = dataclasses.field(default_factory=DegradeConfig)

    @property
    def label_set(self) -> LabelSet:
        """The names of the classes.

        Raises:
            ConfigError: if they are not as many as the model's classes.
        """
        known = {len(labels): labels for labels in (EMOTIONS, WITH_CONTEMPT)}
        found = LabelSet(self.labels) if self.labels else known.get(self.model.num_classes, EMOTIONS)
        allowed = f"{', '.join(map(str, known))}, or the number of names in the setting labels"
        number = self.model.num_classes
        require(len(found) == number, f"model.num_classes {number} for {len(found)} labels. Allowed: {allowed}")
        return found


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Place(Settings):
    """The devices of a run, which are not part of its recipe.

    The batch of an optimizer step grows with the devices: `run.batch_size` x `run.accumulate` x devices x nodes.

    Args:
        devices: processes per machine, one per device.
        nodes: machines.
        strategy: `ddp` keeps the whole model on every device, `fsdp` shards it (FSDP2).
        accelerator: `cpu`, `gpu`, or `auto` for what is available.
    """

    devices: int = bounded(default=1, low=1)
    nodes: int = bounded(default=1, low=1)
    strategy: Literal["ddp", "fsdp"] = "ddp"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    @property
    def world_size(self) -> int:
        """Total number of processes."""
        return self.devices * self.nodes
