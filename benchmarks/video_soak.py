"""Run `motivnet video` over a long video, and watch its memory: flat, or growing with the number of frames?

The resident memory of the process (it starts no others) is read twice a second, and set against the frames that were
done by then, as its checkpoints tell. The growth is the slope of a straight line through the readings after the first
tenth of the frames, in which buffers and caches fill. "flat" means that the line rises by less than 5 % of the memory
at its beginning over the whole video.

    python benchmarks/video_soak.py [--frames 20000] [--detect-every 3] [--annotate] [--cores 2]
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tables import markdown_table, use_cores, write_results
from video_clip import FPS, HEIGHT, WIDTH, draw_clip

FLAT_SHARE = 0.05
WARM_UP_SHARE = 0.1
READ_EVERY_S = 0.5
PARTS = 10


def main() -> None:
    """Run the command, and print and write what its memory did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--detect-every", type=int, default=3)
    parser.add_argument("--annotate", action="store_true", help="write the annotated video too")
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    cores = use_cores(options.cores)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = draw_clip(folder / "clip.mp4", options.frames)
        arguments = ["--detect-every", str(options.detect_every)]
        arguments += ["--annotate", str(folder / "drawn.mp4")] if options.annotate else []
        readings, seconds = watch(clip, folder / "rows.parquet", arguments)
    frames, rss_mb = np.array(readings).T
    late = (frames >= WARM_UP_SHARE * options.frames) & (frames < options.frames)
    slope, first = np.polyfit(frames[late], rss_mb[late], 1)
    start_mb = first + slope * frames[late][0]
    rise = slope * (options.frames - frames[late][0]) / start_mb
    edges = np.linspace(0, options.frames, PARTS + 1)
    rows = [
        {"frames from": int(begin), "to": int(end), "highest MB": round(float(rss_mb[inside].max()), 1)}
        for begin, end in itertools.pairwise(edges)
        if (inside := (frames >= begin) & (frames <= end)).any()
    ]
    print(markdown_table(rows))
    results = {
        "frames": options.frames,
        "width": WIDTH,
        "height": HEIGHT,
        "fps": FPS,
        "faces": 2,
        "detect_every": options.detect_every,
        "annotate": options.annotate,
        "cores_used": cores,
        "seconds": round(seconds, 1),
        "frames/s": round(options.frames / seconds, 1),
        "highest MB": round(float(rss_mb.max()), 1),
        "MB per 1000 frames": round(1000 * float(slope), 3),
        "rise over the video, share": round(float(rise), 4),
        "flat": bool(rise < FLAT_SHARE),
        "rows": rows,
    }
    print(json.dumps({name: value for name, value in results.items() if name != "rows"}, indent=2))
    write_results("video_soak_annotate" if options.annotate else "video_soak", results)


def watch(video: Path, out: Path, arguments: list[str]) -> tuple[list[tuple[int, float]], float]:
    """Run the command; gives (frames done, memory in MB) at each reading, and the seconds it took."""
    state = out.with_name(f".{out.name}.unfinished") / "0.json"
    command = [sys.executable, "-c", "from motivnet.cli.main import main; main()", "video", str(video), *arguments]
    readings: list[tuple[int, float]] = []
    begin = time.perf_counter()
    with subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL) as process:
        frames = 0
        while process.poll() is None:
            if state.exists():
                # The state is replaced as a whole, and thrown away at the end.
                try:
                    frames = (json.loads(state.read_text(encoding="utf-8"))["index"] or 0) + 1
                except FileNotFoundError:
                    break
            if memory := rss_mb(process.pid):
                readings.append((frames, memory))
            time.sleep(READ_EVERY_S)
        if process.wait():
            raise SystemExit(f"the command failed with exit code {process.returncode}")
    return readings, time.perf_counter() - begin


def rss_mb(pid: int) -> float:
    """Give the resident memory of a process in MB, on Linux; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


if __name__ == "__main__":
    main()
