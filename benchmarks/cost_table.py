"""Tell what every preset costs at every resolution, by calculation and where possible by measurement.

Calculating takes a minute and no memory. With --measure, a forward pass of one image is timed as well, each in its own
process, with random weights (the time does not depend on them), from the cheapest on; what would take longer than
--longest or more memory than is free is not measured. Without it, earlier measurements on the same processor are kept.
The table goes to docs/cost.md.

    python benchmarks/cost_table.py [--measure] [--longest 60] [--cores 2]
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tables import RESULTS, machine, markdown_table, use_cores, write_results

from motivnet.models.config import PRESETS, ModelConfig
from motivnet.models.cost import cost
from motivnet.models.motivnet import build_model

PAGE = Path(__file__).parents[1] / "docs" / "cost.md"
SIZES = [(1024, 768), (768, 576), (512, 384), (256, 192)]
DTYPES = ("float32", "bfloat16")
# Beside weights and activations: Python, torch, and what the allocator keeps for itself.
SPARE_BYTES = 2e9


def main() -> None:
    """Calculate every row, measure what can be measured, write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="time a forward pass of every row")
    parser.add_argument("--longest", type=float, default=60, help="seconds that one forward pass may take")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "SIZE", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = use_cores(options.cores)
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    rows = [calculate(name, size) for name, config in PRESETS.items() for size in sizes(config)]
    if options.measure:
        measure_all(rows, options.longest)
    else:
        keep_measurements(rows)
    path = write_results("cost_table", {"torch": torch.__version__, "cores_used": cores, "rows": rows})
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(rows, cores), encoding="utf-8")
    print(f"written: {path}, {PAGE}")


def sizes(config: ModelConfig) -> list[tuple[int, int]]:
    """Give the resolutions to list: those of a transformer, or the only one that a small model is made for."""
    return SIZES if config.vit else [config.image_size]


def configured(name: str, size: str) -> ModelConfig:
    """Give a preset at a resolution such as `1024x768`."""
    height, width = map(int, size.split("x"))
    return dataclasses.replace(PRESETS[name], image_size=(height, width))


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


def measure_all(rows: list[dict[str, Any]], longest_s: float) -> None:
    """Fill in what can be measured, the cheapest first: each tells how long the next will take."""
    for dtype in DTYPES:
        flops_per_s = 10e9
        for row in sorted(rows, key=lambda row: row["flops"]):
            # On the CPU, depthwise convolutions in bfloat16 crash some builds of torch.
            if dtype == "bfloat16" and not PRESETS[row["model"]].vit:
                continue
            bytes_needed = row["weight_bytes"][dtype] + 2 * row["activation_bytes"][dtype] + SPARE_BYTES
            expected_s = row["flops"] / flops_per_s
            what = f"{row['model']} {row['size']} {dtype}"
            if expected_s > longest_s or bytes_needed > free_bytes():
                print(f"{what}: not measured; {expected_s:.0f} s, {bytes_needed / 1e9:.1f} GB", file=sys.stderr)
                continue
            command = [sys.executable, __file__, "--one", row["model"], row["size"], dtype]
            # The affinity of this process holds for its children, too.
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = row["measured"][dtype] = json.loads(done.stdout)
            if row["flops"] > 1e10:  # below, what surrounds the arithmetic takes the time
                flops_per_s = row["flops"] / found["seconds"]
            print(f"{what}: {found['seconds']:.3f} s", file=sys.stderr)


@torch.inference_mode()
def measure(name: str, size: str, dtype: str) -> dict[str, Any]:
    """Time one image; of forward passes under ten seconds the first only warms up, and the median of five counts."""
    config = configured(name, size)
    with torch.device("meta"):
        model = build_model(config).eval().to(getattr(torch, dtype))
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.uniform_(0, 0.02)  # no zeros, whose pages would share memory; nothing below zero, for variances
    pixels_BCHW = torch.rand(1, config.in_chans, *config.image_size, dtype=getattr(torch, dtype))
    seconds: list[float] = []
    while len(seconds) < 6 and (not seconds or seconds[0] < 10):
        begin = time.perf_counter()
        logits = model(pixels_BCHW)
        seconds.append(time.perf_counter() - begin)
    if not logits.isfinite().all():
        raise ArithmeticError(f"{name} {size} {dtype}: logits {logits.tolist()}")
    timed = seconds[1:] or seconds
    return {"seconds": statistics.median(timed), "runs": len(timed), "process_bytes": process_bytes()}


def process_bytes() -> int | None:
    """Give the most memory that this process ever held; only Linux tells."""
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else None


