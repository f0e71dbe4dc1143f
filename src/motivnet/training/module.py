"""The Lightning module: one step of training, one of validation.

Shape suffixes: B images, C classes.
"""

from typing import Any

import lightning
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from motivnet.data.augment import augment, mix
from motivnet.data.loader import Batch
from motivnet.models.motivnet import MotivNet
from motivnet.training.losses import blend_targets, soft_cross_entropy
from motivnet.training.optimizers import make_optimizer
from motivnet.training.recipes import Recipe


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
        self.register_buffer("log_prior", log_prior_C * recipe.loss.prior_weight, persistent=False)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights_C, persistent=False)
        num_classes = recipe.model.num_classes
        self.war = MulticlassAccuracy(num_classes, average="micro")
        self.uar = MulticlassAccuracy(num_classes, average="macro")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of one augmented batch."""
        loss = self.recipe.loss
        # Everything random is tied to seed, epoch and batch: a resumed run then draws what the uninterrupted one would.
        # The global state alone would not do: the loader draws from it when it starts, at another moment on resume.
        seed = (self.recipe.run.seed * 10_007 + self.current_epoch) * 1_000_003 + batch_idx
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        target_BC = blend_targets(
            batch.labels, batch.votes, vote_weight=loss.vote_weight, label_smoothing=loss.label_smoothing
        )
        pixels_BCHW = augment(batch.pixels, self.recipe.augment, generator)
        pixels_BCHW, target_BC = mix(pixels_BCHW, target_BC, self.recipe.run.mixup, generator)
        logits_BC = self.model(pixels_BCHW.contiguous(memory_format=torch.channels_last))
        value = soft_cross_entropy(logits_BC + self.log_prior, target_BC, self.class_weights)
        self.log("train/loss", value, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(target_BC))
        return value

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count what the averaged weights get right."""
        logits_BC = self.model(batch.pixels.contiguous(memory_format=torch.channels_last))
        self.war.update(logits_BC, batch.labels)
        self.uar.update(logits_BC, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy (WAR), mean recall (UAR) and their mean, which selection goes by."""
        war, uar = self.war.compute(), self.uar.compute()
        self.war.reset()
        self.uar.reset()
        self.log_dict({"val/war": war, "val/uar": uar, "val/score": (war + uar) / 2}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Build AdamW with a warm-up and a cosine over all steps of the run."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = make_optimizer(self.model, self.recipe.optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
