"""Train with labelled faces of one domain and unlabelled ones of another; see `docs/adaptation.md`.

Shape suffixes: B images, S source images, T target images, C classes, D token width.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from motivnet.checkpoints.bundle import Bundle
from motivnet.config import Settings, bounded, from_plain
from motivnet.data.loader import Batch, EpochSampler
from motivnet.data.manifest import Manifest
from motivnet.data.sources.named import read_source
from motivnet.errors import ConfigError, require
from motivnet.models.motivnet import MotivNet
from motivnet.storage import atomic_file
from motivnet.training import init_weights
from motivnet.training.adaptation_losses import information
from motivnet.training.aligners import Adversary, Agra, Aligner, Csrl, Ecan, Method, Mmd, Regions, View
from motivnet.training.data_module import Rows, Splits, choose_rows
from motivnet.training.fit import Job, prepare_model, run, write_classifier
from motivnet.training.losses import soft_cross_entropy
from motivnet.training.module import Classifier
from motivnet.training.settings import Place, Recipe, SplitConfig

TARGET_FOLDER = "target"
# Slope of the alignment's weight, as in DANN.
RAMP = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AdaptConfig(Settings):
    """How a model is adapted.

    Args:
        method: `source-only` and `batchnorm` train on the source alone.
        weight: of the loss that aligns the domains, at the end of the run; it rises from 0 as in DANN.
        rows: source faces of an epoch, and as many target faces, drawn anew for each; None takes all of the source.
        select: what chooses the epoch of the bundle: the `source`'s held-out faces, or the mutual `information` of
            target faces and predictions.
    """

    method: Method
    weight: float = bounded(default=1.0, low=0.0)
    rows: int | None = bounded(default=None, low=1)
    select: Literal["source", "information"] = "source"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AdaptRecipe(Recipe):
    """A recipe of training, and how the model is adapted."""

    adapt: AdaptConfig

    def __post_init__(self) -> None:
        """Refuse what the methods do not have; ConfigError."""
        plain = self.run.mixup == 0 and self.sampling.kind != "balanced" and not self.model.affect
        require(plain, "adapt: Allowed: run.mixup=0, model.affect=false, sampling.kind natural or uniform")
        require(self.run.batch_size % 2 == 0, f"run.batch_size {self.run.batch_size}: half is source. Allowed: even")


def adapt_recipe(method: str, recipe: Recipe, split: str) -> AdaptRecipe:
    """Return a recipe of training with a method of adaptation: no mixup, batches twice as large, half of them target.

    Args:
        method: of adaptation.
        recipe: of training.
        split: of the source; a tenth of it is held out, to select the epoch.
    """
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Recipe)}
    fields["split"] = SplitConfig(train=split, hold_out=0.1)
    fields["run"] = dataclasses.replace(recipe.run, mixup=0.0, batch_size=2 * recipe.run.batch_size)
    return AdaptRecipe(**fields, adapt=from_plain(AdaptConfig, {"method": method}))


class PairSampler(EpochSampler):
    """Alternates between source and target rows; each is drawn without repetition until all had their turn."""

    def __init__(self, num_source: int, num_target: int, pairs: int | None, seed: int) -> None:
        """Prepare the first epoch.

        Args:
            num_source: number of source rows, which come first in the data.
            num_target: number of target rows.
            pairs: of an epoch; None takes all source rows.
            seed: random seed.
        """
        self._counts, self._pairs, self._seed = (num_source, num_target), pairs or num_source, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the rows of an epoch; Lightning calls this before each."""
        rng = np.random.default_rng((self._seed, epoch))
        turns = [
            np.concatenate([rng.permutation(count) for _ in range(math.ceil(self._pairs / count))])[: self._pairs]
            for count in self._counts
        ]
        self._rows = np.stack([turns[0], self._counts[0] + turns[1]], 1).ravel()


