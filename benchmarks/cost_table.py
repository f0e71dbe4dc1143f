"""Tell what every preset costs at every resolution, by calculation and where possible by measurement.

Calculating takes a minute and no memory. With --measure, a forward pass of one image is timed as well, in a process for
each model and dtype, with random weights (the time does not depend on them). What would take longer than --longest, or
more memory than is free, is not measured. Measurements of earlier runs on the same processor, with the same torch, are
kept; without --measure, all are. The tables go to docs/benchmarks.md, what follows from them to docs/cost.md.

    python benchmarks/cost_table.py [--measure] [--only MODEL ...] [--longest 40] [--cores 2]
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import PAGE, RESULTS, fill_block, machine, markdown_table, use_cores, write_results

from motivnet.inference.torch_backend import TorchBackend
from motivnet.models.config import PRESETS, ModelConfig
from motivnet.models.cost import cost
from motivnet.models.motivnet import MotivNet, build_model

GUIDE = Path(__file__).parents[1] / "docs" / "cost.md"
SIZES = [(1024, 768), (768, 576), (512, 384), (256, 192)]
DTYPES = ("float32", "bfloat16")
# Beside weights and activations: Python, torch, what the allocator keeps, and a margin for the rest of the machine.
SPARE_BYTES = 4e9
# What is expected of a processor before anything is measured.
FLOPS_PER_S = 50e9


def main() -> None:
    """Calculate every row, measure what can be measured, write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="time forward passes")
    parser.add_argument("--only", nargs="+", choices=PRESETS, default=list(PRESETS), help="models to measure")
    parser.add_argument("--longest", type=float, default=40, help="seconds that one forward pass may take")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    here = {"cpu": machine()["cpu"], "cores": use_cores(options.cores), "torch": torch.__version__}
    rows = [calculate(name, size) for name, config in PRESETS.items() for size in sizes(config)]
    last = RESULTS / "cost_table.json"
    before = json.loads(last.read_text(encoding="utf-8")) if last.exists() else {"measured_on": here, "rows": []}
    if before["measured_on"] == here or not options.measure:
        keep_measurements(rows, before["rows"])
        here = before["measured_on"]
    if options.measure:
        measure_all(rows, options.only, options.longest)
    path = write_results("cost_table", {"measured_on": here, "rows": rows})
    fill_block(GUIDE, "cost-choice", choice(rows))
    fill_block(PAGE, "cost-models", markdown_table([model_row(rows_of(rows, name)[-1]) for name in PRESETS]))
    measured_on = "Seconds on {cores} cores of *{cpu}* with torch {torch}:".format(**here)
    fill_block(PAGE, "cost-images", f"{measured_on}\n\n{markdown_table([image_row(row) for row in rows])}")
    print(f"written: {path}, {PAGE}, {GUIDE}")


def sizes(config: ModelConfig) -> list[tuple[int, int]]:
    """Give the resolutions to list: those of a transformer, or the only one that a small model is made for."""
    return SIZES if config.vit else [config.image_size]


