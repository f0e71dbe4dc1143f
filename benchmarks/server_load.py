"""Load `motivnet serve` on this machine: latency of one client, 200 clients for a minute, and what batching gives.

Three questions, each to servers of their own, over the loopback interface, from a client process that shares the cores:

- one client: latency, as nobody else asks.
- many clients: answers by status, latency of the accepted ones, memory every five seconds. Once with the default
  settings, once without a limit of the wait, which lets more requests through and keeps them waiting.
- batching: requests a second with batches and without (`--batch-images 1`: each request is a forward pass of its own,
  everything else alike), taking turns for several rounds; the queue is long enough for all, so none is refused.

Images are crops of a face of 96x96 pixels with the detector `whole`, where the model is most of the work, and
photographs of 512x512 pixels, where looking for faces is. The tables go into docs/benchmarks.md. Needs scikit-image.

    python benchmarks/server_load.py [--model nano] [--seconds 60] [--rounds 5] [--round-seconds 10] [--clients 200]
        [--against CHECKOUT]
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data
from tables import PAGE, add_against, fill_block, markdown_table, measure_other, use_cores, write_results

from motivnet.server.settings import ServerSettings

CLIENT = Path(__file__).with_name("server_client.py")
CROPS = ["--detector", "whole"]
# Versions before this option had no limit.
NO_LIMIT = ["--max-wait-ms", "1000000"] if hasattr(ServerSettings, "max_wait_ms") else []


def main() -> None:
    """Ask all three questions, print tables, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="name of an embedded model, or the folder of a bundle")
    parser.add_argument("--seconds", type=float, default=60.0, help="of many clients")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison")
    parser.add_argument("--round-seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--name", default="server", help="of the file of results")
    add_against(parser)
    options = parser.parse_args()
    cores = use_cores(options.cores)
    model = ["--model", options.model]
    with tempfile.TemporaryDirectory() as name:
        crops, photographs = make_images(Path(name))
        with serving([*model, *CROPS]) as server:
            one = {**server.load(crops, 1, options.round_seconds), "p99 / p50 of one client": ""}
        many = [
            ask_many(
                what, [*model, *CROPS, *queue], crops, clients=options.clients, seconds=options.seconds, one_client=one
            )
            for what, queue in (
                ("default settings", []),
                ("no limit of the wait", NO_LIMIT),
            )
        ]
        compare = [
            compare_batching(what, [*model, *settings], images, options)
            for what, settings, images in (
                ("crops, one thread a core", CROPS, crops),
                ("crops, one thread", [*CROPS, "--threads", "1"], crops),
                ("photographs, one thread a core", [], photographs),
            )
        ]
    figures: dict[str, Any] = {"one client": one, "many clients": many, "batching": compare}
    if options.json:
        print(json.dumps(figures))
        return
    if options.against:
        before = figures["before"] = measure_other(options.against)
        print("before:", json.dumps(before, indent=2))
    tables = {
        "latency": [{"what": "one client", **plain(one)}, *map(plain, many)],
        "memory": [memory_row(row) for row in many],
        "batching": [plain(row) for row in compare],
    }
    for name, rows in tables.items():
        print(markdown_table(rows), "\n")
        if options.name == "server":
            fill_block(PAGE, f"server-{name}", markdown_table(rows))
    settings = {"model": options.model, "cores_used": cores, "clients": options.clients}
    write_results(options.name, settings | figures)


def memory_row(row: dict[str, Any]) -> dict[str, object]:
    """Sum up what memory did."""
    readings = row["memory_mb every 5 s"]
    return {
        "what": row["what"],
        "before": row["memory_mb before"],
        "after 5 s": readings[0],
        "highest": max(readings),
        "at the end": row["memory_mb after"],
    }


