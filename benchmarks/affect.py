"""Does a model learn valence and arousal? On drawn images, whose answers are known, and on FER-2013 with FERPlus votes.

    python benchmarks/affect.py path/to/fer2013.parquet [--only drawn --only mini]
    python benchmarks/affect.py path/to/fer2013.parquet --pair --encoder runs/mae/bundle [--seeds 3] [--epochs 4]

All runs go through the same code as any other, with `model.affect=true`: MotivNet in miniature from random weights
(`mini-fer2013`), for a few of the epochs that it would need; and a new head on the frozen encoder of the embedded
model, which has learnt emotions, but neither of the two numbers. Runs that are not asked for keep the results that are
written already.

- Drawn: brightness is valence, how close stripes stand is arousal, and their direction is the class, under noise.
- FER-2013 has no valence and arousal. They are made up here from votes: the mean of the seven emotions' places in the
  plane, each weighted by its share of a face's votes. The places are an assumption: pleasure and arousal of words such
  as happy and angry as they are commonly quoted from Russell and Mehrabian (Evidence for a three-factor theory of
  emotions, Journal of Research in Personality 1977), and 0, 0 for neutral. Nobody rated these faces. So the check says
  that two numbers are learnt beside the class, not that they are what people would say. Faces without a vote for any of
  the seven have none.

The baseline takes the same model's probabilities for shares of votes. It is at a disadvantage where the classes are
learnt from FER-2013's labels, one a face, and the numbers from ten people's votes. Hence the runs with votes as
targets, in which the classes are learnt from the same votes. The epoch is chosen by FER-2013's labels on PublicTest,
and PrivateTest is reported.

`--pair` asks the other question, whether valence and arousal make the categories better: `mini` with a pre-trained
encoder, with the categories alone and with both tasks, the same seeds, by `motivnet ablate`; the result is the WAR of
the categories. Finished runs in `--out` are kept.
"""

import argparse
import dataclasses
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from answers import Runs, differences, resumable, score_rows, told, verdict, write_answer
from PIL import Image
from tables import RESULTS, markdown_table, use_cores, write_results

from motivnet.checkpoints.bundle import open_bundle
from motivnet.config import override, to_json
from motivnet.data.augment import NO_CHANGE
from motivnet.data.manifest import SCHEMA, Manifest, make_manifest
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.evaluation import metrics
from motivnet.evaluation.evaluate import affect_scores
from motivnet.evaluation.predictions import Predictions, predict_manifest
from motivnet.experiments.ablation import PLAN_NAME, ablate
from motivnet.experiments.grids import Cell, Grid
from motivnet.inference.predictor import Predictor
from motivnet.labels import AFFECT, EMOTIONS
from motivnet.training.fit import fit
from motivnet.training.recipes import mini_fer2013, nano_fer2013
from motivnet.training.settings import Recipe

# Emotion -> valence and arousal.
PLACES = {
    "neutral": (0.0, 0.0),
    "happiness": (0.81, 0.51),
    "sadness": (-0.63, -0.27),
    "surprise": (0.40, 0.67),
    "fear": (-0.64, 0.60),
    "disgust": (-0.60, 0.35),
    "anger": (-0.51, 0.59),
}
PLACES_C2 = np.array([PLACES[name] for name in EMOTIONS])
SPLITS = {"Training": 1400, "PublicTest": 210, "PrivateTest": 420}
SIDE_PX = 48


