"""Run a recipe: data in, a bundle out. Everything that Lightning has is Lightning's."""

import ctypes
import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pyarrow.parquet as pq
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from motivnet import config
from motivnet.checkpoints.bundle import Bundle, BundleConfig, open_bundle, write_config
from motivnet.checkpoints.keymaps import TORCHVISION_MOBILENET_V2
from motivnet.checkpoints.load import load_strict, read_weights, write_weights
from motivnet.data.clean import clean_training
from motivnet.data.loader import BalancedSampler, FaceDataset, make_loader
from motivnet.data.manifest import Manifest
from motivnet.data.sampling import class_weights, uniform_rows
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError
from motivnet.models.backbone import keep_depthwise_float32
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.training.ema import WarmedAverage
from motivnet.training.losses import class_log_prior
from motivnet.training.module import Classifier
from motivnet.training.recipes import Recipe

RECIPE_NAME = "recipe.json"
LAST_NAME = "last.ckpt"
SAMPLED_NAME = "sampled_rows.parquet"
MODEL_PREFIX = "model."


def fit(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    *,
    init: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    provenance: dict[str, Any] | None = None,
) -> Bundle:
    """Train by a recipe and write the best epoch's weights as a bundle.

    Args:
        recipe: what to do.
        manifest: rows with the splits that the recipe names.
        out: folder of the run: `checkpoints/`, `logs/`, `recipe.json`, `sampled_rows.parquet` (the rows that uniform
            sampling drew), and at the end `bundle/`.
        init: where to start: ImageNet weights of the backbone, torchvision's `.pth`, or the folder of a bundle with
            the same model; None starts from random weights.
        resume: go on from the last checkpoint in `out`.
        progress: show a progress bar.
        provenance: what else the bundle should say of its making.

    Raises:
        OutputError: if `out` holds a run and `resume` is not asked for.
        CheckpointError: if there is nothing to resume.
        ConfigError: if the run to be resumed had another recipe; the differences are listed.
        DataError: if a class has too few rows for the recipe's sampling, or the run to be resumed had other rows.
    """
    last = _prepare_folder(recipe, out, resume=resume)
    keep_freed_memory()
    lightning.seed_everything(recipe.run.seed, verbose=False)
    train, report = clean_training(manifest, recipe.split.train)
    train = _sample(recipe, train, out, resume=resume)
    select = manifest.split(recipe.split.select)
    rows = dataclasses.asdict(report) | {"sampled": len(train)}
    sys.stderr.write(f"training rows: {rows}; selection rows: {len(select)}\n")

    model = build_model(recipe.model)
    if init is not None and last is None:
        load_initial(model, init)
    keep_depthwise_float32(model)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier = Classifier(model, recipe, *_class_balance(recipe, train))
    # Deterministic mode would also fill fresh memory with NaN: slow, and a guard against bugs, not randomness.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    trainer, best = _make_trainer(recipe, out, progress=progress)
    trainer.fit(classifier, *_loaders(recipe, train, select), ckpt_path=last, weights_only=True)
    bundle_config = BundleConfig(
        name=recipe.name,
        summary=f"trained by the recipe {recipe.name}",
        licence="not stated: depends on the training data",
        model=recipe.model,
        preprocessing=recipe.preprocessing,
        labels=manifest.labels,
        provenance={
            "recipe": config.to_plain(recipe),
            "init": _lineage(init),
            "training_rows": rows,
            "selected": {"split": recipe.split.select, "score": float(best.best_model_score or 0)},
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "timm", "lightning")},
            **(provenance or {}),
        },
    )
    return bundle_from_checkpoint(Path(best.best_model_path), bundle_config, out / "bundle")