def calculate(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Calculate one row."""
    config = dataclasses.replace(PRESETS[name], image_size=size)
    costs = {dtype: cost(config, dtype=getattr(torch, dtype)) for dtype in DTYPES}
    single = costs["float32"]
    return {
        "model": name,
        "size": f"{size[0]}x{size[1]}",
        "parameters": single.parameters,
        "backbone_parameters": single.backbone_parameters,
        "tokens": single.tokens,
        "flops": single.flops,
        "weight_bytes": {dtype: found.weight_bytes for dtype, found in costs.items()},
        "activation_bytes": {dtype: found.activation_bytes for dtype, found in costs.items()},
        "measured": dict.fromkeys(DTYPES),
    }


def measure_all(rows: Sequence[dict[str, Any]], models: Sequence[str], longest_s: float) -> None:
    """Fill in what can be measured, small models first: each tells how long the next will take."""
    for dtype in DTYPES:
        for model in sorted(models, key=lambda name: rows_of(rows, name)[0]["flops"]):
            # On the CPU, depthwise convolutions in bfloat16 crash some builds of torch.
            if dtype == "bfloat16" and not PRESETS[model].vit:
                continue
            longest_flops = longest_s * flops_per_s(rows, dtype)
            chosen = [row for row in rows_of(rows, model) if row["flops"] <= longest_flops and fits(row, dtype)]
            if not chosen:
                continue
            command = [sys.executable, __file__, "--child", model, dtype, *(row["size"] for row in chosen)]
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
            if done.returncode:  # out of memory after all: the others go on
                print(f"{model} {dtype}: failed with {done.returncode}", file=sys.stderr)
                continue
            for row, found in zip(chosen, json.loads(done.stdout), strict=True):
                row["measured"][dtype] = found


def rows_of(rows: Sequence[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """Give the rows of one model, the cheapest first."""
    return sorted((row for row in rows if row["model"] == model), key=lambda row: row["flops"])


def flops_per_s(rows: Sequence[dict[str, Any]], dtype: str) -> float:
    """Give the speed at the largest transformer measured so far."""
    measured = [row for row in rows if PRESETS[row["model"]].vit and row["measured"][dtype]]
    if not measured:
        return FLOPS_PER_S
    largest = max(measured, key=lambda row: row["flops"])
    return largest["flops"] / largest["measured"][dtype]["seconds"]


def fits(row: dict[str, Any], dtype: str) -> bool:
    """Tell whether the free memory is enough; the allocator may keep as much again as the activations."""
    return row["weight_bytes"][dtype] + 2 * row["activation_bytes"][dtype] + SPARE_BYTES < free_bytes()


def measure(name: str, dtype: str, *sizes: str) -> list[dict[str, Any]]:
    """Time one image at each resolution as `Predictor` runs it, the smallest first: the process never shrinks.

    The first forward pass warms up and the median of up to five more counts, as many as begin within two seconds; if
    none does, the first counts.
    """
    found = []
    for size in sizes:
        height, width = map(int, size.split("x"))
        config = dataclasses.replace(PRESETS[name], image_size=(height, width))
        backend = TorchBackend(random_model(config, getattr(torch, dtype)), config)
        pixels_BCHW = np.random.default_rng(0).random((1, config.in_chans, height, width), np.float32)
        seconds: list[float] = []
        started = time.perf_counter()
        while not seconds or (len(seconds) < 6 and time.perf_counter() - started < 2):
            begin = time.perf_counter()
            logits = backend.logits(pixels_BCHW)
            seconds.append(time.perf_counter() - begin)
        if not np.isfinite(logits).all():
            raise ArithmeticError(f"{name} {size} {dtype}: logits {logits.tolist()}")
        timed = seconds[1:] or seconds
        print(f"{name} {size} {dtype}: {statistics.median(timed):.3f} s", file=sys.stderr)
        found.append(
            {"seconds": statistics.median(timed), "runs": len(timed), "process_bytes": process_bytes()},
        )
        del backend
    return found


@torch.inference_mode()
def random_model(config: ModelConfig, dtype: torch.dtype) -> MotivNet:
    """Build a model in its dtype from the start, its rows alike: drawing billions of numbers would take minutes."""
    with torch.device("meta"):
        model = build_model(config).eval().to(dtype)
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.copy_(0.02 * torch.rand(tensor.shape[-1:]))  # nothing negative: some are variances
    return model


def process_bytes() -> int | None:
    """Give the most memory that this process ever held; only Linux tells."""
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else None


def free_bytes() -> float:
    """Give the memory that can be had without swapping; without limit where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    return int(meminfo.read_text().split("MemAvailable:")[1].split()[0]) * 1024 if meminfo.exists() else float("inf")


def keep_measurements(rows: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]]) -> None:
    """Take over the measurements of earlier rows."""
    measured = {(row["model"], row["size"]): row["measured"] for row in before}
    for row in rows:
        row["measured"] = measured.get((row["model"], row["size"]), row["measured"])


