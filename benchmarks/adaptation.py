"""Compare methods of domain adaptation on the same footing: one backbone, one start, one budget, several seeds.

    python benchmarks/adaptation.py --fer2013 fer2013.parquet [--faces faces/] [--target jaffe:/data/jaffe]
        [--target ckplus:/data/ckplus] [--target sfew:/data/SFEW@Val] [--seeds 3] [--rows 4000] [--epochs 2]
        [--size small] [--weights faceres.json] [--out runs/adaptation]

Source: `--rows` faces of FER-2013's Training split, cleaned, drawn once. Targets, without labels: the development faces
(`--faces`, see `nano.py`), PrivateTest under `DEGRADED`, and each `--target`, as `motivnet benchmark` names data sets.
Every seed trains a start on the source; every method goes on from it for `--epochs`, source-only and batchnorm too.
Finished runs are kept, so that it can be stopped and started again; `--report` reports what is finished.

Cost on one idle core of an AMD EPYC: 20 s for each run, and 10 ms for each face that is trained on at 96 x 96 pixels; a
third of that for each that is predicted, a quarter with `--size small`. By default about 3 hours for two targets.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from nano import development_faces
from tables import fill_block, markdown_table, write_results

from motivnet.data.clean import clean_training
from motivnet.data.degradations import Degradation
from motivnet.data.manifest import Manifest, set_columns, write_manifest
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.evaluation.resampling import holm
from motivnet.experiments.adaptation import CHOICES, RESULT_NAME, adapt, probs_of, read_target
from motivnet.experiments.comparison import contrast
from motivnet.experiments.protocols import parse_data
from motivnet.training.fit import fit

PAGE = Path(__file__).parent / "adaptation" / "README.md"
METHODS = ("source-only", "batchnorm", "mmd", "dann", "cdan", "ecan", "agra", "csrl")
# A cheap camera in bad light: half the light, the face 24 pixels wide, strongly compressed.
DEGRADED = Degradation(gain=0.5, side=24, quality=20)
SIZES = {"full": 96, "small": 48}
SCORES = ("war", "uar")
# Of the start, and lower of what goes on from it, as when a trained model is fine-tuned.
START_RATE, RATE = 1e-3, 3e-4


def main() -> None:
    """Run what is not finished, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fer2013", type=Path, required=True)
    parser.add_argument("--faces", type=Path, help="folder of dev.parquet")
    parser.add_argument("--target", action="append", default=[], metavar="[NAME=]KIND:PATH[@SPLIT]")
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4000, help="faces of the source")
    parser.add_argument(
        "--target-rows", type=int, help="faces of the degraded and of the development faces; default: all"
    )
    parser.add_argument("--start-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128, help="half of each domain")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--weights", help="backbone.weights of the start")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    source, targets = make_data(options)
    if not options.report:
        train(options, source, targets)
    found = {name: report(options, name, target) for name, target in targets.items()}
    correct_p([row for each in found.values() for row in each["methods"]])
    settings = {
        name: getattr(options, name)
        for name in ("seeds", "rows", "target_rows", "start_epochs", "epochs", "batch", "size")
    }
    results = {"settings": settings, "weights": Path(options.weights or "none").name, "targets": found}
    if options.seeds > 1:
        results["answer"] = answer(found, options.seeds)
    print(f"written: {write_results('adaptation', results)}")
    text = "\n\n".join(f"**{name}**, {each['faces']:,} faces\n\n{table(each)}" for name, each in found.items())
    fill_block(PAGE, "adaptation", f"{text}\n\nSettings: {json.dumps(settings)}")
    print(text)


