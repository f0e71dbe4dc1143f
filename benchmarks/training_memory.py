"""Check what `motivnet train --dry-run` calculates against the memory of real training steps on the CPU.

Every configuration is a process of its own: Lightning's trainer runs optimizer steps of the real module, with random
weights and random faces, which memory does not depend on. Measured is what the process grows by: the most that it ever
held, less what it held before the model was built, when a step of a tiny model had loaded every library and kernel.

An allocator that keeps what is freed makes a process grow by more than is alive at any one time. So each configuration
runs twice: once with glibc told to give every freed block of over 64 kB back to the system at once, so that the process
holds what is alive, which is what is compared; and once as `motivnet train` runs, which keeps freed memory because that
is faster. Linux only.

The tables are also put into `docs/benchmarks.md`.

With --full, one step of the recipe `motivnet-1b` as it is, on one image: 20 GB of memory must be free.

    python benchmarks/training_memory.py [--only NAME ...] [--cores 2]
    python benchmarks/training_memory.py --full [--size 1024x768] [--precision bf16-mixed]
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from tables import PAGE, RESULTS, fill_block, machine, markdown_table, use_cores, write_results
from torch.utils.data import DataLoader

from motivnet import config
from motivnet.data.loader import Batch
from motivnet.machine import KEEP_STEPS, keep_freed_memory
from motivnet.models.backbone import keep_depthwise_float32
from motivnet.models.motivnet import build_model
from motivnet.training import recipes
from motivnet.training.estimate import step_memory
from motivnet.training.freezing import set_trained
from motivnet.training.losses import soft_cross_entropy
from motivnet.training.module import Classifier
from motivnet.training.optimizers import WarmedAverage
from motivnet.training.settings import Place, Recipe

# From the second step on, there are gradients and averages of the step before.
STEPS = 2
# Blocks from this size on are given back when they are freed.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def sized(height: int, width: int, batch_size: int, precision: str, *, recompute: bool) -> list[str]:
    size = f"[{height},{width}]"
    settings = [f"model.image_size={size}", f"preprocessing.size={size}", f"run.batch_size={batch_size}"]
    settings += ["run.accumulate=1", f"run.precision={precision}", f"backbone.recompute={json.dumps(recompute)}"]
    return settings


# Name -> recipe and settings. All fit 8 GB.
CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "nano, its recipe": ("nano-fer2013", []),
    "nano, fp32, recompute": ("nano-fer2013", ["run.precision=32-true", "backbone.recompute=true"]),
    "mini, batch 512": ("mini-fer2013", ["run.batch_size=512"]),
    "0.3b, 256x192, fp32": ("motivnet-0.3b", sized(256, 192, 2, "32-true", recompute=False)),
    "0.3b, 256x192, fp32, recompute": ("motivnet-0.3b", sized(256, 192, 2, "32-true", recompute=True)),
    "0.3b, 256x192, bf16-mixed": ("motivnet-0.3b", sized(256, 192, 2, "bf16-mixed", recompute=False)),
    "0.3b, 512x384, bf16-true, recompute": ("motivnet-0.3b", sized(512, 384, 2, "bf16-true", recompute=True)),
    "0.3b, 512x384, LoRA, bf16-mixed": (
        "motivnet-0.3b",
        [*sized(512, 384, 2, "bf16-mixed", recompute=False), "backbone.train=lora"],
    ),
    "0.3b, 512x384, frozen, bf16-mixed": (
        "motivnet-0.3b",
        [*sized(512, 384, 2, "bf16-mixed", recompute=False), "backbone.train=none"],
    ),
    "sapiens2-0.1b, 512x384, bf16-mixed": ("motivnet-sapiens2-0.1b", sized(512, 384, 2, "bf16-mixed", recompute=False)),
    "sapiens2-0.1b, 512x384, bf16-mixed, recompute, accumulate 2": (
        "motivnet-sapiens2-0.1b",
        [*sized(512, 384, 2, "bf16-mixed", recompute=True), "run.accumulate=2"],
    ),
}
FULL = "full step"
# Python, torch and their libraries, and a margin for the rest of the machine.
SPARE_BYTES = 2 * 10**9


def main() -> None:
    """Measure, compare, write the results, and print them as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="one step of motivnet-1b instead")
    parser.add_argument("--size", default="1024x768", help="height x width, of --full")
    parser.add_argument("--precision", default="bf16-mixed", help="of --full")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    cores, last = use_cores(options.cores), RESULTS / "training_memory.json"
    before = json.loads(last.read_text(encoding="utf-8")) if last.exists() else {}
    # A part of the results that is not measured anew is kept.
    rows = {row["configuration"]: row for row in before.get("rows", [])}
    full = before.get("full")
    if options.full:
        height, width = map(int, options.size.split("x"))
        full = compare(FULL, "motivnet-1b", sized(height, width, 1, options.precision, recompute=True))
    else:
        rows |= {name: compare(name, *CONFIGURATIONS[name]) for name in options.only}
    ordered = [rows[name] for name in CONFIGURATIONS if name in rows]
    path = write_results("training_memory", {"cores_used": cores, "steps": STEPS, "rows": ordered, "full": full})
    print(f"written: {path}", file=sys.stderr)
    tables = {}
    if ordered:
        tables["training-memory"] = markdown_table([table_row(row) for row in ordered])
    if full:
        tables["training-step"] = markdown_table([full_row(full)])
    for name, table in tables.items():
        print(f"{table}\n")
        fill_block(PAGE, name, table)


