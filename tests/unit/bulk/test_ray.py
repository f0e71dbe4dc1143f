"""Engine ray, with real Ray: on this machine, and on a cluster of two nodes that is started apart."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray.data")

from motivnet.bulk import ray as bulk_ray
from motivnet.bulk.job import run_bulk
from motivnet.errors import CheckpointError, ConfigError

# Ray's own start and end leave sockets and files to the garbage collector, and warn of settings to come.
pytestmark = pytest.mark.filterwarnings("ignore")

# An image of which the worker's process dies, each time.
DEADLY = """
import os, signal, sys
if "motivnet.bulk.worker" in sys.orig_argv:
    from motivnet.inference import predictor
    real = predictor.decode_reduced
    def decode_reduced(source, long_side, **options):
        if str(source).endswith("3.png"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(source, long_side, **options)
    predictor.decode_reduced = decode_reduced
"""
# The actor of Ray dies with the process it watches, once, in the second part, when its file has not got its name yet.
DEADLY_ONCE = """
import os, signal, sys
from pathlib import Path
flag = Path(__file__).with_name("killed")
if "motivnet.bulk.worker" in sys.orig_argv:
    real, calls = os.fsync, []
    def fsync(file):
        calls.append(file)
        real(file)
        if len(calls) == 3 and not flag.exists():
            flag.touch()
            os.kill(os.getppid(), signal.SIGKILL)
    os.fsync = fsync
"""
DRIVER = """
import sys
from motivnet.bulk.job import run_bulk

ray = {"engine": "ray", "address": sys.argv[4] or None, "num_workers": 2}
run_bulk(sys.argv[1], sys.argv[2], model=sys.argv[3], part_size=2, **ray)
"""


@pytest.fixture
def images(tmp_path: Path, astronaut) -> Path:
    return make_images(tmp_path / "images", astronaut, 7)


def make_images(folder: Path, astronaut: np.ndarray, count: int) -> Path:
    """Make so many images, and a broken one."""
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.roll(astronaut, number, axis=1)).save(folder / f"{number}.png")
    (folder / "poison.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def settings(tiny_bundle) -> dict[str, Any]:
    return {"model": str(tiny_bundle.path), "part_size": 2}


def rows_of(folder: Path) -> list[dict]:
    from pyarrow import parquet

    return [row for path in sorted(folder.glob("part-*")) for row in parquet.read_table(path).to_pylist()]


def patch(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the workers' processes run this before anything else."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")


@pytest.mark.slow
def test_rows_are_those_of_the_local_engine(images, settings, tmp_path):
    """The one test of Ray that always runs."""
    local = run_bulk(str(images), tmp_path / "local", **settings)
    ray = run_bulk(str(images), tmp_path / "ray", **settings, engine="ray", num_workers=1)
    assert (ray.inputs, ray.faces, ray.statuses) == (local.inputs, local.faces, local.statuses)
    for path in (tmp_path / "local").glob("part-*"):
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes()
    # What one engine leaves, the other finishes.
    (tmp_path / "ray" / "part-00001.parquet").unlink()
    assert run_bulk(str(images), tmp_path / "ray", **settings).parts_done == 1


@pytest.mark.slow
def test_as_many_workers_as_there_is_room_for_and_parts_in_several_rounds(images, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk_ray, "PARTS_PER_DATASET", 3)
    summary = run_bulk(str(images), tmp_path / "out", **settings, engine="ray")
    assert (summary.inputs, summary.parts_done) == (8, 4)


@pytest.mark.slow
def test_errors_of_ours_come_through(images, tmp_path):
    settings = {"model": str(tmp_path / "gone"), "part_size": 2}
    with pytest.raises(CheckpointError, match="gone"):
        run_bulk(str(images), tmp_path / "out", **settings, engine="ray", num_workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["a free port", "nonsense"])
def test_no_cluster_there(images, settings, tmp_path, where):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}" if where == "a free port" else where
        with pytest.raises(ConfigError, match=f"no Ray cluster at {address}: "):
            run_bulk(str(images), tmp_path / "out", **settings, engine="ray", address=address)


@pytest.mark.slow
def test_an_image_that_kills_its_process_fails_alone(images, settings, tmp_path, monkeypatch):
    patch(DEADLY, tmp_path, monkeypatch)
    summary = run_bulk(str(images), tmp_path / "out", **settings, engine="ray", num_workers=2)
    assert summary.statuses == {"failed": 1, "ok": 6, "unreadable": 1}
    assert [row["status"] for row in rows_of(tmp_path / "out")][3] == "failed"


@pytest.mark.slow
def test_a_killed_actor_is_started_anew_and_its_part_done_again(images, settings, tmp_path, monkeypatch):
    patch(DEADLY_ONCE, tmp_path, monkeypatch)
    summary = run_bulk(str(images), tmp_path / "out", **settings, engine="ray", num_workers=1)
    assert (tmp_path / "site" / "killed").exists()
    assert (summary.inputs, summary.parts_done) == (8, 4)
    assert [row["input"] for row in rows_of(tmp_path / "out")] == list(range(8))
    assert list((tmp_path / "out").glob(".*")) == []


@pytest.mark.slow
def test_after_kill_9_of_the_driver_nothing_is_lost_or_twice(tmp_path, astronaut, settings):
    kill_and_finish(make_images(tmp_path / "images", astronaut, 40), tmp_path / "out", settings, "")


@pytest.fixture
def cluster(monkeypatch, tmp_path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A cluster that somebody else has started, two nodes of a CPU each; gives its address and its second node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    with (
        start_node(
            tmp_path / "head.log", "--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"
        ),
        start_node(tmp_path / "second.log", f"--address={address}") as second,
    ):
        yield address, second


@contextlib.contextmanager
def start_node(log: Path, *options: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
    command += ["--num-cpus=1", "--disable-usage-stats", *options]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as node:
        try:
            deadline = time.monotonic() + 120
            while "block forever" not in log.read_text():
                assert node.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield node
        finally:
            node.terminate()
            node.wait(60)


@pytest.mark.slow
def test_a_cluster_by_its_address_and_kill_9_of_the_driver(tmp_path, astronaut, settings, cluster):
    kill_and_finish(make_images(tmp_path / "images", astronaut, 40), tmp_path / "out", settings, cluster[0])


@pytest.mark.slow
def test_a_lost_node_loses_no_input(tmp_path, astronaut, settings, cluster):
    address, second = cluster
    images, out = make_images(tmp_path / "images", astronaut, 40), tmp_path / "out"
    with start_driver(images, out, settings, address) as driver:
        wait_for_parts(out, 4, driver)
        second.terminate()
        assert driver.wait(300) == 0
    assert [row["input"] for row in rows_of(out)] == list(range(41))


def kill_and_finish(images: Path, out: Path, settings: dict[str, Any], address: str) -> None:
    """Kill a driver when some parts are there, and then another; see that a third finishes the rest."""
    for enough in (2, 8):
        with start_driver(images, out, settings, address) as driver:
            wait_for_parts(out, enough, driver)
            driver.kill()
            assert driver.wait() == -signal.SIGKILL
    with start_driver(images, out, settings, address) as driver:
        assert driver.wait(300) == 0
    assert [row["input"] for row in rows_of(out)] == list(range(41))
    summary = json.loads((out / "_summary.json").read_text())
    assert (summary["inputs"], summary["parts"]) == (41, 21)
    assert summary["parts_done"] <= 13
    assert list(out.glob(".*")) == []


def start_driver(images: Path, out: Path, settings: dict[str, Any], address: str) -> subprocess.Popen:
    command = [sys.executable, "-c", DRIVER, str(images), str(out), settings["model"], address]
    return subprocess.Popen(command)


def wait_for_parts(out: Path, enough: int, driver: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while len(list(out.glob("part-*"))) < enough:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
