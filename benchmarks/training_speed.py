"""Compare a training step of this code with one of a plain loop: the same model, images and augmentation.

Every variant is a process of its own that waits for its turn: they take turns, so that what slows the machine down for
a while slows all alike. A step is a batch from the loader, already decoded, its random changes, forward pass, backward
pass and optimizer. Weights and faces are random, which the time does not depend on.

- `plain`: what one writes first. float32, torch's default memory format, `torch.optim.AdamW` with its defaults, no
  averaged weights, no logs.
- `this code`: the recipe through Lightning's trainer, as `motivnet train` runs it, with curves, warnings and averages.
- `float32`: the same with `run.precision=32-true`; `compiled`: with `run.compile=true`.

Then, with the recipe `nano-fer2013`: the share of an epoch that goes by waiting for data, by number of workers and with
and without the cache of decoded faces; and the share of a step that the warnings cost.

The tables are also put into `docs/benchmarks.md`.

    python benchmarks/training_speed.py [--only nano 0.3b loading] [--cores 2]
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning
import numpy as np
import torch
from data_time import SECONDS, WAITING, DataTime
from lightning.pytorch.profilers import SimpleProfiler
from PIL import Image
from tables import PAGE, RESULTS, fill_block, markdown_table, use_cores, write_results
from torch.utils.data import DataLoader

from motivnet import config
from motivnet.data.augment import augment, mix
from motivnet.data.loader import FaceDataset, make_loader
from motivnet.data.manifest import Manifest, make_manifest
from motivnet.labels import EMOTIONS
from motivnet.models.motivnet import build_model
from motivnet.training import recipes
from motivnet.training.callbacks.stopping import handle_exits
from motivnet.training.data_module import FaceData, Rows
from motivnet.training.fit import prepare_model
from motivnet.training.losses import blend_targets, soft_cross_entropy
from motivnet.training.module import Classifier
from motivnet.training.settings import Place, Recipe
from motivnet.training.trainer import make_trainer


class Case(NamedTuple):
    """What is compared.

    Attributes:
        recipe: by name.
        settings: of it that are changed.
        turns: of each variant.
        steps: in a turn.
        side_px: of the drawn images.
    """

    recipe: str
    settings: list[str]
    turns: int
    steps: int
    side_px: int


# The large one: a quarter of each side, the 16 images of its optimizer step at once, which makes recomputing needless.
CASES = {
    "nano": Case("nano-fer2013", [], turns=9, steps=3, side_px=48),
    "0.3b": Case(
        "motivnet-0.3b",
        [
            "model.image_size=[256,192]",
            "preprocessing.size=[256,192]",
            "backbone.weights=null",
            "backbone.recompute=false",
            "run.batch_size=16",
            "run.accumulate=1",
            "run.num_workers=0",
            "run.cache=true",
        ],
        turns=5,
        steps=1,
        side_px=256,
    ),
}
PLAIN = "plain"
VARIANTS: dict[str, list[str]] = {
    "this code": [],
    "float32": ["run.precision=32-true"],
    "compiled": ["run.compile=true"],
}
LOADING = "loading"
WORKERS = (0, 1, 2)
WARM_STEPS = 2
# Of a loading test: faces of an epoch, which is the second.
EPOCH_ROWS = 1536
# Of the test of what the warnings cost.
WATCHED_STEPS = 10


def main() -> None:
    """Measure what is asked for, write the results, and print them as tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CASES, LOADING], default=[*CASES, LOADING])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, arguments = options.child
        CHILDREN[kind](**json.loads(arguments))
        return
    cores, last = use_cores(options.cores), RESULTS / "training_speed.json"
    # A part of the results that is not measured anew is kept.
    results = json.loads(last.read_text(encoding="utf-8")) if last.exists() else {}
    results.pop("machine", None)
    results["cores_used"] = cores
    for case in options.only:
        results[case] = measure_loading() if case == LOADING else measure_case(case)
    path = write_results("training_speed", results)
    loading = results.get(LOADING, {})
    tables = ([row for case in CASES for row in results.get(case, [])], loading.get("rows"), loading.get("warnings"))
    text = "\n\n".join(markdown_table(rows) for rows in tables if rows)
    print(text)
    fill_block(PAGE, "training-speed", text)
    print(f"written: {path}", file=sys.stderr)


