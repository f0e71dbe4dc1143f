"""Measure the files of a bundle as a small device would run them: size, time, memory and scores.

Each file that the bundle has, in each runtime that is installed: `model.onnx`, `model-fp16.onnx` and
`model-int8.onnx` in onnxruntime and OpenVINO, `model.tflite` in LiteRT, `model.pte` in ExecuTorch. The files take turns
in each round of the timing, so that what else the machine does hits all alike. Scores are on FER-2013's images,
labelled by the majority of FERPlus' votes. The table goes to docs/benchmarks.md.

    python benchmarks/edge_table.py fer2013.parquet [--model nano] [--against OLD_BUNDLE] [--rounds 50]

Linux only: memory is read from /proc.
"""

import argparse
import dataclasses
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tables import PAGE, fill_block, machine, markdown_table, use_cores, write_results

from motivnet.checkpoints.bundle import ONNX_NAMES, Bundle, model_fingerprint, open_bundle
from motivnet.data.sources.named import read_source
from motivnet.evaluation import metrics
from motivnet.evaluation.predictions import predict_manifest
from motivnet.evaluation.probabilities import ProbabilityScores
from motivnet.faces import load_detector
from motivnet.inference.backends import INPUT_NAME, OUTPUT_NAME, Backend, OnnxBackend, Outputs
from motivnet.inference.predictor import Predictor

