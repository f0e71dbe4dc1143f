"""Time a model alone in onnxruntime: milliseconds a face at batch 1, faces a second at batch 64.

python benchmarks/speed_nano.py [--model nano] [--threads 2]
"""

import argparse
import statistics
import time

import numpy as np
from tables import markdown_table, use_cores, write_results

from motivnet.checkpoints.bundle import open_bundle
from motivnet.inference.backends import OnnxBackend

# batch size -> runs that are timed
RUNS = {1: 1000, 8: 200, 64: 40}


def main() -> None:
    """Time every batch size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="name of an embedded model, or the folder of a bundle")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    cores = use_cores(options.threads)
    bundle = open_bundle(options.model)
    backend = OnnxBackend(bundle, threads=options.threads)
    shape = (bundle.config.model.in_chans, *bundle.config.model.image_size)
    rows = [measure(backend, shape, batch, runs) for batch, runs in RUNS.items()]
    print(markdown_table(rows))
    settings = {"model": bundle.config.name, "input": list(shape), "threads": options.threads, "cores_used": cores}
    write_results("speed_nano", settings | {"rows": rows})


def measure(backend: OnnxBackend, shape: tuple[int, ...], batch: int, runs: int) -> dict[str, object]:
    """Run one batch size many times; the first tenth only warms up."""
    pixels_BCHW = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
    for _ in range(max(2, runs // 10)):
        backend.logits(pixels_BCHW)
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        backend.logits(pixels_BCHW)
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    return {
        "batch": batch,
        "runs": runs,
        "ms a face, median": round(1000 * median / batch, 3),
        "ms a face, fastest": round(1000 * min(seconds) / batch, 3),
        "faces/s, median": round(batch / median),
    }


if __name__ == "__main__":
    main()
