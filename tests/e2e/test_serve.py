"""`motivnet serve` over real sockets: what clients do wrong, what they do too often, and the end."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from motivnet.cli.main import app
from motivnet.errors import MotivNetError
from motivnet.inference.predictor import Predictor

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals as on Windows are others")

TOKEN = "s3cret-t0ken"
# For what takes a second: nothing that goes well waits so long, on a machine however slow.
PATIENCE_S = 300
BOUNDARY = "boundary-of-the-test"
KEYED = {"Authorization": f"Bearer {TOKEN}"}


class Served:
    """A server in a process of its own, and what it has logged."""

    def __init__(self, process: subprocess.Popen[str], port: int, logged: list[str]) -> None:
        self.process, self.port, self.logged = process, port, logged

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(self, method: str, path: str, body: bytes | None = None, headers=None) -> tuple[int, dict[str, str], bytes]:
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def raw(self, data: bytes) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        sock.sendall(data)
        return sock

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def serving(folder: Path, *settings: str, model: Path | str = "nano", **environment: str) -> Iterator[Served]:
    """Start `motivnet serve` with a home and a folder for temporary files of its own."""
    command = [sys.executable, "-m", "motivnet", "serve", "--port", "0", "--model", str(model), *settings]
    own = {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **own, **environment}, cwd=folder
    )
    logged: list[str] = []
    found, port = threading.Event(), [0]

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            logged.append(line)
            if match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                port[0] = int(match[1])
                found.set()
        found.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert found.wait(PATIENCE_S)
        assert port[0], logged
        yield Served(process, port[0], logged)
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory) -> Iterator[Served]:
    """A server with a token and low limits, which must have written nothing anywhere when all tests are done."""
    folder = tmp_path_factory.mktemp("server")
    limits = {
        **{
            "max-images": 2,
            "max-request-bytes": 3_000_000,
            "max-pixels": 1_000_000,
            "cors-origin": "https://lab.example",
        },
        "detector": "whole",
        # A process starts for the first unusual image.
        "decode-timeout-s": PATIENCE_S,
    }
    settings = [text for name, value in limits.items() for text in (f"--{name}", str(value))]
    with serving(folder, *settings, model=tiny_bundle.path, MOTIVNET_TOKEN=TOKEN) as served:
        yield served
        assert served.process.poll() is None
        assert served.end() == 0
    # onnxruntime keeps a number of its own there.
    assert {path.name for path in folder.iterdir()} <= {".ses"}
    for line in served.logged:
        assert json.loads(line)["level"] in ("info", "warning")
    text = "".join(served.logged)
    for secret in (TOKEN, "secret-name", "hidden", "PNG", "Traceback"):
        assert secret not in text


def png(value: int = 200, side: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A small PNG that says that it is 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (30_000).to_bytes(4, "big")
    head = chunk(b"IHDR", size + size + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def form(*files: bytes) -> tuple[bytes, dict[str, str]]:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="secret-name-{n}.png"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for n, data in enumerate(files)
    ]
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **KEYED}
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode(), headers


def head(body: bytes, headers: dict[str, str], path: str = "/v1/predict") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def read_all(sock: socket.socket) -> bytes:
    """Read until the server closes."""
    with contextlib.closing(sock):
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := sock.recv(65_536):
                data += chunk
        return data


def test_answers_are_those_of_predict(server, tiny_bundle):
    images = [png(255), b"no image"]
    status, headers, body = server.ask("POST", "/v1/predict?key=hidden", *form(*images))
    rows = [result.to_dict() for result in Predictor.load(tiny_bundle.path, detector="whole").predict(images)]
    wanted = [row | {"source": f"secret-name-{n}.png"} for n, row in enumerate(rows)]
    assert (status, json.loads(body)) == (200, {"results": wanted})
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])


def test_bodies_that_are_no_form_and_images_that_are_none(server):
    assert server.ask("POST", "/v1/predict", b"\x00\xff" * 100, KEYED)[0] == 415
    broken, headers = b"\x00\xff" * 100, form()[1]
    assert server.ask("POST", "/v1/predict", broken, headers)[0] == 422
    status, _, body = server.ask("POST", "/v1/predict", *form(bomb()))
    (row,) = json.loads(body)["results"]
    assert (status, row["status"]) == (200, "unreadable")
    assert "too many pixels" in row["error"]
    status, _, body = server.ask("POST", "/v1/predict", *form(png(side=1100)))
    assert "the limit is 1000000" in json.loads(body)["results"][0]["error"]
    status, _, body = server.ask("POST", "/v1/predict", *form(*[png()] * 100))
    assert (status, "the limit is 2" in json.loads(body)["detail"]) == (413, True)


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer " + "x" * 10_000}])
def test_a_wrong_token(server, given):
    body, headers = form(png())
    status, answer, _ = server.ask("POST", "/v1/predict", body, {**headers, "Authorization": "", **given})
    assert (status, answer["www-authenticate"]) == (401, "Bearer")
    assert server.ask("GET", "/metrics", headers=given)[0] == 401
    assert server.ask("GET", "/healthz", headers=given)[0] == 200


def test_other_paths_and_methods(server):
    assert server.ask("GET", "/nowhere", headers=KEYED)[0] == 404
    assert server.ask("HEAD", "/v1/predict", headers=KEYED)[::2] == (405, b"")
    assert server.ask("OPTIONS", "/v1/predict", headers=KEYED)[0] == 405
    assert read_all(server.raw(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(("number", "answered"), [(10, {10}), (500, set(range(18)))])
def test_requests_before_the_answers_to_others_are_few(server, number, answered):
    request, last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"Connection: close\r\n\r\n"
    answer = read_all(server.raw(number * request + request[:-2] + last))
    assert answer.count(b"HTTP/1.1 200") - (number == 10) in answered
    assert server.ask("GET", "/healthz")[0] == 200


def test_cors(server):
    preflight = {"Origin": "https://lab.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = server.ask("OPTIONS", "/v1/predict", headers=preflight)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://lab.example")
    status, headers, _ = server.ask("OPTIONS", "/v1/predict", headers=preflight | {"Origin": "https://evil.example"})
    assert (status, "access-control-allow-origin" in headers) == (400, False)


def test_a_refusal_is_readable_and_the_connection_goes_on(server):
    """A body that is too large is refused by its head, thrown away as it comes, and another request may follow."""
    with contextlib.closing(server.connect()) as connection:
        body, headers = form(bytes(5_000_000))
        connection.request("POST", "/v1/predict", body, headers)
        answer = connection.getresponse()
        assert (answer.status, "the limit is 3000000" in answer.read().decode()) == (413, True)
        sock = connection.sock
        connection.request("POST", "/v1/predict", *form(png()))
        assert connection.getresponse().status == 200
        assert connection.sock is sock


def test_slow_clients_are_cut_off(tmp_path, tiny_bundle):
    # Long enough that those which are not slow are in time when the machine is.
    limits = ("--header-timeout-s", "5", "--body-timeout-s", "5", "--max-requests", "1", "--detector", "whole")
    with serving(tmp_path, *limits, model=tiny_bundle.path) as served:
        cut_off(served)


def cut_off(server: Served) -> None:
    body, headers = form(png())
    whole = head(body, headers) + body
    silent, in_head = server.raw(b""), server.raw(whole[:30])
    in_body, refused = server.raw(whole[:-10]), server.raw(head(bytes(90_000_000), headers) + bytes(1000))
    answer = refused.recv(12)
    # Of a body that nobody wants any more.
    refused.sendall(b"x")
    with contextlib.closing(server.connect()) as other:
        # The one place is taken by the request whose body does not end. Whoever waits gets it.
        statuses = []
        while 200 not in statuses:
            other.request("POST", "/v1/predict", *form(png()))
            got = other.getresponse()
            got.read()
            time.sleep(0.01)
            statuses.append(got.status)
            assert got.status == 200 or got.headers["Retry-After"] == "1"
        assert set(statuses) <= {200, 429}
    # One that asks and never reads: what the kernel does not take is not kept for it.
    deaf = server.raw(b"")
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with contextlib.suppress(ConnectionError):
        while True:
            deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
    deaf.close()
    assert read_all(silent) == read_all(in_head) == b""
    assert read_all(in_body).startswith(b"HTTP/1.1 408")
    assert (answer + read_all(refused)).startswith(b"HTTP/1.1 413")


def send_until_cut_off(server: Served, head: bytes, piece: bytes, most: int) -> int:
    """Send pieces until the server ends the connection; give the bytes that were sent, at most so many."""
    with contextlib.closing(server.raw(head)) as sock:
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < most:
                sent += sock.send(piece)
        return sent


CHUNKED = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"GET / HTTP/1.1\r\nX: ", b"x" * 50_000),
        (b"GET / HTTP/1.1\r\n", b"X: x\r\n" * 10_000),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: x\r\n" * 10_000),
        (CHUNKED + b"1\r\nx\r\n0\r\nX: ", b"x" * 50_000),
        (CHUNKED, b"1;" + b"x" * 1000 + b"\r\nx\r\n"),
    ],
    ids=["header", "headers", "trailers", "trailer", "extensions"],
)
def test_what_is_no_body_is_bounded(server, head, piece):
    most = 50_000_000
    assert send_until_cut_off(server, head, piece, most) < most


def test_a_large_head_in_one_read(server):
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(70))
    answer = read_all(server.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n"))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"content-security-policy: default-src 'self'" in answer
    allowed = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + lines[:60_000].rpartition(b"\r\n")[0] + b"\r\n\r\n"
    assert read_all(server.raw(allowed)).startswith(b"HTTP/1.1 200")


def test_the_body_of_a_refused_request_is_not_swallowed(server):
    """Without a token; a body that declares its length is read on for a while, so that the answer arrives."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000\r\n\r\n"
    assert 8_000_000 < send_until_cut_off(server, head, b"x" * 50_000, 900_000_000) < 100_000_000


