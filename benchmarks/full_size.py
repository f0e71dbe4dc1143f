"""Run models at their full size: time and memory to load, seconds an image, and what precision changes in the answer.

The weights are random, in the released format and at the released size (`scripts/make_full_size.py`), made where they
are missing. The image is the face in a photograph that scikit-image ships. Every variant is a process of its own:

- `eager fp32`: the plain forward pass, attention written out, which the authors' code amounts to;
- `fp32` and `bf16`: `Predictor`, as users get it; `bf16 compiled` with `compile=True`, which the first image pays for;
- `int8`: OpenVINO with weights in int8 and activations quantised on the way, if `openvino` and `nncf` are installed.

Before each, the system is asked to forget the file, so that loading reads it from the disk. Linux only: it tells the
most memory that a process ever held. Only a run of all models is written to `results/` and `docs/benchmarks.md`.

    python benchmarks/full_size.py [--only MODEL ...] [--runs 3] [--folder scratch] [--cores 2]
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from skimage import data
from tables import PAGE, fill_block, markdown_table, use_cores, write_results

from motivnet.checkpoints.bundle import Calibration
from motivnet.faces import load_detector
from motivnet.preprocess import PREPROCESSINGS

ROOT = Path(__file__).parents[1]
PREPROCESSING = "motivnet-pad"


class Made(NamedTuple):
    """What `scripts/make_full_size.py` is asked for."""

    file: str
    format: str
    size: str


# Preset -> its file, the smallest first.
MODELS = {
    "motivnet-sapiens2-0.1b": Made("sapiens2-0.1b.safetensors", "sapiens2", "0.1b"),
    "motivnet-0.3b": Made("MotivNet-0.3b.pth", "motivnet", "0.3b"),
    "motivnet-1b": Made("MotivNet.pth", "motivnet", "1b"),
}
REFERENCE = "eager fp32"
VARIANTS = (REFERENCE, "fp32", "bf16", "bf16 compiled", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--runs", type=int, default=3, help="images that are timed, after one that only warms up")
    parser.add_argument("--folder", type=Path, default=ROOT / "scratch", help="for files of up to 4.6 GB each")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        job, arguments = options.child
        print(json.dumps(JOBS[job](**json.loads(arguments))))
        return
    cores = use_cores(options.cores)
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pixels, photograph = prepare_face(folder)
    rows, commands = [], []
    for name in options.only:
        model = prepare_model(folder, name)
        rows += measure_model(name, model, pixels, options.runs)
        commands += time_commands(name, model, photograph)
    tables = f"{markdown_table([table_row(row) for row in rows])}\n\n{markdown_table(commands)}"
    print(tables)
    if set(options.only) == set(MODELS):
        path = write_results("full_size", {"cores_used": cores, "rows": rows, "commands": commands})
        fill_block(PAGE, "full-size", tables)
        print(f"written: {path}, {PAGE}")


def prepare_face(folder: Path) -> tuple[Path, Path]:
    """Save a photograph, and its face as the model's input; give (input, photograph)."""
    pixels, photograph = folder / "astronaut.npy", folder / "astronaut.png"
    image_hwc_u8 = data.astronaut()
    Image.fromarray(image_hwc_u8).save(photograph)
    (found,) = load_detector().detect(image_hwc_u8)
    np.save(pixels, PREPROCESSINGS[PREPROCESSING](image_hwc_u8, found.crop_box)[None])
    return pixels, photograph


