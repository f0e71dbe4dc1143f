"""`motivnet train --dry-run`: what a run would take, without running it."""

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from motivnet.cli.console import make_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from motivnet.training.estimate import Estimate, Memory
    from motivnet.training.mae.pretrain_recipes import PretrainRecipe
    from motivnet.training.settings import Place, Recipe

PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "average": "averaged weights",
    "casts": "weights in low precision",
    "activations": "activations",
    "exchanged": "on their way between devices",
}


def show_dry_run(recipe: "Recipe | PretrainRecipe", place: "Place", *, device_gb: float | None, as_json: bool) -> None:
    """Print a recipe with all its settings, what it takes, and whether a device has room for it.

    Args:
        recipe: as resolved from name and `--set`.
        place: where it would run.
        device_gb: memory of one device in GB (10^9 bytes); None takes that of the first GPU, if there is one.
        as_json: print one JSON object instead of tables.

    Raises:
        ConfigError: if dimensions or settings do not fit together, or the device has no memory.
    """
    from motivnet import config
    from motivnet.training.estimate import estimate

    if device_gb is None and place.accelerator != "cpu":
        device_gb = _gpu_gb()
    found = estimate(recipe, place, device_gb=device_gb)
    settings, changed = config.flatten(config.to_plain(recipe)), changes(recipe)
    if as_json:
        plain = {"recipe": config.to_plain(recipe), "changed": changed, "place": config.to_plain(place)}
        typer.echo(json.dumps(plain | {"estimate": config.to_plain(found)}))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    _print_settings(console, settings, changed)
    _print_work(console, found)
    _print_memory(console, found.memory)
    _print_alternatives(console, found, recipe, place)
    console.print(verdict(found), soft_wrap=True, markup=False)


def changes(recipe: "Recipe | PretrainRecipe") -> dict[str, Any]:
    """Give the settings that are not those of the recipe of that name, with the values that they have there."""
    from motivnet import config
    from motivnet.training.mae.pretrain_recipes import PRETRAIN_RECIPES
    from motivnet.training.recipes import RECIPES

    make = (RECIPES | PRETRAIN_RECIPES).get(recipe.name)
    if make is None:
        return {}
    now, named = config.flatten(config.to_plain(recipe)), config.flatten(config.to_plain(make()))
    # Settings inside one that is null have no names of their own.
    return {name: named.get(name) for name in now if name not in named or now[name] != named[name]}


def verdict(found: "Estimate") -> str:
    """Say in a sentence or two whether it fits."""
    total, reserve = found.memory.total / 1e9, found.reserve_bytes / 1e9
    if found.device_bytes is None:
        return f"A device needs {total:.1f} GB, and {reserve:.0f} GB more for its context. --device-gb says if it fits."
    what = f"{total:.1f} GB and {reserve:.1f} GB of reserve, on a device of {found.device_bytes / 1e9:g} GB"
    return f"FITS: {what}." if found.fits else f"DOES NOT FIT: {what}.\nTry {found.suggestion}"


def _gpu_gb() -> float | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None


def _print_settings(console: "Console", settings: dict[str, Any], changed: dict[str, Any]) -> None:
    from rich.text import Text

    table = make_table(["setting", "value", "in the recipe"])
    for name, value in settings.items():
        before = json.dumps(changed[name]) if name in changed else ""
        table.add_row(*map(Text, (name, json.dumps(value), before)), style="bold" if name in changed else None)
    console.print(table)


def _print_work(console: "Console", found: "Estimate") -> None:
    table = _numbers("parameters")
    table.add_row("total", f"{found.parameters:,}")
    table.add_row("trained", f"{found.trained_parameters:,}")
    for name, number in found.groups.items():
        table.add_row(f"  {name}", f"{number:,}")
    console.print(table)
    table = _numbers("work")
    table.add_row("tokens an image", f"{found.tokens:,}")
    table.add_row("TFLOPs an image, forward and backward", significant(found.flops_per_image / 1e12))
    table.add_row("images an optimizer step", f"{found.images_per_step:,}")
    table.add_row("TFLOPs an optimizer step", significant(found.flops_per_step / 1e12))
    console.print(table)


def _print_memory(console: "Console", memory: "Memory") -> None:
    table = _numbers("memory of each device", "GB")
    for name, title in PARTS.items():
        size = getattr(memory, name)
        if size:
            table.add_row(title, gigabytes(size))
    table.add_row("together", gigabytes(memory.total), style="bold")
    console.print(table)


def _print_alternatives(
    console: "Console", found: "Estimate", recipe: "Recipe | PretrainRecipe", place: "Place"
) -> None:
    from motivnet.training.estimate import with_settings

    known = found.fits is not None
    titles = ["precision", "recompute", "strategy", "devices", "activations, GB", "together, GB"]
    table = make_table([*titles, *(["fits"] if known else []), ""], right=titles[3:])
    for other in found.alternatives:
        same = with_settings(recipe, precision=other.precision, recompute=other.recompute) == recipe
        here = same and (other.strategy, other.world_size) == (place.strategy, place.world_size)
        table.add_row(
            other.precision,
            "yes" if other.recompute else "no",
            other.strategy,
            str(other.world_size),
            gigabytes(other.memory.activations),
            gigabytes(other.memory.total),
            *(["yes" if other.fits else "no"] if known else []),
            "this run" if here else "",
        )
    console.print(table)


def _numbers(title: str, unit: str = "") -> "Table":
    return make_table([title, unit], right=[unit])


def gigabytes(size: int) -> str:
    """Write a size in GB of 10^9 bytes."""
    return significant(size / 1e9)


def significant(value: float) -> str:
    """Write three significant digits; not as a power of ten, down to 0.0001."""
    return f"{value:#.3g}" if value < 99.95 else f"{value:,.0f}"
