"""Run a recipe of pre-training: images in, the bundle of an encoder out."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np

from motivnet import config
from motivnet.checkpoints.bundle import Bundle, BundleConfig, open_bundle
from motivnet.checkpoints.load import load_strict
from motivnet.data.clean import fit_for_training, picture_keys
from motivnet.data.loader import FaceDataset
from motivnet.data.manifest import Manifest
from motivnet.errors import ConfigError, DataError
from motivnet.models.mae import MaskedAutoencoder, build_mae
from motivnet.models.motivnet import build_backbone
from motivnet.training.callbacks.stopping import clear_endings
from motivnet.training.data_module import FaceData
from motivnet.training.mae.masked_training import PICTURED, MaskedTraining, ShardedMaskedTraining, picture_of
from motivnet.training.mae.pretrain_recipes import ImagesConfig, PretrainRecipe
from motivnet.training.run_dir import (
    BEST,
    BUNDLE_NAME,
    begin,
    check_folder,
    place_facts,
    versions,
    weights_in,
    write_bundle,
)
from motivnet.training.settings import Place
from motivnet.training.speed import compile_parts
from motivnet.training.trainer import check_place, is_first, make_trainer

PICTURES = "reconstructions"


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a run.

    Args:
        train: what is learnt from.
        select: what the best epoch is chosen on; shares no image with `train`.
        report: how many there were, and how many were left out, by reason.
    """

    train: Manifest
    select: Manifest
    report: dict[str, Any]


def pretrain(
    recipe: PretrainRecipe,
    manifest: Manifest,
    out: Path,
    *,
    place: Place | None = None,
    resume: bool = False,
    progress: bool = True,
    provenance: dict[str, Any] | None = None,
) -> Bundle:
    """Pre-train by a recipe and write the best epoch's encoder as a bundle.

    Everything is checked before anything is written. With more than one device, every process of the run calls this,
    and the bundle is there when it returns.

    Args:
        recipe: what to do.
        manifest: images; their labels do not matter.
        out: folder of the run, laid out as `folder` says, and `reconstructions/`: a picture after every so many
            epochs, and `final.png` by the weights that are kept. They show images of the data set.
        place: devices; None takes one.
        resume: go on from the last checkpoint in `out`, or from the beginning, if the run ended before its first.
        progress: show a progress bar.
        provenance: what else the bundle should say of its making.

    Raises:
        OutputError: if `out` holds a run and `resume` is not asked for, or the disk is full.
        CheckpointError: if there is nothing to resume.
        ConfigError: if the dimensions do not fit together, devices are missing, or the run to be resumed had another
            recipe; the differences are listed.
        DataError: if there are no such images, or too few, or the run to be resumed had other rows.
        TrainingError: if loss or weights are no longer numbers.
    """
    place = place or Place()
    first = is_first()
    check_place(place, recipe)
    checkpoint = check_folder(recipe, out, resume=resume, first=first)
    if resume and (out / BUNDLE_NAME).is_dir():
        return open_bundle(out / BUNDLE_NAME)
    lightning.seed_everything(recipe.run.seed, verbose=False)
    model = build_pretraining(recipe)
    images = choose_images(manifest, recipe.images)
    faces = FaceData(recipe.preprocessing, recipe.run, images.train, images.select)
    faces.check(place.world_size)
    if first:
        rows = {"train": images.train.fingerprint(), "select": images.select.fingerprint()}
        begin(recipe, out, {"place": place_facts(place), "rows": rows}, resume=checkpoint is not None)
        sys.stderr.write(f"images: {images.report}\n")
    if recipe.recompute:
        model.backbone.net.set_grad_checkpointing()  # type: ignore[operator]
    if recipe.run.compile:
        compile_parts(model)
    kind = ShardedMaskedTraining if place.strategy == "fsdp" else MaskedTraining
    module = kind(model, recipe, out / PICTURES)
    clip_norm = recipe.optimizer.clip_norm
    trainer, best = make_trainer(
        recipe, out, place, monitor="val/loss", mode="min", clip_norm=clip_norm, progress=progress
    )
    with clear_endings(trainer, out):
        trainer.fit(module, faces, ckpt_path=checkpoint, weights_only=True)
        if trainer.is_global_zero:
            score = best.best_model_score
            selected = {"split": recipe.images.select, "loss": math.nan if score is None else float(score)}
            _finish(recipe, images, out, {"selected": selected, **(provenance or {})})
        trainer.strategy.barrier()
    return open_bundle(out / BUNDLE_NAME)


