"""Lightning modules: what all of them share, and the one that trains a classifier.

Shape suffixes: B images, C classes.
"""

from typing import Any, Self, cast

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from motivnet.data.augment import augment, degrade, mix
from motivnet.data.loader import Batch
from motivnet.errors import ConfigError
from motivnet.models.backbone import has_depthwise
from motivnet.models.motivnet import MotivNet
from motivnet.training.freezing import keep_frozen_eval
from motivnet.training.losses import Concordance, TaskLoss, blend_targets, soft_cross_entropy
from motivnet.training.optimizers import make_optimizer
from motivnet.training.settings import Precision, Recipe

# Names of the lists of blocks in encoders and decoders.
BLOCK_LISTS = ("blocks", "layers", "layer")


class TrainedModule(lightning.LightningModule):
    """A module with a `model` that can be sharded over the devices (FSDP2)."""

    model: nn.Module
    # The methods of the model, besides `forward`, that the module calls.
    model_methods: tuple[str, ...] = ()

    def configure_model(self) -> None:
        """Shard the model in place, block by block; Lightning may call this more than once."""
        if not isinstance(self.trainer.strategy, ModelParallelStrategy) or hasattr(self.model, "unshard"):
            return
        mesh = cast(Any, self.device_mesh)["data_parallel"]
        for block in blocks_of(self.model):
            fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        for method in self.model_methods:
            register_fsdp_forward_method(self.model, method)