class Runner:
    """A process that takes steps when it is told to, and tells how long each took."""

    def __init__(self, case: str, variant: str) -> None:
        self._process = start("step", case=case, variant=variant)
        json.loads(self._ask(""))

    def steps(self, count: int) -> list[float]:
        """Take steps; seconds of each."""
        return json.loads(self._ask(f"{count}\n"))

    def _ask(self, text: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(text)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended: {self._process.wait()}")
        return line

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def start(kind: str, **arguments: Any) -> subprocess.Popen[str]:
    """Start this script as another process."""
    command = [sys.executable, __file__, "--child", kind, json.dumps(arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def measure_case(case: str) -> list[dict[str, object]]:
    """Measure each variant in turns with the plain loop; two models at a time are in memory."""
    recipe, turns, steps = resolve(case), CASES[case].turns, CASES[case].steps
    rows: list[dict[str, object]] = []
    for variant in VARIANTS:
        print(f"measuring {case}, {variant}", file=sys.stderr)
        begin = time.perf_counter()
        runners = {name: Runner(case, name) for name in (PLAIN, variant)}
        warm = {name: runner.steps(WARM_STEPS) for name, runner in runners.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(turns):
            for name, runner in runners.items():
                seconds[name] += runner.steps(steps)
        for runner in runners.values():
            runner.stop()
        median = {name: statistics.median(found) for name, found in seconds.items()}
        size = recipe.run.batch_size * recipe.run.accumulate
        height, width = recipe.model.image_size
        rows.append(
            {
                "model": recipe.name.removesuffix("-fer2013"),
                "input": f"{height}x{width}",
                "batch": size,
                "variant": variant,
                "steps": len(seconds[variant]),
                "plain, images/s": f"{size / median[PLAIN]:.3g}",
                "images/s": f"{size / median[variant]:.3g}",
                "times faster": f"{median[PLAIN] / median[variant]:.2f}",
                "first step, s": f"{warm[variant][0]:.1f}",
            }
        )
        print(f"{rows[-1]} in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return rows


def measure_loading() -> dict[str, Any]:
    """Measure waiting for each number of workers with and without the cache, and what the warnings cost."""
    rows = []
    for workers, cache in itertools.product(WORKERS, (True, False)):
        print(f"measuring {workers} workers, cache {cache}", file=sys.stderr)
        found = result_of("wait", workers=workers, cache=cache)
        rows.append(
            {
                "run.num_workers": workers,
                "run.cache": json.dumps(cache),
                "waiting": f"{found['waiting']:.1%}",
                "images/s": f"{EPOCH_ROWS / found['seconds']:.0f}",
            }
        )
    return {"rows": rows, "warnings": [result_of("warn", case=case) for case in CASES]}


def result_of(kind: str, **arguments: Any) -> Any:
    """Run another process and give what it prints."""
    output, _ = start(kind, **arguments).communicate()
    return json.loads(output.splitlines()[-1])


# What the other processes do.


def resolve(case: str, settings: list[str] | None = None) -> Recipe:
    """Give the recipe of a case."""
    chosen = CASES[case]
    return config.override(recipes.recipe(chosen.recipe), chosen.settings + (settings or []))


class Gate(lightning.Callback):
    """Stops before each step unless steps were asked for, and times them."""

    def __init__(self) -> None:
        self._left, self._seconds, self._begin = 0, list[float](), 0.0

    def wait(self) -> None:
        """End a step, if one was begun, and wait until another is asked for."""
        if self._begin:
            self._seconds.append(time.perf_counter() - self._begin)
        if not self._left:
            print(json.dumps(self._seconds), flush=True)
            self._seconds.clear()
            self._left = int(sys.stdin.readline() or 0)
            if not self._left:
                os._exit(0)
        self._left -= 1
        self._begin = time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        """Wait for the first."""
        self.wait()

    def on_train_batch_end(self, *_: Any) -> None:
        """Wait for the next."""
        self.wait()


def step(case: str, variant: str) -> None:
    """Take steps when told to."""
    # Epochs do not end meanwhile.
    num_steps = WARM_STEPS + CASES[case].turns * CASES[case].steps + 1
    rows = draw(case, num_steps * resolve(case).run.batch_size)
    if variant == PLAIN:
        plain(resolve(case), rows, Gate())
    else:
        train(resolve(case, VARIANTS[variant]), rows, Gate())


def plain(recipe: Recipe, rows: Rows, gate: Gate) -> None:
    """Train in a plain loop."""
    torch.manual_seed(0)
    model = build_model(recipe.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.optimizer.head_lr)
    dataset = FaceDataset(rows.train, recipe.preprocessing, cache=True)
    dataset.__getitems__(list(range(len(dataset))))
    loader = make_loader(dataset, batch_size=recipe.run.batch_size, shuffle_seed=0)
    generator = torch.Generator().manual_seed(0)
    gate.wait()
    for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
        target_BC = blend_targets(
            batch.labels,
            batch.votes,
            vote_weight=recipe.loss.vote_weight,
            label_smoothing=recipe.loss.label_smoothing,
        )
        pixels_BCHW = augment(batch.pixels, recipe.augment, generator)
        pixels_BCHW, target_BC = mix(pixels_BCHW, target_BC, recipe.run.mixup, generator)
        optimizer.zero_grad()
        loss = soft_cross_entropy(model(pixels_BCHW), target_BC)
        loss.backward()
        optimizer.step()
        gate.wait()


def train(recipe: Recipe, rows: Rows, *callbacks: lightning.Callback, profiler: Any = None) -> lightning.Trainer:
    """Train as `motivnet train` does."""
    torch.manual_seed(0)
    module = Classifier(prepare_model(recipe, None, start=True), recipe, rows.log_prior_C, rows.class_weights_C)
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = make_trainer(recipe, Path(folder), Place(accelerator="cpu"), progress=False, callbacks=callbacks)
        if profiler:
            cast(Any, trainer).profiler = profiler
        with handle_exits(trainer, Path(folder)):
            trainer.fit(module, DecodedFaces(recipe, rows))
    return trainer


class DecodedFaces(FaceData):
    """The loaders of a run; where faces are cached, they are decoded beforehand."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Give the batches to learn from."""
        loader: Any = super().train_dataloader()
        if self._run.cache and not self._run.num_workers:
            loader.dataset.__getitems__(list(range(len(loader.dataset))))
        return loader


def wait(workers: int, cache: bool) -> None:
    """Train two epochs; tell how much of the second went by waiting, and how long it took."""
    settings = ["run.epochs=2", f"run.num_workers={workers}", f"run.cache={json.dumps(cache)}"]
    with talk_on_stderr() as tell:
        found = train(resolve("nano", settings), draw("nano", EPOCH_ROWS), DataTime()).callback_metrics
        tell({"waiting": float(found[WAITING]), "seconds": float(found[SECONDS])})


class Enough(lightning.Callback):
    """Ends the process after some steps, before anything is saved, and tells what the warnings cost."""

    def __init__(self, steps: int, profiler: SimpleProfiler, tell: Callable[[Any], object]) -> None:
        self._steps, self._profiler, self._tell = steps, profiler, tell

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Count."""
        if trainer.global_step == self._steps:
            taken = self._profiler.recorded_durations
            own = sum(sum(seconds) for name, seconds in taken.items() if "Diagnostics.on_" in name)
            share = own / sum(taken["run_training_batch"])
            self._tell({"model": trainer.lightning_module.recipe.name, "warnings, share of a step": f"{share:.2%}"})
            os._exit(0)


def warn(case: str) -> None:
    """Train with Lightning's profiler; the warnings measure weights every ten steps."""
    recipe, profiler = resolve(case), SimpleProfiler()
    with talk_on_stderr() as tell:
        rows = draw(case, (WATCHED_STEPS + 1) * recipe.run.batch_size)
        train(recipe, rows, Enough(WATCHED_STEPS, profiler, tell), profiler=profiler)


@contextlib.contextmanager
def talk_on_stderr() -> Iterator[Any]:
    """Keep stdout for the one thing that the function which this gives is told."""
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield lambda found: print(json.dumps(found), file=stdout, flush=True)


def draw(case: str, count: int) -> Rows:
    """Draw faces of noise, each a PNG file in memory."""
    rng = np.random.default_rng(0)
    side, channels = CASES[case].side_px, resolve(case).model.in_chans
    shape = (side, side) if channels == 1 else (side, side, channels)
    images = []
    for _ in range(64):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    names = EMOTIONS.names

    def rows(number: int) -> Manifest:
        return make_manifest(
            {
                "image": [images[row % len(images)] for row in range(number)],
                "label": [names[row % len(names)] for row in range(number)],
                "split": ["train"] * number,
            }
        )

    log_prior_C = torch.full((len(names),), 1 / len(names)).log()
    return Rows(rows(count), rows(14), {}, log_prior_C, None)


CHILDREN = {"step": step, "wait": wait, "warn": warn}


if __name__ == "__main__":
    main()
