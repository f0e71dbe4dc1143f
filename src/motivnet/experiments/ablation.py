"""Train the cells of a grid with several seeds, one run after another, so that it can be stopped at any moment.

```
OUT/
├── ablation.json                  the plan: grid, data and seeds, which a resumed ablation must agree with
├── runs/CELL-SEED/
│   ├── result.json                written last, when the run is done: `finished` or `failed` for a `reason`, the rows
│   │                              that it trained on, score of the selected epoch, scores on the reported split
│   ├── predictions.parquet        on the reported split, as `motivnet evaluate` writes them
│   ├── recipe.json, metrics.csv, validation.csv
│   └── checkpoints/               only during the run
└── report/                        see `report.ablation_report`
```

Shape suffixes: B rows or images.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from motivnet import config
from motivnet.checkpoints.bundle import is_bundle
from motivnet.checkpoints.hub import cached, is_hub_name
from motivnet.data.clean import clean_training
from motivnet.data.manifest import Manifest, read_table
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError, TrainingError, require
from motivnet.evaluation import metrics
from motivnet.evaluation.predictions import Predictions, predict_manifest
from motivnet.evaluation.resampling import holm
from motivnet.experiments.comparison import CLASS_METRICS, contrast
from motivnet.experiments.grids import Grid
from motivnet.inference.predictor import Predictor
from motivnet.report import ablation_report
from motivnet.storage import LockedError, atomic_folder, check_same, locked, stored_json, write_json
from motivnet.training.data_module import Rows, choose_rows
from motivnet.training.fit import fit
from motivnet.training.init_weights import check
from motivnet.training.run_dir import RECIPE_NAME

PLAN_NAME, RESULT_NAME, PREDICTIONS_NAME = "ablation.json", "result.json", "predictions.parquet"
# Removed when a run is done; `motivnet train` makes the model again from the run's recipe.json.
TRANSIENT = ("checkpoints", "bundle", "tensorboard")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that the results of an ablation depend on, except the machine.

    Args:
        grid: configurations and comparisons.
        seeds: 0 to this number less one; a resumed ablation may have more.
        data: name of the source.
        data_fingerprint: of all its rows.
        report_split: the split that is scored.
        rarest: the label with the fewest training rows.
    """

    grid: Grid
    seeds: int
    data: str
    data_fingerprint: str
    report_split: str
    rarest: str

    def runs(self, out: Path) -> dict[tuple[str, int], Path]:
        """Return the folder of each cell and seed, seed by seed, so that an unfinished ablation has complete grids."""
        return {(cell, seed): out / "runs" / f"{cell}-{seed}" for seed in range(self.seeds) for cell in self.grid.cells}


def ablate(
    grid: Grid,
    manifest: Manifest,
    out: Path,
    *,
    data: str,
    seeds: int = 3,
    report_split: str | None = None,
    resume: bool = False,
    say: Callable[[str], object] = print,
    train_run: "TrainRun | None" = None,
) -> dict[str, Any] | None:
    """Run every cell of a grid with every seed, and write the report; completed runs are not repeated.

    Several processes may work in one folder: each run is locked by the process that works on it.

    Args:
        grid: what to run.
        manifest: rows with the splits that the recipes name; labels other than the emotions are left out.
        out: folder of the ablation.
        data: name of the source, for the protocol.
        seeds: number of seeds, counted from 0.
        report_split: the split to score, which nothing is trained or selected on; None takes the grid's.
        resume: continue with what `out` holds.
        say: receives progress messages.
        train_run: does a run, as `train_from_images` does, which None takes.

    Returns:
        The report, see `summarise`; None while other processes work on runs, the last of which writes the report.

    Raises:
        CheckpointError: if encoders are missing or of other dimensions, naming all of them, before any run.
        ConfigError: if `out` holds another ablation, naming the differences, or a recipe uses the reported split.
        DataError: if a split has no rows, or the reported one none of the rarest class.
        OutputError: if `out` holds this ablation and `resume` is False.
    """
    check_weights(grid)
    report_split = report_split or grid.report_split
    train, others = split_rows(grid, manifest, report_split)
    plan = Plan(
        grid=grid,
        seeds=seeds,
        data=data,
        data_fingerprint=manifest.fingerprint(),
        report_split=report_split,
        rarest=grid.labels.names[int(np.bincount(train.targets, minlength=len(grid.labels)).argmin())],
    )
    if plan.rarest not in others.split(report_split).table["label"].to_pylist():
        raise DataError(f"{report_split!r} has no rows of {plan.rarest}, the rarest class of the training rows")
    _begin(plan, out, resume=resume)
    say(f"{grid.name}: {len(grid.cells)} cells, {seeds} seeds, {len(train):,} training rows")
    for (cell, seed), folder in plan.runs(out).items():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(folder.with_name(f".{folder.name}.lock"), f"{cell} seed {seed}"):
                if not (folder / RESULT_NAME).is_file():
                    say(_run(plan, cell, seed, train, others, folder, train_run or train_from_images))
        except LockedError as error:
            say(str(error))
    done = all((folder / RESULT_NAME).is_file() for folder in plan.runs(out).values())
    return write_report(out) if done else None


