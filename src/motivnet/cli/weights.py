"""`motivnet weights`: what others have released; fetch it, look into it, turn it into a bundle, check it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from motivnet.inference.predictor_config import parse_size

if TYPE_CHECKING:
    from motivnet.checkpoints.released import Released

weights = typer.Typer(
    name="weights",
    help="List, fetch, inspect, convert and verify the weights that others have released.",
    no_args_is_help=True,
)

# Rich assumes 80 columns where there is no terminal, and would break names.
PIPE_COLUMNS = 160

CacheOption = Annotated[
    Path | None, typer.Option("--cache", metavar="DIR", help="Another folder than the Hugging Face hub's usual cache.")
]
HeadsOption = Annotated[
    int | None, typer.Option(min=1, help="Attention heads, for a width that was never released: no tensor tells them.")
]


@weights.command("list")
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file and line.")] = False,
    cache: CacheOption = None,
) -> None:
    """List every known file: where it is, its size and licence, what it is for, and whether it is here already."""
    from motivnet.checkpoints.released import RELEASED

    if as_json:
        for entry in RELEASED:
            print(json.dumps(_to_dict(entry, _cached(entry, cache))))
        return
    _print_table(RELEASED, cache)
    for licence in dict.fromkeys(entry.licence for entry in RELEASED):
        typer.echo(f"Licence {licence}", err=True)


@weights.command("fetch")
def fetch_weights(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="A name from `motivnet weights list`; or hf:owner/repo/file; or hf:owner/repo, which is a bundle.",
        ),
    ],
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Address that answers as the hub does; else MOTIVNET_MIRROR.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Bring weights into the cache, checked, and print where they are. A broken transfer goes on where it stopped."""
    from motivnet.checkpoints.hub import fetch

    print(fetch(name, mirror=mirror, cache=cache, say=lambda line: typer.echo(line, err=True)))


@weights.command("inspect")
def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False, help="A file of weights, or its name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    num_heads: HeadsOption = None,
) -> None:
    """Say what a file of weights is: format, dimensions, precision, labels, and what loading it would drop."""
    from motivnet import config
    from motivnet.cli.extras import needs_extra

    with needs_extra("torch", "torch"):
        from motivnet.checkpoints.formats import inspect_weights
        from motivnet.checkpoints.load import find_weights

    found = config.to_plain(inspect_weights(find_weights(file), num_heads=num_heads))
    if as_json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key:14} {_for_people(value)}")


@weights.command("convert")
def convert_weights(
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False, help="A file of weights, or its name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", show_default=False, help="Folder of the bundle to write.")],
    dtype: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Precision to keep them in.")] = "fp32",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Input size in pixels, such as 512x384; else the file's own.")
    ] = None,
    geometry: Annotated[
        Literal["motivnet-pad", "motivnet-stretch"], typer.Option(help="How a face crop becomes the input.")
    ] = "motivnet-pad",
    num_heads: HeadsOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle; else that of its folder.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights; else as the format's is known.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that exists.")] = False,
) -> None:
    """Turn a released file into a bundle."""
    from motivnet.cli.extras import needs_extra

    image_size = parse_size(size) if size else None
    with needs_extra("torch", "torch"):
        from motivnet.checkpoints.convert import convert
        from motivnet.inference.torch_backend import DTYPES

    bundle = convert(
        file,
        out,
        dtype=DTYPES[dtype],
        image_size=image_size,
        geometry=geometry,
        num_heads=num_heads,
        name=name,
        licence=licence,
        overwrite=overwrite,
    )
    print(bundle.path)


@weights.command("verify")
def verify_weights(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_NAME",
            show_default=False,
            help="A file of weights, a bundle, or the name of a fetched one.",
        ),
    ],
    cache: CacheOption = None,
) -> None:
    """Compare the checksum with what it should be, and read every number: exit code 2 if anything is damaged."""
    from motivnet.checkpoints.bundle import open_bundle
    from motivnet.checkpoints.hub import cached, is_hub_name, verify, weight_files
    from motivnet.errors import CheckpointError

    place = (cached(file, cache=cache) if is_hub_name(file) else None) or Path(file)
    if place.is_dir():
        open_bundle(place)
    files = weight_files(place)
    if not files:
        raise CheckpointError(f"{place}: a folder without weights")
    for path in files:
        report = verify(path if place.is_dir() else file, cache=cache)
        if report.status == "damaged":
            raise CheckpointError(
                f"{report.path}: damaged: sha256 {report.sha256}, expected {report.expected}. Fetch it again"
            )
        against = "as expected" if report.status == "ok" else "nothing known to compare it with"
        print(f"{report.path}: {_read_through(report.path)}; sha256 {report.sha256}, {against}")


def _read_through(path: Path) -> str:
    """Read every number of a file, and say what it holds."""
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import CheckpointError

    if ".onnx" in path.suffixes:
        return "onnx, whose numbers are not read"
    with needs_extra("torch", "torch"):
        from motivnet.checkpoints.integrity import read_through

    found = read_through(path)
    if found.num_not_finite:
        raise CheckpointError(
            f"{path}: damaged: {found.num_not_finite} of {found.num_values} values are NaN or infinite"
        )
    return f"{found.container}, {found.num_tensors} tensor(s), {found.num_values} values, all finite"


def _cached(entry: "Released", cache: Path | None) -> Path | None:
    from motivnet.checkpoints.hub import cached
    from motivnet.errors import MissingExtraError

    try:
        return cached(entry.name, cache=cache)
    except MissingExtraError:  # without huggingface_hub nothing was fetched
        return None


def _to_dict(entry: "Released", path: Path | None) -> dict:
    from motivnet import config

    return config.to_plain(entry) | {"size": entry.size, "where": entry.where, "cached": path and str(path)}


def _print_table(entries: "tuple[Released, ...]", cache: Path | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("name", "here", "size", "licence", "what it is for, and where it is"):
        table.add_column(title, overflow="fold", no_wrap=title in {"name", "size"})
    for entry in entries:
        here = "yes" if _cached(entry, cache) else "no"
        place = f"{entry.repo}/{entry.file}" if entry.repo else f"{entry.file}, {entry.where}"
        about = "\n".join(filter(None, (entry.purpose, place, entry.note)))
        table.add_row(*map(Text, (entry.name, here, entry.size, entry.licence.name, about)))
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


def _for_people(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nothing"
    return str(value)
