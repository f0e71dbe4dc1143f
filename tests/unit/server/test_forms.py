import asyncio

import pytest

pytest.importorskip("python_multipart", reason="the extra 'serve' is not installed")

from motivnet.server.forms import FormError, TooManyFilesError, read_files

TYPE = "multipart/form-data; boundary=XX"


def part(contents: bytes, disposition: bytes = b'form-data; name="files"; filename="a.png"', *more: bytes) -> bytes:
    head = b"\r\n".join([b"--XX", b"Content-Disposition: " + disposition, *more])
    return head + b"\r\n\r\n" + contents + b"\r\n"


def read(body: bytes, size: int = 1 << 20, content_type: str = TYPE, max_files: int = 10):
    async def chunks():
        for start in range(0, len(body), size):
            yield body[start : start + size]

    return asyncio.run(read_files(content_type, chunks(), field="files", max_files=max_files))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_files_in_chunks_of_any_size(size):
    tricky = b"\r\n--X\r\n--XY\r\n\x00\xff"
    name = 'form-data; name="files"; filename="höpper.png"'.encode()
    body = part(tricky) + part(b"", name, b"Content-Type: image/png") + b"--XX--\r\n"
    assert read(body, size) == [("a.png", tricky), ("höpper.png", b"")]


def test_names_in_latin_1_and_none():
    latin = part(b"1", 'form-data; name="files"; filename="h\xf6.png"'.encode("latin-1"))
    empty = part(b"2", b'form-data; name="files"; filename=""')
    assert read(latin + empty + b"--XX--\r\n") == [("hö.png", b"1"), (None, b"2")]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "ends too early"),
        (part(b"x"), "ends too early"),
        (b"nonsense", "boundary"),
        (part(b"x", b'form-data; name="file"; filename="a"') + b"--XX--\r\n", "file field 'file'"),
        (part(b"x", b'form-data; name="files"') + b"--XX--\r\n", "text field 'files'"),
        (part(b"x", b"form-data") + b"--XX--\r\n", "text field ''"),
        (part(b"x", b'form-data; name="files"; filename="' + b"n" * 100_000) + b"--XX--\r\n", "broken form"),
    ],
)
def test_broken_forms(body, text):
    with pytest.raises(FormError, match=text):
        read(body)


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", "a; boundary*=XX"])
def test_without_a_boundary(content_type):
    with pytest.raises(FormError, match="boundary"):
        read(part(b"x"), content_type=content_type)


def test_a_boundary_that_is_too_long():
    with pytest.raises(FormError):
        read(part(b"x"), content_type="multipart/form-data; boundary=" + "b" * 10_000)


def test_too_many_files():
    with pytest.raises(TooManyFilesError):
        read(part(b"x") * 3 + b"--XX--\r\n", max_files=2)
