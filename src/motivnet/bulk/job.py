"""Predict any number of images into a folder of Parquet files, once each, however often the run is interrupted.

The folder DST of a run holds

- `_plan.json`: the inputs' fingerprint, the model's and the settings, from which all rows follow. A run that finds
  another plan there refuses, and says what differs;
- `part-00000.parquet` and so on: see `motivnet.bulk.parts`. A run makes those that are not there whole;
- `_summary.json`: written when all parts are there.

Two engines make the same parts: `local` one after another in one process beside this one, `ray` in as many as a machine
or a cluster has room for. Readers of Parquet data sets pass over files whose names begin with `_` or `.`: DST can be
read as it is.
"""

import collections
import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from motivnet.bulk.image_sources import Source, open_source
from motivnet.bulk.output_folder import Folder
from motivnet.bulk.parts import BulkSettings, Counts, Part, decode_counts, part_name, pyarrow
from motivnet.bulk.urls import is_url
from motivnet.bulk.worker import Worker
from motivnet.checkpoints.bundle import embedded_models
from motivnet.checkpoints.fingerprint import model_fingerprint
from motivnet.config import flatten, to_plain
from motivnet.errors import ConfigError, OutputError

ENGINES = ("local", "ray")
PLAN, SUMMARY = "_plan.json", "_summary.json"
PLAN_VERSION = 1
# How fast a run goes, not what comes out.
_PACE = ("workers", "threads")
# Parts of an earlier run that are looked into at once: a store far away answers late, but many.
NUM_READERS = 16
PART = re.compile(r"part-(\d{5,})\.parquet")
# What a part amounts to stands at the end of its file.
END_BYTES = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run has come.

    Args:
        inputs: inputs in all.
        held: inputs that earlier runs have done.
        done: inputs that this run has done.
        seconds: since this run began.
    """

    inputs: int
    held: int
    done: int
    seconds: float

    @property
    def images_per_s(self) -> float | None:
        """Inputs of this run per second, the loading of the model included; None before the first part."""
        return self.done / self.seconds if self.done else None

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at this rate; None before the first part."""
        return (self.inputs - self.held - self.done) / self.images_per_s if self.images_per_s else None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a finished run amounts to.

    Args:
        inputs: inputs, each with one result.
        faces: faces in all of them.
        statuses: inputs of each status.
        parts: output files.
        parts_done: output files that this run made; the others were there already.
        seconds: that this run took.
        images_per_s: inputs of this run per second; None if there was nothing left to do.
    """

    inputs: int
    faces: int
    statuses: dict[str, int]
    parts: int
    parts_done: int
    seconds: float
    images_per_s: float | None

    @property
    def failures(self) -> dict[str, int]:
        """Inputs of each status that is a failure; an image without a face is none."""
        return {status: number for status, number in self.statuses.items() if status not in ("ok", "no_face")}

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON."""
        return {**dataclasses.asdict(self), "failures": self.failures}


