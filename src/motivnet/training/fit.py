"""Run a recipe: data in, a bundle out. Everything that Lightning has is Lightning's."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import lightning
import pyarrow.parquet as pq
import torch

from motivnet import config
from motivnet.checkpoints.bundle import Bundle, BundleConfig, open_bundle
from motivnet.checkpoints.load import built_without_memory, load_strict
from motivnet.data.loader import BalancedSampler
from motivnet.data.manifest import Manifest
from motivnet.errors import ConfigError
from motivnet.models.backbone import keep_depthwise_float32
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.training import init_weights as initial
from motivnet.training.callbacks.stopping import clear_endings
from motivnet.training.data_module import FaceData
from motivnet.training.freezing import plain_state, set_trained
from motivnet.training.module import Classifier
from motivnet.training.optimizers import parameter_groups
from motivnet.training.run_dir import (
    BEST,
    BUNDLE_NAME,
    begin,
    check_folder,
    complete,
    place_facts,
    versions,
    weights_in,
    write_bundle,
)
from motivnet.training.settings import Place, Recipe
from motivnet.training.sharding import ShardedClassifier
from motivnet.training.speed import check_precision, compile_parts
from motivnet.training.splits import Rows, choose_rows
from motivnet.training.trainer import check_place, is_first, make_trainer

SAMPLED_NAME = "sampled_rows.parquet"


def fit(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    *,
    place: Place | None = None,
    init: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    provenance: dict[str, Any] | None = None,
    rows: Rows | None = None,
) -> Bundle:
    """Train by a recipe and write the best epoch's weights as a bundle.

    Everything is checked before anything is written. With more than one device, every process of the run calls this,
    and the bundle is there when it returns.

    Args:
        recipe: what to do.
        manifest: rows with the splits that the recipe names.
        out: folder of the run, laid out as `folder` says, and `sampled_rows.parquet`, the rows that uniform sampling
            drew.
        place: devices; None takes one.
        init: weights of a whole model to start from; None starts where the recipe says.
        resume: go on from the last checkpoint in `out`, or from the beginning, if the run ended before its first.
        progress: show a progress bar.
        provenance: what else the bundle should say of its making.
        rows: what `choose_rows` gave for the recipe and these rows, where that is known already.

    Raises:
        OutputError: if `out` holds a run and `resume` is not asked for, or the disk is full.
        CheckpointError: if there is nothing to resume, or weights to start from cannot be read.
        ConfigError: if devices are missing, or the run to be resumed had another recipe; the differences are listed.
        DataError: if a class has too few rows for the recipe's sampling, all are too few for one step, or the run to
            be resumed had other rows.
        TrainingError: if loss or weights are no longer numbers.
    """
    place = place or Place()
    first, facts = is_first(), {}
    check_place(place, recipe)
    checkpoint = check_folder(recipe, out, resume=resume, first=first)
    if resume and (out / BUNDLE_NAME).is_dir():
        return open_bundle(out / BUNDLE_NAME)
    if checkpoint is None:
        initial.check(recipe, init)
    rows = rows or choose_rows(recipe, manifest)
    faces = _faces(recipe, rows)
    faces.check(place.world_size)
    lightning.seed_everything(recipe.run.seed, verbose=False)
    model = prepare_model(recipe, init, start=checkpoint is None)
    if first:
        facts = begin(recipe, out, _facts(place, rows, recipe, init), resume=checkpoint is not None)
        if init and facts["init"] != initial.lineage(recipe, init):
            raise ConfigError(f"--init {init}: the run began with other weights. Allowed: --resume alone")
        if recipe.sampling.kind == "uniform":
            with complete(out / SAMPLED_NAME) as unfinished:
                pq.write_table(rows.train.table.select(["row", "path", "label", "split"]), unfinished)
        sys.stderr.write(f"rows: {rows.report}\n")
    kind = ShardedClassifier if place.strategy == "fsdp" else Classifier
    module = kind(model, recipe, rows.log_prior_C, rows.class_weights_C)
    trainer, best = make_trainer(
        recipe,
        out,
        place,
        clip_norm=recipe.optimizer.clip_norm,
        pretrained=bool(init or recipe.backbone.weights),
        progress=progress,
    )
    with clear_endings(trainer, out):
        trainer.fit(module, faces, ckpt_path=checkpoint, weights_only=True)
        if trainer.is_global_zero:
            score = float(best.best_model_score or 0)
            told = {"init": facts["init"], "selected": {"split": recipe.split.select, "score": score}}
            told |= provenance or {}
            bundle_from_checkpoint(out / BEST, recipe, _config(recipe, rows, told), out / BUNDLE_NAME)
        trainer.strategy.barrier()
    return open_bundle(out / BUNDLE_NAME)


def prepare_model(recipe: Recipe, init: Path | None, *, start: bool) -> MotivNet:
    """Build the model with the weights to start from, as much of it open to training as the recipe says."""
    model = build_model(recipe.model)
    check_precision(model, recipe.run.precision)
    if start:
        initial.start(model, recipe, init)
    keep_depthwise_float32(model)
    set_trained(model, recipe.backbone)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameter_groups(model, recipe)  # refuses now what it would refuse when the run has begun
    if recipe.run.compile:
        compile_parts(model)
    return model


def _faces(recipe: Recipe, rows: Rows) -> FaceData:
    run, sampling = recipe.run, recipe.sampling
    sampler = BalancedSampler(rows.train, sampling.seed) if sampling.kind == "balanced" else None
    # Without gradients, a device takes more at once.
    return FaceData(
        recipe.preprocessing, run, rows.train, rows.select, sampler=sampler, select_batch_size=4 * run.batch_size
    )


def _facts(place: Place, rows: Rows, recipe: Recipe, init: Path | None) -> dict[str, Any]:
    return {
        "init": initial.lineage(recipe, init),
        "place": place_facts(place),
        "rows": {"train": rows.train.fingerprint(), "select": rows.select.fingerprint()},
    }


def _config(recipe: Recipe, rows: Rows, told: dict[str, Any]) -> BundleConfig:
    """Say what a bundle is, and how it was made."""
    return BundleConfig(
        name=recipe.name,
        summary=f"trained by the recipe {recipe.name}",
        licence="not stated: depends on the training data",
        model=recipe.model,
        preprocessing=recipe.preprocessing,
        labels=rows.train.labels,
        provenance={
            "recipe": config.to_plain(recipe),
            "training_rows": rows.report,
            "versions": versions(),
            **told,
        },
    )


def bundle_from_checkpoint(checkpoint: Path, recipe: Recipe, bundle_config: BundleConfig, path: Path) -> Bundle:
    """Write a training checkpoint's (averaged) weights as a bundle, rounded to half precision to halve its size.

    The bundle is there completely or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    with built_without_memory():
        trained, plain = build_model(recipe.model), build_model(recipe.model)
        set_trained(trained, dataclasses.replace(recipe.backbone, recompute=False))
    load_strict(trained, weights_in(checkpoint), checkpoint, assign=True)
    load_strict(plain, plain_state(trained), checkpoint, assign=True)
    write_bundle(path, bundle_config, plain.half(), checkpoint)
    return Bundle(path, bundle_config)
