import asyncio
import contextlib

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from prometheus_client import generate_latest
from starlette.requests import Request

from motivnet.server.limits import Gate, RefusedError, check_token, read_multipart
from motivnet.server.settings import ServerSettings
from motivnet.server.telemetry import Metrics

FORM = "multipart/form-data; boundary=XX"


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw})


@pytest.mark.parametrize("given", ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "])
def test_the_token(given):
    check_token(request(Authorization=given), ServerSettings(token="s3cret"))


@pytest.mark.parametrize(
    "given", ["", "s3cret", "Bearer", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "Bearer \xe9"]
)
def test_other_tokens(given):
    with pytest.raises(RefusedError) as caught:
        check_token(request(Authorization=given), ServerSettings(token="s3cret"))
    assert caught.value.status == 401
    assert "s3cret" not in caught.value.detail


def test_no_token_is_asked_for():
    check_token(request(), ServerSettings())


def test_the_gate_counts_what_arrived_and_lets_go():
    metrics = Metrics()
    gate = Gate(ServerSettings(max_requests=1, max_request_bytes=100, max_held_bytes=150), metrics)
    with gate.admit(request(Content_Length="100")) as hold, gate.admit(request(Content_Length="100")) as other:
        # What they declare counts for nothing.
        hold(100)
        other(50)
        with pytest.raises(RefusedError) as caught:
            other(1)
        assert (caught.value.status, caught.value.reason) == (429, "too_many_bytes")
        with gate.place():
            assert b"motivnet_active_requests 1.0" in generate_latest(metrics.registry)
            with pytest.raises(RefusedError) as caught, gate.admit(request(Content_Length="1")):
                pass
            assert (caught.value.status, caught.value.reason) == (429, "too_many_requests")
    with contextlib.suppress(KeyError), gate.admit(request()) as hold, gate.place():
        hold(150)
        raise KeyError
    with gate.admit(request()) as hold:
        hold(150)
    assert b"motivnet_active_requests 0.0" in generate_latest(metrics.registry)


def test_a_body_that_says_that_it_is_too_large():
    gate = Gate(ServerSettings(max_request_bytes=100), Metrics())
    with pytest.raises(RefusedError) as caught, gate.admit(request(Content_Length="101")):
        pass
    assert caught.value.status == 413


def test_memory_is_given_back_once_after_large_requests(monkeypatch):
    calls = []
    monkeypatch.setattr("motivnet.server.limits.TIDY_AFTER_S", 0)
    monkeypatch.setattr("motivnet.server.limits.return_freed_memory", lambda: calls.append(None))
    gate = Gate(ServerSettings(max_held_bytes=100 << 20), Metrics())

    async def ask(*sizes: int) -> None:
        for size in sizes:
            with gate.admit(request()) as hold:
                hold(size)
        await asyncio.sleep(0.01)

    asyncio.run(ask(1 << 20))
    assert not calls
    asyncio.run(ask(20 << 20, 20 << 20))
    assert len(calls) == 1
    asyncio.run(ask(20 << 20))
    assert len(calls) == 2


def part(contents: bytes, disposition: bytes = b'form-data; name="files"; filename="a.png"', *more: bytes) -> bytes:
    head = b"\r\n".join([b"--XX", b"Content-Disposition: " + disposition, *more])
    return head + b"\r\n\r\n" + contents + b"\r\n"


def read(body: bytes, size: int = 1 << 20, content_type: str = FORM, max_images: int = 10) -> list[tuple]:
    """Read a form that comes in chunks; give the name and the contents of each file."""
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    form = Request({**request(Content_Type=content_type).scope}, receive)
    images = asyncio.run(read_multipart(form, ServerSettings(max_images=max_images), lambda size: None))
    return [(image.name, image.image) for image in images]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_files_in_chunks_of_any_size(size):
    tricky = b"\r\n--X\r\n--XY\r\n\x00\xff"
    name = 'form-data; name="files"; filename="höpper.png"'.encode()
    body = part(tricky) + part(b"", name, b"Content-Type: image/png") + b"--XX--\r\n"
    assert read(body, size) == [("a.png", tricky), ("höpper.png", b"")]


def test_names_in_latin_1_and_none():
    latin = part(b"1", 'form-data; name="files"; filename="h\xf6.png"'.encode("latin-1"))
    empty = part(b"2", b'form-data; name="files"; filename=""')
    assert read(latin + empty + b"--XX--\r\n") == [("hö.png", b"1"), ("<bytes 1>", b"2")]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "ends too early"),
        (part(b"x"), "ends too early"),
        (b"nonsense", "boundary"),
        (part(b"x", b'form-data; name="file"; filename="a"') + b"--XX--\r\n", "file field 'file'"),
        (part(b"x", b'form-data; name="files"') + b"--XX--\r\n", "text field 'files'"),
        (part(b"x", b"form-data") + b"--XX--\r\n", "broken form|text field ''"),
        (part(b"x", b'form-data; name="files"; filename="' + b"n" * 100_000) + b"--XX--\r\n", "broken form"),
        (b"--XX--\r\n", "no image"),
    ],
)
def test_broken_forms(body, text):
    with pytest.raises(RefusedError, match=text) as caught:
        read(body)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        *(("multipart/form-data", 422), ("multipart/form-data; boundary=", 422), ("a; boundary=XX", 415), ("", 415)),
        *(("multipart/form-data; boundary*=XX", 422), ("multipart/form-data; boundary=" + "b" * 10_000, 422)),
    ],
)
def test_without_a_boundary(content_type, status):
    with pytest.raises(RefusedError) as caught:
        read(part(b"x"), content_type=content_type)
    assert caught.value.status == status


def test_too_many_files():
    with pytest.raises(RefusedError, match="the limit is 2") as caught:
        read(part(b"x") * 4, max_images=2)
    assert caught.value.status == 413