class Adapter(Classifier):
    """Train a MotivNet on the source, and align it with the target."""

    def __init__(self, model: MotivNet, recipe: AdaptRecipe, rows: Rows, num_select: int, out: Path) -> None:
        """Wrap a model.

        Args:
            model: to train.
            recipe: how to train and adapt it.
            rows: of the source.
            num_select: number of the source's rows in validation, which come before those of the target.
            out: folder of the run, where the predictions for the target are written after each epoch.
        """
        super().__init__(model, recipe, rows.log_prior_C, rows.class_weights_C)
        self.adapt, self._num_select, self._out = recipe.adapt, num_select, out / TARGET_FOLDER
        self._regions = Regions(model.backbone) if recipe.adapt.method == "agra" else None
        self.aligner = make_aligner(recipe, model, rows.log_prior_C, self._regions)
        self._probs: list[Tensor] = []
        self._seen = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, in which source and target alternate."""
        pixels_BCHW, target_BC, _ = self.prepare(batch, batch_idx)
        view = self._view(pixels_BCHW if self.aligner else pixels_BCHW[::2])
        source = view.every(2, 0) if self.aligner else view

        def classify(logits_SC: Tensor) -> Tensor:
            return soft_cross_entropy(logits_SC + self.log_prior, target_BC[::2], self.class_weights)

        value = classify(source.logits)
        if self.aligner:
            with torch.autocast(self.device.type, enabled=False):
                further, alignment = self.aligner(source, view.every(2, 1), batch.labels[::2], classify)
            progress = self.global_step / self.trainer.estimated_stepping_batches
            strength = self.adapt.weight * (2 / (1 + math.exp(-RAMP * progress)) - 1)
            self.log("train/alignment", alignment)
            value = value + further + strength * alignment
        self.log("train/loss", value, prog_bar=True)
        return value

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score the source's faces, and keep the predictions for the target's."""
        count = max(0, min(len(batch.labels), self._num_select - self._seen))
        self._seen += len(batch.labels)
        if count:
            logits_SC = self._logits(batch.pixels[:count], target=False)
            for metric in (self.war, self.uar, self.confusion):
                metric.update(logits_SC, batch.labels[:count])
        if count < len(batch.labels):
            self._probs.append(self._logits(batch.pixels[count:], target=True).softmax(1))

    def on_validation_epoch_end(self) -> None:
        """Log the scores, and write the target's probabilities."""
        super().on_validation_epoch_end()
        probs_TC, self._probs, self._seen = torch.cat(self._probs), [], 0
        informed, score = information(probs_TC), self.trainer.callback_metrics["val/score"]
        self.log("val/information", informed)
        with atomic_file(self._out / f"{self.current_epoch:03}.npz", parents=True) as file:
            np.savez(file, probs=probs_TC.cpu().numpy(), score=float(score), information=float(informed))

    def _view(self, pixels_BCHW: Tensor) -> View:
        """Run the model; with regions, the head alone learns from its own loss, since a graph gives the answers."""
        pixels_BCHW = pixels_BCHW.contiguous(memory_format=torch.channels_last)
        if self._regions:
            tokens, regions = self._regions.read(self.model.backbone, pixels_BCHW, self.recipe.preprocessing)
            return View(tokens.mean(1).float(), self.model.forward_head(tokens.detach()).float(), regions)
        tokens = self.model.forward_features(pixels_BCHW)
        return View(tokens.mean(1).float(), self.model.forward_head(tokens).float())

    def _logits(self, pixels_BCHW: Tensor, *, target: bool) -> Tensor:
        with batch_statistics(self.model) if target and self.adapt.method == "batchnorm" else contextlib.nullcontext():
            view = self._view(pixels_BCHW)
        with torch.autocast(self.device.type, enabled=False):
            return self.aligner.answer(view, target=target) if self.aligner else view.logits


def make_aligner(recipe: AdaptRecipe, model: MotivNet, log_prior_C: Tensor, regions: Regions | None) -> Aligner | None:
    """Return the method of a recipe; None if it trains on the source alone.

    Raises:
        ConfigError: if the backbone has no batch norms, and the method is about them.
    """
    width, num_classes, method = model.backbone.embed_dim, recipe.model.num_classes, recipe.adapt.method
    if method == "batchnorm" and not batch_norms(model):
        raise ConfigError(f"batchnorm: {recipe.model.backbone} has no batch norms. Allowed: a backbone with some")
    if method == "agra":
        assert regions
        return Agra(width, regions.width, num_classes)
    if method in ("dann", "cdan"):
        return Adversary(width, num_classes, conditional=method == "cdan")
    made = {"mmd": Mmd, "ecan": lambda: Ecan(num_classes, log_prior_C), "csrl": lambda: Csrl(width, num_classes)}
    return made[method]() if method in made else None


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms of a model."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise by the statistics of the batch, not of training, and forget them (Nado et al., arXiv 2006.10963).

    The model is in eval mode before and after.
    """
    momenta = {norm: norm.momentum for norm in batch_norms(model)}
    for norm in momenta:
        norm.train().momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in momenta.items():
            norm.eval().momentum = momentum


def fit_adapted(
    recipe: AdaptRecipe,
    source: str,
    target: Manifest,
    out: Path,
    *,
    init: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Bundle:
    """Train with labelled and unlabelled faces; what `fit` does, on one device.

    Args:
        recipe: of the run.
        source: `KIND:PATH` of the labelled faces.
        target: the other faces, whose labels are not used: they are taken off here.
        out: folder of the run; `target/EPOCH.npz` holds `probs` (T, C) of the target after each epoch, and the scores
            that may choose one.
        init: weights of a whole model to start from.
        resume: as for `fit`.
        progress: show a progress bar.

    Raises:
        MotivNetError: as `fit`.
    """
    hidden = target.without_labels()

    def prepare(manifest: Manifest, start: bool) -> Job:
        if start:
            init_weights.check(recipe, init)
        rows = choose_rows(recipe, manifest)
        train, select = (
            dataclasses.replace(part, table=pa.concat_tables([part.table, hidden.table]))
            for part in (rows.train, rows.select)
        )
        return Job(
            rows=Splits(train, select, rows.report | {"target": len(hidden)}),
            sampler=PairSampler(len(rows.train), len(hidden), recipe.adapt.rows, recipe.run.seed),
            select_batch_size=2 * recipe.run.batch_size,
            build=lambda: Adapter(
                prepare_model(recipe, init, start=start, rows=rows.train), recipe, rows, len(rows.select), out
            ),
            write_bundle=lambda bundle_config: write_classifier(out, recipe, bundle_config),
            select=recipe.split.select,
            facts={"init": init_weights.lineage(recipe, init)},
            described={"summary": f"adapted by {recipe.adapt.method} with {recipe.name}", "labels": train.labels},
            pretrained=bool(init or recipe.backbone.weights),
            monitor="val/score" if recipe.adapt.select == "source" else "val/information",
        )

    return run(recipe, read_source(source), out, prepare, Place(), resume=resume, progress=progress)
