"""`motivnet card`: a card for a bundle, with its scores."""

from pathlib import Path
from typing import Annotated

from motivnet.cli.console import echo, track
from motivnet.cli.options import Overwrite, argument, option
from motivnet.errors import needs_extra


def card(
    bundle: Annotated[Path, argument("BUNDLE")],
    data: Annotated[str | None, option("[NAME=]KIND:PATH[@SPLIT]")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the model card of a bundle, README.md, from what it records (needs the extras `evaluate` and `hub`).

    Example: motivnet card runs/own/bundle --data fer2013:fer2013.parquet@PrivateTest

    Options:
        bundle: Folder of a bundle.
        data: Faces to score it on.
    """
    with needs_extra("pyarrow", "evaluate"):
        from motivnet.experiments.card import write_card
    echo(f"written to {write_card(bundle, data, overwrite=overwrite, track=track)}", err=True)
