import pytest

from motivnet.errors import ConfigError

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from motivnet.server.settings import ServerSettings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_images": 0}, "max_images 0"),
        ({"body_timeout_s": float("nan")}, "body_timeout_s nan"),
        ({"batch_wait_ms": -1.0}, "batch_wait_ms -1.0"),
        ({"token": ""}, "token"),
        ({"token": "a b"}, "token"),
        ({"max_held_bytes": 3, "max_request_bytes": 4}, "max_held_bytes 3 is below max_request_bytes 4"),
        ({"cors_origins": ("lab.example",)}, "origin 'lab.example'"),
        ({"cors_origins": ("https://lab.example/page",)}, "origin"),
    ],
)
def test_settings_that_cannot_be(settings, text):
    with pytest.raises(ConfigError, match=text):
        ServerSettings(**settings)


def test_a_token_is_not_shown():
    assert "s3cret" not in repr(ServerSettings(token="s3cret", batch_wait_ms=0))
