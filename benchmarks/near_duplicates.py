"""Calibrate the distance at which `motivnet data inspect` calls two images near duplicates.

- Copies of FER-2013's training images, encoded, resized and lit anew: which share is found at each distance.
- Made laboratory sets: twenty photographs each of one person before one wall, with other mouths and brows, whose head
  moves by a quarter to one percent of the picture: which share passes for a copy of another. The faces are public.
- FER-2013 itself at the distance in use: exact duplicates, whose number is published with the data, and near ones.

    python benchmarks/near_duplicates.py [--data fer2013.parquet] [--faces dev.parquet]
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
from data_tools import changes
from PIL import Image
from tables import markdown_table, write_results

from motivnet.data import duplicates
from motivnet.data.clean import clean_training
from motivnet.data.inspect import inspect_manifest
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.images import decode_image

DISTANCES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.8)
NUM_COPIES, NUM_PEOPLE, NUM_PHOTOGRAPHS, SIDE, HEAD = 2000, 10, 20, 256, 190
MOVES = {"quarter": 0.25, "half": 0.5, "whole": 1.0}
# What changes: centre and half size, as fractions of the head.
MOUTH, BROWS = (0.5, 0.7, 0.17, 0.1), (0.5, 0.4, 0.26, 0.07)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("fer2013.parquet"), help="FER-2013")
    parser.add_argument("--faces", type=Path, default=Path("dev.parquet"), help="a column jpeg of 128 x 128 pixels")
    options = parser.parse_args()
    rows = [{"what": f"copies: {name}", **shares(found)} for name, found in copies(options.data).items()]
    rows += [{"what": f"laboratory: {name}", **shares(found)} for name, found in laboratories(options.faces).items()]
    found = inspect_manifest(read_fer2013(options.data)).count_problems()
    path = write_results(
        "near_duplicates",
        {"distance": duplicates.MAX_DIFFERENCE, "share_within_distance": rows, "fer2013": found},
    )
    print(markdown_table(rows), f"\nFER-2013 at {duplicates.MAX_DIFFERENCE}: {found}\nwritten: {path}")


def shares(distances: np.ndarray) -> dict[str, float]:
    return {str(distance): round(float((distances <= distance).mean()), 4) for distance in DISTANCES}


def distances_of(one_BTT: np.ndarray, other_BTT: np.ndarray) -> np.ndarray:
    """Return the largest difference of each pair, as the search computes it."""
    return np.abs(duplicates._standardise(one_BTT) - duplicates._standardise(other_BTT)).max((1, 2))


def copies(data: Path) -> dict[str, np.ndarray]:
    """Return the distances of changed images from the images as they are."""
    train, _ = clean_training(read_fer2013(data), "Training")
    rows = np.random.default_rng(0).choice(len(train), NUM_COPIES, replace=False)
    images = [train.read(int(row))[0] for row in rows]  # type: ignore[arg-type]
    originals = np.stack([duplicates.thumbnail(image) for image in images])
    found = {}
    for name, change in changes().items():
        changed = [duplicates.thumbnail(np.asarray(change(Image.fromarray(image)))) for image in images]
        found[name] = distances_of(originals, np.stack(changed))
    return found


def laboratories(faces: Path) -> dict[str, np.ndarray]:
    """Return the distance of each photograph from the nearest other one of the same person."""
    rng, table = np.random.default_rng(0), pq.read_table(faces, columns=["jpeg"])
    chosen = rng.choice(len(table), NUM_PEOPLE * (NUM_PHOTOGRAPHS + 1), replace=False)
    images = [decode_image(jpeg) for jpeg in table["jpeg"].take(chosen).to_pylist()]
    people, others = images[:NUM_PEOPLE], np.array_split(np.stack(images[NUM_PEOPLE:]), NUM_PEOPLE)
    found: dict[str, list[Any]] = {}
    for name, move in MOVES.items():
        for person, own in zip(people, others, strict=True):
            thumbs = np.stack([duplicates.thumbnail(each) for each in photographs(person, own, move, rng)])
            apart = np.stack([distances_of(np.broadcast_to(thumb, thumbs.shape), thumbs) for thumb in thumbs])
            np.fill_diagonal(apart, np.inf)
            found.setdefault(f"head moves by a {name} percent", []).append(apart.min(1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def photographs(face: np.ndarray, others: np.ndarray, move: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Photograph a face before a wall, each time with mouth, or mouth and brows, of another."""
    y, x = np.mgrid[:HEAD, :HEAD] / HEAD
    oval = np.clip((1.15 - ((x - 0.5) / 0.4) ** 2 - ((y - 0.5) / 0.48) ** 2) / 0.3, 0, 1)
    own = cv2.resize(face, (HEAD, HEAD), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    pictures = []
    for number, other in enumerate(others):
        large, head = cv2.resize(other, (HEAD, HEAD), interpolation=cv2.INTER_CUBIC), own
        for middle_x, middle_y, half_x, half_y in (MOUTH, BROWS)[: 1 + number % 2]:
            share = np.clip(1.6 - np.maximum(abs(x - middle_x) / half_x, abs(y - middle_y) / half_y), 0, 1)[..., None]
            lift = (share * (head - large)).mean() / share.mean()
            head = head * (1 - share) + share * (large + lift)
        turn = cv2.getRotationMatrix2D((HEAD / 2, HEAD / 2), rng.normal(0, 1.5 * move), 1 + rng.normal(0, 0.008 * move))
        turn[:, 2] += (SIDE - HEAD) / 2 + rng.normal(0, 0.008 * move * SIDE, 2)
        placed = cv2.warpAffine(np.clip(head, 0, 255).astype(np.float32), turn, (SIDE, SIDE), flags=cv2.INTER_CUBIC)
        mask = cv2.warpAffine(oval.astype(np.float32), turn, (SIDE, SIDE))[..., None]
        picture = 200 * (1 - mask) + placed * mask + rng.normal(0, 2, (SIDE, SIDE, 1))
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    return pictures


if __name__ == "__main__":
    main()