def main() -> None:
    """Train both, score both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="FER-2013 with votes, a Parquet file")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--only", action="append", choices=RECIPES)
    parser.add_argument("--pair", action="store_true", help="categories alone against both")
    parser.add_argument("--encoder", type=Path, help="of --pair: bundle of `motivnet pretrain`")
    parser.add_argument("--out", type=Path, default=Path("runs/affect"), help="of --pair")
    parser.add_argument("--seeds", type=int, default=3, help="of --pair")
    parser.add_argument("--epochs", type=int, default=4, help="of --pair")
    options = parser.parse_args()
    torch.set_num_threads(use_cores(options.cores))
    if options.pair:
        pair(options)
        return
    wanted = options.only or list(RECIPES)
    if wanted != ["drawn"] and options.data is None:
        parser.error("FER-2013 is missing: its Parquet file, or --only drawn")
    file = RESULTS / "affect.json"
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else {}
    faces = with_affect(read_fer2013(options.data)) if options.data else None
    for name in wanted:
        manifest = drawn_manifest() if name == "drawn" or faces is None else faces
        runs[name] = run(RECIPES[name](), manifest, baseline=name != "drawn")
    print(markdown_table([row for name in RECIPES if name in runs for row in table(name, runs[name])]))
    print(f"\nwritten: {write_results('affect', {'places': PLACES, 'runs': runs})}")


def pair(options: argparse.Namespace) -> None:
    """Train with and without valence and arousal, and compare the categories."""
    start = f"backbone.weights={to_json(options.encoder and str(options.encoder))}"
    tasks = {"categories alone": "model.affect=false", "multi-task": "model.affect=true"}
    names = {title: title.replace(" ", "-") for title in tasks}
    settings = [start, f"run.epochs={options.epochs}", "run.precision=bf16-mixed"]
    grid = Grid(
        name="affect",
        question="Do valence and arousal beside the categories make the categories better?",
        recipe=override(mini_fer2013(), settings),
        cells={names[title]: Cell(settings=(setting,)) for title, setting in tasks.items()},
        comparisons=((names["multi-task"], names["categories alone"]),),
    )
    faces = with_affect(read_fer2013(options.data))
    shared = {"data": "fer2013, valence and arousal from votes", "seeds": options.seeds}
    resumable(ablate, grid, faces, out=options.out, plan=PLAN_NAME, **shared)
    folders = {
        title: [options.out / "runs" / f"{name}-{seed}" for seed in range(options.seeds)]
        for title, name in names.items()
    }
    runs = {title: Runs(each) for title, each in folders.items()}
    print(markdown_table(score_rows(runs)))
    found = differences({("multi-task", "categories alone"): (runs["multi-task"], runs["categories alone"])})
    answer = f"{verdict(found[0])}, with synthetic valence and arousal (made of votes)."
    shared = {"n": runs["multi-task"].labels.size, "seeds": options.seeds}
    minutes = sum(each.seconds for each in runs.values()) / 60
    write_answer("affect_pair", answer, [told(each) for each in found], **shared, minutes=minutes, differences=found)


def drawn() -> Recipe:
    """Short, without changes of brightness, which is a label here."""
    return dataclasses.replace(override(mini_fer2013(), ["model.affect=true", "run.epochs=8"]), augment=NO_CHANGE)


def mini() -> Recipe:
    """Three epochs of MotivNet in miniature."""
    return override(mini_fer2013(), ["model.affect=true", "run.epochs=3"])


def mini_votes() -> Recipe:
    """The same, the classes' targets being the shares of votes that the numbers are made of."""
    return override(mini(), ["loss.vote_weight=1.0"])


def nano_frozen() -> Recipe:
    """Two epochs of a new head on the embedded model's encoder."""
    settings = ["model.affect=true", "backbone.weights=nano", "backbone.train=none", "run.epochs=2", "run.mixup=0.0"]
    settings += ["run.ema_decay=0.0", "run.precision=32-true", "loss.vote_weight=0.0", "degrade.prob=0.0"]
    # The recipe trains the next model, which may be of another architecture.
    return override(dataclasses.replace(nano_fer2013(), model=open_bundle("nano").config.model), settings)


def nano_frozen_votes() -> Recipe:
    """The same, the classes' targets being the shares of votes and nothing else."""
    settings = ["loss.vote_weight=1.0", "loss.label_smoothing=0.0", "loss.prior_weight=0.0"]
    return override(nano_frozen(), settings)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "drawn": drawn,
    "mini": mini,
    "mini, votes as targets": mini_votes,
    "nano, encoder frozen": nano_frozen,
    "nano, encoder frozen, votes as targets": nano_frozen_votes,
}