def make_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write crops of a face and a photograph as JPEG files."""
    astronaut = data.astronaut()
    crops = []
    for shift in range(8):
        # A little different each, as those of different people would be.
        face = np.ascontiguousarray(astronaut[60 + shift : 180 + shift, 166 + shift : 286 + shift])
        crops.append(folder / f"crop{shift}.jpg")
        Image.fromarray(face).resize((96, 96)).save(crops[-1], quality=90)
    photograph = folder / "photograph.jpg"
    Image.fromarray(astronaut).save(photograph, quality=90)
    return crops, [photograph]


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def load(self, images: Sequence[Path], clients: int, seconds: float) -> dict[str, object]:
        """Load it from another process, and give what that tells, with the mean size of a batch."""
        before = self.batches()
        command = [sys.executable, str(CLIENT), "--port", str(self.port), "--clients", str(clients)]
        command += ["--seconds", str(seconds), *map(str, images)]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        images_more, batches_more = (now - then for now, then in zip(self.batches(), before, strict=True))
        return result | {"images a batch": round(images_more / batches_more, 1)}

    def memory_mb(self) -> float:
        """Give the resident memory of the process, in megabytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)

    def batches(self) -> tuple[float, float]:
        """Give the number of images and of batches since the start."""
        lines = self._get("/metrics").decode().splitlines()
        value = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return float(value["motivnet_batch_images_sum"]), float(value["motivnet_batch_images_count"])

    def wait_until_ready(self) -> None:
        """Wait for the model to be loaded."""
        for _ in range(600):
            with contextlib.suppress(OSError):
                self._get("/readyz")
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit("the server does not start")

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.read()


@contextlib.contextmanager
def serving(settings: Sequence[str]) -> Iterator[Server]:
    """Start a server, warm it up, and end it with SIGTERM, which must go well."""
    port = free_port()
    command = [sys.executable, "-m", "motivnet", "serve", "--port", str(port), *settings]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log) as process:
        try:
            server = Server(process, port)
            server.wait_until_ready()
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
    if status != 0:
        raise SystemExit(f"the server ended with {status}")


def free_port() -> int:
    """Find a port that is free just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def ask_many(
    what: str,
    settings: Sequence[str],
    images: Sequence[Path],
    *,
    clients: int,
    seconds: float,
    one_client: dict[str, object],
) -> dict[str, object]:
    """Load a server from many clients, and watch its memory."""
    memory: list[float] = []
    with serving(settings) as server:
        server.load(images, 1, 1.0)
        memory.append(server.memory_mb())
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(5):
                memory.append(server.memory_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            result = server.load(images, clients, seconds)
        finally:
            stop.set()
            watcher.join()
        time.sleep(1)
        memory.append(server.memory_mb())
    p99, p50 = result["p99_ms"], one_client["p50_ms"]
    assert isinstance(p99, float)
    assert isinstance(p50, float)
    return {
        "what": f"{result['clients']} clients, {what}",
        **result,
        "p99 / p50 of one client": round(p99 / p50, 1),
        "memory_mb before": memory[0],
        "memory_mb every 5 s": memory[1:-1],
        "memory_mb after": memory[-1],
    }


def compare_batching(
    what: str, settings: Sequence[str], images: Sequence[Path], options: argparse.Namespace
) -> dict[str, object]:
    """Measure requests a second with batches and without, in turns."""
    queue = ["--max-queue-images", str(2 * options.clients), *NO_LIMIT]
    variants = {"with": [], "without": ["--batch-images", "1"]}
    rates: dict[str, list[float]] = {name: [] for name in variants}
    batches: list[float] = []
    for _ in range(options.rounds):
        for name, own in variants.items():
            with serving([*settings, *queue, *own]) as server:
                server.load(images, options.clients, 1.0)
                result = server.load(images, options.clients, options.round_seconds)
            answers, rate, batch = result["answers"], result["accepted/s"], result["images a batch"]
            assert isinstance(rate, float)
            assert isinstance(batch, float)
            if name == "with":
                batches.append(batch)
            if not isinstance(answers, dict) or set(answers) != {"200"}:
                raise SystemExit(f"{what}, {name} batching: answers {answers}; only 200 was expected")
            rates[name].append(rate)
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "what": what,
        "rounds": options.rounds,
        "requests/s with": round(median["with"], 1),
        "requests/s without": round(median["without"], 1),
        "ratio": round(median["with"] / median["without"], 2),
        "images a batch": statistics.median(batches),
        "all with": rates["with"],
        "all without": rates["without"],
    }


def plain(row: dict[str, object]) -> dict[str, object]:
    """Leave out lists and memory, and write out the answers, for a table."""
    answers = row.get("answers")
    if isinstance(answers, dict):
        row = {**row, "answers": ", ".join(f"{count} x {status}" for status, count in answers.items())}
    return {name: value for name, value in row.items() if not isinstance(value, list) and "memory" not in name}


if __name__ == "__main__":
    main()
