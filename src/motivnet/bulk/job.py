"""Predict any number of images into a folder of Parquet files, each exactly once, in a run that can be interrupted.

The folder DST of a run holds

- `_plan.json`: what the rows follow from: the fingerprints of the inputs and the model, and the settings. A run with
  another plan is refused, with the differences;
- `part-00000.parquet` and so on, see `motivnet.bulk.parts`. A run writes those that are missing or incomplete;
- `_summary.json`, written when all parts are there.

Both engines write the same parts: `local` one after another in one process beside this one, `ray` in as many as a
machine or a cluster has room for. Readers of Parquet data sets ignore files whose names begin with `_` or `.`, so that
DST can be read as a whole.
"""

import contextlib
import dataclasses
import functools
import json
import re
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from motivnet.bulk.fsspec_files import OutputFolder, is_url, shown
from motivnet.bulk.image_sources import Source, open_source
from motivnet.bulk.parts import Counts, Part, decode_counts
from motivnet.bulk.worker import Worker
from motivnet.checkpoints.bundle import embedded_models, is_bundle, model_fingerprint, open_bundle
from motivnet.config import replace, to_json, to_plain
from motivnet.errors import ConfigError, OutputError, needs_extra, reraised
from motivnet.images import ImageLimits
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.storage import check_same