def build_pretraining(recipe: PretrainRecipe) -> MaskedAutoencoder:
    """Build what a recipe trains, with random weights.

    Raises:
        ConfigError: if its dimensions do not fit together.
    """
    try:
        backbone = build_backbone(recipe.model)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None
    return build_mae(backbone, recipe.mae)


def load_pretraining(checkpoint: Path, recipe: PretrainRecipe) -> MaskedAutoencoder:
    """Load encoder and decoder out of a run's checkpoint, in eval mode.

    Raises:
        CheckpointError: if it is of another recipe.
    """
    model = build_pretraining(recipe)
    load_strict(model, weights_in(checkpoint), checkpoint)
    return model.eval()


def choose_images(manifest: Manifest, images: ImagesConfig) -> Images:
    """Choose what is learnt from and what is selected on: no image, and no copy of one, is both.

    Raises:
        DataError: naming a split that is not there, or an image that is missing; if none is named where there are
            several; or if nothing is left to learn from.
    """
    split = images.train or _only_split(manifest)
    for name in filter(None, (split, images.select)):
        manifest.split(name)  # says so if there is none
    keys, blank = picture_keys(manifest)
    keep, cleaned = fit_for_training(manifest, split, keys, blank)
    train = manifest.select(keep)
    if images.select is not None:
        select = manifest.split(images.select)
    else:
        pictures = np.unique(keys[keep])
        # The raw stream of a bit generator is the same with every version of numpy.
        order = np.argsort(np.random.PCG64(images.seed).random_raw(len(pictures)), kind="stable")
        held = np.isin(keys[keep], pictures[order[: max(1, round(images.hold_out * len(pictures)))]])
        train, select = train.select(~held), train.select(held)
    if not len(train) or not len(select):
        raise DataError(f"split {split!r}: nothing is left to learn from or to select on, after cleaning")
    return Images(train, select, dataclasses.asdict(cleaned) | {"train": len(train), "selection": len(select)})


def _only_split(manifest: Manifest) -> str:
    splits = sorted(set(manifest.table["split"].to_pylist()))
    if len(splits) > 1:
        # All of them would be those of the tests as well.
        raise DataError(f"the data have the splits {', '.join(splits)}. Allowed: images.train=SPLIT, one of them")
    return splits[0]


def _finish(recipe: PretrainRecipe, images: Images, out: Path, told: dict[str, Any]) -> None:
    """Draw the last picture and write the bundle, which is there completely or not at all."""
    model = load_pretraining(out / BEST, recipe)
    rows = list(range(min(PICTURED, len(images.select))))
    shown = FaceDataset(images.select, recipe.preprocessing).__getitems__(rows)
    (out / PICTURES).mkdir(exist_ok=True)
    picture_of(model, recipe.preprocessing, shown.pixels).save(out / PICTURES / "final.png")
    bundle_config = BundleConfig(
        name=recipe.name,
        summary=f"an encoder, pre-trained by the recipe {recipe.name}",
        licence="not stated: depends on the training data",
        part="encoder",
        model=recipe.model,
        preprocessing=recipe.preprocessing,
        provenance={
            "recipe": config.to_plain(recipe),
            "images": images.report,
            "versions": versions(),
            **told,
        },
    )
    write_bundle(out / BUNDLE_NAME, bundle_config, model.backbone, out / BEST)