CHOICE = """\
- **Resolution first.** A transformer's price follows its tokens, one for every 16x16 pixels. `motivnet-1b` at 512x384
  has a quarter of the tokens of 1024x768 and takes {quarter:.2f} times the arithmetic, at 768x576 {middle:.2f} times.
  What a lower resolution costs in accuracy has to be measured with the weights and the data in question: position
  embeddings are resized, not retrained.
- **Memory is weights, then activations.** Weights are held once, whatever the resolution; activations come on top for
  every image of a batch. bfloat16 halves both.
  {memory}
- **bfloat16 where the processor has it** (AVX-512 BF16 or AMX, any recent GPU).
  {speedup}
- **Sapiens2 0.1b is the practical transformer**, with {small_share:.0%} of the arithmetic of `motivnet-1b`.
- **`nano` is the choice without a GPU**: {nano:,.0f} times less arithmetic than `motivnet-1b`."""


def choice(rows: Sequence[dict[str, Any]]) -> str:
    """Write what the tables mean for the choice of a model."""
    flops = {(row["model"], row["size"]): row["flops"] for row in rows}
    large = flops["motivnet-1b", "1024x768"]
    return CHOICE.format(
        quarter=flops["motivnet-1b", "512x384"] / large,
        middle=flops["motivnet-1b", "768x576"] / large,
        small_share=flops["motivnet-sapiens2-0.1b", "1024x768"] / large,
        nano=large / flops["nano", "96x96"],
        memory=memory_text(rows),
        speedup=speedup_text(rows),
    )


def memory_text(rows: Sequence[dict[str, Any]]) -> str:
    """Say how much more the measured processes took than was calculated."""
    extra = [
        row["measured"][dtype]["process_bytes"] - row["weight_bytes"][dtype] - row["activation_bytes"][dtype]
        for row in rows
        for dtype in DTYPES
        if row["measured"][dtype] and row["measured"][dtype]["process_bytes"]
    ]
    if not extra:
        return "Python and torch come on top."
    return (
        f"On top of both, Python, torch and what the allocator keeps came to between {min(extra) / 1e9:.2f} and "
        f"{max(extra) / 1e9:.2f} GB."
    )


def speedup_text(rows: Sequence[dict[str, Any]]) -> str:
    """Say what bfloat16 gains in time."""
    gains = [
        row["measured"]["float32"]["seconds"] / row["measured"]["bfloat16"]["seconds"]
        for row in rows
        if all(row["measured"].values())
    ]
    if not gains:
        return "Its gain was not measured here."
    return f"On the processor of the table an image takes {min(gains):.1f} to {max(gains):.1f} times less time."


def model_row(row: dict[str, Any]) -> dict[str, object]:
    """Lay out what does not depend on the resolution."""
    return {
        "model": row["model"],
        "parameters": f"{row['parameters']:,}",
        "of which backbone": f"{row['backbone_parameters']:,}",
        "weights float32, GB": f"{row['weight_bytes']['float32'] / 1e9:.3g}",
        "weights bfloat16, GB": f"{row['weight_bytes']['bfloat16'] / 1e9:.3g}",
    }


def image_row(row: dict[str, Any]) -> dict[str, object]:
    """Lay out what depends on it."""
    return {
        "model": row["model"],
        "input": row["size"],
        "tokens": row["tokens"],
        "TFLOPs": f"{row['flops'] / 1e12:.3g}",
        "activations, MB, float32 / bfloat16": pair(row["activation_bytes"], 1e6),
        "seconds, float32 / bfloat16": pair({d: m and m["seconds"] for d, m in row["measured"].items()}, 1),
        "process, GB, float32 / bfloat16": pair({d: m and m["process_bytes"] for d, m in row["measured"].items()}, 1e9),
    }


def pair(values: dict[str, float | None], unit: float) -> str:
    """Write the float32 and the bfloat16 value."""
    known = [values[dtype] for dtype in DTYPES]
    return " / ".join("-" if value is None else significant(value / unit) for value in known)


def significant(value: float) -> str:
    """Write three significant digits, never as a power of ten."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    main()