def compare(name: str, recipe: str, settings: list[str]) -> dict[str, Any]:
    """Calculate one configuration and measure it."""
    print(f"measuring {name}", file=sys.stderr)
    chosen = resolve(recipe, settings)
    calculated = config.to_plain(step_memory(chosen, Place()))
    needed, free = calculated["total"] + SPARE_BYTES, free_bytes()
    if free < needed:
        raise SystemExit(f"{name}: {gigabytes(needed)} GB of memory are needed, {gigabytes(free)} are free")
    row = {"configuration": name, "recipe": recipe, "settings": settings, "calculated": calculated}
    row |= {"cpu": machine()["cpu"], "load_average": round(os.getloadavg()[0], 1)}
    ways = ("give_back",) if name == FULL else ("give_back", "as_trained")
    return row | {way: child(way, row) for way in ways}


def resolve(recipe: str, settings: Sequence[str]) -> Recipe:
    """Give a recipe with changed settings."""
    return config.override(recipes.recipe(recipe), list(settings))


def child(way: str, row: dict[str, Any]) -> dict[str, Any]:
    """Measure in a new process; one that dies, of memory for instance, ends the whole run."""
    environment = os.environ | (GIVE_BACK if way == "give_back" else {})
    job = json.dumps({name: row[name] for name in ("configuration", "recipe", "settings")})
    command = [sys.executable, __file__, "--child", way, job]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, job: str) -> dict[str, Any]:
    """Train a few steps and tell what that took."""
    plain = json.loads(job)
    recipe, is_full = resolve(plain["recipe"], plain["settings"]), plain["configuration"] == FULL
    # Everything that is loaded but once, loaded: kernels of this precision, of the trainer, of the optimizer.
    train(resolve("mini-fer2013", [f"run.precision={recipe.run.precision}", "run.batch_size=2"]), 1)
    if way == "as_trained":
        keep_freed_memory(KEEP_STEPS)
    forget_peak()
    before = status_bytes("VmRSS")
    begin = time.perf_counter()
    classifier, timer = train(recipe, 1 if is_full else STEPS)
    found: dict[str, Any] = {
        "before_bytes": before,
        "growth_bytes": status_bytes("VmHWM") - before,
        "process_bytes": status_bytes("VmHWM"),
        "build_seconds": timer.begin - begin,
        "step_seconds": timer.seconds,
        "losses": timer.losses,
    }
    if is_full:
        # The gradients of the step are still there: what is alive now is what is alive in every later step.
        begin = time.perf_counter()
        found["loss_after"] = loss_again(classifier, recipe)
        found["forward_seconds"] = time.perf_counter() - begin
        found["process_bytes"] = status_bytes("VmHWM")
        found["growth_bytes"] = status_bytes("VmHWM") - before
    return found


