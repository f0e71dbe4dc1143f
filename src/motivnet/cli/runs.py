"""What `train` and `pretrain` have in common: the options of a run, and where it takes place."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from motivnet.training.mae.pretrain_recipes import PretrainRecipe
    from motivnet.training.settings import Place, Recipe


OutOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the run; default: runs/RECIPE.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the recipe, such as run.epochs=2; repeatable."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")]
ShowOption = Annotated[bool, typer.Option("--show", help="Print the recipe with all its settings, and stop.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what the run takes of memory and arithmetic, and stop.")
]
DeviceGbOption = Annotated[
    float | None, typer.Option(metavar="GB", min=0.1, help="With --dry-run: whether it fits a device of this size.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")]
DevicesOption = Annotated[int, typer.Option(metavar="N", help="Processes on each machine, one a device.")]
NodesOption = Annotated[int, typer.Option(metavar="N", help="Machines, started by torchrun or SLURM.")]
StrategyOption = Annotated[
    str, typer.Option(metavar="ddp|fsdp", help="Whole model on every device, or its weights shared out (FSDP2).")
]
AcceleratorOption = Annotated[str, typer.Option(metavar="auto|cpu|gpu", help="What to run on.")]


def make_place(devices: int, nodes: int, strategy: str, accelerator: str) -> "Place":
    """Give the place that the options name.

    Raises:
        ConfigError: at a value that is not allowed.
    """
    from motivnet import config
    from motivnet.training.settings import Place

    return config.from_plain(
        Place, {"devices": devices, "nodes": nodes, "strategy": strategy, "accelerator": accelerator}
    )


def list_recipes(names: Iterable[str], describe: Callable[[str], str]) -> None:
    """Print each recipe's name and the first line of what it says of itself."""
    for name in names:
        typer.echo(f"{name:24}{describe(name).partition(chr(10))[0]}")


def talk_about(
    recipe: "Recipe | PretrainRecipe",
    description: str,
    place: "Place",
    *,
    show: bool,
    dry_run: bool,
    device_gb: float | None,
    as_json: bool,
) -> bool:
    """Print what was asked about a recipe; say whether anything was, which leaves nothing to run.

    Raises:
        ConfigError: at options that belong to `--dry-run`, without it.
    """
    import json

    from motivnet import config
    from motivnet.errors import ConfigError

    if show:
        typer.echo(description, err=True)
        typer.echo(json.dumps(config.to_plain(recipe), indent=2))
    elif dry_run:
        from motivnet.cli.dry_run import show_dry_run

        show_dry_run(recipe, place, device_gb=device_gb, as_json=as_json)
    elif device_gb is not None or as_json:
        raise ConfigError("--device-gb and --json belong to --dry-run")
    return show or dry_run


def without_folders(data: str) -> str:
    """Keep of `kind:path?options` the kind, the path's last part, and the options: no folder of a user's machine."""
    kind, _, rest = data.partition(":")
    path, question, options = rest.partition("?")
    return f"{kind}:{Path(path).name}{question}{options}"
