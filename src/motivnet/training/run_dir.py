"""The folder of a run: what is in it, and whether a run may begin or go on there.

```
OUT/
├── recipe.json         the recipe, with all its settings
├── run.json            what else a resumed run must agree with: rows, number of devices
├── metrics.csv         step, epoch, loss, learning rate of each parameter group; a row for each optimizer step
├── validation.csv      step, epoch, mean training loss, scores; a row for each epoch
├── warnings.jsonl      what the run warned of, if there was anything
├── checkpoints/        last.ckpt, to go on from; best.ckpt, of the best epoch
├── tensorboard/
└── bundle/             the best epoch's weights: written last, and at once
```
"""

import contextlib
import importlib.metadata
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from motivnet import config
from motivnet.checkpoints.bundle import BundleConfig, write_config
from motivnet.checkpoints.load import write_weights
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError
from motivnet.training.settings import Place

RECIPE_NAME = "recipe.json"
RUN_NAME = "run.json"
BUNDLE_NAME = "bundle"
# Of the model in a training checkpoint.
PREFIX = "model."
CHECKPOINTS = Path("checkpoints")
LAST = CHECKPOINTS / "last.ckpt"
BEST = CHECKPOINTS / "best.ckpt"
RECIPE_MISSING = f"nothing to resume, {RECIPE_NAME} is missing"

RecipeT = TypeVar("RecipeT")


def check_folder(recipe: Any, out: Path, *, resume: bool, first: bool = True) -> Path | None:
    """Check that a run may begin in a folder, or go on there. Nothing is written.

    A run that ended before its first checkpoint left nothing to lose: it may be begun again, or resumed from zero.

    Args:
        recipe: of the run, a frozen dataclass.
        out: the folder, which need not exist.
        resume: whether the run that it holds is to go on.
        first: whether this is the process that writes; others would find what that has written, and trust it.

    Returns:
        The checkpoint to go on from; None begins.

    Raises:
        OutputError: if `out` holds a run, and `resume` is not asked for.
        CheckpointError: if there is nothing to resume, or its last checkpoint is damaged.
        ConfigError: if the run to be resumed had another recipe; the differences are listed.
    """
    file, last = out / RECIPE_NAME, out / LAST
    if not first:
        return last if resume and last.is_file() else None
    if not resume:
        if any((out / name).exists() for name in (LAST, BEST, BUNDLE_NAME)):
            raise OutputError(f"{out}: holds a run already. Allowed: another folder, or --resume")
        return None
    if not file.is_file():
        raise CheckpointError(f"{out}: {RECIPE_MISSING}")
    try:
        # Read as a recipe, a run of before a setting existed has the setting's default.
        then = config.from_plain(type(recipe), json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from None
    found = differences(config.to_plain(then), config.to_plain(recipe))
    if found:
        raise ConfigError(f"{out}: the run had another recipe: {'; '.join(found)}")
    if not last.is_file():
        return None
    check_checkpoint(last)
    return last


def check_checkpoint(path: Path) -> None:
    """Refuse a training checkpoint that is damaged, without reading its weights.

    Raises:
        CheckpointError: saying what can be done.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    else:
        if isinstance(content, dict) and {"state_dict", "loops", "optimizer_states"} <= content.keys():
            return
        reason = "no checkpoint of a run"
    raise CheckpointError(
        f"{path}: damaged: {reason} Allowed: copy {BEST.name}, the checkpoint of the best epoch so far, over it and "
        "resume from there, or begin in another folder"
    )


def begin(recipe: Any, out: Path, facts: dict[str, Any], *, resume: bool) -> dict[str, Any]:
    """Write down what a run is, before it begins; of one that goes on, check that it is the same.

    Args:
        recipe: of the run.
        out: its folder, checked.
        facts: what else it is; `place` and `rows` of it must not change.
        resume: whether there is a checkpoint to go on from.

    Returns:
        The facts of its beginning.

    Raises:
        ConfigError: if it is to go on with another number of devices.
        DataError: if it is to go on with other rows.
        CheckpointError: if what it was cannot be read.
        OutputError: if the folder cannot be made or written.
    """
    file = out / RUN_NAME
    if resume and file.is_file():
        try:
            then = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from None
        found = differences(then.get("place"), facts.get("place"))
        if found:
            raise ConfigError(f"{out}: the run had other devices, and each has a batch of its own: {'; '.join(found)}")
        if differences(then.get("rows"), facts.get("rows")):
            raise DataError(f"{out}: the run was of other rows than these data give")
        return then
    make_folder(out)
    write_json(out / RECIPE_NAME, config.to_plain(recipe))
    write_json(file, facts)
    return facts


def make_folder(path: Path) -> None:
    """Make a folder, if it is not there.

    Raises:
        OutputError: if that cannot be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made a folder: {error.strerror}") from None


def place_facts(place: Place) -> dict[str, Any]:
    """Give what of a place must not change when a run goes on."""
    return {"world_size": place.world_size, "strategy": place.strategy}


def write_json(path: Path, content: Any) -> None:
    """Write plain data, completely or not at all.

    Raises:
        OutputError: if that cannot be done.
    """
    with complete(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_bundle(path: Path, bundle_config: BundleConfig, module: nn.Module, checkpoint: Path) -> None:
    """Write what a run gave, completely or not at all.

    Args:
        path: of the bundle.
        bundle_config: what it is.
        module: of its weights.
        checkpoint: that they are from.

    Raises:
        OutputError: if it cannot be written.
    """
    with complete(path, f"; {checkpoint} is whole: go on with --resume") as unfinished:
        write_weights(write_config(unfinished, bundle_config), module)


@contextlib.contextmanager
def complete(path: Path, advice: str = "") -> Iterator[Path]:
    """Give a place to write to, beside `path`, and move there what was written.

    Raises:
        OutputError: if it cannot be written, with the advice.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}{advice}") from None


def versions() -> dict[str, str]:
    """Give the versions of what a run's result depends on."""
    return {name: importlib.metadata.version(name) for name in ("torch", "timm", "lightning")}


def weights_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Give the weights of the model in a training checkpoint, mapped from disk, under the model's own names."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


def differences(then: Any, now: Any, where: str = "") -> list[str]:
    """Name the settings in which plain data differ: `optimizer.head_lr was 0.001, is 0.01`."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted(then.keys() | now.keys())
        return [line for key in keys for line in differences(then.get(key), now.get(key), f"{where}.{key}".lstrip("."))]
    return [] if then == now else [f"{where} was {then!r}, is {now!r}"]
