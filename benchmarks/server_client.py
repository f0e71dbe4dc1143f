"""Load an HTTP server with so many clients for so many seconds, and say how it answered, as one line of JSON.

Each client has one connection and sends its next request as soon as it has an answer. After 429 it waits as long as
Retry-After says, and by chance up to once more: clients that all came again at once would be refused at once. Requests
are made beforehand and answers hardly looked at, so that one core drives thousands of requests a second. `wrk` does as
much, but its latencies do not tell answers from refusals.

    python benchmarks/server_client.py --port 8000 --clients 200 --seconds 60 face1.jpg face2.jpg
"""

import argparse
import asyncio
import collections
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

BOUNDARY = b"a-boundary-that-no-photograph-contains"


def main() -> None:
    """Run as many clients as are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    requests = [make_request(path.name, path.read_bytes()) for path in options.files]
    print(json.dumps(asyncio.run(load(options.port, requests, options.clients, options.seconds))))


def make_request(name: str, contents: bytes) -> bytes:
    """Make the bytes of a request to /v1/predict."""
    body = (
        b'--%b\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%b\r\n--%b--\r\n" % (BOUNDARY, name.encode(), contents, BOUNDARY)
    )
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=%b\r\n"
        b"Content-Length: %d\r\n\r\n" % (BOUNDARY, len(body))
    )
    return head + body


async def load(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> dict[str, object]:
    """Send the requests in turn from so many clients, and sum up; all that is sent is waited for."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    connections = [
        (await loop.create_connection(lambda n=n: Client(requests, n, start_s + seconds), "127.0.0.1", port))[1]
        for n in range(clients)
    ]
    await asyncio.wait_for(asyncio.gather(*(client.done for client in connections)), seconds + 120)
    took_s = max(client.last_s for client in connections) - start_s
    statuses: collections.Counter[str] = sum((client.statuses for client in connections), collections.Counter())
    latencies_ms = sorted(1000 * second for client in connections for second in client.latencies_s)
    return {
        "clients": clients,
        "seconds": round(took_s, 2),
        "answers": dict(sorted(statuses.items())),
        "accepted/s": round(len(latencies_ms) / took_s, 1),
        "p50_ms": _quantile(latencies_ms, 50),
        "p90_ms": _quantile(latencies_ms, 90),
        "p99_ms": _quantile(latencies_ms, 99),
        "max_ms": round(latencies_ms[-1], 1) if latencies_ms else None,
    }


def _quantile(sorted_ms: Sequence[float], percent: int) -> float | None:
    return round(statistics.quantiles(sorted_ms, n=100)[percent - 1], 1) if len(sorted_ms) > 1 else None


class Client(asyncio.Protocol):
    """One client: a connection, and what came of it."""

    def __init__(self, requests: Sequence[bytes], first: int, end_s: float) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.statuses: collections.Counter[str] = collections.Counter()
        self.latencies_s: list[float] = []
        self.last_s = 0.0
        self._requests = requests
        self._next = first
        self._chance = random.Random(first)
        self._end_s = end_s
        self._sent_s = 0.0
        self._answer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        if self.done.done():
            return
        if time.monotonic() >= self._end_s:
            self._finish()
            return
        self._next += 1
        self._sent_s = time.monotonic()
        self._transport.write(self._requests[self._next % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        """Take in an answer; when it is complete, count it, and go on."""
        self._answer += data
        head_end = self._answer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._answer[:head_end]).lower()
        if len(self._answer) < head_end + 4 + int(_header(head, b"content-length", b"0")):
            return
        self._answer.clear()
        self.last_s = time.monotonic()
        status = head[9:12].decode()
        self.statuses[status] += 1
        if status == "200":
            self.latencies_s.append(self.last_s - self._sent_s)
        if status == "429":
            wait_s = int(_header(head, b"retry-after", b"0")) * (1 + self._chance.random())
            asyncio.get_running_loop().call_later(wait_s, self._send)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that the server ended."""
        if not self.done.done():
            self.statuses["connection lost"] += 1
            self.last_s = time.monotonic()
            self.done.set_result(None)

    def _finish(self) -> None:
        self.last_s = self.last_s or time.monotonic()
        self.done.set_result(None)
        self._transport.close()


def _header(head: bytes, name: bytes, default: bytes) -> bytes:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else default


if __name__ == "__main__":
    main()