SPLITS = ("PublicTest", "PrivateTest")
THREADS = (1, 2)
# Batch size -> calls in a turn: several small ones, so that most find the weights in the cache.
BATCHES = {1: 10, 64: 1}
WARM_UP_ROUNDS = 3
# Of x86: what decides how fast integers are multiplied.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
# Runtime -> the module that must be there.
RUNTIMES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tflite": "ai_edge_litert",
    "executorch": "executorch",
}
MOBILE_FILES = {"tflite": "model.tflite", "executorch": "model.pte"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A file of a bundle in a runtime."""

    bundle: Bundle
    runtime: str
    precision: str
    file: Path

    def load(self, threads: int) -> Backend:
        """Load the file."""
        if self.runtime == "onnxruntime":
            return OnnxBackend(self.bundle, path=self.file, threads=threads)
        if self.runtime == "openvino":
            return OpenVinoBackend(self.file, threads)
        from motivnet.export.mobile import MobileBackend

        return MobileBackend(self.runtime, self.file)

    def pixels(self, batch: int) -> np.ndarray:
        """Return random faces."""
        model = self.bundle.config.model
        shape = (batch, model.in_chans, *model.image_size)
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class OpenVinoBackend:
    """An ONNX file in OpenVINO, computed in float32 where it is not quantised."""

    max_batch: int | None = None

    def __init__(self, path: Path, threads: int) -> None:
        import openvino  # pyright: ignore[reportMissingImports]

        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self._run = openvino.Core().compile_model(str(path), "CPU", settings)

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        """Run the model; valence and arousal are left out."""
        return Outputs(np.array(self._run({INPUT_NAME: pixels_BCHW})[OUTPUT_NAME]), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fer2013", type=Path, help="file of FER-2013 with FERPlus' votes")
    parser.add_argument("--model", default="nano", help="name of an embedded model, or the folder of a bundle")
    parser.add_argument("--against", help="another bundle, whose model.onnx is timed in the same rounds")
    parser.add_argument("--rounds", type=int, default=50, help="turns of every file")
    parser.add_argument("--faces", type=int, help="score only the first faces of a split, for a trial")
    parser.add_argument("--dry-run", action="store_true", help="print the table and write nothing")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = variants(open_bundle(options.model))
    timed = found + ([fp32(open_bundle(options.against))] if options.against else [])
    if options.child:
        what, number = options.child[0], int(options.child[1])
        print(json.dumps(times(timed, number, options.rounds) if what == "time" else memory(found[number])))
        return
    absent = [name for name in RUNTIMES if not installed(name)]
    print(f"left out, because not installed: {', '.join(absent) or 'nothing'}", file=sys.stderr)
    ms = {threads: child("time", threads) for threads in THREADS}
    rows = [measure(variant, place, ms, options) for place, variant in enumerate(found)]
    settings = {name: getattr(options, name) for name in ("model", "against", "rounds", "faces")}
    results = {**settings, "cpu_features": cpu_features(), "not_installed": absent, "rows": rows}
    if options.against:
        results["against"] = model_fingerprint(options.against)
        results["ms_against"] = {threads: of_all[-1] for threads, of_all in ms.items()}
    print(text(results))
    if not options.dry_run:
        write_results("edge_table", results)
        fill_block(PAGE, "edge-table", text(results))


def installed(runtime: str) -> bool:
    return importlib.util.find_spec(RUNTIMES[runtime]) is not None


def fp32(bundle: Bundle) -> Variant:
    return Variant(bundle, "onnxruntime", "fp32", bundle.onnx)


def variants(bundle: Bundle) -> list[Variant]:
    """Return what can be measured here."""
    runs = [
        Variant(bundle, runtime, precision, bundle.path / name)
        for runtime in ("onnxruntime", "openvino")
        for precision, name in ONNX_NAMES.items()
    ]
    runs += [Variant(bundle, runtime, "fp32", bundle.path / name) for runtime, name in MOBILE_FILES.items()]
    return [run for run in runs if run.file.is_file() and installed(run.runtime)]


def child(what: str, number: int) -> Any:
    """Run a part of this script in a process of its own."""
    command = [sys.executable, *sys.argv, "--child", what, str(number)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def times(timed: list[Variant], threads: int, rounds: int) -> list[dict[int, float]]:
    """Time all, on as many cores as threads: batch size -> median of the milliseconds a face, for each."""
    use_cores(threads)
    backends = [variant.load(threads) for variant in timed]
    ms: list[dict[int, float]] = [{} for _ in timed]
    for batch, calls in BATCHES.items():
        seconds: dict[int, list[float]] = {}
        for turn in range(WARM_UP_ROUNDS + rounds):
            for place, (variant, backend) in enumerate(zip(timed, backends, strict=True)):
                # The runtimes of phones take one face and, as they are loaded, one thread.
                if variant.runtime in MOBILE_FILES and (batch, threads) != (1, 1):
                    continue
                pixels_BCHW = variant.pixels(batch)
                taken = [time_call(backend, pixels_BCHW) for _ in range(calls)]
                if turn >= WARM_UP_ROUNDS:
                    seconds.setdefault(place, []).extend(taken)
        for place, taken in seconds.items():
            ms[place][batch] = 1000 * statistics.median(taken) / batch
    return ms


def time_call(backend: Backend, pixels_BCHW: np.ndarray) -> float:
    begin = time.perf_counter()
    backend.outputs(pixels_BCHW)
    return time.perf_counter() - begin


def memory(variant: Variant) -> dict[str, int]:
    """Load a file and run it on single faces; return the most memory that this process held before and at the end."""
    before = peak_bytes()
    backend = variant.load(1)
    for _ in range(BATCHES[1]):
        backend.outputs(variant.pixels(1))
    return {"before": before, "peak": peak_bytes()}


def peak_bytes() -> int:
    return int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) * 1024


def measure(variant: Variant, place: int, ms: dict[int, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one row; `ms` has the times of all."""
    print(f"{variant.precision} in {variant.runtime}", file=sys.stderr)
    mobile = variant.runtime in MOBILE_FILES
    return {
        "runtime": variant.runtime,
        "precision": variant.precision,
        "bytes": variant.file.stat().st_size,
        "ms": {threads: of_all[place] for threads, of_all in ms.items()},
        # On a phone there is neither Python nor the torch that it would take here.
        "memory": None if mobile else child("memory", place),
        "scores": {split: scores(variant, options.fer2013, split, options.faces) for split in SPLITS},
    }


def scores(variant: Variant, fer2013: Path, split: str, num_faces: int | None) -> dict[str, float]:
    """Score a file on a split of FER-2013."""
    data = f"fer2013:{fer2013}?labels=majority"
    manifest = read_source(data).split(split)
    manifest = manifest.select(np.arange(min(num_faces or len(manifest), len(manifest))))
    predictor = Predictor(variant.bundle.config, variant.load(max(THREADS)), load_detector("whole"))
    found = predict_manifest(predictor, manifest, detect=False, data=data, split=split)
    classes = found.preds_B, found.target_B, len(found.labels)
    ece = ProbabilityScores(found.probs_BC, found.target_B).ece()
    return {"n": len(manifest), "war": metrics.war(*classes), "uar": metrics.uar(*classes), "ece": ece}


def cpu_features() -> list[str]:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\nflags")[2].partition("\n")[0].split()
    return [name for name in CPU_FEATURES if name in flags]


def text(results: dict[str, Any]) -> str:
    """Lay out the table, and say what it was measured on."""
    here = machine()
    lacking = [name for name in ("avx512f", "avx512_vnni", "avx_vnni") if name not in results["cpu_features"]]
    without = f"; without {', '.join(lacking)}" if lacking else ""
    said = f"On {here['cpu']} ({', '.join(results['cpu_features'])}{without})."
    if results["against"]:
        said += f" The old model, {results['against']}, is `model.onnx` in onnxruntime."
    if results["not_installed"]:
        said += f" Not installed: {', '.join(results['not_installed'])}."
    return f"{markdown_table([layout(row, results) for row in results['rows']])}\n\n{said}"


def layout(row: dict[str, Any], results: dict[str, Any]) -> dict[str, str]:
    """Lay out a row."""
    cells = {"file": f"{row['precision']}, {row['runtime']}", "MB": f"{row['bytes'] / 1e6:.2f}"}
    for batch in map(str, BATCHES):
        ms = [row["ms"][threads].get(batch) for threads in THREADS]
        cells[f"ms a face, batch {batch}, 1 / 2 threads"] = " / ".join(
            "-" if each is None else f"{each:.2f}" for each in ms
        )
    if results["against"]:
        ratios = [(row["ms"][threads].get("1"), results["ms_against"][threads]["1"]) for threads in THREADS]
        cells["over the old fp32, batch 1, 1 / 2 threads"] = " / ".join(
            "-" if new is None else f"{new / old:.2f}" for new, old in ratios
        )
    held = row["memory"]
    cells["process, MB (before loading)"] = f"{held['peak'] / 1e6:.0f} ({held['before'] / 1e6:.0f})" if held else "-"
    for split, found in row["scores"].items():
        cells[f"{split}: WAR / UAR / ECE, %"] = " / ".join(f"{100 * found[name]:.1f}" for name in ("war", "uar", "ece"))
    return cells


if __name__ == "__main__":
    main()
