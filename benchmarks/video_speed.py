"""Time `motivnet video` as a user waits for it: whole processes, from the start to the complete table.

The video has 1280 x 720 pixels and two faces in every frame. "frames/s" is frames / seconds of the whole process, with
its start; "frames/s without start" leaves out the seconds that a video of one frame takes.

    python benchmarks/video_speed.py [--frames 900] [--runs 3] [--cores 2]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import markdown_table, use_cores, write_results
from video_clip import FPS, HEIGHT, WIDTH, draw_clip

# What is asked for of the commands, in frames per second.
TARGETS = {"--detect-every 3": 60, "--detect-every 1": 25}


def main() -> None:
    """Time every command and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=900)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    cores = use_cores(options.cores)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = draw_clip(folder / "clip.mp4", options.frames)
        start = min(time_video(folder, draw_clip(folder / "one.mp4", 1), []) for _ in range(options.runs))
        rows = []
        for arguments in (
            ["--detect-every", "3"],
            ["--detect-every", "1"],
            ["--detect-every", "3", "--annotate", str(folder / "drawn.mp4")],
            ["--detect-every", "1", "--annotate", str(folder / "drawn.mp4")],
        ):
            seconds = [time_video(folder, clip, arguments) for _ in range(options.runs)]
            median = statistics.median(seconds)
            shown = " ".join("drawn.mp4" if argument.endswith(".mp4") else argument for argument in arguments)
            rows.append(
                {
                    "options": shown,
                    "runs": len(seconds),
                    "seconds, median": round(median, 2),
                    "frames/s": round(options.frames / median, 1),
                    "frames/s without start": round((options.frames - 1) / (median - start), 1),
                    "target": TARGETS.get(shown, ""),
                }
            )
            print(rows[-1], flush=True)
    print(markdown_table(rows))
    settings = {"frames": options.frames, "width": WIDTH, "height": HEIGHT, "fps": FPS, "faces": 2, "model": "nano"}
    settings |= {"cores_used": cores, "out": "parquet", "start_seconds": round(start, 2)}
    write_results("video_speed", settings | {"rows": rows})


def time_video(folder: Path, video: Path, arguments: list[str]) -> float:
    """Run the command in a new process; gives its seconds."""
    command = [sys.executable, "-c", "from motivnet.cli.main import main; main()", "video", str(video), *arguments]
    begin = time.perf_counter()
    subprocess.run([*command, "--out", str(folder / "rows.parquet"), "--overwrite"], check=True, capture_output=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