def make_data(options: argparse.Namespace) -> tuple[str, dict[str, str]]:
    """Write source and targets as manifests, once; give them as `adapt` takes them, the targets by name."""
    names = (f"source-{options.rows}", f"degraded-{options.target_rows}", f"dev-{options.target_rows}")
    source, degraded, dev = (options.out / f"{name}.parquet" for name in names)
    if not source.exists():
        train, _ = clean_training(read_fer2013(options.fer2013), "Training")
        write_manifest(draw(train, options.rows), source)
    if not degraded.exists():
        faces = read_fer2013(options.fer2013).split("PrivateTest")
        write_manifest(degrade(draw(faces, options.target_rows)), degraded)
    targets = {"FER-2013 PrivateTest, degraded": f"manifest:{degraded}"}
    if options.faces:
        write_manifest(draw(development_faces(options.faces / "dev.parquet"), options.target_rows), dev)
        targets = {"development faces": f"manifest:{dev}"} | targets
    return f"manifest:{source}@Training", targets | {parse_data(name).title: name for name in options.target}


def draw(faces: Manifest, count: int | None) -> Manifest:
    """Return that many faces, the same each time; None returns all."""
    return faces.select(np.sort(np.random.default_rng(0).permutation(len(faces))[:count]))


def degrade(faces: Manifest) -> Manifest:
    """Degrade each face by DEGRADED; as PNG."""
    images = []
    for row in range(len(faces)):
        changed = DEGRADED(faces.read(row)[0])
        images.append(cv2.imencode(".png", changed[..., ::-1])[1].tobytes())
    nothing: list[Any] = [None] * len(faces)
    return Manifest(set_columns(faces.table, image=images, path=nothing), faces.labels)


def train(options: argparse.Namespace, source: str, targets: dict[str, str]) -> None:
    """Train the starts, then adapt, seed by seed, so that an unfinished comparison has complete seeds."""
    side = SIZES[options.size]
    # The recipe's random degradations would bring the degraded domain into the source.
    shared = {"preprocessing.size": [side, side], "model.image_size": [side, side], "degrade.prob": 0.0}
    for seed in range(options.seeds):
        start = folder(options, "start", "", seed)
        own = {"split.train": "Training", "split.select": None, "split.hold_out": 0.1, "run.seed": seed}
        own |= {"run.epochs": options.start_epochs, "run.mixup": 0.0, "backbone.weights": options.weights}
        own |= {"optimizer.backbone_lr": START_RATE, "optimizer.head_lr": START_RATE}
        resumed = functools.partial(resumable, progress=False)
        began = time.process_time()
        resumed(fit, start, "nano-fer2013", source.rpartition("@")[0], start, overrides=shared | own)
        print(f"{start.name}: {time.process_time() - began:.0f} s", flush=True)
        settings = {"run.seed": seed, "run.epochs": options.epochs, "run.batch_size": options.batch, **shared}
        settings["run.ema_decay"] = 0.99
        for name, target in targets.items():
            for method in options.methods:
                out = folder(options, method, name, seed)
                if (out / RESULT_NAME).exists():
                    continue
                began = time.process_time()
                # AGRA's graph starts anew, and learns at the rate at which the head of the start has learnt.
                rate = START_RATE if method == "agra" else RATE
                rates = {"optimizer.backbone_lr": RATE, "optimizer.head_lr": rate}
                lines = [f"{key}={json.dumps(value)}" for key, value in (settings | rates).items()]
                resumed(adapt, out, method, source, target, out, settings=lines, init=start / "bundle")
                seconds = time.process_time() - began
                (out / "seconds.json").write_text(json.dumps(round(seconds)), encoding="utf-8")
                print(f"{out.name}: {seconds:.0f} s", flush=True)


def resumable(run: Any, out: Path, *arguments: Any, **settings: Any) -> None:
    """Start a run, or go on with it."""
    run(*arguments, resume=(out / "recipe.json").exists(), **settings)


def folder(options: argparse.Namespace, method: str, target: str, seed: int) -> Path:
    """Return the folder of a run."""
    return (
        options.out / "runs" / "-".join(filter(None, (method, target.replace(" ", "_").replace("/", "_"), str(seed))))
    )


