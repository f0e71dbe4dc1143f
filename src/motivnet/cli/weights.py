"""`motivnet weights`: list, fetch, inspect, convert and verify released weights."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from motivnet.cli.console import echo, print_table
from motivnet.cli.options import argument, flag, option
from motivnet.config import to_json, to_plain
from motivnet.errors import needs_extra
from motivnet.inference.predictor_config import parse_size

weights = typer.Typer(
    name="weights", help="List, fetch, inspect, convert and verify released weights.", no_args_is_help=True
)

CacheOption = Annotated[
    Path | None, option("DIR", "--cache", help="Folder for downloads; else the Hugging Face hub's cache.")
]
HeadsOption = Annotated[int | None, typer.Option(min=1, help="Attention heads, for widths that were never released.")]


@weights.command("list")
def list_weights(
    as_json: Annotated[bool, flag("--json")] = False,
    cache: CacheOption = None,
) -> None:
    """List all known files: their place, size, licence, purpose, and whether they are cached.

    Example: motivnet weights list --json

    Options:
        as_json: Print one JSON object per file and line.
    """
    from motivnet.checkpoints.hub import cached
    from motivnet.checkpoints.released import RELEASED

    rows = []
    for entry in RELEASED:
        path = cached(entry.name, cache=cache)
        if as_json:
            shown = {"size": entry.size, "where": entry.where, "cached": path and str(path)}
            echo(to_json(to_plain(entry) | shown))
        place = f"{entry.repo}/{entry.file}" if entry.repo else f"{entry.file}, {entry.where}"
        about = "\n".join(filter(None, (entry.purpose, place, entry.note)))
        rows.append((entry.name, "yes" if path else "no", entry.size, entry.licence.name, about))
    if not as_json:
        print_table(("name", "cached", "size", "licence", "purpose and place"), rows, no_wrap=("name", "size"))
        for licence in dict.fromkeys(entry.licence for entry in RELEASED):
            echo(f"Licence {licence}", err=True)


@weights.command("fetch")
def fetch_weights(
    name: Annotated[str, argument("NAME")],
    mirror: Annotated[str | None, option("URL")] = None,
    cache: CacheOption = None,
) -> None:
    """Download weights into the cache, verify their checksums, and print their path.

    Example: motivnet weights fetch sapiens-pose-0.3b

    Options:
        name: A name from `motivnet weights list`; or hf:owner/repo/file; or hf:owner/repo, which is a bundle.
        mirror: Mirror of the hub; else MOTIVNET_MIRROR.
    """
    from motivnet.checkpoints.hub import fetch

    echo(fetch(name, mirror=mirror, cache=cache))


@weights.command("inspect")
def inspect(
    file: Annotated[str, argument("FILE")],
    as_json: Annotated[bool, flag("--json")] = False,
    num_heads: HeadsOption = None,
) -> None:
    """Show format, dimensions, precision and labels of a weight file, and the tensors that loading would drop.

    Example: motivnet weights inspect MotivNet.pth

    Options:
        file: A weight file, or its name.
        as_json: Print one JSON object.
    """
    from motivnet.checkpoints.bundle import find_weights

    with needs_extra("torch", "torch"):
        from motivnet.checkpoints.formats import inspect_weights

    found = to_plain(inspect_weights(find_weights(file), num_heads=num_heads))
    if as_json:
        echo(to_json(found))
        return
    for key, value in found.items():
        shown = ", ".join(map(str, value)) or "nothing" if isinstance(value, list) else value
        echo(f"{key:14} {'unknown' if shown is None else shown}")


@weights.command("convert")
def convert_weights(
    file: Annotated[str, argument("FILE")],
    out: Annotated[Path, argument("OUT")],
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    size: Annotated[str | None, option("HxW")] = None,
    geometry: Literal["motivnet-pad", "motivnet-stretch"] = "motivnet-pad",
    num_heads: HeadsOption = None,
    name: str | None = None,
    licence: str | None = None,
    overwrite: Annotated[bool, flag("--overwrite")] = False,
) -> None:
    """Convert a released file to a bundle.

    Example: motivnet weights convert MotivNet.pth motivnet-1b --dtype bf16

    Options:
        file: A weight file, or its name.
        out: Folder of the bundle to write.
        dtype: Precision of the weights.
        size: Input size in pixels, such as 512x384; else that of the file.
        geometry: How a face crop becomes the input.
        name: Name of the bundle; else that of its folder.
        licence: Licence of the weights; else that of the released files.
        overwrite: Replace a bundle that exists.
    """
    image_size = parse_size(size) if size else None
    with needs_extra("torch", "torch"):
        from motivnet.checkpoints.load import convert
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
    echo(bundle.path)


@weights.command("verify")
def verify_weights(
    file: Annotated[str, argument("FILE_OR_NAME")],
    cache: CacheOption = None,
) -> None:
    """Verify the checksum and check that every value is finite: exit code 2 if anything is damaged.

    Example: motivnet weights verify sapiens-pose-0.3b

    Options:
        file: A weight file, a bundle, or the name of a fetched one.
    """
    with needs_extra("torch", "torch"):
        from motivnet.checkpoints.files import verify_weights

    for report, contents in verify_weights(file, cache=cache):
        against = "as expected" if report.status == "ok" else "nothing known to compare it with"
        echo(f"{report.path}: {contents}; sha256 {report.sha256}, {against}")
