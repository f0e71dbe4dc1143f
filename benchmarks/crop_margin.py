"""Measure the margin that makes a detector's box on FER-2013 images as large as those images.

FER-2013's 48x48 images are loose crops of faces; a detector's box is tight. The small model learns on the former and
is given the latter, so `motivnet.preprocess.NANO` widens the box by the median that this script finds:

    margin = (side of the image / longer side of the box - 1) / 2

Only rows of the Training split are looked at. Each face is enlarged, given a border (so that a box may reach
beyond the image) and shown to the offline detector.

    python benchmarks/crop_margin.py [--data fer2013.parquet] [--rows 1500]
"""

import argparse
import io
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet
from PIL import Image
from tables import markdown_table, write_results

from motivnet.faces import FaceDetector, load_detector

# (side in pixels that a face is enlarged to, kind of border, width of the border over that side)
SETTINGS = [
    (192, "edge", 0.25),
    (192, "grey", 0.25),
    (192, "grey", 0.5),
    (96, "grey", 0.5),
]
BORDERS = {"edge": cv2.BORDER_REPLICATE, "grey": cv2.BORDER_CONSTANT}
# Boxes smaller than this share of the image are eyes, mouths and background, not the face that was cropped.
SMALLEST_BOX = 0.4


def main() -> None:
    """Measure every setting and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("fer2013.parquet"))
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--detector", default="yunet")
    options = parser.parse_args()
    detector = load_detector(options.detector)
    faces = training_faces(options.data, options.rows)
    rows = [measure(faces, detector, *setting) for setting in SETTINGS]
    print(markdown_table(rows))
    write_results("crop_margin", {"detector": options.detector, "rows": len(faces), "settings": rows})


def training_faces(path: Path, count: int) -> list[np.ndarray]:
    """Read evenly spaced training images that are not black, uint8 (48, 48)."""
    table = pyarrow.parquet.read_table(path, columns=["png", "usage"], filters=[("usage", "=", "Training")])
    chosen = np.linspace(0, table.num_rows - 1, min(count, table.num_rows)).round().astype(int)
    pngs = table["png"].take(chosen).to_pylist()
    faces = [np.asarray(Image.open(io.BytesIO(png)).convert("L")) for png in pngs]
    return [face for face in faces if face.max() > 0]


def measure(
    faces: list[np.ndarray], detector: FaceDetector, side_px: int, border: str, border_share: float
) -> dict[str, object]:
    """Compare the box of each face with the image it fills."""
    border_px = round(side_px * border_share)
    ratios, offsets_x, offsets_y = [], [], []
    for face in faces:
        large = cv2.resize(face, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
        framed = cv2.copyMakeBorder(
            large, border_px, border_px, border_px, border_px, BORDERS[border], value=int(face.mean())
        )
        found = detector.detect(np.ascontiguousarray(np.repeat(framed[:, :, None], 3, axis=2)))
        boxes = [item.box for item in found]
        boxes = [box for box in boxes if max(box.width, box.height) >= SMALLEST_BOX * side_px]
        if not boxes:
            continue
        box = max(boxes, key=lambda box: box.width * box.height)
        longer = max(box.width, box.height)
        centre = border_px + side_px / 2
        ratios.append(side_px / longer)
        offsets_x.append((centre - box.x - box.width / 2) / longer)
        offsets_y.append((centre - box.y - box.height / 2) / longer)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "side_px": side_px,
        "border": f"{border} {border_share:g}",
        "found": f"{len(ratios) / len(faces):.1%}",
        "ratio median": round(float(middle), 3),
        "ratio quartiles": f"{low:.3f} to {high:.3f}",
        "margin": round(float(middle - 1) / 2, 3),
        "centre right of box's, in boxes": round(float(np.median(offsets_x)), 3),
        "centre below box's, in boxes": round(float(np.median(offsets_y)), 3),
    }


if __name__ == "__main__":
    main()
