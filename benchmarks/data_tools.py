"""Measure `motivnet data inspect`: its speed, its memory, and how well it finds copies.

- A manifest of 1,000,000 rows without pixels: target 30 s and 2 GB. The files are made for it, empty, and problems are
  planted, all of which have to be found.
- FER-2013, decoded and searched for near duplicates: target 3 minutes.
- Copies of FER-2013's training images, encoded, resized and lit anew: which share is found (recall), and how many pairs
  of other images pass for copies (precision). Faces that were given another's mouth, which is what one person's next
  expression looks like: which share passes for a copy.

    python benchmarks/data_tools.py --data fer2013.parquet [--rows 1000000] [--cores 2]
"""

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tables import markdown_table, use_cores, write_results

FILES_PER_FOLDER = 1000
PLANTED = {"missing": 50, "listed_twice": 100, "shared_subject": 10}
NUM_ORIGINALS = 3000


def main() -> None:
    """Measure everything, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("fer2013.parquet"), help="FER-2013")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the manifest without pixels")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make_manifest_of(options.rows, options.make)
        return
    cores = use_cores(options.cores)
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: the memory of this one would count in the next.
        make = [sys.executable, __file__, "--make", folder, "--rows", str(options.rows)]
        subprocess.run(make, check=True)
        large = inspect(f"manifest:{folder}/manifest.parquet", "--no-pixels")
    found = {kind: counts["rows"] for kind, counts in large["found"]["problems"].items()}
    if found != PLANTED:
        raise ValueError(f"planted {PLANTED}, found {found}")
    fer2013 = inspect(f"fer2013:{options.data}")
    copies, lookalikes = find_copies(options.data)
    path = write_results(
        "data_tools",
        {
            "cores": cores,
            "manifest_without_pixels": {"rows": options.rows, **timing(large), "problems": found},
            "fer2013": {
                "rows": fer2013["found"]["rows"],
                **timing(fer2013),
                "problems": fer2013["found"]["problems"],
                "copies": fer2013["found"]["copies"],
            },
            "planted_copies": {
                "originals": NUM_ORIGINALS,
                "changes": copies,
                "another_mouth_taken_for_copy": round(lookalikes, 4),
            },
        },
    )
    rows = [
        {"what": "manifest without pixels", "rows": f"{options.rows:,}", **readable(large)},
        {"what": "FER-2013 with near duplicates", "rows": f"{fer2013['found']['rows']:,}", **readable(fer2013)},
    ]
    print(markdown_table(rows), markdown_table(copies), sep="\n\n")
    print(f"\nanother's mouth taken for a copy: {lookalikes:.2%}\nwritten: {path}")


def inspect(*arguments: str) -> dict[str, Any]:
    """Run the command; give seconds, the most memory it held, and what it found."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "motivnet", "data", "inspect", *arguments, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise ChildProcessError(f"{command} ended with status {status}")
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024, "found": json.loads(output)}


def timing(run: dict[str, Any]) -> dict[str, Any]:
    return {"seconds": round(run["seconds"], 2), "peak_bytes": run["peak_bytes"]}


def readable(run: dict[str, Any]) -> dict[str, str]:
    return {"seconds": f"{run['seconds']:.1f}", "GB": f"{run['peak_bytes'] / 1e9:.2f}"}