def run_bulk(
    src: str,
    dst: str | Path,
    settings: BulkSettings | None = None,
    *,
    engine: str = "local",
    address: str | None = None,
    num_workers: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Predict all inputs of `src` into the folder `dst`, or what an interrupted run has left of them.

    Args:
        src: what `open_source` takes.
        dst: folder of the results, a path or a URL that fsspec can write to; made if it does not exist. With a
            cluster, one that all its hosts reach.
        settings: model and all that the rows depend on; None takes the defaults.
        engine: `local` or `ray`.
        address: of a Ray cluster, such as `auto` or `HOST:6379`; None starts Ray on this machine.
        num_workers: processes of Ray, each with the model; None takes as many as there is room for.
        on_progress: called at the start and after each part.

    Raises:
        ConfigError: at a setting that does not exist, or an address without Ray.
        DataError: if there are no such inputs, they change while the run is under way, or workers keep dying.
        OutputError: if `dst` holds another run or other files, or cannot be written.
        MissingExtraError: if pyarrow, fsspec or Ray is needed and not installed.
    """
    settings = _anywhere(settings or BulkSettings())
    _check(settings, engine, address, num_workers)
    pyarrow()
    began = time.perf_counter()
    src = src if is_url(src) else str(Path(src).absolute())
    source, folder = open_source(src), Folder(dst)
    held = _held(folder, _keep_plan(folder, make_plan(src, source, settings)))
    num_parts = -(-len(source) // settings.part_size)
    missing = [number for number in range(num_parts) if number not in held]
    total = _Total()
    for counts in held.values():
        total.add(counts)
    num_held = total.inputs

    def progress() -> Progress:
        seconds = time.perf_counter() - began
        return Progress(inputs=len(source), held=num_held, done=total.inputs - num_held, seconds=seconds)

    say = on_progress or (lambda _: None)
    say(progress())
    parts = (_part(source, number, settings.part_size) for number in missing)
    with contextlib.closing(_run(parts, settings, folder, engine, address, num_workers)) as done:
        for counts in done if missing else ():
            total.add(counts)
            say(progress())
    return _finish(folder, total, num_parts, len(missing), progress())


@dataclasses.dataclass(slots=True)
class _Total:
    inputs: int = 0
    faces: int = 0
    statuses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, counts: Counts) -> None:
        self.inputs += counts.inputs
        self.faces += counts.faces
        self.statuses.update(counts.statuses)


def _anywhere(settings: BulkSettings) -> BulkSettings:
    """Make paths absolute: other processes may have another current folder."""
    kind, colon, path = settings.detector.partition(":")
    detector = f"{kind}:{Path(path).absolute()}" if colon and Path(path).exists() else settings.detector
    is_path = settings.model not in embedded_models() and Path(settings.model).exists()
    model = str(Path(settings.model).absolute()) if is_path else settings.model
    return dataclasses.replace(settings, model=model, detector=detector)


def _check(settings: BulkSettings, engine: str, address: str | None, num_workers: int | None) -> None:
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}. Allowed: {', '.join(ENGINES)}")
    if engine == "local" and (address is not None or num_workers is not None):
        raise ConfigError("address and workers of a cluster belong to engine 'ray', not 'local'")
    if settings.part_size < 1 or (num_workers is not None and num_workers < 1):
        raise ConfigError(f"part_size {settings.part_size}, num_workers {num_workers}: both must be at least 1")


def _held(folder: Folder, names: set[str]) -> dict[int, Counts]:
    """Look into the parts that are there; one that is not whole is none."""

    def look(number: int) -> Counts | None:
        name = part_name(number)
        return decode_counts(folder.read(name, last=END_BYTES)) or decode_counts(folder.read(name))

    numbers = sorted(int(found[1]) for found in map(PART.fullmatch, names) if found)
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="motivnet-parts") as pool:
        counted = zip(numbers, pool.map(look, numbers), strict=True)
        return {number: counts for number, counts in counted if counts is not None}


def _part(source: Source, number: int, size: int) -> Part:
    first = number * size
    return Part(number, first, source.slice(first, min(first + size, len(source))))


def _run(
    parts: Iterator[Part],
    settings: BulkSettings,
    folder: Folder,
    engine: str,
    address: str | None,
    num_workers: int | None,
) -> Generator[Counts, None, None]:
    """Do the parts; give what each amounts to, as they are done."""
    if engine == "ray":
        from motivnet.bulk.ray import run_ray

        yield from run_ray(parts, settings, folder, address=address, num_workers=num_workers)
        return
    worker = Worker(settings, folder)
    try:
        for part in parts:
            yield worker.write(part)
    finally:
        worker.close()


def make_plan(src: str, source: Source, settings: BulkSettings) -> dict[str, Any]:
    """Write down all that the rows follow from, as plain data."""
    plain = {name: value for name, value in to_plain(settings).items() if name not in _PACE}
    inputs = {"source": src, "number": len(source), "fingerprint": source.fingerprint}
    plan = {
        "version": PLAN_VERSION,
        "inputs": inputs,
        "model_fingerprint": model_fingerprint(settings.model),
        "settings": plain,
    }
    # As JSON gives it back.
    return json.loads(json.dumps(plan))


def _keep_plan(folder: Folder, plan: dict[str, Any]) -> set[str]:
    """Put the plan into an empty folder, or see that it is the one that is there; give the names of what is there."""
    names = {name for name in folder.names() if not name.startswith(".")}
    if PLAN not in names and names:
        raise OutputError(f"{folder.name}: holds {min(names)} but no {PLAN}. Allowed: a new or empty folder")
    if names <= {PLAN}:
        # Also in place of one by which nothing was done: it may have been a mistake.
        folder.write(PLAN, _json(plan))
        return names
    try:
        held = json.loads(folder.read(PLAN))
    except ValueError:
        held = None
    if not isinstance(held, dict):
        raise OutputError(f"{folder.path(PLAN)}: is no plan; is {folder.name} the folder of a bulk run?")
    was, now = flatten(held), flatten(plan)
    differ = [f"{key} {was.get(key)!r}, now {now.get(key)!r}" for key in now | was if was.get(key) != now.get(key)]
    if differ:
        raise OutputError(
            f"{folder.name}: holds a run with {'; '.join(differ)}. Go on with the same, or take a new folder"
        )
    return names


def _finish(folder: Folder, total: _Total, num_parts: int, num_done: int, progress: Progress) -> Summary:
    """Write the summary, and tidy up."""
    rate = progress.images_per_s
    summary = Summary(
        inputs=total.inputs,
        faces=total.faces,
        statuses=dict(sorted(total.statuses.items())),
        parts=num_parts,
        parts_done=num_done,
        seconds=round(progress.seconds, 3),
        images_per_s=None if rate is None else round(rate, 3),
    )
    # A second run that finds nothing to do leaves the figures of the first.
    if num_done or SUMMARY not in folder.names():
        folder.write(SUMMARY, _json(summary.to_dict()))
    folder.sweep()
    return summary


def _json(plain: dict[str, Any]) -> bytes:
    return (json.dumps(plain, indent=2) + "\n").encode()
