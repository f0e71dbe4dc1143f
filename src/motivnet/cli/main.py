"""The program `motivnet`: its verbs, and what becomes of errors. Imports nothing heavy, so that --help is quick."""

import contextlib
import importlib
import os
import sys
from typing import Annotated, NoReturn

import typer

from motivnet.cli.console import echo
from motivnet.cli.options import OnceCommand, derive_options
from motivnet.errors import MotivNetError, one_line
from motivnet.storage import end_on_sigterm
from motivnet.version import __version__

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
# One module per verb, with a function, or a group of commands, of the same name.
VERBS = (
    *("predict", "video", "tabulate", "live", "bulk", "serve", "page", "models"),
    *("train", "pretrain", "adapt", "distil", "ablate", "probe", "export"),
    *("evaluate", "benchmark", "audit", "agree", "calibrate", "quantize", "explain", "card"),
    *("data", "weights"),
)
for _name in VERBS:
    _module = importlib.import_module(f"motivnet.cli.{_name}")
    _verb = getattr(_module, _name)
    if isinstance(_verb, typer.Typer):
        for _command in _verb.registered_commands:
            _command.cls, _command.callback = OnceCommand, derive_options(_command.callback)  # type: ignore[arg-type]
        app.add_typer(_verb)
    else:
        app.command(_name, cls=OnceCommand, epilog=getattr(_module, "EPILOG", None))(derive_options(_verb))


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"motivnet {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Recognise seven emotions in the faces of photographs and videos."""


def main() -> None:
    """Run the command line: a mistake, a full disk or too little memory is a line and exit code 2, Ctrl-C code 130."""
    # Each thread works on one image: OpenCV's own would compete, and its log helps nobody at a command line.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller; the next file that is opened would take its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
    try:
        try:
            with end_on_sigterm():
                app(prog_name="motivnet")
        finally:
            sys.stdout.flush()
    except MotivNetError as error:
        _fail(error)
    except MemoryError:
        _fail("not enough memory")
    except OSError as error:
        _fail(f"{'' if error.filename is None else f'{error.filename}: '}{error.strerror or error}")


def _fail(message: object) -> NoReturn:
    """End with a line on stderr, and without a second message about what cannot be written."""
    with contextlib.suppress(OSError):
        print(f"motivnet: {one_line(message)}", file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(2)