def prepare_model(folder: Path, name: str) -> Path:
    """Make a model's weights where they are missing; give what `Predictor` loads: a file, or a bundle's folder."""
    made = MODELS[name]
    file, bundle = folder / made.file, folder / name
    whole = made.format == "motivnet"
    if not file.exists() and (whole or not bundle.exists()):
        print(f"making {file}", file=sys.stderr)
        script = ROOT / "scripts" / "make_full_size.py"
        command = [sys.executable, script, file, "--format", made.format, "--size", made.size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if whole:
        return file
    if not bundle.exists():
        child("bundle", name=name, file=str(file), out=str(bundle))
    return bundle


def make_bundle(name: str, file: str, out: str) -> dict[str, Any]:
    """Put a random head on a released encoder, for which nobody has published one."""
    import torch

    from motivnet.checkpoints.bundle import BundleConfig, write_config
    from motivnet.checkpoints.load import load_backbone, write_weights
    from motivnet.models.config import preset
    from motivnet.models.motivnet import MotivNet, build_head

    torch.manual_seed(0)
    config = preset(name)
    backbone = load_backbone(file, config.image_size)
    model = MotivNet(backbone, build_head(config.head, backbone.embed_dim, config.num_classes))
    bundle_config = BundleConfig(
        name=name,
        summary="random weights",
        licence="none: random weights",
        model=config,
        preprocessing=PREPROCESSINGS[PREPROCESSING],
    )
    write_weights(write_config(Path(out), bundle_config), model)
    return {}


def measure_model(name: str, model: Path, pixels: Path, runs: int) -> list[dict[str, Any]]:
    """Measure every variant of a model and compare it with the reference."""
    rows = [measure_variant(name, variant, model, pixels, runs) for variant in VARIANTS]
    reference = rows[0]
    for row in rows:
        if "probs" in row and "probs" in reference:
            row["speed_up"] = statistics.median(reference["seconds"]) / statistics.median(row["seconds"])
            row["top1_equal"] = bool(np.argmax(row["probs"]) == np.argmax(reference["probs"]))
            row["probs_difference"] = float(np.abs(np.subtract(row["probs"], reference["probs"])).max())
    return rows


def measure_variant(name: str, variant: str, model: Path, pixels: Path, runs: int) -> dict[str, Any]:
    """Measure one variant in a new process."""
    row: dict[str, Any] = {"model": name, "variant": variant}
    job, prepared = "torch", {}
    if variant == "int8":
        if any(importlib.util.find_spec(package) is None for package in ("openvino", "nncf")):
            return row | {"remark": "not installed"}
        job, graph = "openvino", model.with_name(f"{name}-int8.xml")
        if not graph.exists():
            prepared = child("quantise", name=name, model=str(model), out=str(graph))
            if "remark" in prepared:
                return row | prepared
        model = graph
    forget(model.with_suffix(".bin") if variant == "int8" else model)
    print(f"measuring {name} {variant}", file=sys.stderr)
    row["load_average"] = round(os.getloadavg()[0], 1)
    return row | prepared | child(job, name=name, variant=variant, model=str(model), pixels=str(pixels), runs=runs)


def child(job: str, **arguments: object) -> dict[str, Any]:
    """Run one of `JOBS` in a new process; one that dies, of memory for instance, leaves a remark."""
    command = [sys.executable, __file__, "--child", job, json.dumps(arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"remark": f"failed with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure_torch(name: str, variant: str, model: str, pixels: str, runs: int) -> dict[str, Any]:
    """Load and run a model in torch."""
    import torch

    from motivnet import Predictor
    from motivnet.checkpoints.load import load_model
    from motivnet.inference.torch_backend import TorchBackend
    from motivnet.models.config import preset
    from motivnet.models.cost import cost

    precision, _, compiled = variant.partition(" ")

    def load_eager() -> Callable[[np.ndarray], np.ndarray]:
        net = load_model(model)
        for module in net.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
        return torch.inference_mode()(lambda pixels_BCHW: net(torch.from_numpy(pixels_BCHW)).numpy())

    def load_predictor() -> Callable[[np.ndarray], np.ndarray]:
        predictor = Predictor.load(
            model, detector="whole", backend="torch", device="cpu", dtype=precision, compile=bool(compiled)
        )
        backend = predictor.backend
        assert isinstance(backend, TorchBackend)
        return backend.logits

    found = measure(load_eager if variant == REFERENCE else load_predictor, pixels, runs)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return found | {"size_bytes": cost(preset(name), dtype=dtype).weight_bytes}


def measure_openvino(name: str, variant: str, model: str, pixels: str, runs: int) -> dict[str, Any]:
    """Load and run a quantised model in OpenVINO."""
    import openvino  # pyright: ignore[reportMissingImports]

    def load() -> Callable[[np.ndarray], np.ndarray]:
        settings = {
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
            "INFERENCE_PRECISION_HINT": "bf16",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "128",  # values that share a scale
        }
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        return lambda pixels_BCHW: compiled(pixels_BCHW)[0]

    return measure(load, pixels, runs) | {"size_bytes": Path(model).with_suffix(".bin").stat().st_size}


def quantise(name: str, model: str, out: str) -> dict[str, Any]:
    """Write a model with int8 weights, one scale a row, as OpenVINO reads it."""
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino  # pyright: ignore[reportMissingImports]
    import torch

    from motivnet.checkpoints.load import load_model
    from motivnet.models.config import preset

    begin = time.perf_counter()
    shape = (1, 3, *preset(name).image_size)
    with torch.inference_mode():
        converted = openvino.convert_model(load_model(model), example_input=torch.zeros(shape), input=[list(shape)])
    weights = nncf.compress_weights(converted, mode=nncf.CompressWeightsMode.INT8_SYM)
    unfinished = Path(out).with_name("unfinished.xml")
    openvino.save_model(weights, unfinished, compress_to_fp16=False)
    for suffix in (".bin", ".xml"):
        unfinished.with_suffix(suffix).replace(Path(out).with_suffix(suffix))
    return {"quantise_seconds": time.perf_counter() - begin, "quantise_peak_bytes": status_bytes("VmHWM")}


JOBS = {"bundle": make_bundle, "torch": measure_torch, "openvino": measure_openvino, "quantise": quantise}


def measure(load: Callable[[], Callable[[np.ndarray], np.ndarray]], pixels: str, runs: int) -> dict[str, Any]:
    """Time loading and running, and note the most memory that the process held in either.

    Args:
        load: gives what maps pixels (1, 3, H, W) to logits (1, C).
        pixels: file of the image.
        runs: images that are timed.
    """
    pixels_BCHW = np.load(pixels)
    before = status_bytes("VmRSS")
    begin = time.perf_counter()
    run = load()
    found: dict[str, Any] = {
        "load_seconds": time.perf_counter() - begin,
        "before_load_bytes": before,
        "load_peak_bytes": status_bytes("VmHWM"),
    }
    forget_peak()
    begin = time.perf_counter()
    logits = run(pixels_BCHW)
    found["first_seconds"] = time.perf_counter() - begin
    seconds, cpu_seconds = [], []
    for _ in range(runs):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        logits = run(pixels_BCHW)
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - cpu_begin)
    found |= {"seconds": seconds, "cpu_seconds": cpu_seconds, "run_peak_bytes": status_bytes("VmHWM")}
    return found | {"probs": Calibration().probs(logits)[0].tolist()}


def status_bytes(name: str) -> int:
    """Give what this process holds (`VmRSS`), or the most that it held (`VmHWM`), mapped files included."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def forget_peak() -> None:
    """Let the system count the most memory of this process anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def forget(path: Path) -> None:
    """Ask the system to drop a file, or those of a folder, from its cache of the disk."""
    for file in path.iterdir() if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def time_commands(name: str, model: Path, photograph: Path) -> list[dict[str, object]]:
    """Time the commands of a user with this model, each once."""
    commands: list[tuple[Path, Sequence[object]]] = []
    if model.is_file():
        bundle = model.with_name(f"{name}-bf16")
        shutil.rmtree(bundle, ignore_errors=True)
        commands += [
            (model, ["weights", "inspect", model, "--json"]),
            (model, ["weights", "convert", model, bundle, "--dtype", "bf16"]),
            (bundle, ["predict", photograph, "--model", bundle, "--json"]),
        ]
    commands += [(model, ["predict", photograph, "--model", model, "--json"])]
    return [time_command(name, read, arguments) for read, arguments in commands]


def time_command(name: str, read: Path, arguments: Sequence[object]) -> dict[str, object]:
    """Run a command of `motivnet` in a new process, with what it reads dropped from the cache of the disk."""
    forget(read)
    script = Path(sys.executable).with_name("motivnet")
    entry_point = [sys.executable, "-c", "from motivnet.cli.main import main; main()"]
    command = [*([str(script)] if script.exists() else entry_point), *map(str, arguments)]
    print(*command, file=sys.stderr)
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    shown = [argument.name if isinstance(argument, Path) else str(argument) for argument in arguments]
    return {
        "model": name,
        "command": f"`motivnet {' '.join(shown)}`",
        "exit code": process.returncode,
        "seconds": round(time.perf_counter() - begin, 1),
        "most memory, GB": gigabytes(usage.ru_maxrss * 1024),
    }


def table_row(row: dict[str, Any]) -> dict[str, object]:
    """Lay out one variant."""
    cells: dict[str, object] = {"model": row["model"], "variant": row["variant"]}
    names = ("weights, GB", "load, s", "load peak, GB", "over weights", "its growth over weights", "first image, s")
    names += ("s an image", "speed-up", "run peak, GB", "top-1 equal", "largest difference")
    if "probs" not in row:
        return cells | dict.fromkeys(names, "") | {"s an image": row["remark"]}
    size, peak = row["size_bytes"], row["load_peak_bytes"]
    compared = "speed_up" in row
    values = (
        gigabytes(size),
        f"{row['load_seconds']:.1f}",
        gigabytes(peak),
        f"{peak / size:.2f}",
        f"{(peak - row['before_load_bytes']) / size:.2f}",
        f"{row['first_seconds']:.1f}",
        f"{statistics.median(row['seconds']):.2f}",
        f"{row['speed_up']:.2f}" if compared else "",
        gigabytes(row["run_peak_bytes"]),
        ("yes" if row["top1_equal"] else "no") if compared else "",
        f"{row['probs_difference']:.4f}" if compared else "",
    )
    return cells | dict(zip(names, values, strict=True))


def gigabytes(size: int) -> str:
    """Write a size in GB of 10^9 bytes."""
    return f"{size / 1e9:.2f}"


if __name__ == "__main__":
    main()