def drawn_manifest() -> Manifest:
    """Draw images of known valence and arousal, evenly spread."""
    rng = np.random.default_rng(0)
    split = np.repeat(list(SPLITS), list(SPLITS.values()))
    labels = np.arange(len(split)) % len(EMOTIONS)
    affect_B2 = rng.uniform(-1, 1, (len(split), 2))
    return make_manifest(
        {
            "label": [EMOTIONS.names[label] for label in labels],
            "split": split.tolist(),
            "image": [
                draw(label, v, a, rng) for label, (v, a) in zip(labels.tolist(), affect_B2.tolist(), strict=True)
            ],
            "valence": affect_B2[:, 0].tolist(),
            "arousal": affect_B2[:, 1].tolist(),
        }
    )


def draw(label: int, valence: float, arousal: float, rng: np.random.Generator) -> bytes:
    """Draw stripes: their mean is from 80 to 176, and there are 1 to 7 of them; as PNG."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX
    angle = label * np.pi / len(EMOTIONS)
    along = x * np.cos(angle) + y * np.sin(angle)
    stripes = np.sin(2 * np.pi * ((4 + 3 * arousal) * along + rng.uniform()))
    pixels = 128 + 48 * valence + 60 * stripes + rng.normal(0, 10, x.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def with_affect(manifest: Manifest) -> Manifest:
    """Fill in valence and arousal from votes, where there are any."""
    votes_BC = manifest.votes
    total_B1 = votes_BC.sum(1, keepdims=True)
    affect_B2 = np.where(total_B1 > 0, votes_BC / np.maximum(total_B1, 1) @ PLACES_C2, np.nan)
    table = manifest.table
    for name, values_B in zip(AFFECT, affect_B2.T, strict=True):
        column = pa.array(values_B, pa.float32(), from_pandas=True)
        table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), column)
    return dataclasses.replace(manifest, table=table)


def run(recipe: Recipe, manifest: Manifest, *, baseline: bool = True) -> dict[str, Any]:
    """Train, and score what was held back: the model's own numbers; as a baseline, those that probabilities give."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bundle = fit(recipe, manifest, Path(folder) / "run", progress=False)
        seconds = time.perf_counter() - begun
        predictor = Predictor.load(bundle.path, detector="whole", backend="torch")
        private = predict_manifest(predictor, manifest.split("PrivateTest"), detect=False, data="", split="PrivateTest")
    num_classes = len(private.labels)
    return {
        "recipe": recipe.name,
        "seconds": round(seconds),
        "images": len(private.status),
        "war": round(metrics.war(private.preds_B, private.target_B, num_classes), 4),
        "uar": round(metrics.uar(private.preds_B, private.target_B, num_classes), 4),
        "own": scores(private),
        **({"from probabilities": scores(derived(private))} if baseline else {}),
    }


def derived(predictions: Predictions) -> Predictions:
    """Put in place of valence and arousal what the probabilities of the classes give."""
    return dataclasses.replace(predictions, affect_B2=predictions.probs_BC @ PLACES_C2)


def scores(predictions: Predictions) -> dict[str, Any]:
    """Give the scores of valence and arousal with their intervals, rounded."""
    found = affect_scores(predictions, None, num_resamples=1000, seed=0)
    return {
        name: {
            "n": values["n"],
            **{score: round(values[score], 4) for score in ("ccc", "rmse", "sign_agreement")},
            "ccc_interval": [round(end, 4) for end in values["intervals"]["ccc"]],
        }
        for name, values in found.items()
    }


def table(name: str, found: dict[str, Any]) -> list[dict[str, object]]:
    """Lay one run out as rows."""
    rows = []
    for source in [name for name in ("own", "from probabilities") if name in found]:
        row: dict[str, object] = {"run": name, "WAR": f"{100 * found['war']:.1f} %", "valence and arousal": source}
        for part, values in found[source].items():
            low, high = values["ccc_interval"]
            row[f"{part} CCC"] = f"{values['ccc']:.3f} [{low:.3f}, {high:.3f}]"
            row[f"{part} RMSE"] = f"{values['rmse']:.3f}"
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
