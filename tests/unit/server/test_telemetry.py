import asyncio
import contextlib
import json
import logging
import sys

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from prometheus_client import generate_latest

from motivnet.inference.results import FaceResult, ImageResult
from motivnet.preprocess import Box
from motivnet.server.telemetry import FIELDS, JsonFormatter, Metrics, Telemetry, log_to_stderr


def call(app, path: str = "/a", headers=()) -> tuple[list, str]:
    """Send one request through the middleware; give what it sent, and the metrics."""
    metrics, sent = Metrics(), []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": path, "headers": list(headers)}
    with contextlib.suppress(ZeroDivisionError):
        asyncio.run(Telemetry(app, metrics, frozenset({"/a"}))(scope, receive, send))
    return sent, generate_latest(metrics.registry).decode()


async def answer(scope, receive, send):
    scope["state"]["notes"]["images"] = 3
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body"})


async def break_down(scope, receive, send):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("given", "taken"), [(b"abc-1.2_3", True), (b"a b", False), (b"a\n", False), (b"x" * 65, False)]
)
def test_a_harmless_id_is_taken(given, taken):
    sent, _ = call(answer, headers=[(b"x-request-id", given)])
    got = dict(sent[0]["headers"])[b"x-request-id"]
    assert (got == given) is taken
    assert taken or len(got) == 32


def test_paths_cannot_multiply():
    assert 'motivnet_requests_total{path="/a",status="201"} 1.0' in call(answer)[1]
    assert 'motivnet_requests_total{path="other",status="201"} 1.0' in call(answer, "/b?c")[1]


def test_an_application_that_breaks_down_counts_as_500():
    assert 'motivnet_requests_total{path="/a",status="500"} 1.0' in call(break_down)[1]


def test_the_log_has_notes_of_the_route(caplog):
    caplog.set_level("INFO", "motivnet.server.access")
    call(answer)
    fields = caplog.records[-1].fields
    assert (fields["images"], fields["status"], fields["path"]) == (3, 201, "/a")


def test_other_messages_pass():
    passed = []

    async def app(scope, receive, send):
        passed.append(scope["type"])

    asyncio.run(Telemetry(app, Metrics(), frozenset())({"type": "lifespan"}, None, None))
    assert passed == ["lifespan"]


def test_images_and_faces_are_counted():
    metrics = Metrics()
    face = FaceResult(Box(0, 0, 9, 9), 1.0, "fear", {"fear": 1.0})
    metrics.count(ImageResult(source="a", status="ok", model="m", preprocessing="p", faces=(face, face)))
    text = generate_latest(metrics.registry).decode()
    assert 'motivnet_images_total{status="ok"} 1.0' in text
    assert 'motivnet_faces_total{emotion="fear"} 2.0' in text


def record(**more) -> logging.LogRecord:
    made = logging.LogRecord(
        "a.b", logging.WARNING, "f.py", 1, "said %s\nand more", ("this",), more.pop("exc_info", None)
    )
    made.__dict__.update(more)
    return made


def test_a_record_is_one_line():
    text = JsonFormatter().format(record(**{FIELDS: {"status": 200}}))
    line = json.loads(text)
    assert "\n" not in text
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "a.b", "message": "said this\nand more", "status": 200}


def test_a_traceback_is_in_it():
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        text = JsonFormatter().format(record(exc_info=sys.exc_info()))
    assert "\n" not in text
    assert "ZeroDivisionError" in json.loads(text)["traceback"]


def test_levels(capsys):
    root = logging.getLogger()
    before, level, uvicorns = root.handlers[:], root.level, logging.getLogger("uvicorn.error").level
    try:
        log_to_stderr("info")
        logging.getLogger("motivnet.server").info("ours")
        logging.getLogger("uvicorn.error").info("theirs")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("uvicorn.error").setLevel(uvicorns)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "ours"