def test_head_where_get_is(server):
    for path in ("/", "/healthz", "/readyz", "/v1/models", "/metrics", "/openapi.json", "/page/app.js"):
        status, headers, body = server.ask("HEAD", path, headers=KEYED)
        assert (status, body) == (200, b""), path
        assert headers["x-content-type-options"] == "nosniff"


def test_what_libraries_print_is_in_the_log(server, astronaut):
    file = io.BytesIO()
    Image.fromarray(astronaut).save(file, "JPEG")
    damaged = bytearray(file.getvalue())
    # In the middle of the last scan, so that libjpeg goes on with a warning.
    damaged[20_000:20_100] = bytes(100)
    status, _, body = server.ask("POST", "/v1/predict", *form(bytes(damaged)))
    assert (status, json.loads(body)["results"][0]["status"]) == (200, "ok")
    while not any("motivnet.server.stderr" in line for line in server.logged):
        time.sleep(0.01)


def test_a_client_that_leaves(server):
    body, headers = form(png())
    server.raw(head(body, headers) + body[:10]).close()
    server.raw(head(body, headers) + body).close()
    assert server.ask("POST", "/v1/predict", *form(png()))[0] == 200


def test_metrics(server):
    server.ask("POST", "/v1/predict", *form(png(255), b"no image"))
    text = server.ask("GET", "/metrics", headers=KEYED)[2].decode()
    for name in (
        *("requests_total", "request_seconds_bucket", "errors_total", "active_requests", "queue_images"),
        *("queue_seconds_bucket", "batch_images_bucket", "batch_seconds_bucket", "images_total", "faces_total"),
    ):
        assert re.search(rf"^motivnet_{name}[ {{]", text, re.MULTILINE), name
    assert "secret-name" not in text


