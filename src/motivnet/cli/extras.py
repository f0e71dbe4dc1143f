"""Turn a missing optional package into the line that installs it."""

import contextlib
from collections.abc import Iterator

from motivnet.errors import MissingExtraError


@contextlib.contextmanager
def needs_extra(package: str, extra: str) -> Iterator[None]:
    """Import inside: a package that is not installed becomes a MissingExtraError naming the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("motivnet"):
            raise
        raise MissingExtraError(error.name or package, extra) from None
