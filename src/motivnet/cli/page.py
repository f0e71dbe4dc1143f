"""`motivnet page`: a page that recognises emotions in the browser, without a server."""

from pathlib import Path
from typing import Annotated

import typer

from motivnet.cli.console import echo
from motivnet.cli.options import Model, Overwrite, derive_options

EPILOG = (
    "Open DIR/index.html by a double click, or put the folder on any web space. The model runs in the browser: no image "
    "leaves it. Example: motivnet page faces"
)


@derive_options
def page(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="Folder to write.")],
    model: Model = "nano",
    overwrite: Overwrite = False,
) -> None:
    """Write a folder with a page that recognises the emotions of faces in the browser, without a server."""
    from motivnet.server.static_page import write_page

    index = write_page(folder, model=model, overwrite=overwrite)
    size = sum(file.stat().st_size for file in folder.iterdir())
    echo(f"written to {index}: {size / 1e6:.0f} MB; open it in a browser", err=True)
