"""Kill bulk runs and training by SIGKILL at random moments, and go on: is a row lost, doubled or different?

    python benchmarks/campaign_kills.py [--bulk 15] [--training 8] [--seed 0] [--out campaign_kills.json]

Of each engine of `motivnet bulk`, a run over `IMAGES` images is killed, with the processes that it started, after a
random number of its parts, and continued with the same command until it ends; `--bulk` kills in all. Its rows are
compared with those of a run that was not killed. A training run in miniature is killed after a random number of steps
and resumed, `--training` times; its metrics and its model must be, byte for byte, those of one that was not killed.
"""

import argparse
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyarrow import parquet

IMAGES, PART_SIZE = 400, 8
STEPS = 60  # 196 faces in batches of 14, for 6 epochs, a part of them for validation
SETTINGS = (
    *("model.backbone=timm:test_vit", "model.image_size=[32,32]", "preprocessing.size=[32,32]", "model.head.dim=32"),
    *("model.head.ff_dim=32", "run.batch_size=14", "run.epochs=6", "run.precision=32-true", "run.num_workers=1"),
    *("run.checkpoint_minutes=1e-9",),
)
PATIENCE_S = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bulk", type=int, default=15, help="kills of each engine")
    parser.add_argument("--training", type=int, default=8, help="kills of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {
            f"bulk, {engine}": bulk(Path(folder) / engine, engine, given.bulk, rng) for engine in ("local", "ray")
        }
        found["training"] = training(Path(folder) / "training", given.training, rng)
    text = json.dumps(found, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(any(part["lost"] or part["doubled"] or part["different"] for part in found.values()))


def bulk(folder: Path, engine: str, kills: int, rng: random.Random) -> dict[str, int]:
    """Kill runs of an engine, and count the kills and the rows that are lost, doubled and different."""
    from skimage.data import astronaut

    images = folder / "images"
    images.mkdir(parents=True)
    face = astronaut()[:256, 96:352]
    for number in range(IMAGES):
        Image.fromarray(np.roll(face, number, axis=1)).save(images / f"{number:04}.jpg")

    def command(out: Path) -> list[str]:
        workers = ["--workers", "2"] if engine == "ray" else []
        return ["bulk", str(images), str(out), "--part-size", str(PART_SIZE), "--engine", engine, *workers]

    run(command(folder / "whole"))
    expected = rows(folder / "whole")
    counts = {"kills": 0, "runs": 0, "rows": 0, "lost": 0, "doubled": 0, "different": 0}
    while counts["kills"] < kills:
        out = folder / f"out-{counts['runs']}"
        parts = functools.partial(count_parts, out)
        while counts["kills"] < kills and kill(command(out), parts, parts() + rng.randint(0, 16), rng):
            counts["kills"] += 1
        run(command(out))
        found = rows(out)
        names = [(row["input"], row["face"]) for row in found]
        counts["runs"] += 1
        counts["rows"] += len(found)
        counts["lost"] += len({(row["input"], row["face"]) for row in expected} - set(names))
        counts["doubled"] += len(names) - len(set(names))
        counts["different"] += sum(row not in expected for row in found)
        counts["different"] += len([path for path in out.iterdir() if path.name.startswith(".")])
    return counts


def count_parts(out: Path) -> int:
    return len(list(out.glob("part-*")))


def training(folder: Path, kills: int, rng: random.Random) -> dict[str, int]:
    """Kill a training run, and count the kills and the files that differ from those of a whole run."""
    import pyarrow as pa

    from motivnet.labels import EMOTIONS

    folder.mkdir()
    noise, labels = np.random.default_rng(0), np.arange(196) % len(EMOTIONS)
    for number in range(196):
        Image.fromarray(noise.integers(0, 256, (48, 48), np.uint8)).save(folder / f"{number}.png")
    columns = {
        "usage": ["Training"] * 140 + ["PublicTest"] * 28 + ["PrivateTest"] * 28,
        "label": [EMOTIONS.names[label] for label in labels],
        "png": [(folder / f"{number}.png").read_bytes() for number in range(196)],
    } | {f"votes_{name}": (labels == place).astype(int) * 10 for place, name in enumerate(EMOTIONS)}
    parquet.write_table(pa.table(columns), folder / "fer.parquet")

    def command(out: Path) -> list[str]:
        settings = [part for setting in SETTINGS for part in ("--set", setting)]
        resume = ["--resume"] if (out / "run.json").exists() else []
        return [
            "train",
            "nano-fer2013",
            "--data",
            f"fer2013:{folder}/fer.parquet",
            "--out",
            str(out),
            *settings,
            *resume,
        ]

    def steps(out: Path) -> int:
        file = out / "metrics.csv"
        return len(file.read_text().splitlines()) - 1 if file.exists() else 0

    run(command(folder / "whole"))
    counts = {"kills": 0, "lost": 0, "doubled": 0, "different": 0}
    out = folder / "killed"
    while counts["kills"] < kills and kill(command(out), lambda: steps(out), rng.randint(1, STEPS - 1), rng):
        counts["kills"] += 1
    run(command(out))
    for name in ("metrics.csv", "validation.csv", "bundle/model.safetensors"):
        counts["different"] += (out / name).read_bytes() != (folder / "whole" / name).read_bytes()
    numbers = [line.partition(",")[0] for line in (out / "metrics.csv").read_text().splitlines()[1:]]
    counts["doubled"] = len(numbers) - len(set(numbers))
    counts["lost"] = steps(folder / "whole") - len(set(numbers))
    return counts


def kill(command: list[str], progress: Callable[[], int], enough: int, rng: random.Random) -> bool:
    """Start a command, and kill it and its children once `progress` is enough; False if it ended before."""
    with subprocess.Popen([sys.executable, "-m", "motivnet", *command], start_new_session=True, **QUIET) as process:
        end = time.monotonic() + PATIENCE_S
        while progress() < enough and process.poll() is None:
            if time.monotonic() > end:
                raise SystemExit(f"no progress in {PATIENCE_S} s: {command}")
            time.sleep(0.005)
        time.sleep(rng.random() / 20)
        if process.poll() is not None:
            return False
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def run(command: list[str]) -> None:
    """Run a command to its end; its text is shown if it fails."""
    done = subprocess.run([sys.executable, "-m", "motivnet", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr}")


def rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all parts."""
    return [row for path in sorted(out.glob("part-*")) for row in parquet.read_table(path).to_pylist()]


if __name__ == "__main__":
    main()