def report(options: argparse.Namespace, name: str, target: str) -> dict[str, Any]:
    """Score the methods on a target, each way of choosing the epoch, and compare them with source-only."""
    faces, labelled = read_target(target)
    if not labelled:
        raise SystemExit(f"{name}: has no labels to score by")
    target_B = faces.targets
    labels_C, counts_C = np.unique(target_B, return_counts=True)
    rarest, rows = int(labels_C[counts_C.argmin()]), []
    runs = {
        method: [folder(options, method, name, seed) for seed in range(options.seeds)] for method in options.methods
    }
    finished = {method: outs for method, outs in runs.items() if all((out / RESULT_NAME).exists() for out in outs)}
    for method, outs in finished.items():
        row: dict[str, Any] = {"method": method, "seconds": [read(out / "seconds.json") for out in outs]}
        for way in CHOICES:
            chosen = [read(out / RESULT_NAME)["chosen"][way] for out in outs]
            row[way] = {score: [each[score] for each in chosen] for score in SCORES}
            row[way]["epochs"] = [each["epoch"] for each in chosen]
            if "source-only" in finished and method != "source-only" and options.seeds > 1:
                pair = [correct(each, way, target_B) for each in (outs, finished["source-only"])]
                compared = contrast(*pair, target_B, rarest=rarest)
                row[way]["over_source_only"] = {score: compared[score]._asdict() for score in SCORES}
        rows.append(row)
    return {"faces": len(faces), "labels": np.bincount(target_B).tolist(), "methods": rows}


def answer(found: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Say for the page of answers which methods are better or worse than source-only, and by how much."""
    words, effects, seconds = [], [], 0.0
    for name, each in found.items():
        told: dict[str, list[str]] = {"better than source-only": [], "worse": [], "not told apart from it": []}
        better, worse, alike = told.values()
        for row in each["methods"]:
            seconds += sum(row["seconds"])
            test = row["source"].get("over_source_only", {}).get("war")
            if not test:
                continue
            if test["p_holm"] >= 0.05:
                alike.append(row["method"])
                continue
            (better if test["value"] > 0 else worse).append(row["method"])
            value, low, high = (100 * x for x in (test["value"], *test["interval"]))
            effects.append(f"{row['method']}, {name}: {value:+.1f} [{low:+.1f}, {high:+.1f}] WAR")
        words.append(f"On {name}, " + "; ".join(f"{how}: {', '.join(each) or 'none'}" for how, each in told.items()))
    n = ", ".join(f"{each['faces']:,} of {name}" for name, each in found.items())
    text = f"{'. '.join(words)}."
    return {"answer": text, "effects": effects, "n": n, "seeds": seeds, "minutes": round(seconds / 60, 1)}


def correct(outs: list[Path], way: str, target_B: np.ndarray) -> np.ndarray:
    """Return whether each seed classifies each face correctly, bool (S, B)."""
    epochs = [read(out / RESULT_NAME)["chosen"][way]["epoch"] for out in outs]
    return np.stack([probs_of(out, epoch).argmax(1) == target_B for out, epoch in zip(outs, epochs, strict=True)])


def correct_p(rows: list[dict[str, Any]]) -> None:
    """Add Holm's correction over all comparisons with source-only."""
    tests = [
        row[way]["over_source_only"][score]
        for row in rows
        for way in CHOICES
        for score in SCORES
        if "over_source_only" in row[way]
    ]
    for test, p_value in zip(tests, holm([test["p_value"] for test in tests]) if tests else [], strict=True):
        test["p_holm"] = float(p_value)


def table(found: dict[str, Any]) -> str:
    """Lay out the scores of a target, in percent and points."""
    titles = {"source": "source validation", "information": "information", "oracle": "target labels (oracle)"}
    rows = []
    for row in found["methods"]:
        cells = {"method": row["method"]}
        for way, title in titles.items():
            for score in SCORES:
                values = 100 * np.array(row[way][score])
                spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
                cells[f"{score.upper()}, {title}"] = f"{values.mean():.1f}{spread}"
        for score in SCORES:
            each = row["source"].get("over_source_only", {}).get(score)
            cells[f"{score.upper()} over source-only, source validation"] = (
                ""
                if each is None
                else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in (each["value"], *each["interval"])))
            )
        rows.append(cells)
    return markdown_table(rows) if rows else "No method is finished."


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