class Timer(lightning.Callback):
    """Seconds and loss of each batch, in order."""

    def __init__(self) -> None:
        self.begin = math.nan
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._last = math.nan

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._last = time.perf_counter()
        self.begin = self._last if math.isnan(self.begin) else self.begin

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._last)
        self.losses.append(float(outputs["loss"]))


def train(recipe: Recipe, num_steps: int) -> tuple[Classifier, Timer]:
    """Run optimizer steps as training does, less its checkpoints and logs: they hold nothing while a step runs."""
    torch.manual_seed(0)
    model = build_model(recipe.model)
    set_trained(model, recipe.backbone)
    keep_depthwise_float32(model)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier = Classifier(model, recipe, torch.zeros(recipe.model.num_classes))
    timer = Timer()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=num_steps,
        accumulate_grad_batches=recipe.run.accumulate,
        precision=recipe.run.precision,
        callbacks=[timer, *([WarmedAverage(recipe.run.ema_decay)] if recipe.run.ema_decay else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        deterministic=True,
    )
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    batches = [faces(recipe)] * (num_steps * recipe.run.accumulate)
    trainer.fit(classifier, DataLoader(batches, batch_size=None))  # pyright: ignore[reportArgumentType]
    return classifier, timer


def faces(recipe: Recipe) -> Batch:
    """Make a batch of noise."""
    generator = torch.Generator().manual_seed(0)
    num_images, num_classes = recipe.run.batch_size, recipe.model.num_classes
    return Batch(
        pixels=torch.randn(num_images, recipe.model.in_chans, *recipe.model.image_size, generator=generator),
        labels=torch.randint(num_classes, (num_images,), generator=generator),
        votes=torch.zeros(num_images, num_classes),
        affect=torch.full((num_images, 2), math.nan),
    )


def loss_again(classifier: Classifier, recipe: Recipe) -> float:
    """Give the loss of the first step's faces with the weights as they are now, and the same dropout."""
    batch = faces(recipe)
    torch.manual_seed(0)  # of the module's first batch, with the recipe's seed 0
    with classifier.trainer.precision_plugin.forward_context():
        pixels_BCHW = classifier.trainer.precision_plugin.convert_input(batch.pixels)
        logits_BC = classifier.model.train()(pixels_BCHW.contiguous(memory_format=torch.channels_last))
        target_BC = torch.nn.functional.one_hot(batch.labels, recipe.model.num_classes).float()
        return float(soft_cross_entropy(logits_BC, target_BC).detach())


def status_bytes(name: str) -> int:
    """Give what this process holds (`VmRSS`), or the most that it held (`VmHWM`)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def free_bytes() -> int:
    """Give the memory that can be had without swapping."""
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    return int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024


def forget_peak() -> None:
    """Let the system count the most memory of this process anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def table_row(row: dict[str, Any]) -> dict[str, object]:
    """Lay out one configuration."""
    calculated, measured = row["calculated"]["total"], row["give_back"]["growth_bytes"]
    return {
        "configuration": row["configuration"],
        "calculated, GB": gigabytes(calculated),
        "of which activations": gigabytes(row["calculated"]["activations"]),
        "measured, GB": gigabytes(measured),
        "calculated over measured": f"{calculated / measured:.3f}",
        "as trained, GB": gigabytes(row["as_trained"]["growth_bytes"]),
        "whole process, GB": gigabytes(row["as_trained"]["process_bytes"]),
    }


def full_row(row: dict[str, Any]) -> dict[str, object]:
    """Lay out the full step."""
    found, settings = row["give_back"], dict(setting.split("=", 1) for setting in row["settings"])
    return {
        "recipe": row["recipe"],
        "input": settings["model.image_size"].strip("[]").replace(",", "x"),
        "precision": settings["run.precision"],
        "calculated, GB": gigabytes(row["calculated"]["total"]),
        "measured, GB": gigabytes(found["growth_bytes"]),
        "whole process, GB": gigabytes(found["process_bytes"]),
        "step, s": f"{found['step_seconds'][0]:.0f}",
        "loss before": f"{found['losses'][0]:.4f}",
        "loss after": f"{found['loss_after']:.4f}",
    }


def gigabytes(size: int) -> str:
    """Write a size in GB of 10^9 bytes."""
    return f"{size / 1e9:.3g}"


if __name__ == "__main__":
    main()
