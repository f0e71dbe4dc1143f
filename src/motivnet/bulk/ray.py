"""The parts of a bulk run on Ray Data, on one machine or a cluster: the rows are those of engine `local`.

A row of the data set is a part, and its result is what the part amounts to: images are read, and rows written, where
the worker is, so neither passes through the driver or Ray's object store. Ray Data's pool of actors does the rest. It
holds one `Worker` per actor, gives each a part at a time (back-pressure), grows and shrinks with the cluster, and
starts anew what dies (a killed process, a lost host), with its part. As a part's file is always the same and is there
whole or not at all, a part that is done twice does no harm.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import pickle
import socket
from collections.abc import Iterator
from typing import Any

from motivnet.bulk.output_folder import Folder
from motivnet.bulk.parts import BulkSettings, Counts, Part
from motivnet.bulk.worker import Worker
from motivnet.errors import ConfigError, DataError, MissingExtraError, MotivNetError

# A data set holds all its rows at once, and the names of the inputs with them.
PARTS_PER_DATASET = 10_000


class Actor:
    """A `Worker` as Ray Data wants it."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do a part."""
        settings, folder, part = pickle.loads(row["request"])
        if self._worker is None:
            self._worker = Worker(settings, folder)
        try:
            reply = self._worker.write(part)
        except MotivNetError as error:
            reply = error
        return {"reply": pickle.dumps(reply)}


def run_ray(
    parts: Iterator[Part],
    settings: BulkSettings,
    folder: Folder,
    *,
    address: str | None = None,
    num_workers: int | None = None,
) -> Iterator[Counts]:
    """Do the parts; give what each amounts to, in the order in which they are done.

    Args:
        parts: what is missing.
        settings: of the run. A worker is given as many CPUs as it has `threads`, which are 1 unless they are set, or a
            GPU where `device` is CUDA's.
        folder: where the files go; every host must reach it under this name.
        address: of a running cluster; None starts Ray on this machine, and stops it in the end.
        num_workers: None takes as many as there is room for.

    Raises:
        ConfigError: if there is no cluster at the address.
        DataError: if a part's workers keep dying, or Ray itself fails.
        MissingExtraError: if Ray is not installed.
        MotivNetError: what `Worker` raises.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "ray", "scale") from None
    threads = settings.threads or 1
    settings = dataclasses.replace(settings, threads=threads)
    num_cpus, num_gpus = (None, 1) if settings.device.startswith("cuda") else (threads, None)
    with _cluster(ray, address, None if num_workers is None else num_workers * threads):
        while rows := [
            {"request": pickle.dumps((settings, folder, part))} for part in itertools.islice(parts, PARTS_PER_DATASET)
        ]:
            least = min(num_workers or 1, len(rows))
            pool = ray.data.ActorPoolStrategy(min_size=least, max_size=num_workers, max_tasks_in_flight_per_actor=1)
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
            actor: Any = Actor
            yield from _counts(ray, dataset.map(actor, compute=pool, num_cpus=num_cpus, num_gpus=num_gpus))


def _counts(ray: Any, dataset: Any) -> Iterator[Counts]:
    try:
        for row in dataset.iter_rows():
            reply = pickle.loads(row["reply"])
            if isinstance(reply, MotivNetError):
                raise reply
            yield reply
    except ray.exceptions.RayError as error:
        raise DataError(f"Ray gave up: {str(error).strip().splitlines()[0]}") from None


@contextlib.contextmanager
def _cluster(ray: Any, address: str | None, num_cpus: int | None) -> Iterator[None]:
    """Connect to Ray, or start it; leave one alone to which the caller is connected already."""
    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What is run on whose images is nobody else's business.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    started = not ray.is_initialized()
    if started:
        own = {"num_cpus": num_cpus, "include_dashboard": False} if address is None else {}
        try:
            _knock(address)
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        context.enable_progress_bars = shown
        if started:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """See whether anybody answers at `HOST:PORT`, which Ray takes more than a minute to find out."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