@pytest.mark.parametrize("batch_images", [1, 32])
def test_sigterm_under_load(tmp_path, tiny_bundle, batch_images):
    """Every request that was sent before the end is answered, new connections are refused, the exit code is 0."""
    settings = ("--detector", "whole", "--batch-images", str(batch_images), "--max-queue-images", "500")
    # All are accepted and have time to finish, however slow the first batch shows the machine to be.
    settings += ("--max-wait-ms", "1e9", "--shutdown-timeout-s", str(PATIENCE_S))
    body, headers = form(*[png(side=700)] * 4)
    with serving(tmp_path, *settings, model=tiny_bundle.path) as served:
        # One after another, as a listening socket that closes drops those that it has not accepted.
        connections = [served.connect() for _ in range(12)]
        for connection in connections:
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
        for connection in connections:
            connection.request("POST", "/v1/predict", body, headers)
        served.process.send_signal(signal.SIGTERM)
        answers = [connection.getresponse() for connection in connections]
        assert [answer.status for answer in answers] == [200] * 12
        assert all(len(json.loads(answer.read())["results"]) == 4 for answer in answers)
        assert served.process.wait(PATIENCE_S) == 0
        with pytest.raises(ConnectionRefusedError):
            served.ask("GET", "/healthz")
        for connection in connections:
            connection.close()


def test_a_token_from_a_file_and_ctrl_c(tmp_path, tiny_bundle):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with serving(tmp_path, "--token-file", str(file), model=tiny_bundle.path) as served:
        assert served.ask("GET", "/v1/models")[0] == 401
        assert served.ask("GET", "/v1/models", headers=KEYED)[0] == 200
        assert served.end(signal.SIGINT) == 0
    assert not any("Traceback" in line for line in served.logged)


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "motivnet", "serve", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"127.0.0.1:{port}: cannot listen there" in line


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--host", "0.0.0.0"], "there is no token"),
        (["--host", "::"], "there is no token"),
        (["--host", "no.such.host.invalid", "--insecure"], "cannot listen there"),
        (["--token-env", "MOTIVNET_NOT_SET"], "no such environment variable"),
        (["--token-file", "none"], "none: cannot be read"),
        (["--token-file", "none", "--token-env", "HOME"], "one of them"),
        (["--log-level", "loud"], "log level 'loud'"),
        (["--max-images", "0"], "max_images 0"),
    ],
)
def test_mistakes_in_the_command(arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOTIVNET_TOKEN", raising=False)
    result = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])
    assert isinstance(result.exception, MotivNetError)
    assert text in str(result.exception)
