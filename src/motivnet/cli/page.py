"""`motivnet page`: a page that recognises emotions in the browser, without a server."""

from pathlib import Path
from typing import Annotated

from motivnet.cli.console import echo
from motivnet.cli.options import Model, Overwrite, argument

EPILOG = "Open index.html by a double click, or put the folder on any web space. Example: motivnet page faces"


def page(*, folder: Annotated[Path, argument("DIR")], model: Model = "nano", overwrite: Overwrite = False) -> None:
    """Write a page that recognises the emotions of faces in the browser, without a server: no image leaves it.

    Options:
        folder: Folder to write.
    """
    from motivnet.server.static_page import write_page

    echo(f"written to {write_page(folder, model=model, overwrite=overwrite)}", err=True)