class Classifier(TrainedModule):
    """Train a MotivNet with a recipe."""

    model: MotivNet
    model_methods = ("outputs",)

    def __init__(
        self, model: MotivNet, recipe: Recipe, log_prior_C: Tensor, class_weights_C: Tensor | None = None
    ) -> None:
        """Wrap a model.

        Args:
            model: to train.
            recipe: how to train it.
            log_prior_C: log frequency of each class in training.
            class_weights_C: weight of each class in the loss; None weights all alike.
        """
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.log_prior: Tensor
        self.register_buffer("log_prior", log_prior_C * recipe.loss.prior_weight, persistent=False)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights_C, persistent=False)
        num_classes = recipe.model.num_classes
        self.war = MulticlassAccuracy(num_classes, average="micro")
        self.uar = MulticlassAccuracy(num_classes, average="macro")
        self.confusion = MulticlassConfusionMatrix(num_classes)
        affect = recipe.model.affect
        self.task_loss = TaskLoss(recipe.loss.affect_weight) if affect else None
        self.concordance = Concordance() if affect else None

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, except for frozen modules: their dropout and batch norm stay in eval mode."""
        super().train(mode)
        if mode:
            keep_frozen_eval(self.model)
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one augmented batch."""
        pixels_BCHW, target_BC, generator = self.prepare(batch, batch_idx)
        # Valence and arousal are mixed like the classes; NaN of either face gives NaN.
        targets = torch.cat([target_BC, batch.affect], 1)
        run = self.recipe.run
        mixed = run.mixup_epochs is None or self.current_epoch < run.mixup_epochs
        pixels_BCHW, targets = mix(pixels_BCHW, targets, run.mixup if mixed else 0.0, generator)
        target_BC, affect_B2 = targets.tensor_split([target_BC.shape[1]], 1)
        outputs = self.model.outputs(pixels_BCHW.contiguous(memory_format=torch.channels_last))
        value = soft_cross_entropy(outputs.logits + self.log_prior, target_BC, self.class_weights)
        if self.task_loss is not None and outputs.affect is not None:
            self.log("train/class_loss", value)
            value, affect_loss = self.task_loss(value, outputs.affect, affect_B2)
            if affect_loss is not None:
                self.log("train/affect_loss", affect_loss)
        self.log("train/loss", value, prog_bar=True)
        hits_B = outputs.logits.detach().argmax(1) == target_BC.argmax(1)
        self.log("train/war", hits_B.float().mean(), on_step=False, on_epoch=True, batch_size=len(hits_B))
        return value

    def prepare(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """Augment a batch: return pixels, distributions over the classes, and the generator of what else is random."""
        loss = self.recipe.loss
        # Seed, epoch and batch determine everything random, so that a resumed run draws the same numbers. The global
        # state alone would not do: the loader draws from it when it starts, at another moment on resume.
        seed = ((self.recipe.run.seed * 10_007 + self.current_epoch) * 1_000_003 + batch_idx) % 2**48
        # Dropout differs between processes; augmentation is drawn once, and each process takes its share.
        torch.manual_seed(seed + (self.global_rank << 48))
        generator = torch.Generator().manual_seed(seed)
        target_BC = blend_targets(
            batch.labels, batch.votes, vote_weight=loss.vote_weight, label_smoothing=loss.label_smoothing
        )
        share = {"rank": self.global_rank, "world_size": self.trainer.world_size}
        pixels_BCHW = degrade(batch.pixels, self.recipe.degrade, self.recipe.preprocessing, generator, **share)
        return augment(pixels_BCHW, self.recipe.augment, generator, **share), target_BC, generator

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the metrics, with the averaged weights."""
        outputs = self.model.outputs(batch.pixels.contiguous(memory_format=torch.channels_last))
        for metric in (self.war, self.uar, self.confusion):
            metric.update(outputs.logits, batch.labels)
        if self.concordance is not None and outputs.affect is not None:
            self.concordance.update(outputs.affect, batch.affect)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy (WAR), mean recall (UAR), their mean (the selection score) and the recall of each class.

        With valence and arousal, their CCC and RMSE as well; they do not select, since not all data has labels of them.
        """
        war, uar, counts_CC = self.war.compute(), self.uar.compute(), self.confusion.compute()
        scores = {"val/war": war, "val/uar": uar, "val/score": (war + uar) / 2}
        self.log_dict(scores, prog_bar=True, sync_dist=True)
        rows_C = counts_CC.sum(1)
        recalls_C = counts_CC.diagonal() / rows_C
        present = [i for i, rows in enumerate(rows_C.tolist()) if rows]
        names = self.recipe.label_set.names
        self.log_dict({f"val/recall_{names[i]}": recalls_C[i] for i in present}, sync_dist=True)
        if self.concordance is not None:
            self.log_dict({f"val/{name}": value for name, value in self.concordance.compute().items()}, sync_dist=True)
        for metric in (self.war, self.uar, self.confusion, self.concordance):
            if metric is not None:
                metric.reset()

    def configure_optimizers(self) -> Any:
        """Build AdamW and its schedule."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = make_optimizer(
            self.model,
            self.recipe,
            num_steps=steps,
            steps_per_epoch=steps / self.recipe.run.epochs,
            # Of the loss, which are not the model's.
            loss=[parameter for name, parameter in self.named_parameters() if not name.startswith("model.")],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of encoders and decoders."""
    return [
        block
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in BLOCK_LISTS and isinstance(module, nn.ModuleList | nn.Sequential)
        for block in module
    ]


def local(tensor: Any) -> Tensor:
    """Return this device's shard of a sharded tensor; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def check_precision(model: nn.Module, precision: Precision) -> None:
    """Refuse a precision that a model cannot be trained in.

    Raises:
        ConfigError: with the reason.
    """
    if precision == "bf16-true" and has_depthwise(model):
        raise ConfigError(
            "run.precision bf16-true: this model has depthwise convolutions, which stay in float32. Allowed: "
            "bf16-mixed, 32-true"
        )


def compile_parts(model: nn.Module) -> None:
    """Compile the parts of a model in place; the names of weights stay.

    A transformer is compiled block by block: the blocks are alike, so that one compilation serves all of them.
    """
    for part in model.children():
        blocks = blocks_of(part)
        alike = len({type(block) for block in blocks}) == 1 and not isinstance(blocks[0], nn.Sequential)
        for module in blocks if alike else [part]:
            module.compile()
