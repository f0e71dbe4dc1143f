"""The program `motivnet`: its verbs, and what becomes of errors. Imports nothing heavy, so that --help is quick."""

import importlib
import os
import sys
from typing import Annotated

import typer

from motivnet.errors import MotivNetError
from motivnet.storage import end_on_sigterm
from motivnet.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# One module per verb, with a function, or a group of commands, of the same name.
VERBS = (
    *("predict", "video", "live", "bulk", "serve", "models"),
    *("train", "pretrain", "adapt", "distil", "ablate", "export"),
    *("evaluate", "benchmark", "audit", "calibrate", "quantize", "explain"),
    *("data", "weights"),
)
for _name in VERBS:
    _module = importlib.import_module(f"motivnet.cli.{_name}")
    _verb = getattr(_module, _name)
    if isinstance(_verb, typer.Typer):
        app.add_typer(_verb)
    else:
        app.command(_name, epilog=getattr(_module, "EPILOG", None))(_verb)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"motivnet {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Recognise seven emotions in the faces of photographs and videos."""


def main() -> None:
    """Run the command line: a user's mistake becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    # Each thread works on one image: OpenCV's own would compete, and its log helps nobody at a command line.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        with end_on_sigterm():
            app(prog_name="motivnet")
    except MotivNetError as error:
        # Messages of the libraries below may span lines.
        sys.stderr.write(f"motivnet: {' '.join(str(error).split())}\n")
        sys.exit(2)
