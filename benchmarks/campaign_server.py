"""Attack a live server, beside a polite client whose latency is measured before, during and after each kind of attack.

The server is `motivnet serve` with its default settings, without a token, with URLs. The polite client is a process of
its own that sends a photograph over a new connection, every 50 ms at most, and tries again, when it is refused, after
what Retry-After says; its latency runs from the first try to the answer with 200. An attack is a function of the port
and a seeded random number generator; those of a kind follow each other, `--threads` at a time. The attackers run on the
same cores, at the lowest priority. Before a kind the polite client is measured for `--seconds`, and again 5 s after it.
A first round, two attacks of each kind at a time, is not measured: what a server keeps for the next image, and the
processes that it starts, are no growth.

    python benchmarks/campaign_server.py [--attacks 10] [--seconds 3] [--seed 0] [--only KIND] [--out FILE]

Asked: p99 during an attack below 10 times the one before, and back 5 s after; no answer with 500; the server alive, its
memory grown by less than 100 MB, each line that it printed one JSON object. Needs scikit-image, and Linux for memory.
"""

import argparse
import base64
import contextlib
import functools
import http.client
import io
import json
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from server_client import make_request
from server_load import Server, free_port
from skimage import data
from tables import markdown_table

Attack = Callable[[int, random.Random], object]
MOST_RATIO, MOST_GROWTH_MB = 10, 100
# An attacker gives up after this.
PATIENCE_S = 3.0
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def main() -> None:
    """Run all kinds of attacks, print a table, write the results, and end with 1 if something asked does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", type=int, default=10, help="of each kind")
    parser.add_argument("--seconds", type=float, default=3.0, help="of the measurements before and after")
    parser.add_argument("--threads", type=int, default=4, help="attacks at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=ATTACKS, help="one kind alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--polite", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.polite:
        ask_politely(options.polite)
        return
    kinds = [options.only] if options.only else list(ATTACKS)
    figures = run(kinds, options)
    table = markdown_table(figures["kinds"])
    failed = [row["attack"] for row in figures["kinds"] if not row["holds"]]
    fine = not failed and figures["grown_mb"] < MOST_GROWTH_MB and not figures["lines_not_json"]
    figures["holds"] = fine and not figures["answers_500"]
    print(table, {name: value for name, value in figures.items() if name != "kinds"}, sep="\n")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(not figures["holds"])


def run(kinds: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Serve, attack, and sum up."""
    port = free_port()
    command = [sys.executable, "-m", "motivnet", "serve", "--port", str(port), "--allow-urls"]
    polite = [sys.executable, __file__, "--polite", str(port)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log) as process:
        server = Server(process, port)
        server.wait_until_ready()
        with subprocess.Popen(polite, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            client.stdout.readline()
            os.set_blocking(client.stdout.fileno(), False)
            os.nice(19)
            for kind in kinds:
                seeds = [random.Random(f"{options.seed} {kind} first {number}") for number in range(2)]
                with ThreadPoolExecutor(2) as threads:
                    list(threads.map(functools.partial(give_up, ATTACKS[kind], port), seeds))
            latencies(client, 5)
            before_mb = memory_mb(process.pid)
            rows = [attack(kind, port, client, options) for kind in kinds]
            grown_mb = memory_mb(process.pid) - before_mb
            client.kill()
        alive = process.poll() is None
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    logged = [entry for line in lines if (entry := as_json(line)) is not None]
    return {
        "kinds": rows,
        "attacks": len(rows) * options.attacks,
        "alive": alive and status == 0,
        "grown_mb": round(grown_mb, 1),
        "answers_500": sum(entry.get("status") == 500 for entry in logged),
        "lines_not_json": len(lines) - len(logged),
    }


def attack(kind: str, port: int, client: subprocess.Popen[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Attack in one way, and compare the polite client's latencies."""
    before = latencies(client, options.seconds)
    began_s = time.monotonic()
    seeds = [f"{options.seed} {kind} {number}" for number in range(options.attacks)]
    with ThreadPoolExecutor(options.threads) as threads:
        for done in [threads.submit(give_up, ATTACKS[kind], port, random.Random(seed)) for seed in seeds]:
            done.result()
    seconds = time.monotonic() - began_s
    # At least one answer, which may be one that the attack has delayed.
    during = latencies(client, 0.5) or latencies(client, 30)
    latencies(client, 5 - 0.5)
    after = latencies(client, options.seconds)
    row: dict[str, Any] = {"attack": kind, "seconds": round(seconds, 1)}
    for name, values in (("before", before), ("during", during), ("after", after)):
        p50, p99 = (quantile(values, share) for share in (0.5, 0.99))
        row |= {f"p50 {name}": round(1000 * p50, 1), f"p99 {name}": round(1000 * p99, 1)}
    row["p99 ratio"] = round(row["p99 during"] / row["p99 before"], 1)
    row["holds"] = row["p99 ratio"] < MOST_RATIO and row["p99 after"] < 2 * row["p99 before"] + 50
    print(json.dumps(row), file=sys.stderr)
    return row


def quantile(values: list[float], share: float) -> float:
    """Return a quantile; infinite without values."""
    if len(values) < 2:
        return values[0] if values else float("inf")
    return statistics.quantiles(values, n=100, method="inclusive")[round(100 * share) - 1]


def latencies(client: subprocess.Popen[bytes], seconds: float) -> list[float]:
    """Wait, and return the latencies that the polite client has told since the last call, in seconds."""
    time.sleep(max(0.0, seconds))
    assert client.stdout is not None
    assert client.poll() is None
    return [float(line) for line in (client.stdout.read() or b"").split()]


def ask_politely(port: int) -> None:
    """Print the latency of each request, in seconds, for ever."""
    file = io.BytesIO()
    Image.fromarray(data.astronaut()).save(file, "JPEG", quality=90)
    request = make_request("polite.jpg", file.getvalue())
    while True:
        began_s = time.monotonic()
        while (wait_s := try_politely(port, request)) is not None:
            time.sleep(wait_s)
        print(time.monotonic() - began_s, flush=True)
        time.sleep(0.05)


def try_politely(port: int, request: bytes) -> float | None:
    """Send a request; return the seconds to wait before another try, or None after an answer with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(request)
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            answer.read()
            return None if answer.status == 200 else float(answer.getheader("Retry-After", "0.1"))
    except OSError:
        return 0.1


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process and its children, in megabytes."""
    # Linux lists the children of each thread.
    lists = [file.read_text(encoding="ascii") for file in Path(f"/proc/{pid}/task").glob("*/children")]
    children = " ".join(lists).split()
    pages = [int(Path(f"/proc/{each}/statm").read_text(encoding="ascii").split()[1]) for each in (pid, *children)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def as_json(line: str) -> dict[str, Any] | None:
    """Read a line of the log; None if it is no JSON object."""
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        return entry if isinstance(entry, dict) else None
    return None


def give_up(function: Attack, port: int, rng: random.Random) -> None:
    """Attack until it ends, or the server ends it, or there is no more patience."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        function(port, rng)


def connect(port: int, first: bytes = b"") -> socket.socket:
    """Open a connection, and send its first bytes."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    sock.sendall(first)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Read until the server closes."""
    with sock:
        return b"".join(iter(lambda: sock.recv(65_536), b""))


def flood(port: int, first: bytes, piece: bytes, most: int = 200_000_000) -> None:
    """Send pieces until the server ends the connection."""
    end_s = time.monotonic() + PATIENCE_S
    with connect(port, first) as sock:
        sent = 0
        while sent < most and time.monotonic() < end_s:
            sent += sock.send(piece)


def post(port: int, path: str, body: bytes, kind: str = "application/json") -> None:
    """Send a request, and wait for its answer for as long as it takes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", path, body, {"Content-Type": kind})
        connection.getresponse().read()


def post_images(port: int, files: list[bytes]) -> None:
    """Send files in a form."""
    parts = [b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + file for file in files]
    post(port, "/v1/predict", b"\r\n".join(parts) + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")


def hold_many(port: int, firsts: list[bytes]) -> None:
    """Hold many connections with their first bytes."""
    with contextlib.ExitStack() as held:
        for first in firsts:
            held.enter_context(connect(port, first))
        time.sleep(1)


def silent(port: int, rng: random.Random) -> None:
    """Open connections, and say nothing, or half a head."""
    head = HEAD + b"Content-Length: 9\r\n\r\n"
    hold_many(port, [head[: rng.randrange(len(head))] for _ in range(400)])


def claims(port: int, rng: random.Random) -> None:
    """Declare large bodies, and send little of them."""
    hold_many(port, [HEAD + b"Content-Length: 50000000\r\n\r\n" + bytes(rng.randrange(4000)) for _ in range(50)])


def trailers(port: int, rng: random.Random) -> None:
    """Send trailers without end."""
    flood(port, CHUNKED + b"1\r\nx\r\n0\r\n", b"T: %s\r\n" % (b"t" * rng.randrange(1, 1000)) * 100)


def extensions(port: int, rng: random.Random) -> None:
    """Send small chunks with large extensions."""
    flood(port, CHUNKED, b"1;%s\r\nx\r\n" % (b"e" * rng.randrange(10, 1000)) * 100)


def heads(port: int, rng: random.Random) -> None:
    """Send a large head in one piece, or one without end."""
    lines = b"X: %s\r\n" % (b"h" * rng.randrange(1, 1000)) * 500
    if rng.random() < 0.5:
        read_all(connect(port, b"GET /healthz HTTP/1.1\r\n" + lines + b"\r\n"))
    else:
        flood(port, b"GET /healthz HTTP/1.1\r\n", lines)


def refused(port: int, rng: random.Random) -> None:
    """Go on to send a body that has been refused."""
    flood(port, HEAD.replace(b"/v1/predict", rng.choice((b"/v1/predict", b"/v1/nothing", b"/healthz"))) +
          b"Content-Length: 9000000000\r\n\r\n", b"x" * 65_536)  # fmt: skip


def deaf(port: int, rng: random.Random) -> None:
    """Ask, and never read."""
    path = rng.choice((b"/openapi.json", b"/", b"/page/app.js", b"/metrics"))
    flood(port, b"", b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path * 20)


def mutated_requests(port: int, rng: random.Random) -> None:
    """Send requests with wrong bytes in them."""
    for _ in range(20):
        request = bytearray(make_request("a.jpg", b"x" * 500))
        for _ in range(rng.randrange(1, 20)):
            request[rng.randrange(300)] = rng.randrange(256)
        with contextlib.suppress(OSError), connect(port, bytes(request)) as sock:
            sock.settimeout(0.2)
            sock.recv(1000)


def leave(port: int, rng: random.Random) -> None:
    """Send whole requests, and leave before the answer."""
    request = make_request("a.jpg", encode("JPEG", rng, 500))
    for _ in range(20):
        connect(port, request).close()
        time.sleep(0.05)


def many_entries(port: int, rng: random.Random) -> None:
    """Send lists of millions of entries, or text that is long to decode."""
    entry, count = rng.choice(((b'{"data":""}', 4_000_000), (b"[]", 15_000_000), (b"1", 20_000_000)))
    if rng.random() < 0.3:
        post(port, "/v1/predict/base64", b'{"images":[{"data":"data:;base64,%s"}]}' % (b"%" * 40_000_000))
    else:
        post(port, "/v1/predict/base64", b'{"images":[' + b",".join([entry] * count) + b"]}")


def deep_json(port: int, rng: random.Random) -> None:
    """Send nested lists, or numbers and keys without end."""
    body = rng.choice((b"[" * 10_000_000, b'{"a":' * 5_000_000, b"9" * 20_000_000, b'"' + b"\\u0000" * 8_000_000))
    post(port, "/v1/predict/urls", body)


def urls(port: int, rng: random.Random) -> None:
    """Ask for what lies behind the server, with passwords."""
    hosts = ["127.0.0.1", "169.254.169.254", "[::1]", "10.0.0.1", "localhost", "0x7f000001", "u:p@[::ffff:127.0.0.1]"]
    names = [f"http://{rng.choice(hosts)}:{rng.randrange(65536)}/{'a' * rng.randrange(3000)}" for _ in range(32)]
    post(port, "/v1/predict/urls", json.dumps({"urls": names}).encode())


def many_parts(port: int, rng: random.Random) -> None:
    """Send forms of many parts, or of parts with long heads."""
    kind = "multipart/form-data; boundary=b"
    if rng.random() < 0.5:
        post(port, "/v1/predict", b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n\r\n' * 500_000, kind)  # fmt: skip  # noqa: E501
    else:
        post(port, "/v1/predict", b"--b\r\n" + b"X: y\r\n" * 4_000_000, kind)


def scans(port: int, rng: random.Random) -> None:
    """Send progressive JPEGs with tens of thousands of scans, or with as many as are allowed."""
    file = encode("JPEG", rng, rng.choice((500, 2000, 4000)), progressive=True)
    place = file.rindex(b"\xff\xda")
    count = rng.choice((60_000, 85))
    post_images(port, [file[:-2] + file[place:-2] * min(count, 8_000_000 // len(file[place:])) + b"\xff\xd9"] * 2)


def huge_small(port: int, rng: random.Random) -> None:
    """Send small files of many pixels."""
    kind = rng.choice(("WEBP", "PNG", "GIF", "TIFF", "JPEG"))
    image = Image.new("L", (7000, 7000), rng.randrange(256))
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {"compression": "tiff_lzw"} if kind == "TIFF" else {}))  # fmt: skip  # noqa: E501
    post_images(port, [file.getvalue()] * 32)


def strips(port: int, rng: random.Random) -> None:
    """Send images of one row, and of claimed sizes."""
    width, height = rng.choice(((16_000, 1), (1, 60_000), (7000, 7000), (2**31 - 1, 1), (50_000, 900)))
    rows = zlib.compress(bytes(min(width, 16_000) + 1) * min(height, 100))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    post_images(port, [file] * 32)


def mutated_images(port: int, rng: random.Random) -> None:
    """Send images of all formats with wrong bytes in them."""
    files = []
    for _ in range(32):
        file = bytearray(
            encode(rng.choice(("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000")), rng, 100)
        )
        for _ in range(rng.randrange(1, 10)):
            file[rng.randrange(len(file))] = rng.randrange(256)
        files.append(bytes(file[: rng.randrange(1, len(file))] if rng.random() < 0.2 else file))
    post_images(port, files)


def wrapped(port: int, rng: random.Random) -> None:
    """Send large images as text with line breaks."""
    text = base64.encodebytes(encode("PNG", rng, 2000)).decode()
    post(port, "/v1/predict/base64", json.dumps({"images": [{"data": text}]}).encode())


def encode(kind: str, rng: random.Random, side: int, **options: Any) -> bytes:
    """Encode noise."""
    noise = np.frombuffer(rng.randbytes(3 * 64 * 64), np.uint8).reshape(64, 64, 3)
    file = io.BytesIO()
    Image.fromarray(noise).resize((side, side)).save(file, kind, **options)
    return file.getvalue()


ATTACKS: dict[str, Attack] = {
    function.__name__: function
    for function in (
        *(silent, claims, trailers, extensions, heads, refused, deaf, mutated_requests, leave, many_entries),
        *(deep_json, urls, many_parts, scans, huge_small, strips, mutated_images, wrapped),
    )
}


if __name__ == "__main__":
    main()
