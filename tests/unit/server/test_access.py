import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from starlette.datastructures import Headers

from motivnet.server.access import Access
from motivnet.server.limits import RefusedError
from motivnet.server.settings import ServerSettings

LAB = "https://lab.example"


def check(method: str = "POST", host: str = "localhost:8000", *, active: int = 1, given=None, **settings) -> str | None:
    """Return the reason of a refusal, or None."""

    async def app(*_):
        raise AssertionError

    access = Access(app, ServerSettings(**settings), app)
    access._active = active
    try:
        access._check(method, Headers({"host": host, **(given or {})}))
    except RefusedError as error:
        return f"{error.status} {error.reason}"


@pytest.mark.parametrize(
    ("host", "settings", "refused"),
    [
        *((host, {}, False) for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "10.0.0.1", "")),
        *((host, {}, True) for host in ("evil.example", "localhost.evil.example:8000", "[::1", "127.0.0.1.x", "a@b:c")),
        ("evil.example", {"token": "s3cret"}, False),
        ("evil.example", {"token": "s3cret", "allowed_hosts": ("lab.example",)}, True),
        ("lab.example:443", {"allowed_hosts": ("lab.example",)}, False),
        ("evil.example", {"allowed_hosts": ("*",)}, False),
    ],
)
def test_hosts(host, settings, refused):
    assert check("GET", host, **settings) == ("403 host" if refused else None)


@pytest.mark.parametrize(
    ("given", "settings", "refused"),
    [
        ({}, {}, False),
        ({"origin": "http://localhost:8000"}, {}, False),
        # Behind a proxy that names another host.
        ({"origin": LAB, "sec-fetch-site": "same-origin"}, {}, False),
        ({"sec-fetch-site": "none"}, {}, False),
        ({"origin": LAB, "sec-fetch-site": "cross-site"}, {"cors_origins": (LAB,)}, False),
        ({"origin": LAB}, {"cors_origins": ("*",)}, False),
        ({"origin": LAB}, {}, True),
        ({"origin": "null"}, {}, True),
        ({"origin": "http://localhost:3000", "sec-fetch-site": "same-site"}, {}, True),
        ({"sec-fetch-site": "cross-site"}, {}, True),
        ({"origin": LAB, "sec-fetch-site": "cross-site"}, {"cors_origins": ("https://other.example",)}, True),
    ],
)
def test_origins(given, settings, refused):
    assert check(given=given, **settings) == ("403 origin" if refused else None)
    assert check("GET", given=given, **settings) is None


def test_too_many_at_once():
    assert check(active=2, max_connections=2) is None
    assert check(active=3, max_connections=2) == "503 too_many_connections"
