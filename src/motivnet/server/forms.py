"""Files of a multipart form, kept in memory: nothing here could write one to disk.

Starlette's own reading keeps each file in a temporary one, which may roll over to disk, and takes several times as long
for small images.
"""

from collections.abc import AsyncIterable, Callable

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header


class FormError(Exception):
    """A form that is broken or holds what was not asked for; the message is for the client."""


class TooManyFilesError(Exception):
    """A form with more files than are allowed."""


async def read_files(
    content_type: str, chunks: AsyncIterable[bytes], *, field: str, max_files: int
) -> list[tuple[str | None, bytes]]:
    """Read a form that consists of files in one field.

    Args:
        content_type: header of the body, which states the boundary.
        chunks: the body.
        field: the field's name; it may come several times.
        max_files: beyond which the form is refused.

    Returns:
        (file name or None, contents) of each file, in order.

    Raises:
        FormError: if the form is broken, or has another field or one without a file.
        TooManyFilesError: if there are more files.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise FormError("broken form: the Content-Type states no boundary")
    files = _Files(field, max_files)
    try:
        parser = MultipartParser(boundary, files.callbacks())  # pyright: ignore[reportArgumentType]
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError:
        # Whose messages repeat what the client sent.
        raise FormError("broken form: it does not keep to its boundary or its headers") from None
    if not files.ended:
        raise FormError("broken form: it ends too early")
    return list(zip(files.names, map(bytes, files.contents), strict=True))


class _Files:
    """What the parser calls as it goes."""

    def __init__(self, field: str, max_files: int) -> None:
        self.names: list[str | None] = []
        self.contents: list[bytearray] = []
        self.ended = False
        self._field = field
        self._max_files = max_files
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition: bytes | None = None

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._extend_name,
            "on_header_value": self._extend_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._extend_contents,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._disposition = None

    def _extend_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _extend_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _end_headers(self) -> None:
        options = parse_options_header(self._disposition)[1]
        field, name = options.get(b"name"), options.get(b"filename")
        if field is None or name is None or _text(field) != self._field:
            kind = "text" if name is None else "file"
            raise FormError(f"{kind} field {_text(field or b'')[:40]!r}. Allowed: files in the field {self._field!r}")
        if len(self.contents) == self._max_files:
            raise TooManyFilesError
        self.names.append(_text(name) or None)
        self.contents.append(bytearray())

    def _extend_contents(self, data: bytes, start: int, end: int) -> None:
        self.contents[-1] += data[start:end]

    def _end(self) -> None:
        self.ended = True


def _text(name: bytes) -> str:
    """Read a name as browsers write it; older clients write Latin-1."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
