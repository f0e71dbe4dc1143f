"""Does ML-Decoder read more out of an encoder's tokens than simpler heads do? With a control for pooling, and a sweep.

    motivnet pretrain mae --data fer2013:fer2013.parquet --out runs/mae
    python benchmarks/head_ablation.py fer2013.parquet --encoder runs/mae/bundle [--seeds 3] [--epochs 10]
        [--trained-epochs 2] [--out runs/head] [--part frozen] [--part trained] [--report]

Frozen: the probes of `motivnet probe`, an MLP on the mean token and ML-Decoder of two layers, on cached tokens, each
with four learning rates and two weight decays, chosen seed by seed on PublicTest. Trained: linear, attention pooling
and ML-Decoder with the whole encoder, each with three rates, chosen alike. PrivateTest is reported. Finished runs are
kept, so that it can be stopped and started again.
"""

import argparse
import dataclasses
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from answers import Runs, differences, read, resumable, score_rows, told, verdict, write_answer
from tables import fill_block, markdown_table, use_cores

from motivnet.config import override, to_json
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.experiments.ablation import PLAN_NAME, RESULT_NAME, ablate
from motivnet.experiments.grids import BASE_RECIPE, Cell, Grid
from motivnet.experiments.probes import probe, probe_grid
from motivnet.training.recipes import recipe

ABLATIONS = Path(__file__).parent / "ablations"
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
MORE = {"mlp": "model.head.kind=mlp", "ml-decoder-2": "model.head.num_layers=2"}
TRAINED = {"linear": "linear", "attentive": "attention_pool", "ml-decoder": "ml_decoder"}
TRAINED_RATES = (3e-4, 1e-3, 3e-3)


def main() -> None:
    """Run what is not finished, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", type=Path, required=True, help="bundle of `motivnet pretrain`")
    parser.add_argument("--out", type=Path, default=Path("runs/head"))
    parser.add_argument("--part", action="append", choices=("frozen", "trained"), help="default: both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="of the probes")
    parser.add_argument("--trained-epochs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="settings", help="of every recipe")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    torch.set_num_threads(use_cores(1))
    began, manifest = time.process_time(), read_fer2013(options.data)
    settings = [f"backbone.weights={to_json(str(options.encoder))}", "run.precision=bf16-mixed", *options.settings]
    parts = options.part or ["frozen", "trained"]
    shared = {"data": "fer2013:fer2013.parquet", "seeds": options.seeds}
    if not options.report and "frozen" in parts:
        grid = frozen_grid([*settings, f"run.epochs={options.epochs}", "run.batch_size=256"])
        resumable(probe, grid, manifest, out=options.out / "frozen", plan=PLAN_NAME, **shared)
    if not options.report and "trained" in parts:
        grid = trained_grid([*settings, f"run.epochs={options.trained_epochs}"])
        resumable(ablate, grid, manifest, out=options.out / "trained", plan=PLAN_NAME, **shared)
    print(f"this call: {(time.process_time() - began) / 60:.0f} core-minutes")
    report(options)


def frozen_grid(settings: list[str]) -> Grid:
    """Return the grid of the probes, with an MLP and a second layer of ML-Decoder."""
    grid = probe_grid(BASE_RECIPE, settings, rates=RATES)
    cells = grid.cells | {name: Cell(settings=(setting,)) for name, setting in MORE.items()}
    pairs = (*grid.comparisons, *((name, "ml-decoder") for name in MORE))
    return dataclasses.replace(grid, cells=cells, comparisons=pairs)


def trained_grid(settings: list[str]) -> Grid:
    """Return the grid of heads and rates with the whole encoder trained."""
    cells = {
        f"{name}-{rate:g}": Cell(
            settings=(f"model.head.kind={kind}", f"optimizer.head_lr={rate}", f"optimizer.backbone_lr={rate}")
        )
        for name, kind in TRAINED.items()
        for rate in TRAINED_RATES
    }
    base = override(recipe(BASE_RECIPE), settings)
    return Grid(name="head-trained", question="Which head, at its best rate?", recipe=base, cells=cells, comparisons=())


def report(options: argparse.Namespace) -> None:
    """Write what is finished, each part for itself: its table, and its answer."""
    frozen = frozen_runs(options)
    if "ml-decoder" in frozen:
        shutil.copytree(options.out / "frozen" / "report", ABLATIONS / "head", dirs_exist_ok=True)
        answer(options, "frozen", "head_ablation", frozen, told_of=("bn-linear", "attentive", "linear"))
    if trained := trained_runs(options):
        answer(options, "trained", "head_trained", trained, told_of=("attentive", "linear"))


def answer(options: argparse.Namespace, part: str, name: str, runs: dict[str, Runs], told_of: tuple[str, ...]) -> None:
    """Write the table of a part, and its answer, which tells ML-Decoder from some of the others."""
    others = {cell: each for cell, each in runs.items() if cell != "ml-decoder"}
    found = differences({("ml-decoder", cell): (runs["ml-decoder"], each) for cell, each in others.items()})
    war = {each["reference"]: each for each in found if each["score"] == "war"}
    text = f"{'; '.join(verdict(war[cell]) for cell in told_of if cell in war)}."
    lines = "\n".join(f"- {told(each)}" for each in found)
    title = f"**Head, encoder {part}.** {text} Each head at its best rate:"
    fill_block(ABLATIONS / "README.md", name, f"{title}\n\n{markdown_table(score_rows(runs))}\n\n{lines}")
    shared = {"n": runs["ml-decoder"].labels.size, "seeds": options.seeds}
    minutes = sum(each.seconds for each in runs.values()) / 60
    write_answer(name, text, [told(each) for each in war.values()], **shared, minutes=minutes, differences=found)


def frozen_runs(options: argparse.Namespace) -> dict[str, Runs]:
    folders = {
        name: [options.out / "frozen" / "runs" / f"{name}-{seed}" for seed in range(options.seeds)]
        for name in frozen_grid([]).cells
    }
    return {name: Runs(each) for name, each in folders.items() if all((path / RESULT_NAME).exists() for path in each)}


def trained_runs(options: argparse.Namespace) -> dict[str, Runs]:
    """Return the runs of each head that have the best selection score of their seed."""
    chosen = {}
    for name in TRAINED:
        folders = [
            [options.out / "trained" / "runs" / f"{name}-{rate:g}-{seed}" for rate in TRAINED_RATES]
            for seed in range(options.seeds)
        ]
        if all((path / RESULT_NAME).exists() for each in folders for path in each):
            scores = [[read(path / RESULT_NAME)["selected"]["score"] for path in each] for each in folders]
            chosen[name] = Runs([each[int(np.argmax(score))] for each, score in zip(folders, scores, strict=True)])
    return chosen if len(chosen) == len(TRAINED) else {}


if __name__ == "__main__":
    main()