def bundle_from_checkpoint(checkpoint: Path, bundle_config: BundleConfig, path: Path) -> Bundle:
    """Write a training checkpoint's (averaged) weights as a bundle, rounded to half precision to halve its size."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    own = {name.removeprefix(MODEL_PREFIX): value for name, value in state.items() if name.startswith(MODEL_PREFIX)}
    model = build_model(bundle_config.model)
    load_strict(model, own, str(checkpoint))
    bundle = write_config(path, bundle_config)
    write_weights(bundle, model.half())
    return bundle


def load_initial(model: MotivNet, path: Path) -> None:
    """Load what a run starts from: a bundle's weights, all of them, or ImageNet weights into the backbone.

    Raises:
        CheckpointError: if the weights are of another model.
    """
    if path.is_dir():
        weights = open_bundle(path).weights
        load_strict(model, read_weights(weights), str(weights))
    else:
        load_imagenet_backbone(model, path)


def _lineage(init: Path | None) -> Any:
    """Say where a run started: a file's name, or a bundle's with all that it says of its own making."""
    if init is None or not init.is_dir():
        return init and init.name
    bundle = open_bundle(init)
    return {"bundle": bundle.config.name, "provenance": bundle.config.provenance}


def load_imagenet_backbone(model: MotivNet, path: Path) -> None:
    """Load torchvision's ImageNet weights into a MobileNetV2 backbone.

    A stem that takes one grey channel gets the sum of the three: the same answer for a grey image.

    Raises:
        CheckpointError: if the file is not what the backbone needs.
    """
    state, _ = TORCHVISION_MOBILENET_V2.apply(read_weights(path))
    stem, own = "conv_stem.weight", model.backbone.net.state_dict()
    if stem in state and stem in own and own[stem].shape[1] == 1:
        state[stem] = state[stem].sum(1, keepdim=True)
    load_strict(model.backbone.net, state, str(path))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step instead of returning it to the system.

    Every activation of a CPU training step is otherwise mapped and faulted in anew, which takes a large part of the
    step. Does nothing where the C library is another.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # names of glibc's malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 64 * 2**20)
        mallopt(mmap_max, 0)


def _prepare_folder(recipe: Recipe, out: Path, *, resume: bool) -> Path | None:
    """Check the run's folder against the recipe; give the checkpoint to go on from."""
    file, last = out / RECIPE_NAME, out / "checkpoints" / LAST_NAME
    if resume:
        if not last.is_file():
            raise CheckpointError(f"{out}: nothing to resume, {last.relative_to(out)} is missing")
        # Read as a recipe, a run of before a setting existed has the setting's default.
        then = config.from_plain(Recipe, json.loads(file.read_text(encoding="utf-8")))
        differences = _differences(config.to_plain(then), config.to_plain(recipe))
        if differences:
            raise ConfigError(f"{out}: the run had another recipe: {'; '.join(differences)}")
        return last
    if file.exists():
        raise OutputError(f"{out}: holds a run already. Allowed: another folder, or --resume")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config.to_plain(recipe), indent=2) + "\n", encoding="utf-8")
    return None


def _differences(then: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted(then.keys() | now.keys())
        return [
            line for key in keys for line in _differences(then.get(key), now.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if then == now else [f"{where} was {then!r}, is {now!r}"]


def _sample(recipe: Recipe, train: Manifest, out: Path, *, resume: bool) -> Manifest:
    """Draw the rows that the run is about, and write down which; of other kinds of sampling, all are."""
    sampling = recipe.sampling
    if sampling.kind != "uniform":
        return train
    chosen = train.select(uniform_rows(train.targets, train.labels, per_class=sampling.per_class, seed=sampling.seed))
    rows, file = chosen.table.select(["row", "path", "label", "split"]), out / SAMPLED_NAME
    if not resume:
        pq.write_table(rows, file)
    elif not rows.equals(pq.read_table(file)):
        raise DataError(f"{file}: the run was of other rows than these data give")
    return chosen


def _class_balance(recipe: Recipe, train: Manifest) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Give the log frequency of each class as the model will see it, and how much each counts in the loss."""
    num_classes = recipe.model.num_classes
    # The balanced sampler shows every class equally often.
    seen = np.arange(num_classes) if recipe.sampling.kind == "balanced" else train.targets
    weights_C = class_weights(train.targets, train.labels, recipe.sampling)
    return (
        class_log_prior(torch.from_numpy(seen), num_classes),
        None if weights_C is None else torch.from_numpy(weights_C).float(),
    )


def _loaders(recipe: Recipe, train: Manifest, select: Manifest) -> tuple[Any, Any]:
    run = recipe.run
    balanced = recipe.sampling.kind == "balanced"
    return (
        make_loader(
            FaceDataset(train, recipe.preprocessing, cache=run.cache),
            batch_size=run.batch_size,
            shuffle_seed=run.seed,
            num_workers=run.num_workers,
            sampler=BalancedSampler(train, recipe.sampling.seed) if balanced else None,
        ),
        make_loader(
            FaceDataset(select, recipe.preprocessing, cache=run.cache),
            batch_size=4 * run.batch_size,
            shuffle_seed=None,
            num_workers=run.num_workers,
        ),
    )


def _make_trainer(recipe: Recipe, out: Path, *, progress: bool) -> tuple[lightning.Trainer, ModelCheckpoint]:
    best = ModelCheckpoint(
        dirpath=out / "checkpoints",
        filename="best",
        monitor="val/score",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    callbacks = [best, LearningRateMonitor("step")]
    if recipe.run.ema_decay:
        callbacks.insert(0, WarmedAverage(recipe.run.ema_decay))
    if progress:
        callbacks.append(RichProgressBar())
    trainer = lightning.Trainer(
        max_epochs=recipe.run.epochs,
        accumulate_grad_batches=recipe.run.accumulate,
        precision=recipe.run.precision,
        callbacks=callbacks,
        logger=[CSVLogger(out, name="logs"), TensorBoardLogger(out, name="tensorboard")],
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic=True,
    )
    return trainer, best
