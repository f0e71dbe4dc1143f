"""Measure whether aligned faces help nano: the template, its answers as it is, and after a short training on either.

    python benchmarks/alignment.py --fer2013 fer2013.parquet --faces faces/ [--only template scores train]

`template` prints where the landmarks are in the detector's box, made square: `motivnet.preprocess.TEMPLATE`. `scores`
compares the answers of one model on the same faces, cropped as the data set's annotation says (FER-2013: the whole
image), by the detector's box, and aligned; faces that the detector does not find are left out. `train` trains nano's
architecture from faceres (`--start`) on plain and on aligned crops of the same faces, `--seeds` times; it is resumed,
each run is a folder in `--out`. `faces/dev.parquet` holds the development faces, see `nano.py`.
"""

import argparse
import dataclasses
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nano import development_faces, motivnet, precision
from PIL import Image
from tables import PAGE, fill_block, markdown_table, write_results

from motivnet.data.manifest import Manifest, make_manifest, write_manifest
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.evaluation import metrics
from motivnet.evaluation.resampling import paired_bootstrap
from motivnet.faces import Detection, load_detector
from motivnet.inference.predictor import Predictor
from motivnet.preprocess import NANO, Box, Preprocessing

# Of a detection with the face that the data set means; others are eyes, mouths, and people behind.
MIN_IOU = 0.4
TEMPLATE_ROWS, TRAIN_ROWS = 3000, 4000
SETTINGS = ["split.select=Selection", "run.epochs=2", "run.mixup_epochs=0"]
ARMS = ("plain", "aligned")

Face = tuple[np.ndarray, Box | None, Detection]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fer2013", type=Path, required=True)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--start", type=Path, default=Path("faceres.json"), help="weights that `train` starts from")
    parser.add_argument("--seeds", type=int, default=2, help="runs of `train` on either kind of crops")
    parser.add_argument("--out", type=Path, default=Path("runs/alignment"))
    parser.add_argument("--only", nargs="+", choices=("template", "scores", "train"), default=("template", "scores"))
    options = parser.parse_args()
    training = read_fer2013(options.fer2013).split("Training")
    sets = {
        "FER-2013 PublicTest, FERPlus majority": read_fer2013(options.fer2013, labels="majority").split("PublicTest"),
        "development faces": development_faces(options.faces / "dev.parquet"),
    }
    results: dict[str, Any] = {"model": options.model}
    if "template" in options.only:
        results["template"] = measure_template(draw(training, TEMPLATE_ROWS))
        print(markdown_table(results["template"]))
    if "scores" in options.only:
        crops = {"annotated": annotated, "detected": detected, "aligned": aligned}
        results["scores"] = [
            row
            for name, manifest in sets.items()
            for row in compare(name, "annotated", *answer(options.model, manifest, crops))
        ]
        print(markdown_table(results["scores"]))
        fill_block(PAGE, "alignment", markdown_table(results["scores"]))
    if "train" in options.only:
        results["trained"] = train(options.start, draw(training, TRAIN_ROWS), sets, options.out, options.seeds)
        print(markdown_table(results["trained"]))
    print(f"written: {write_results('alignment_trained' if 'train' in options.only else 'alignment', results)}")


def draw(manifest: Manifest, count: int) -> Manifest:
    """Return evenly spaced rows."""
    return manifest.select(np.linspace(0, len(manifest) - 1, min(count, len(manifest))).round().astype(int))


@functools.cache
def detector() -> Any:
    return load_detector()


def find(manifest: Manifest, row: int) -> Face | None:
    """Return image, annotated box and detection of a row; None if the detector does not find its face."""
    image_hwc_u8, box = manifest.read(row)[0], manifest.table["box"][row].as_py()
    height, width = image_hwc_u8.shape[:2]
    whole = Box(0, 0, width, height)
    wanted = Box(*box) if box else whole
    found = max(detector().detect(image_hwc_u8), key=lambda face: face.box.iou(wanted), default=None)
    if found is None or found.box.iou(wanted) < MIN_IOU:
        return None
    return image_hwc_u8, box and wanted, found