ENGINES = ("local", "ray")
PLAN, SUMMARY = "_plan.json", "_summary.json"
PLAN_VERSION = 1
# They change how fast a run is, not its rows; inputs are fetched by fsspec.
# The precision is in the model's fingerprint.
_NOT_IN_PLAN = ("workers", "threads", "fetch_limits", "precision")
# Parts of an earlier run that are checked at once: remote storage is slow to answer.
NUM_READERS = 16
PART = re.compile(r"part-(\d{5,})\.parquet")
# The counts of a part are at the end of its file.
END_BYTES = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Progress of a run.

    Args:
        inputs: number of all inputs.
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
        """Inputs of this run per second, including the loading of the model; None before the first part."""
        return self.done / self.seconds if self.done else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated time to the end; None before the first part."""
        return (self.inputs - self.held - self.done) / self.images_per_s if self.images_per_s else None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Summary(Counts):
    """Result of a finished run, with the counts of all its inputs.

    Args:
        parts: output files.
        parts_done: output files that this run wrote; the others were there already.
        seconds: duration of this run.
        images_per_s: inputs of this run per second; None if nothing was left to do.
        skipped: what was passed over in the folder, such as files that are no images: suffix or reason -> number.
    """

    parts: int
    parts_done: int
    seconds: float
    images_per_s: float | None
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def failures(self) -> dict[str, int]:
        """Inputs of each status that is a failure; an image without a face is not."""
        return {status: number for status, number in self.statuses.items() if status not in ("ok", "no_face")}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**dataclasses.asdict(self), "failures": self.failures}


def run_bulk(
    src: str | Path,
    dst: str | Path,
    *,
    model: str | Path = "nano",
    config: PredictorConfig | None = None,
    part_size: int = 1000,
    image_column: str | None = None,
    engine: str = "local",
    address: str | None = None,
    num_workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Summary:
    """Predict all inputs into a folder of Parquet files, or what an interrupted run has left of them.

    Args:
        src: a folder, list, Parquet file, image, or the URL of one; see `motivnet.bulk.image_sources`.
        dst: folder of the results, a path or a URL that fsspec can write to; created if it does not exist. All hosts
            of a cluster must reach it.
        model: as for `Predictor.load`.
        config: the options of the predictor; None takes the defaults.
        part_size: inputs per output file.
        image_column: of a Parquet file, the column with the images: bytes, pairs of `bytes` and `path`, or paths.
        engine: `local` or `ray`.
        address: of a Ray cluster, such as `auto` or `HOST:6379`; None starts Ray on this machine.
        num_workers: processes of Ray, each with the model; None takes as many as there is room for.
        progress: called at the start and after each part.
        options: other fields of `PredictorConfig`, such as `batch_size=8`; they take precedence over `config`.

    Raises:
        ConfigError: at an unknown option or a value that is not allowed.
        DataError: if there are no such inputs, they change during the run, or workers die repeatedly.
        OutputError: if `dst` holds another run or other files, or cannot be written.
        MissingExtraError: if Ray is needed and not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}. Allowed: {', '.join(ENGINES)}")
    if engine == "local" and (address is not None or num_workers is not None):
        raise ConfigError("address and workers of a cluster belong to engine 'ray', not 'local'")
    if part_size < 1 or (num_workers is not None and num_workers < 1):
        raise ConfigError(f"part_size {part_size}, num_workers {num_workers}: both must be at least 1")
    run = _run_local
    if engine == "ray":
        with needs_extra("ray", "scale"):
            from motivnet.bulk.ray import run_ray
        run = functools.partial(run_ray, address=address, num_workers=num_workers)
    began = time.perf_counter()
    src = str(src) if is_url(str(src)) else str(Path(src).absolute())
    model, config = _absolute(str(model), replace(config or PredictorConfig(), options))
    source, folder = open_source(src, image_column), OutputFolder(dst)
    held = _find_parts(folder, _keep_plan(folder, make_plan(src, source, model, config, part_size)))
    num_parts = -(-len(source) // part_size)
    missing = [number for number in range(num_parts) if number not in held]
    total = sum(held.values(), Counts())
    num_held = total.inputs

    def report() -> Progress:
        seconds = time.perf_counter() - began
        now = Progress(inputs=len(source), held=num_held, done=total.inputs - num_held, seconds=seconds)
        if progress:
            progress(now)
        return now

    last = report()
    parts = (
        Part(number, number * part_size, source.slice(number * part_size, (number + 1) * part_size))
        for number in missing
    )
    with contextlib.closing(run(parts, model, config, folder)) as done:
        for counts in done if missing else ():
            total += counts
            last = report()
    return _finish(folder, total, num_parts, len(missing), last, dict(source.skipped))


def _absolute(model: str, config: PredictorConfig) -> tuple[str, PredictorConfig]:
    """Make the paths absolute: other processes may have another current folder."""
    if model not in embedded_models() and Path(model).exists():
        model = str(Path(model).absolute())
    kind, colon, path = config.detector.partition(":")
    if colon and Path(path).exists():
        config = dataclasses.replace(config, detector=f"{kind}:{Path(path).absolute()}")
    return model, config


def _run_local(
    parts: Iterator[Part], model: str, config: PredictorConfig, folder: OutputFolder
) -> Generator[Counts, None, None]:
    """Write the parts one after another, and yield their counts."""
    try:
        with contextlib.closing(Worker(model, config, folder)) as worker:
            yield from map(worker.write, parts)
    finally:  # the worker, killed, may have been writing
        folder.remove_leftovers()


def make_plan(src: str, source: Source, model: str, config: PredictorConfig, part_size: int) -> dict[str, Any]:
    """Return all that the rows follow from, as plain data."""
    limits = config.limits or ImageLimits()
    settings = {"model": model, "part_size": part_size, **to_plain(dataclasses.replace(config, limits=limits))}
    if config.abstain_below == "stored" and is_bundle(model):
        settings["abstain_below"] = open_bundle(model).config.abstain_below
    return {
        "version": PLAN_VERSION,
        "inputs": {"source": shown(src), "number": len(source), "fingerprint": source.fingerprint},
        "model_fingerprint": model_fingerprint(model, config.precision),
        "settings": {name: value for name, value in settings.items() if name not in _NOT_IN_PLAN},
    }


def _keep_plan(folder: OutputFolder, plan: dict[str, Any]) -> set[str]:
    """Write the plan into an empty folder, or check that the folder holds the same; return the names in the folder."""
    names = {name for name in folder.names() if not name.startswith(".")}
    if PLAN not in names and names:
        raise OutputError(f"{folder.name}: holds {min(names)} but no {PLAN}. Allowed: a new or empty folder")
    if names <= {PLAN}:
        # Nothing has been done by a plan that is there, which may have been a mistake.
        folder.write(PLAN, _json(plan))
        return names
    with reraised(OutputError, f"{folder.name}/{PLAN}: cannot be read", ValueError):
        held = json.loads(folder.read(PLAN))
    check_same(folder.name, held, plan, allowed="the same command, or a new folder", error=OutputError)
    return names


def _find_parts(folder: OutputFolder, names: set[str]) -> dict[int, Counts]:
    """Return the numbers and counts of the parts that are complete."""

    def read(name: str) -> Counts | None:
        return decode_counts(folder.read(name, last=END_BYTES)) or decode_counts(folder.read(name))

    found = {int(match[1]): match[0] for match in map(PART.fullmatch, names) if match}
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="motivnet-parts") as pool:
        counted = zip(found, pool.map(read, found.values()), strict=True)
        return {number: counts for number, counts in counted if counts is not None}


def _finish(
    folder: OutputFolder, total: Counts, num_parts: int, num_done: int, progress: Progress, skipped: dict[str, int]
) -> Summary:
    """Write the summary, and remove what killed processes left."""
    rate = progress.images_per_s
    summary = Summary(
        **dataclasses.asdict(total),
        parts=num_parts,
        parts_done=num_done,
        seconds=round(progress.seconds, 3),
        images_per_s=None if rate is None else round(rate, 3),
        skipped=skipped,
    )
    # A second run that finds nothing to do keeps the figures of the first.
    if num_done or SUMMARY not in folder.names():
        folder.write(SUMMARY, _json(summary.to_dict()))
    folder.remove_leftovers()
    return summary


def _json(plain: dict[str, Any]) -> bytes:
    return (to_json(plain, indent=2) + "\n").encode()
