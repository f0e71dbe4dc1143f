"""Time `motivnet video` as a user waits for it: whole processes, from the start to the complete table.

The video has 1280 x 720 pixels and two faces in every frame. "frames/s" is frames / seconds of the whole process, with
its start; "frames/s without start" leaves out the seconds that a video of one frame takes. "CPU ms/frame" is the CPU
time of the whole process, which depends less on what else the machine does.

With `--against` the commands are also run from another checkout of this repository, such as one of an earlier version,
in turn with these.

    python benchmarks/video_speed.py [--frames 900] [--runs 3] [--cores 2] [--against CHECKOUT]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import PAGE, fill_block, markdown_table, use_cores, write_results
from video_clip import FPS, HEIGHT, WIDTH, draw_clip

HERE = Path(__file__).parents[1]
# What is asked for of the commands, in frames per second.
TARGETS = {"": 100, "--annotate drawn.mp4": 60}


def main() -> None:
    """Time every command and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=900)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    checkouts = {"this": HERE} | ({"against": options.against.resolve()} if options.against else {})
    cores = use_cores(options.cores)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = draw_clip(folder / "clip.mp4", options.frames)
        one = draw_clip(folder / "one.mp4", 1)
        starts = {
            name: min(time_video(path, folder, one, [])[0] for _ in range(options.runs))
            for name, path in checkouts.items()
        }
        rows = []
        drawn = ["--annotate", str(folder / "drawn.mp4")]
        for arguments in ([], ["--detect-every", "3"], drawn, ["--detect-every", "3", *drawn]):
            timed = {name: list[tuple[float, float]]() for name in checkouts}
            for _ in range(options.runs):
                for name, path in checkouts.items():
                    timed[name].append(time_video(path, folder, clip, arguments))
            named = " ".join("drawn.mp4" if argument.endswith(".mp4") else argument for argument in arguments)
            for name, runs in timed.items():
                median, cpu = map(statistics.median, zip(*runs, strict=True))
                rows.append(
                    {
                        "checkout": name,
                        "options": named,
                        "runs": len(runs),
                        "seconds, median": round(median, 2),
                        "frames/s": round(options.frames / median, 1),
                        "frames/s without start": round((options.frames - 1) / (median - starts[name]), 1),
                        "CPU ms/frame": round(1000 * cpu / options.frames, 1),
                        "target": TARGETS.get(named, ""),
                    }
                )
                print(rows[-1], flush=True)
    print(markdown_table(rows))
    settings = {"frames": options.frames, "width": WIDTH, "height": HEIGHT, "fps": FPS, "faces": 2, "model": "nano"}
    settings |= {
        "cores_used": cores,
        "out": "parquet",
        "start_seconds": {name: round(value, 2) for name, value in starts.items()},
    }
    write_results("video_speed", settings | {"rows": rows})
    fill_block(PAGE, "video-speed", markdown_table([shown(row) for row in rows if row["checkout"] == "this"]))


def shown(row: dict[str, object]) -> dict[str, object]:
    """Lay out what the page shows of a row."""
    numbers = ("frames/s", "frames/s without start", "CPU ms/frame")
    return {"options": f"`{row['options']}`" if row["options"] else "none"} | {name: row[name] for name in numbers}


def time_video(checkout: Path, folder: Path, video: Path, arguments: list[str]) -> tuple[float, float]:
    """Run the command of a checkout in a new process; gives its seconds, and its seconds of CPU time."""
    command = [sys.executable, "-c", "from motivnet.cli.main import main; main()", "video", str(video), *arguments]
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command += ["--out", str(folder / "rows.parquet"), "--overwrite"]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
