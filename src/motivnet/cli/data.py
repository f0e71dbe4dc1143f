"""`motivnet data`."""

import typer

data = typer.Typer(name="data", help="Inspect, build and sample data sets.", no_args_is_help=True)


@data.command("inspect")
def inspect() -> None:
    """Inspect."""
