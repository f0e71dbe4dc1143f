"""The Lightning module: one step of training, one of validation.

Shape suffixes: B images, C classes.
"""

from typing import Any, Self

import lightning
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from motivnet.data.augment import augment, mix
from motivnet.data.loader import Batch
from motivnet.labels import EMOTIONS
from motivnet.models.motivnet import MotivNet
from motivnet.training.concordance import Agreement
from motivnet.training.freezing import keep_frozen_eval
from motivnet.training.losses import TaskLoss, blend_targets, soft_cross_entropy
from motivnet.training.optimizers import make_optimizer
from motivnet.training.settings import Recipe


class Classifier(lightning.LightningModule):
    """Train a MotivNet by a recipe."""

    def __init__(
        self, model: MotivNet, recipe: Recipe, log_prior_C: Tensor, class_weights_C: Tensor | None = None
    ) -> None:
        """Wrap a model.

        Args:
            model: to be trained.
            recipe: how.
            log_prior_C: log frequency of each class in training.
            class_weights_C: how much each class counts in the loss; None counts all alike.
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
        self.agreement = Agreement() if affect else None

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but for what is frozen: its dropout and batch norm stay as in evaluation."""
        super().train(mode)
        if mode:
            keep_frozen_eval(self.model)
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of one augmented batch."""
        loss = self.recipe.loss
        # Everything random is tied to seed, epoch and batch: a resumed run then draws what the uninterrupted one would.
        # The global state alone would not do: the loader draws from it when it starts, at another moment on resume.
        seed = ((self.recipe.run.seed * 10_007 + self.current_epoch) * 1_000_003 + batch_idx) % 2**48
        # Dropout differs between processes; augmentation is drawn once, and each process takes its share.
        torch.manual_seed(seed + (self.global_rank << 48))
        generator = torch.Generator().manual_seed(seed)
        target_BC = blend_targets(
            batch.labels, batch.votes, vote_weight=loss.vote_weight, label_smoothing=loss.label_smoothing
        )
        pixels_BCHW = augment(
            batch.pixels, self.recipe.augment, generator, rank=self.global_rank, world_size=self.trainer.world_size
        )
        # Valence and arousal are mixed as the classes are. Where one of the two faces has none, NaN leaves none.
        targets = torch.cat([target_BC, batch.affect], 1)
        pixels_BCHW, targets = mix(pixels_BCHW, targets, self.recipe.run.mixup, generator)
        target_BC, affect_B2 = targets.tensor_split([target_BC.shape[1]], 1)
        outputs = self.model.outputs(pixels_BCHW.contiguous(memory_format=torch.channels_last))
        value = soft_cross_entropy(outputs.logits + self.log_prior, target_BC, self.class_weights)
        if self.task_loss is not None and outputs.affect is not None:
            class_loss = value
            value, affect_loss = self.task_loss(class_loss, outputs.affect, affect_B2)
            self._log_parts(class_loss, affect_loss)
        self.log("train/loss", value, prog_bar=True)
        hits_B = outputs.logits.detach().argmax(1) == target_BC.argmax(1)
        self.log("train/war", hits_B.float().mean(), on_step=False, on_epoch=True, batch_size=len(hits_B))
        return value

    def _log_parts(self, class_loss: Tensor, affect_loss: Tensor | None) -> None:
        self.log("train/class_loss", class_loss)
        if affect_loss is not None:
            self.log("train/affect_loss", affect_loss)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count what the averaged weights get right."""
        outputs = self.model.outputs(batch.pixels.contiguous(memory_format=torch.channels_last))
        self.war.update(outputs.logits, batch.labels)
        self.uar.update(outputs.logits, batch.labels)
        self.confusion.update(outputs.logits, batch.labels)
        if self.agreement is not None and outputs.affect is not None:
            self.agreement.update(outputs.affect, batch.affect)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy (WAR), mean recall (UAR) and their mean, which selection goes by.

        Also of a model with valence and arousal, whose CCC and RMSE stand beside it: the emotion is what all data sets
        have labels of.
        """
        war, uar = self.war.compute(), self.uar.compute()
        self.war.reset()
        self.uar.reset()
        self.log_dict({"val/war": war, "val/uar": uar, "val/score": (war + uar) / 2}, prog_bar=True, sync_dist=True)
        self._log_recalls()
        if self.agreement is not None:
            self.log_dict({f"val/{name}": value for name, value in self.agreement.compute().items()}, sync_dist=True)
            self.agreement.reset()

    def _log_recalls(self) -> None:
        """Log the recall of every class that the rows have."""
        counts_CC = self.confusion.compute()
        self.confusion.reset()
        rows_C = counts_CC.sum(1)
        recalls_C = counts_CC.diagonal() / rows_C
        present = [i for i, rows in enumerate(rows_C.tolist()) if rows]
        # Training is of the seven emotions, see `rows.choose_rows`.
        self.log_dict({f"val/recall_{EMOTIONS.names[i]}": recalls_C[i] for i in present}, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Build AdamW and its schedule."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = make_optimizer(
            self.model,
            self.recipe,
            num_steps=steps,
            steps_per_epoch=steps / self.recipe.run.epochs,
            loss=self.task_loss.parameters() if self.task_loss is not None else (),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