def make_manifest_of(num_rows: int, folder: Path) -> None:
    """Write a manifest with subjects, groups and boxes, its files, and planted problems."""
    from motivnet.data.manifest import make_manifest, write_manifest
    from motivnet.labels import EMOTIONS

    rng = np.random.default_rng(0)
    paths = [str(folder / f"{i // FILES_PER_FOLDER:04}" / f"{i:07}.jpg") for i in range(num_rows)]
    for i in range(0, num_rows, FILES_PER_FOLDER):
        Path(paths[i]).parent.mkdir()
    for path in paths[PLANTED["missing"] :]:
        Path(path).touch()
    splits = [("train", "train", "train", "test")[i // 20 % 4] for i in range(num_rows)]
    subjects = [f"S{i // 20:06}" for i in range(num_rows)]
    for i in range(PLANTED["shared_subject"]):
        splits[-20 * (4 * i + 2)] = "validation"
    labels = [EMOTIONS.names[i] for i in rng.integers(0, 7, num_rows)]
    boxes = rng.integers(1, 200, (num_rows, 4)).astype(float).tolist()
    groups = [[("sex", "fm"[i % 2]), ("age", f"{i % 9}0s")] for i in range(num_rows)]
    for i in range(PLANTED["listed_twice"]):
        # 8,000 rows on, in the same split: the same file, box and label.
        here = PLANTED["missing"] + 1000 + i
        for column in (paths, labels, boxes):
            column[here + 8000] = column[here]
    columns = {"path": paths, "label": labels, "split": splits, "subject": subjects, "groups": groups, "box": boxes}
    write_manifest(make_manifest(columns), folder / "manifest.parquet")


def find_copies(data: Path) -> tuple[list[dict[str, Any]], float]:
    """Change images in every way, and look for the copies among the originals.

    Returns:
        What was found of each change, and the share of faces with another's mouth that passed for copies.
    """
    from PIL import Image

    from motivnet.data.clean import clean_training
    from motivnet.data.duplicates import near_duplicates, thumbnail
    from motivnet.data.sources.fer2013 import read_fer2013

    train, _ = clean_training(read_fer2013(data), "Training")
    rows = np.random.default_rng(0).choice(len(train), NUM_ORIGINALS, replace=False)
    images = [train.read(int(row))[0] for row in rows]
    originals = np.stack([thumbnail(image) for image in images])
    own_pairs = {tuple(pair) for pair in near_duplicates(originals)[0].tolist()}
    # FER-2013's own copies are none of the search's mistakes.
    related = own_pairs | {(other, one) for one, other in own_pairs} | {(i, i) for i in range(NUM_ORIGINALS)}
    lines = []
    for name, change in changes().items():
        copies = np.stack([thumbnail(np.asarray(change(Image.fromarray(image)))) for image in images])
        pairs, _ = near_duplicates(np.concatenate([originals, copies]))
        across = pairs[(pairs[:, 0] < NUM_ORIGINALS) & (pairs[:, 1] >= NUM_ORIGINALS)]
        matched = [(one, other - NUM_ORIGINALS) for one, other in across.tolist()]
        right = sum(one == other for one, other in matched)
        wrong = sum(pair not in related for pair in matched)
        recall, precision = right / NUM_ORIGINALS, 1 - wrong / max(1, len(matched))
        lines.append({"change": name, "recall": round(recall, 4), "precision": round(precision, 4), "wrong": wrong})
    mouths = np.stack([thumbnail(give_mouth(image, other)) for image, other in itertools.pairwise(images)])
    pairs, _ = near_duplicates(np.concatenate([originals, mouths]))
    taken = (pairs[:, 1] - pairs[:, 0] == NUM_ORIGINALS).sum()
    return lines, float(taken / len(mouths))


def give_mouth(image_hwc: np.ndarray, other_hwc: np.ndarray) -> np.ndarray:
    """Blend the mouth of another face, at the same brightness, into a face of 48 x 48 pixels."""
    y, x = np.mgrid[: image_hwc.shape[0], : image_hwc.shape[1]]
    share = np.clip(1.6 - np.maximum(abs(x - 23.5) / 12, abs(y - 36) / 7.5), 0, 1)[:, :, None]
    lift = (share * (image_hwc.astype(float) - other_hwc)).mean() / share.mean()
    return np.clip(image_hwc * (1 - share) + share * (other_hwc + lift), 0, 255).astype(np.uint8)


def changes() -> dict[str, Callable[[Any], Any]]:
    """Give what can happen to an image on its way from one data set to another."""
    from PIL import Image, ImageEnhance

    def jpeg(quality: int) -> Callable[[Any], Any]:
        def change(image: Image.Image) -> Image.Image:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            return Image.open(buffer).convert("RGB")

        return change

    def resize(side: int) -> Callable[[Any], Any]:
        return lambda image: image.resize((side, side), Image.Resampling.BICUBIC)

    def brightness(factor: float) -> Callable[[Any], Any]:
        return lambda image: ImageEnhance.Brightness(image).enhance(factor)

    def contrast(factor: float) -> Callable[[Any], Any]:
        return lambda image: ImageEnhance.Contrast(image).enhance(factor)

    return {
        **{f"JPEG quality {quality}": jpeg(quality) for quality in (90, 75, 50, 30)},
        **{f"resized to {side} px": resize(side) for side in (224, 96, 36, 24)},
        **{f"brightness x {factor}": brightness(factor) for factor in (1.2, 0.7)},
        **{f"contrast x {factor}": contrast(factor) for factor in (1.3, 0.6)},
        "all four": lambda image: contrast(0.8)(brightness(0.9)(jpeg(75)(resize(96)(image)))),
    }


if __name__ == "__main__":
    main()