def free_bytes() -> float:
    """Give the memory that can be had without swapping; without limit where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    return int(meminfo.read_text().split("MemAvailable:")[1].split()[0]) * 1024 if meminfo.exists() else float("inf")


def keep_measurements(rows: list[dict[str, Any]]) -> None:
    """Take over the measurements of the last results, if they are of the same processor."""
    path = RESULTS / "cost_table.json"
    last = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if last is None or last["machine"]["cpu"] != machine()["cpu"]:
        return
    measured = {(row["model"], row["size"]): row["measured"] for row in last["rows"]}
    for row in rows:
        row["measured"] = measured.get((row["model"], row["size"]), row["measured"])


TEXT = """# What a model costs

Written by `python benchmarks/cost_table.py`; do not edit. The numbers are in `benchmarks/results/cost_table.json`.
The same calculation for any other model or resolution: `motivnet.models.cost.cost(config)`.

## How to choose

- **Resolution first.** A transformer's price follows its tokens, one for every 16x16 pixels. `motivnet-1b` at 512x384
  has a quarter of the tokens of 1024x768 and takes {quarter:.2f} times the arithmetic, at 768x576 {middle:.2f} times:
  less than in proportion, because attention grows with their square. What a lower resolution costs in accuracy has to be
  measured with the weights and the data in question; position embeddings are resized, not trained anew.
- **Memory is the weights, then the activations.** Weights do not depend on the resolution and are loaded once;
  activations come on top for every image of a batch. bfloat16 halves both. {memory}
- **bfloat16 where the processor has it** (AVX-512 BF16 or AMX, any recent GPU): on the machine below {speedup}
- **Sapiens2 0.1b is the practical transformer**: {small_share:.0%} of the arithmetic of `motivnet-1b` at the same size.
- **`nano` is the choice without a GPU**: {nano:.0f} times less arithmetic than `motivnet-1b`. `motivnet predict`
  runs it through onnxruntime, which is faster than the torch of this table: `benchmarks/results/speed_nano.json`.

## Models

Weights in memory or on disk, at each model's largest resolution. A GB is 10^9 bytes.

{models}

## An image

One image, one forward pass of backbone and head; finding faces and decoding come on top. **TFLOPs** counts a
multiplication and an addition as two: halve it for the multiply-accumulates that many papers, Sapiens' among them, call
FLOPs. (Sapiens2's authors leave attention out besides: their 0.342 T for the 0.1b encoder is nearly the 0.351 T
multiply-accumulates of its weights; the whole pass takes 0.526 T.) **Activations** are calculated: the most that is alive
at once, input included, attention fused. **Seconds** and **process**, the most memory that the whole Python process held,
are measured with torch {torch} on {cores} cores of *{cpu}*, batch 1.
Another processor needs its own run. "–" was not measured: too long, too large, or no gain
(`nano` in bfloat16).

{images}
"""


def page(rows: list[dict[str, Any]], cores: int) -> str:
    """Write the page."""
    found = {(row["model"], row["size"]): row for row in rows}
    flops = {key: row["flops"] for key, row in found.items()}
    large = flops["motivnet-1b", "1024x768"]
    return TEXT.format(
        quarter=flops["motivnet-1b", "512x384"] / large,
        middle=flops["motivnet-1b", "768x576"] / large,
        small_share=flops["motivnet-sapiens2-0.1b", "1024x768"] / large,
        nano=large / flops["nano", "96x96"],
        memory=memory_text(rows),
        speedup=speedup_text(rows),
        models=markdown_table([model_row(found[name, size_of(name)]) for name in PRESETS]),
        images=markdown_table([image_row(row) for row in rows]),
        torch=torch.__version__,
        cores=cores,
        cpu=machine()["cpu"],
    )


def size_of(name: str) -> str:
    return "{}x{}".format(*sizes(PRESETS[name])[0])


def memory_text(rows: list[dict[str, Any]]) -> str:
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
        f"Python, torch and what the allocator keeps came to {min(extra) / 1e9:.1f} to {max(extra) / 1e9:.1f} GB on "
        "top of both."
    )


def speedup_text(rows: list[dict[str, Any]]) -> str:
    """Say what bfloat16 gains in time."""
    gains = [
        row["measured"]["float32"]["seconds"] / row["measured"]["bfloat16"]["seconds"]
        for row in rows
        if all(row["measured"].values())
    ]
    if not gains:
        return "not measured."
    return f"an image takes {min(gains):.1f} to {max(gains):.1f} times less time than in float32."


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
    return " / ".join(
        "–" if values[dtype] is None else f"{value:.3g}" if (value := values[dtype] / unit) < 100 else f"{value:.0f}"
        for dtype in DTYPES
    )


if __name__ == "__main__":
    main()