def write_report(out: Path, *, name: str | None = None) -> dict[str, Any]:
    """Write the report of the completed runs into `out/report`; arguments, result and errors as of `summarise`."""
    report = summarise(out, name=name)
    with atomic_folder(out / "report", merge=True, last=ablation_report.FILES[-1]) as folder:
        ablation_report.write_files(report, folder)
    return report


def summarise(out: Path, *, name: str | None = None, num_resamples: int = 2000) -> dict[str, Any]:
    """Read the results of an ablation, complete or not, and test its comparisons.

    Args:
        out: folder of the ablation.
        name: that the ablation must have.
        num_resamples: of the images, see `contrast`.

    Returns:
        The content of report.json: the plan, per cell its runs and the spread of their scores, the comparisons whose
        cells have two finished seeds in common, and the base recipe.

    Raises:
        ConfigError: if `out` holds no ablation, or another one, or one of its files is damaged.
        DataError: if no run is completed, or two runs were tested on different images.
    """
    plan = read_plan(out)
    require(name in (None, plan.grid.name), f"{out}: holds the ablation {plan.grid.name!r}, not {name!r}")
    read = {key: stored_json(folder / RESULT_NAME) for key, folder in plan.runs(out).items()}
    results = {key: result for key, result in read.items() if result}
    require(results, f"{out}: no run is completed yet", DataError)
    finished = [key for key, result in results.items() if result["status"] == "finished"]
    answers = {key: _read_predictions(plan.runs(out)[key] / PREDICTIONS_NAME) for key in finished}
    images = next(iter(answers.values()))[0] if answers else []
    if any(rows != images for rows, _ in answers.values()):
        raise DataError(f"{out}: predictions for different images")
    names = plan.grid.labels.names
    target_B = np.array([names.index(label) for _, label in images])
    comparisons: list[dict[str, Any]] = []
    for cell, reference in plan.grid.comparisons:
        seeds = [seed for seed in range(plan.seeds) if {(cell, seed), (reference, seed)} <= answers.keys()]
        if len(seeds) >= 2:
            one, other = (np.stack([answers[each, seed][1] for seed in seeds]) for each in (cell, reference))
            found = contrast(one, other, target_B, rarest=names.index(plan.rarest), num_resamples=num_resamples)
            pair = {"cell": cell, "reference": reference}
            comparisons += [{**pair, "metric": metric, **each._asdict()} for metric, each in found.items()]
    corrected = holm([each["p_value"] for each in comparisons]).tolist()
    flat = {cell: config.flatten(config.to_plain(plan.grid.recipe_of(cell))) for cell in plan.grid.cells}
    return {
        "ablation": plan.grid.name,
        "question": plan.grid.question,
        **{key: value for key, value in config.to_plain(plan).items() if key != "grid"},
        "num_images": len(images),
        "cells": [
            {
                "name": cell,
                "label_share": each.label_share,
                "settings": {key: flat[cell].get(key) for key in plan.grid.varied()},
                "runs": [result for (of, _), result in results.items() if of == cell],
                "scores": _spread([results[of, seed]["scores"] for of, seed in finished if of == cell]),
            }
            for cell, each in plan.grid.cells.items()
        ],
        "comparisons": [{**each, "p_holm": p} for each, p in zip(comparisons, corrected, strict=True)],
        "recipe": config.to_plain(plan.grid.recipe),
        "sweep": plan.grid.sweep,
    }


