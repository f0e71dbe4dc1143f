"""`motivnet train`: run a recipe; and what `motivnet pretrain` has in common with it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from motivnet import config
from motivnet.cli.console import echo
from motivnet.cli.options import argument, option
from motivnet.config import setting, to_json
from motivnet.errors import ConfigError, needs_extra

if TYPE_CHECKING:
    from motivnet.training.settings import Place

T = TypeVar("T")

SetOption = Annotated[
    list[str] | None,
    option("KEY=VALUE", "--set", help="Change a setting of the recipe, such as run.epochs=2; repeatable."),
]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """The options of a run.

    Args:
        out: Folder of the run; default: runs/RECIPE.
        resume: Continue from the last checkpoint of the run.
        show: Print the recipe with all its settings, and exit.
        dry_run: Estimate memory and FLOPs of the run, and exit.
        device_gb: With --dry-run: whether it fits a device with this much memory.
        as_json: With --dry-run: print JSON.
        devices: Processes per machine, one per device.
        nodes: Machines, started by torchrun or SLURM.
        strategy: Whole model on every device, or sharded (FSDP2).
        accelerator: Kind of device.
    """

    out: Path | None = setting(None, metavar="DIR")
    resume: bool = setting(False)
    show: bool = setting(False)
    dry_run: bool = setting(False)
    device_gb: float | None = setting(None, metavar="GB", min=0.1)
    as_json: bool = setting(False, flag="json")
    devices: int = setting(1, metavar="N")
    nodes: int = setting(1, metavar="N")
    strategy: Literal["ddp", "fsdp"] = setting("ddp")
    accelerator: Literal["auto", "cpu", "gpu"] = setting("auto")

    def place(self) -> "Place":
        """Return the devices."""
        from motivnet.training.settings import Place

        return Place(devices=self.devices, nodes=self.nodes, strategy=self.strategy, accelerator=self.accelerator)


def train(
    name: Annotated[str | None, argument("RECIPE")] = None,
    data: Annotated[str | None, option("KIND:PATH")] = None,
    settings: SetOption = None,
    init: Annotated[Path | None, option("BUNDLE")] = None,
    *,
    options: RunOptions,
) -> None:
    """Train with a recipe; the best epoch becomes a bundle with ONNX in DIR/bundle (needs the extra `train`).

    `DIR/metrics.csv` holds the loss curve. `motivnet train` alone lists the recipes, `motivnet train RECIPE --show`
    describes one, with its cost and expected scores.

    Example: motivnet train own-faces --data folder:faces --out runs/own

    Options:
        name: Such as nano-fer2013; without one, all are listed.
        data: Labelled faces, such as fer2013:fer2013.parquet or affectnet:FOLDER.
        init: Start from a whole model; for an encoder: --set backbone.weights=FILE_OR_NAME.
    """
    with needs_extra("torch", "train"):
        from motivnet.training.recipes import RECIPES
    recipe = choose_recipe("recipe", name, RECIPES, settings, options)
    if name is None or recipe is None:
        return
    if data is None:
        raise ConfigError("--data is missing. Allowed: KIND:PATH, such as fer2013:fer2013.parquet or affectnet:FOLDER")
    with needs_extra("torch", "train"):
        from motivnet.training.fit import fit
        from motivnet.training.trainer import is_first
    out = options.out or Path("runs") / name
    bundle = fit(recipe, data, out, init=init, place=options.place(), resume=options.resume)
    if is_first():
        _export(bundle)


def choose_recipe(
    kind: str, name: str | None, recipes: Mapping[str, Callable[[], T]], settings: list[str] | None, options: RunOptions
) -> T | None:
    """Return the recipe to run; None if the options ask for something to be printed instead.

    Raises:
        ConfigError: at an unknown recipe or setting, or options of `--dry-run` without it.
    """
    from motivnet.training.init_weights import follow_folder
    from motivnet.training.recipes import RECIPES, describe
    from motivnet.training.settings import lookup

    if name is None:
        for each in recipes:
            echo(f"{each:24}{describe(each).splitlines()[0]}")
        return None
    recipe: Any = config.override(lookup(kind, name, recipes), settings or [])
    if name in RECIPES:
        recipe = follow_folder(recipe, fetch=False)
    place = options.place()
    if options.show:
        echo(describe(name), err=True)
        echo(to_json(config.to_plain(recipe), indent=2))
    elif options.dry_run:
        from motivnet.training.estimate import dry_run, dry_run_text

        found = dry_run(recipe, place, device_gb=options.device_gb)
        echo(to_json(found) if options.as_json else dry_run_text(found))
    elif options.device_gb is not None or options.as_json:
        raise ConfigError("--device-gb and --json belong to --dry-run")
    else:
        return recipe
    return None


def best_epoch(bundle: Any) -> str:
    """Say by which rows and score the epoch of a bundle was selected."""
    (_, split), (name, score) = bundle.config.provenance["selected"].items()
    return f"the epoch with the best {name}, {score:.4f}, on {split or 'the rows that were held out'}"


def _export(bundle: Any) -> None:
    with needs_extra("onnx", "train"):
        from motivnet.export.onnx import export_onnx, verify_onnx

    export_onnx(bundle)
    largest = verify_onnx(bundle)
    echo(f"{bundle.path}: {best_epoch(bundle)}")
    echo(f"ONNX differs from torch by at most {largest:.1e}")
