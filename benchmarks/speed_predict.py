"""Time what a user waits for, as whole processes: `motivnet --help`, one photograph, a folder of photographs.

The photographs, 1280x853 JPEGs with one to twelve faces, are made of those that scikit-image and matplotlib ship.

    python benchmarks/speed_predict.py [--model nano] [--photographs 200] [--runs 9] [--cores 2] [--against CHECKOUT]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from PIL import Image
from skimage import data
from tables import add_against, markdown_table, measure_other, use_cores, write_results

from motivnet.checkpoints.bundle import open_bundle
from motivnet.images import decode_image

HEIGHT, WIDTH = 853, 1280
# (rows, columns) of the portraits in one photograph
GRIDS = [(1, 1), (1, 2), (2, 2), (3, 4)]


def main() -> None:
    """Time every command and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="name of an embedded model, or the folder of a bundle")
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--cores", type=int, default=2)
    add_against(parser)
    options = parser.parse_args()
    cores = use_cores(options.cores)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = make_photographs(folder, options.photographs)
        predict = ["predict", "--model", options.model, "--json"]
        one = time_command([*predict, str(photographs[0])], options.runs)
        many = time_command([*predict, str(folder)], max(1, options.runs // 3))
        rows = [
            row("motivnet --help", time_command(["--help"], options.runs)),
            row("motivnet predict one.jpg --json", one),
            row(f"motivnet predict folder of {len(photographs)} --json", many, len(photographs)),
        ]
    steady = (len(photographs) - 1) / (statistics.median(many) - statistics.median(one))
    figures: dict[str, Any] = {"rows": rows, "photographs/s without cold start": round(steady, 1)}
    if options.json:
        print(json.dumps(figures))
        return
    if options.against:
        figures["before"] = measure_other(options.against)
    for name, found in {"": figures, "before": figures.get("before")}.items():
        if found:
            print(name, markdown_table(found["rows"]), sep="\n")
            print(f"\nWithout the cold start: {found['photographs/s without cold start']} photographs/s")
    settings = {"model": open_bundle(options.model).config.name, "cores_used": cores, "photographs": len(photographs)}
    write_results("speed_predict", settings | figures)


def row(command: str, seconds: Sequence[float], num_photographs: int = 1) -> dict[str, object]:
    """Sum up the runs of one command."""
    median = statistics.median(seconds)
    return {
        "command": command,
        "runs": len(seconds),
        "seconds, median": round(median, 3),
        "seconds, fastest": round(min(seconds), 3),
        "photographs/s": round(num_photographs / median, 1) if num_photographs > 1 else "",
    }


def time_command(arguments: Sequence[str], runs: int) -> list[float]:
    """Run a command of `motivnet` in new processes; one more, first, warms up the disk cache.

    The console script beside this Python is what users start; in a checkout that is not installed, its entry point.
    """
    script = Path(sys.executable).parent / ("motivnet.exe" if os.name == "nt" else "motivnet")
    entry_point = [sys.executable, "-c", "from motivnet.cli.main import main; main()"]
    command = [*([str(script)] if script.exists() else entry_point), *arguments]
    seconds = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def make_photographs(folder: Path, count: int) -> list[Path]:
    """Write `count` different JPEGs; the first shows one face."""
    hopper = decode_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    portraits = [data.astronaut(), hopper]
    background = cv2.resize(data.coffee(), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    paths = []
    for number in range(count):
        photograph = background[:, :: -1 if number % 2 else 1].copy()
        draw_grid(photograph, portraits, *GRIDS[number % len(GRIDS)], first=number)
        noise = np.random.default_rng(number).normal(0, 4, photograph.shape)
        path = folder / f"{number:04}.jpg"
        noisy = np.clip(photograph + noise, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
        paths.append(path)
    return paths


def draw_grid(photograph: np.ndarray, portraits: Sequence[np.ndarray], rows: int, columns: int, first: int) -> None:
    """Lay portraits, in turn and every other one mirrored, in the cells of a grid."""
    cell_height, cell_width = HEIGHT // rows, WIDTH // columns
    for number in range(rows * columns):
        portrait = portraits[(first + number) % len(portraits)]
        scale = min(cell_height / portrait.shape[0], cell_width / portrait.shape[1])
        height, width = int(portrait.shape[0] * scale), int(portrait.shape[1] * scale)
        small = cv2.resize(portrait, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        y, x = cell_height * (number // columns), cell_width * (number % columns) + (cell_width - width) // 2
        photograph[y : y + height, x : x + width] = small[:, :: -1 if (first + number) % 3 == 0 else 1]


if __name__ == "__main__":
    main()
