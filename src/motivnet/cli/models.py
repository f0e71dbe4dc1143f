"""`motivnet models`: what is available, under which licence, and how good it is."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from motivnet.checkpoints.bundle import BundleConfig


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model and line.")] = False,
) -> None:
    """List the models that come with the package, their licences and scores."""
    from motivnet.checkpoints.bundle import embedded_models, open_bundle

    bundles = [open_bundle(name).config for name in embedded_models()]
    if as_json:
        for config in bundles:
            print(json.dumps(_to_dict(config)))
    elif bundles:
        _print_table(bundles)
    else:
        typer.echo("No model comes with this installation.", err=True)


def _to_dict(config: "BundleConfig") -> dict:
    from motivnet.config import to_plain

    return {
        "name": config.name,
        "summary": config.summary,
        "licence": config.licence,
        "labels": list(config.labels),
        "preprocessing": config.preprocessing.fingerprint,
        "scores": config.scores,
        "calibration": to_plain(config.calibration),
        "abstain_below": config.abstain_below,
    }


def _print_table(bundles: "list[BundleConfig]") -> None:
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from motivnet.checkpoints.bundle import Calibration

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("model", "what it is", "licence", "scores"):
        table.add_column(title, overflow="fold")
    for config in bundles:
        scores = [
            f"{data_set}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
            for data_set, metrics in config.scores.items()
        ]
        if config.calibration != Calibration():
            found = config.calibration
            scores.append(f"calibrated: temperature {found.temperature:.3f}, exponent {found.exponent:.3f}")
        cells = (config.name, config.summary, config.licence, "\n".join(scores) or "not measured")
        table.add_row(*map(Text, cells))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
