"""The folder of a run, and whether a run may start or resume there.

```
OUT/
├── recipe.json         the recipe with all its settings
├── run.json            what else a resumed run must match: rows, number of devices
├── metrics.csv         step, epoch, loss, learning rate of each parameter group; one row per optimizer step
├── validation.csv      step, epoch, mean training loss, scores; one row per epoch
├── warnings.jsonl      the warnings of the run, if there were any
├── checkpoints/        last.ckpt, to resume from; best.ckpt, of the best epoch
├── tensorboard/
├── bundle/             the weights of the best epoch: written last, and atomically
└── bundle-5-epochs/    that of a finished run of 5 epochs which was resumed for more
```
"""

import importlib.metadata
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from motivnet import config
from motivnet.checkpoints.bundle import BundleConfig, write_config
from motivnet.checkpoints.formats import below
from motivnet.checkpoints.load import write_weights
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError, require, reraised
from motivnet.storage import atomic_folder, check_same, stored_json, write_json

RECIPE_NAME = "recipe.json"
RUN_NAME = "run.json"
BUNDLE_NAME = "bundle"
# Of the model in a training checkpoint.
PREFIX = "model."
CHECKPOINTS = Path("checkpoints")
LAST = CHECKPOINTS / "last.ckpt"
BEST = CHECKPOINTS / "best.ckpt"


def check_folder(recipe: Any, out: Path, *, resume: bool, first: bool = True) -> Path | None:
    """Check that a run may start in a folder, or resume there. Nothing is written.

    A run that ended before its first checkpoint may be started again, or resumed from step zero.

    Args:
        recipe: a frozen dataclass.
        out: the folder, which need not exist.
        resume: whether to resume the run that it holds.
        first: whether this is the process that writes; the others do not check what it is writing.

    Returns:
        The checkpoint to resume from; None to start.

    Raises:
        OutputError: if `out` holds a run and `resume` is False.
        CheckpointError: if there is nothing to resume, or the last checkpoint is damaged.
        ConfigError: if the run to resume has another recipe, other than for more epochs; the differences are listed.
    """
    last = out / LAST
    if not first:
        return last if resume and last.is_file() else None
    if not resume:
        if any((out / name).exists() for name in (LAST, BEST, BUNDLE_NAME)):
            raise OutputError(f"{out}: holds a run already. Allowed: another folder, or --resume")
        return None
    plain = stored_json(out / RECIPE_NAME, CheckpointError)
    require(plain is not None, f"{out}: nothing to resume, {RECIPE_NAME} is missing", CheckpointError)
    with reraised(CheckpointError, f"{out / RECIPE_NAME}: cannot be read", ConfigError):
        # Settings that are newer than the run have their defaults.
        then = config.from_plain(type(recipe), plain)
    before, now = config.to_plain(then), config.to_plain(recipe)
    # What may change: a run may go on for longer, and be logged otherwise.
    before["run"] |= {"logger": now["run"]["logger"], "epochs": max(before["run"]["epochs"], now["run"]["epochs"])}
    check_same(out, before, now, allowed="the same recipe, but for more run.epochs; or another folder")
    if not last.is_file():
        return None
    check_checkpoint(last)
    return last


def is_finished(recipe: Any, out: Path) -> bool:
    """Return whether a folder holds the bundle of a run that is to have no more epochs than it had."""
    # In this order: the first process may be about to go on with the run, see `begin`.
    plan = stored_json(out / RECIPE_NAME, CheckpointError)
    return (out / BUNDLE_NAME).is_dir() and not (plan and plan["run"]["epochs"] < recipe.run.epochs)


def check_checkpoint(path: Path) -> None:
    """Refuse a damaged training checkpoint, without reading its weights.

    Raises:
        CheckpointError: with a way out.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    else:
        if isinstance(content, dict) and {"state_dict", "loops", "optimizer_states"} <= content.keys():
            return
        reason = "not a training checkpoint."
    raise CheckpointError(
        f"{path}: damaged: {reason} Allowed: copy {BEST.name}, the checkpoint of the best epoch so far, over it and "
        "resume from there, or start in another folder"
    )


def begin(recipe: Any, out: Path, facts: dict[str, Any], *, resume: bool) -> dict[str, Any]:
    """Write what a run is before it starts; if it resumes, check that it is the same.

    Args:
        recipe: of the run.
        out: its existing folder, checked.
        facts: what else it is; `place` and `rows` must not change.
        resume: whether there is a checkpoint to resume from.

    Returns:
        The facts with which the run started.

    Raises:
        ConfigError: if it would resume with another number of devices.
        DataError: if it would resume with other rows.
        CheckpointError: if `run.json` cannot be read.
        OutputError: if the files cannot be written.
    """
    then = stored_json(out / RUN_NAME, CheckpointError) if resume else None
    if then is None:
        write_json(out / RECIPE_NAME, config.to_plain(recipe))
        write_json(out / RUN_NAME, facts)
        return facts
    allowed = "as many devices as it started with, since each has its own batch"
    check_same(out, then.get("place"), facts.get("place"), allowed=allowed)
    if then.get("rows") != facts.get("rows"):
        raise DataError(f"{out}: the run was trained on other rows. Allowed: the data that it started with")
    if (out / BUNDLE_NAME).is_dir():  # it was finished, and goes on for longer
        epochs = stored_json(out / RECIPE_NAME, CheckpointError)["run"]["epochs"]
        (out / BUNDLE_NAME).rename(out / f"{BUNDLE_NAME}-{epochs}-epochs")
    write_json(out / RECIPE_NAME, config.to_plain(recipe))
    return then


def write_bundle(path: Path, bundle_config: BundleConfig, module: nn.Module, checkpoint: Path) -> None:
    """Write the bundle of a module atomically.

    Args:
        path: of the bundle.
        bundle_config: describes it.
        module: with the weights.
        checkpoint: from which they come.

    Raises:
        OutputError: if it cannot be written.
    """
    advice = f"; {checkpoint} is whole: continue with --resume"
    with atomic_folder(path, also=(SafetensorError,), advice=advice) as temporary:
        write_weights(write_config(temporary, bundle_config), module)


def disk_advice(out: Path) -> str:
    """Return what to do when the disk is full: the end of an error message."""
    last = out / LAST
    kept = f"{last} is whole: make room, and continue with --resume" if last.is_file() else "there is no checkpoint yet"
    return f"; {kept}"


def describe(recipe: Any, provenance: dict[str, Any], **settings: Any) -> BundleConfig:
    """Return the config of the bundle of a run.

    Args:
        recipe: of the run.
        provenance: to be stored with the recipe and the versions of the libraries.
        settings: more fields of the config.
    """
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "lightning")}
    return BundleConfig(
        name=recipe.name,
        licence="not stated: depends on the training data",
        model=recipe.model,
        preprocessing=recipe.preprocessing,
        provenance={"recipe": config.to_plain(recipe), "versions": versions, **provenance},
        **settings,
    )


def weights_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the model's weights in a training checkpoint, memory-mapped, under the model's own names."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    return below(state, PREFIX)
