"""The exceptions of motivnet.

```
MotivNetError
├── ConfigError      a setting that does not exist or is out of range
├── ImageError       bytes that are not an image, or an image beyond the limits
├── DetectorError    a face detector that is unknown or cannot run here
├── CheckpointError  weights that are missing, damaged or of another model
├── DataError        a data set that is not as its reader expects
├── ExportError      an exported model whose outputs differ from its original
├── OutputError      a result file that exists or cannot be written
├── TrainingError    a run that cannot continue: NaN or infinite loss or weights
└── MissingExtraError  an optional dependency that is not installed
```
"""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

# Control characters other than the end of a line, marks that reverse text, and bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Of a message, in characters; a cell of a table that it names may have any length.
MAX_MESSAGE = 1000


class MotivNetError(Exception):
    """Base of all errors that a user of motivnet can cause and fix."""


class ConfigError(MotivNetError):
    """A setting that does not exist, or a value that is not allowed."""


class ImageError(MotivNetError):
    """Bytes that cannot be decoded as an image, or an image beyond the limits."""


class DetectorError(MotivNetError):
    """A face detector that is unknown or cannot run on this machine."""


class CheckpointError(MotivNetError):
    """Weights or bundles that are missing, damaged or of another model."""


class DataError(MotivNetError):
    """A data set that is not as its reader expects; names file and row."""


class ExportError(MotivNetError):
    """An exported model whose outputs differ from those of its original."""


class OutputError(MotivNetError):
    """A result file that exists or cannot be written."""


class TrainingError(MotivNetError):
    """A run that cannot continue: its loss or weights are NaN or infinite."""


class MissingExtraError(MotivNetError):
    """An optional dependency that is not installed; the message names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        # Both are in `args`, so that the error can be pickled by a worker process.
        super().__init__(package, extra)

    def __str__(self) -> str:
        package, extra = self.args
        return f"this needs {package}, which is not installed: pip install 'motivnet[{extra}]'"


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return the message for an unknown name, with a suggestion and the allowed names."""
    choices = sorted(allowed)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {kind} {name!r}{hint} Allowed: {', '.join(choices)}"


def require(condition: object, message: str, error: type[MotivNetError] = ConfigError) -> None:
    """Raise an error of ours unless a condition holds.

    Args:
        condition: what must hold.
        message: of the error; it is made in either case, so it must be cheap and may not depend on the failure.
        error: to raise.
    """
    if not condition:
        raise error(message)


@contextlib.contextmanager
def needs_extra(package: str, extra: str) -> Iterator[None]:
    """Turn a failed import inside `with` into a MissingExtraError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("motivnet"):
            raise
        raise MissingExtraError(error.name or package, extra) from None


@contextlib.contextmanager
def reraised(error: type[MotivNetError], where: object, *kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of some kinds inside `with` into an error of ours that names where they were, and says the same.

    Args:
        error: to raise.
        where: the beginning of its message, such as a file.
        kinds: of exceptions.
    """
    try:
        yield
    except kinds as found:
        raise error(f"{where}: {found}") from None


def for_terminal(text: str) -> str:
    """Escape what would control a terminal, such as in the names of files and tensors; ends of lines stay."""
    return _UNSAFE.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(message: object) -> str:
    """Return a message as one line for a terminal, with the middle of a long one left out."""
    # Messages of the libraries below may span lines.
    text = for_terminal(" ".join(str(message).split()))
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 2 :]}"