def measure_template(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the median place of each landmark in the square about the detector's box, and its quartiles."""
    places = []
    for row in range(len(manifest)):
        if face := find(manifest, row):
            x, y, width, height = face[2].box
            side = max(width, height)
            corner = (x + (width - side) / 2, y + (height - side) / 2)
            places.append((np.array(face[2].landmarks) - corner) / side)
    quartiles_352 = np.quantile(places, [0.25, 0.5, 0.75], axis=0)
    names = ("right eye", "left eye", "nose", "right mouth", "left mouth")
    return [
        {"landmark": name, "faces": len(places)}
        | {f"{axis} {q}": round(float(quartiles_352[i, k, j]), 3) for j, axis in enumerate("xy") for i, q in QUARTILES}
        for k, name in enumerate(names)
    ]


QUARTILES = tuple(enumerate(("25%", "50%", "75%")))


def annotated(preprocessing: Preprocessing, face: Face) -> np.ndarray:
    return preprocessing.face(face[0], face[1])


def detected(preprocessing: Preprocessing, face: Face) -> np.ndarray:
    return preprocessing.face(face[0], face[2].box)


def aligned(preprocessing: Preprocessing, face: Face) -> np.ndarray:
    return dataclasses.replace(preprocessing, align=True).face(face[0], face[2].box, face[2].landmarks)


Crop = Callable[[Preprocessing, Face], np.ndarray]


def answer(model: str, manifest: Manifest, crops: dict[str, Crop]) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """Return the answers to each kind of crop of the faces that are found, their labels, and the number of faces."""
    predictor = Predictor.load(model, threads=1)
    preprocessing = predictor.config.preprocessing
    faces: dict[str, list[np.ndarray]] = {name: [] for name in crops}
    rows = []
    for row in range(len(manifest)):
        if face := find(manifest, row):
            rows.append(row)
            for name, crop in crops.items():
                faces[name].append(crop(preprocessing, face))
    size = predictor.batch_size
    preds = {
        name: np.array(
            [
                np.argmax(probs)
                for at in range(0, len(own), size)
                for probs, _ in predictor.classify(own[at : at + size])
            ]
        )
        for name, own in faces.items()
    }
    return preds, manifest.targets[rows], len(manifest)


def compare(
    name: str, base: str, preds: dict[str, np.ndarray], target_B: np.ndarray, total: int
) -> list[dict[str, object]]:
    """Return WAR and UAR in % by crop, and the differences from one of them, with 95 % intervals."""

    def scores(answers_B: np.ndarray, weights_B: np.ndarray | None = None) -> dict[str, float]:
        functions = {"WAR": metrics.war, "UAR": metrics.uar}
        return {title: 100 * each(answers_B, target_B, 7, weights=weights_B) for title, each in functions.items()}

    rows = []
    for crop, answers_B in preds.items():
        row: dict[str, object] = {"faces": name, "found": f"{len(target_B)} of {total}", "crop": crop}
        own, other = (functools.partial(scores, each) for each in (answers_B, preds[base]))
        differences = paired_bootstrap(own, other, len(target_B))
        for title, value in scores(answers_B).items():
            low, high = differences[title].interval
            row |= {
                title: round(value, 2),
                f"{title} - {base}": f"{differences[title].value:+.2f} [{low:+.2f}, {high:+.2f}]",
            }
        rows.append(row)
    return rows


def train(
    start: Path, training: Manifest, sets: dict[str, Manifest], out: Path, num_seeds: int
) -> list[dict[str, object]]:
    """Train nano's architecture on both kinds of crops and with every seed, and compare the answers seed by seed."""
    out.mkdir(parents=True, exist_ok=True)
    data, crops = out / "{}.parquet", {"plain": detected, "aligned": aligned}
    if not all(Path(str(data).format(arm)).exists() for arm in ARMS):
        write_crops(NANO, training, sets, crops, str(data))
    rows = []
    for seed in range(num_seeds):
        folders = {arm: out / f"{arm}-{seed}" for arm in ARMS}
        for arm, folder in folders.items():
            command = ["train", "nano-fer2013", "--data", f"manifest:{str(data).format(arm)}", "--out", str(folder)]
            for setting in (*SETTINGS, f"run.seed={seed}"):
                command += ["--set", setting]
            command += ["--set", f"backbone.weights={start}", *precision()]
            if not (folder / "bundle" / "config.json").exists():
                motivnet(*command, *(["--resume"] if (folder / "run.json").exists() else []))
        for name, manifest in sets.items():
            found = {
                arm: answer(str(folder / "bundle"), manifest, {arm: crops[arm]}) for arm, folder in folders.items()
            }
            preds = {arm: answers[arm] for arm, (answers, _, _) in found.items()}
            rows += [{"seed": seed, **row} for row in compare(name, "plain", preds, *found["plain"][1:])]
    return rows


def write_crops(
    preprocessing: Preprocessing, training: Manifest, sets: dict[str, Manifest], crops: dict[str, Crop], path: str
) -> None:
    """Write a manifest of each kind of crops: those to train on, and those that select."""
    columns: dict[str, list[Any]] = {"label": [], "split": []}
    images: dict[str, list[bytes]] = {arm: [] for arm in crops}
    for split, manifest in (("Training", training), *(("Selection", manifest) for manifest in sets.values())):
        labels = manifest.table["label"].to_pylist()
        for row, label in enumerate(labels):
            if face := find(manifest, row):
                columns["label"].append(label)
                columns["split"].append(split)
                for arm, crop in crops.items():
                    file = io.BytesIO()
                    Image.fromarray(crop(preprocessing, face).squeeze()).save(file, "PNG")
                    images[arm].append(file.getvalue())
    for arm, own in images.items():
        write_manifest(make_manifest({**columns, "image": own}), Path(path.format(arm)))


if __name__ == "__main__":
    main()
