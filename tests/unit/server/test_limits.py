import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from prometheus_client import generate_latest
from starlette.requests import Request

from motivnet.server.limits import Gate, RefusedError, check_token
from motivnet.server.metrics import Metrics
from motivnet.server.settings import ServerSettings


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


def test_the_gate_counts_requests_and_bytes_and_lets_go():
    metrics = Metrics()
    settings = ServerSettings(max_requests=2, max_request_bytes=100, max_held_bytes=150)
    gate = Gate(settings, metrics)
    with gate.admit(request(Content_Length="60")):
        # One of unknown length counts as the largest.
        with pytest.raises(RefusedError) as caught, gate.admit(request()):
            pass
        assert (caught.value.status, caught.value.reason) == (429, "too_many_bytes")
        with gate.admit(request(Content_Length="60")):
            assert b"motivnet_active_requests 2.0" in generate_latest(metrics.registry)
            with pytest.raises(RefusedError) as caught, gate.admit(request(Content_Length="1")):
                pass
            assert (caught.value.status, caught.value.reason) == (429, "too_many_requests")
            assert caught.value.headers == {"Retry-After": "1"}
    with pytest.raises(KeyError), gate.admit(request()):
        raise KeyError
    with gate.admit(request()):
        pass
    assert b"motivnet_active_requests 0.0" in generate_latest(metrics.registry)


def test_a_body_that_says_that_it_is_too_large():
    gate = Gate(ServerSettings(max_request_bytes=100), Metrics())
    with pytest.raises(RefusedError) as caught, gate.admit(request(Content_Length="101")):
        pass
    assert caught.value.status == 413
