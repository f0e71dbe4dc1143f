"""The program `motivnet`: its verbs, and what becomes of errors. Imports nothing heavy, so that --help is quick."""

import os
import sys
from typing import Annotated

import typer

from motivnet.cli.ablate import ablate
from motivnet.cli.audit import audit
from motivnet.cli.benchmark import benchmark
from motivnet.cli.bulk import bulk
from motivnet.cli.calibrate import calibrate
from motivnet.cli.data import data
from motivnet.cli.evaluate import evaluate
from motivnet.cli.explain import explain
from motivnet.cli.export import export
from motivnet.cli.live import EPILOG as LIVE_EPILOG
from motivnet.cli.live import live
from motivnet.cli.models import models
from motivnet.cli.predict import EPILOG as PREDICT_EPILOG
from motivnet.cli.predict import predict
from motivnet.cli.pretrain import pretrain
from motivnet.cli.serve import serve
from motivnet.cli.train import train
from motivnet.cli.video import EPILOG as VIDEO_EPILOG
from motivnet.cli.video import video
from motivnet.cli.weights import weights
from motivnet.errors import MotivNetError
from motivnet.storage import end_on_sigterm
from motivnet.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
EPILOGS = {predict: PREDICT_EPILOG, video: VIDEO_EPILOG, live: LIVE_EPILOG}
VERBS = (
    *(predict, video, live, bulk, serve, models),
    *(train, pretrain, ablate, export),
    *(evaluate, benchmark, audit, calibrate, explain),
)
for verb in VERBS:
    app.command(verb.__name__, epilog=EPILOGS.get(verb))(verb)
app.add_typer(data)
app.add_typer(weights)


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