def _read_predictions(file: Path) -> tuple[list[tuple[int, str]], np.ndarray]:
    """Return row and label of each image, and whether it was classified correctly, bool (B,)."""
    table = read_table(file, ("row", "label", "pred")).to_pydict()
    rows = list(zip(table["row"], table["label"], strict=True))
    return rows, np.array(table["label"]) == np.array(table["pred"], dtype=object)


def _spread(runs: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Return mean, sample standard deviation and values of each score."""
    values = {metric: [scores[metric] for scores in runs] for metric in (runs[0] if runs else ())}
    return {
        metric: {"mean": float(np.mean(each)), "std": float(np.std(each, ddof=1)) if each[1:] else None, "runs": each}
        for metric, each in values.items()
    }


def read_plan(out: Path) -> Plan:
    """Read the plan of an ablation; ConfigError if there is none, or it is damaged."""
    plan = stored_json(out / PLAN_NAME)
    require(plan is not None, f"{out}: holds no ablation")
    return config.from_plain(Plan, plan)


def check_weights(grid: Grid) -> None:
    """Check that the encoders that the cells start from are there and fit, before any run. Downloads nothing.

    Raises:
        CheckpointError: naming all encoders that are missing, or one of other dimensions.
    """
    recipes = {cell: grid.recipe_of(cell) for cell in grid.cells}
    first = {recipe.backbone.weights: cell for cell, recipe in reversed(recipes.items())}
    starts = {cell: name for name, cell in reversed(first.items()) if name is not None}
    missing = [
        f"{cell}: {name} is neither a file nor in the cache of `motivnet weights fetch`"
        for cell, name in starts.items()
        if not (is_bundle(name) or Path(name).exists() or (is_hub_name(name) and cached(name)))
    ]
    if missing:
        raise CheckpointError(f"the ablation {grid.name} lacks {len(missing)} encoder(s): {'; '.join(missing)}")
    for cell in starts:
        check(recipes[cell], None)


def split_rows(grid: Grid, manifest: Manifest, report_split: str) -> tuple[Manifest, Manifest]:
    """Return the training rows, cleaned once for all runs, and the rows of all other splits.

    Raises:
        ConfigError: if a cell trains or selects on the reported split, or cells train on different splits.
        DataError: if there is no such split.
    """
    manifest, recipes = manifest.restrict(grid.labels), [grid.recipe_of(cell) for cell in grid.cells]
    train_split = recipes[0].split.train
    if {(recipe.split.train, recipe.label_set) for recipe in recipes} != {(train_split, grid.labels)}:
        raise ConfigError(f"the cells of {grid.name} train on several splits or label sets. Allowed: one")
    if report_split in {train_split, *(recipe.split.select for recipe in recipes)}:
        raise ConfigError(f"{report_split!r} is reported, and must not be trained or selected on")
    manifest.split(report_split)  # raises if there is none
    train, _ = clean_training(manifest, train_split)
    return train, manifest.select(np.array(manifest.table["split"].to_pylist(), dtype=object) != train_split)


def choose_run_rows(grid: Grid, cell: str, seed: int, train: Manifest, others: Manifest) -> Rows:
    """Choose the rows of one run, with epochs as long as those of the cell with the largest share of the labels.

    So all cells of a grid take the same number of optimizer steps at the same learning rates, and are validated as
    often.

    Args:
        grid: of the ablation.
        cell: of the grid.
        seed: of the run.
        train: cleaned training rows of all cells.
        others: rows of the other splits.

    Raises:
        DataError: if a class has too few rows.
    """
    recipe, share = grid.recipe_of(cell, seed), grid.cells[cell].label_share
    part = train.select(subset(train.targets, share, seed=seed))
    # The reported split is left out: no run has access to it.
    selection = others.select(np.array(others.table["split"].to_pylist(), dtype=object) == recipe.split.select)
    rows = choose_rows(recipe, dataclasses.replace(part, table=pa.concat_tables([part.table, selection.table])))
    longest = len(subset(train.targets, max(each.label_share for each in grid.cells.values()), seed=seed))
    positions = repeat_to(len(rows.train), longest, seed=seed)
    chosen = {"label_share": share, "distinct": len(rows.train), "epoch": len(positions)}
    return dataclasses.replace(rows, train=rows.train.select(positions), report=rows.report | chosen)


def subset(target_B: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Draw a share of each class's rows, at least one; smaller shares of a seed are part of larger ones.

    Returns:
        Row positions in ascending order, int64.
    """
    order_B = np.random.default_rng(seed).permutation(len(target_B))
    by_class = (order_B[target_B[order_B] == label] for label in np.unique(target_B))
    return np.sort(np.concatenate([rows[: max(1, round(share * len(rows)))] for rows in by_class]))


def repeat_to(num_rows: int, length: int, *, seed: int) -> np.ndarray:
    """Repeat row positions to a length, at least their number: each equally often, except one more of some drawn."""
    rest = np.random.default_rng(seed).permutation(num_rows)[: length % num_rows]
    return np.sort(np.concatenate([np.repeat(np.arange(num_rows), length // num_rows), rest]))


def _begin(plan: Plan, out: Path, *, resume: bool) -> None:
    """Write the plan, or check that it is the same."""
    require(plan.seeds >= 2, f"--seeds must be at least 2, since one run has no spread; found {plan.seeds}")
    if (out / PLAN_NAME).is_file():
        then = read_plan(out)
        known = config.to_plain(dataclasses.replace(then, seeds=plan.seeds))
        check_same(out, known, config.to_plain(plan), kind="ablation", allowed="another folder")
        require(resume, f"{out}: holds an ablation already. Allowed: another folder, or --resume", OutputError)
        if plan.seeds <= then.seeds:
            return
    elif out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: is not empty and holds no ablation. Allowed: another folder")
    write_json(out / PLAN_NAME, config.to_plain(plan), parents=True)


# The predictions for the reported split, the report on the rows, and what was selected.
Trained = tuple[Predictions, Mapping[str, Any], Mapping[str, Any]]
TrainRun = Callable[..., Trained]


def train_from_images(plan: Plan, cell: str, seed: int, train: Manifest, others: Manifest, folder: Path) -> Trained:
    """Train one run as `motivnet train` does, and predict the reported split.

    Args:
        plan: of the ablation.
        cell: of the run.
        seed: of the run.
        train: cleaned training rows.
        others: rows of the other splits.
        folder: of the run.
    """
    # A run that was killed continues from its last checkpoint, or from the beginning if it had none.
    resume = (folder / RECIPE_NAME).is_file()
    rows = choose_run_rows(plan.grid, cell, seed, train, others)
    bundle = fit(plan.grid.recipe_of(cell, seed), others, folder, rows=rows, resume=resume, progress=False)
    predictor = Predictor.load(
        bundle.path, detector="whole", backend="torch", dtype="fp32", workers=1, threads=torch.get_num_threads()
    )
    reported = others.split(plan.report_split)
    answers = predict_manifest(predictor, reported, detect=False, data=plan.data, split=plan.report_split)
    return answers, rows.report, bundle.config.provenance["selected"]


def _run(plan: Plan, cell: str, seed: int, train: Manifest, others: Manifest, folder: Path, train_run: TrainRun) -> str:
    """Do one run, write its result, and return a line about it."""
    began = time.monotonic()
    result: dict[str, Any] = {"cell": cell, "seed": seed, "status": "finished", "reason": None}
    result |= {"rows": {}, "selected": {}, "scores": {}}
    try:
        answers, report, selected = train_run(plan, cell, seed, train, others, folder)
    except (DataError, TrainingError) as error:
        result |= {"status": "failed", "reason": " ".join(str(error).split())}
        shown = f"failed: {result['reason']}"
    else:
        answers.write(folder / PREDICTIONS_NAME)
        scores = metrics.class_scores(CLASS_METRICS, *answers.classes)
        recall_C = metrics.recall_per_class(*answers.classes)
        scores["minority_recall"] = float(recall_C[answers.labels.index(plan.rarest)])
        result |= {"rows": report, "selected": selected, "scores": scores}
        shown = ", ".join(f"{name} {value:.1%}" for name, value in scores.items())
    result["seconds"] = round(time.monotonic() - began, 1)
    write_json(folder / RESULT_NAME, result)
    for name in TRANSIENT:
        shutil.rmtree(folder / name, ignore_errors=True)
    return f"{cell} seed {seed}: {shown}; {result['seconds']:.0f} s"
