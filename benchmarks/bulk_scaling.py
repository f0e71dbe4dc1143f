"""Time `motivnet bulk`: images/s of engine local, and of engine ray with one and two workers, and what they remember.

The images, JPEGs of 640x480, are cut from the photographs that scikit-image and matplotlib ship, with noise: one or two
faces each. Each worker has one thread of the model. A rate is that between the first part and the last: loading the
model and starting Ray stand apart. `images/s per core` comes from a run that is confined to one core.

    python benchmarks/bulk_scaling.py [--images 2000] [--part-size 50] [--model nano] [--against CHECKOUT]

writes results/bulk.json, and the block of figures in docs/benchmarks.md.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image
from skimage import data
from tables import PAGE, add_against, fill_block, machine, markdown_table, measure_other, write_results

from motivnet.bulk.job import Progress, Summary, run_bulk

HEIGHT, WIDTH = 480, 640
SAMPLE_EVERY_S = 0.25
# Of a core hour: an assumption to reckon with, nobody's offer.
PRICE_USD = 0.04
WORKER = b"motivnet.bulk.worker"
# name -> engine, workers of Ray, cores that may be used (None: all)
RUNS: dict[str, tuple[str, int | None, int | None]] = {
    "local, one core": ("local", None, 1),
    "local": ("local", None, None),
    "ray, 1 worker": ("ray", 1, None),
    "ray, 2 workers": ("ray", 2, None),
}


def main() -> None:
    """Make the images, do every run, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--part-size", type=int, default=50)
    parser.add_argument("--model", default="nano", help="name of an embedded model, or the folder of a bundle")
    parser.add_argument("--try", action="store_true", dest="trial", help="print the figures, and write none")
    add_against(parser)
    options = parser.parse_args()
    settings = {"model": options.model, "part_size": options.part_size, "threads": 1}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "images", options.images)
        rows = [do_run(folder, run, settings, *how) for run, how in RUNS.items()]
        same = all(same_files(folder / "local", folder / run) for run in RUNS)
    local, one, two = rows[1:]
    figures = {
        "images/s per core": rows[0]["images/s"],
        "ray, ms more an image than local": round(1000 / one["images/s"] - 1000 / local["images/s"], 2),
        "ray, 2 workers / 1 worker": round(two["images/s"] / one["images/s"], 2),
        "files of all runs identical": same,
    }
    measured: dict[str, Any] = {"rows": rows, **figures}
    if options.json:
        print(json.dumps(measured))
        return
    if options.against:
        measured["before"] = measure_other(options.against)
    for found in filter(None, (measured, measured.get("before"))):
        print(markdown_table(found["rows"]))
        for figure in figures:
            print(f"{figure}: {found[figure]}")
    if options.trial:
        return
    known = {"model": options.model, "images": options.images, "part_size": options.part_size}
    write_results("bulk", known | {"image": f"{WIDTH}x{HEIGHT} JPEG", **measured})
    fill_block(PAGE, "figures", page_block(options, rows, figures))


def page_block(options: argparse.Namespace, rows: list[dict[str, Any]], figures: dict[str, Any]) -> str:
    """Lay the figures out for the page."""
    about = machine()
    head = (
        f"Measured by `python benchmarks/bulk_scaling.py` on {about['cores']} cores of *{about['cpu']}*: "
        f"{options.images:,} JPEGs of {WIDTH}x{HEIGHT}, parts of {options.part_size}, model `{options.model}`, one "
        "thread a worker."
    )
    lines = [f"- {figure}: {value}" for figure, value in figures.items()]
    rate = figures["images/s per core"]
    core_hours = 1e9 / rate / 3600
    arithmetic = (
        f"Arithmetic, not a measurement: a billion such images are 1,000,000,000 / ({rate} x 3600) = "
        f"{core_hours:,.0f} core hours of such cores, which is {core_hours / 24 / 1000:,.1f} days of 1,000 cores if "
        f"nothing else limits them. At an *assumed* price of {PRICE_USD} USD for a core hour that costs "
        f"{core_hours * PRICE_USD:,.0f} USD, without storage and traffic."
    )
    return "\n".join([head, "", markdown_table(rows), "", *lines, "", arithmetic])


def do_run(
    folder: Path, name: str, settings: dict[str, Any], engine: str, workers: int | None, cores: int | None
) -> dict[str, Any]:
    """Do one run, and sum it up."""
    reports: list[tuple[float, Progress]] = []
    began = time.perf_counter()
    with confined(cores), Memory() as memory:
        summary: Summary = run_bulk(
            str(folder / "images"),
            folder / name,
            **settings,
            engine=engine,
            num_workers=workers,
            progress=lambda progress: reports.append((time.perf_counter(), progress)),
        )
    (first_s, first), (last_s, last) = reports[1], reports[-1]
    early, late = memory.early_and_late(first_s, last_s)
    return {
        "run": name,
        "images/s": round((last.done - first.done) / (last_s - first_s), 2),
        "seconds before the first part": round(first_s - began, 1),
        "seconds in all": round(summary.seconds, 1),
        "MB a worker, first quarter": early,
        "MB a worker, last quarter": late,
        "MB of this process, highest so far": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


@contextlib.contextmanager
def confined(cores: int | None) -> Iterator[None]:
    """Keep this process, and those it starts meanwhile, to so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Memory:
    """Look again and again what the workers' processes hold in memory (Linux only)."""

    def __enter__(self) -> "Memory":
        self._samples: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def early_and_late(self, begin: float, end: float) -> tuple[int, int]:
        """Give the median megabytes of a worker in the first and in the last quarter between two times."""
        quarter = (end - begin) / 4
        early = [size for at, size in self._samples if begin <= at <= begin + quarter]
        late = [size for at, size in self._samples if end - quarter <= at <= end]
        return round(statistics.median(early)), round(statistics.median(late))

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_EVERY_S):
            self._samples += [(time.perf_counter(), megabytes) for megabytes in worker_megabytes()]


def worker_megabytes() -> Iterator[int]:
    """Give the resident memory of each worker on this machine."""
    for process in Path("/proc").glob("[0-9]*"):
        # It may have ended meanwhile.
        with contextlib.suppress(OSError):
            if WORKER in (process / "cmdline").read_bytes():
                pages = int((process / "statm").read_text().split()[1])
                yield pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def same_files(one: Path, other: Path) -> bool:
    """Tell whether two runs wrote the same parts, byte for byte."""
    names = sorted(path.name for path in one.glob("part-*"))
    return names == sorted(path.name for path in other.glob("part-*")) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def make_images(folder: Path, count: int) -> None:
    """Write `count` different images of one or two faces."""
    folder.mkdir()
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as image:
        hopper = image.convert("RGB").resize((HEIGHT * 512 // 606, HEIGHT))
    astronaut = Image.fromarray(data.astronaut()).resize((HEIGHT, HEIGHT))
    background = Image.fromarray(data.coffee()).resize((WIDTH, HEIGHT))
    for number in range(count):
        noise = np.random.default_rng(number)
        canvas = background.copy()
        canvas.paste(astronaut if number % 3 else hopper, (int(noise.integers(0, 100)), 0))
        if number % 4 == 0:
            canvas.paste(hopper.resize((WIDTH // 4, HEIGHT // 3)), (WIDTH - WIDTH // 4, int(noise.integers(0, 300))))
        noisy = np.asarray(canvas, np.float32) + noise.normal(0, 4, (HEIGHT, WIDTH, 3)).astype(np.float32)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number:06}.jpg", quality=90)


if __name__ == "__main__":
    main()
