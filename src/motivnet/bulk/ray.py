"""The parts of a bulk run on Ray Data, on one machine or a cluster; the rows are those of engine `local`.

A row of the data set is a part, and its result is the part's counts: workers read the images and write the rows, so
that neither passes through the driver or Ray's object store. Ray Data's actor pool holds one `Worker` per actor, gives
each one part and announces the next (back-pressure), grows and shrinks with the cluster, and restarts what dies (a
killed process, a lost host) with its parts. A part that is written twice is the same complete file both times.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import pickle
import socket
from collections.abc import Generator, Iterator
from typing import Any

import ray
import ray.data
import ray.exceptions

from motivnet.bulk.fsspec_files import OutputFolder
from motivnet.bulk.parts import Counts, Part
from motivnet.bulk.worker import Worker
from motivnet.errors import ConfigError, DataError, MotivNetError
from motivnet.inference.predictor_config import PredictorConfig

# A data set holds all its rows in memory, and with them the names of the inputs.
PARTS_PER_DATASET = 10_000


class Actor:
    """A `Worker` with the interface that Ray Data requires."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write a part."""
        *arguments, part = pickle.loads(row["request"])
        if self._worker is None:
            self._worker = Worker(*arguments)
        try:
            reply = self._worker.write(part)
        except MotivNetError as error:
            reply = error
        return {"reply": pickle.dumps(reply)}


def run_ray(
    parts: Iterator[Part],
    model: str,
    config: PredictorConfig,
    folder: OutputFolder,
    *,
    address: str | None = None,
    num_workers: int | None = None,
) -> Generator[Counts, None, None]:
    """Write the parts, and yield their counts in the order in which they are done.

    Args:
        parts: the missing ones.
        model: as for `Predictor.load`.
        config: of the predictor. A worker gets as many CPUs as it has `threads`, 1 by default, and decodes and detects
            in as many threads; or it gets one GPU if `device` is CUDA.
        folder: of the files; every host must reach it under this name.
        address: of a running cluster; None starts Ray on this machine, and stops it at the end.
        num_workers: None takes as many as there is room for.

    Raises:
        ConfigError: if there is no cluster at the address.
        DataError: if the workers of a part die repeatedly, or Ray itself fails.
        MotivNetError: what `Worker` raises.
    """
    threads = config.threads or 1
    num_cpus, num_gpus = (None, 1) if config.device.startswith("cuda") else (threads, None)
    config = dataclasses.replace(config, threads=threads, workers=config.workers or num_cpus)
    with _cluster(address, None if num_workers is None else num_workers * threads):
        while rows := [
            {"request": pickle.dumps((model, config, folder, part))}
            for part in itertools.islice(parts, PARTS_PER_DATASET)
        ]:
            pool = ray.data.ActorPoolStrategy(
                min_size=min(num_workers or 1, len(rows)), max_size=num_workers, max_tasks_in_flight_per_actor=2
            )
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
            actor: Any = Actor
            yield from _counts(dataset.map(actor, compute=pool, num_cpus=num_cpus, num_gpus=num_gpus))


def _counts(dataset: ray.data.Dataset) -> Iterator[Counts]:
    try:
        for row in dataset.iter_rows():
            reply = pickle.loads(row["reply"])
            if isinstance(reply, MotivNetError):
                raise reply
            yield reply
    except ray.exceptions.RayError as error:
        raise DataError(f"Ray failed: {str(error).strip().splitlines()[0]}") from None


@contextlib.contextmanager
def _nothing_on_stderr() -> Iterator[None]:
    """Keep what C++ writes off stderr; exceptions say what fails."""
    with open(os.devnull, "wb") as nothing, os.fdopen(os.dup(2), "wb") as stderr:  # noqa: PTH123 - a device
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)


@contextlib.contextmanager
def _cluster(address: str | None, num_cpus: int | None) -> Iterator[None]:
    """Connect to Ray, or start it; an existing connection of the caller is used as it is."""
    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray sends usage statistics to its makers by default.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The level of its C++ part in this process, which says at the start that it is set.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    started = not ray.is_initialized()
    if started:
        options = {"num_cpus": num_cpus, "include_dashboard": False} if address is None else {}
        try:
            _check_reachable(address)
            with _nothing_on_stderr():
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        context.enable_progress_bars = shown
        if started:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Connect to `HOST:PORT` once; OSError if nothing listens there, which takes Ray more than a minute to find out."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
