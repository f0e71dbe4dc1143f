"""Run a grid of recipes over several seeds, one run after the other, so that it can be stopped at any moment.

```
OUT/
├── ablation.json                  the grid, its data and its seeds: what a resumed ablation must agree with
├── runs/CELL-SEED/
│   ├── result.json                written last: where it is, the run is done
│   ├── predictions.parquet        answers to the reported split, as `motivnet evaluate` writes them
│   ├── recipe.json, metrics.csv, validation.csv
│   └── checkpoints/               only while the run lasts
└── report/                        `report`
```
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import filelock
import torch

from motivnet import config
from motivnet.checkpoints.bundle import Bundle, is_bundle
from motivnet.checkpoints.hub import cached, is_hub_name
from motivnet.checkpoints.released import RELEASED
from motivnet.data.manifest import Manifest
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError, TrainingError
from motivnet.evaluation import metrics
from motivnet.evaluation.evaluate import predict_manifest
from motivnet.evaluation.predictions import Predictions
from motivnet.experiments.ablation_data import AblationData, prepare, rows_of
from motivnet.experiments.grids import Cell, Grid
from motivnet.inference.predictor import Predictor
from motivnet.storage import differences, write_json
from motivnet.training.fit import fit
from motivnet.training.init_weights import check
from motivnet.training.run_dir import RECIPE_NAME

PLAN_NAME = "ablation.json"
RUNS_NAME = "runs"
RESULT_NAME = "result.json"
PREDICTIONS_NAME = "predictions.parquet"
# What is left of a run when it is done; models are made again by `motivnet train` with the run's recipe.json.
TRANSIENT = ("checkpoints", "bundle", "tensorboard")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What an ablation is: everything that its results depend on, but the machine.

    Args:
        grid: recipes and comparisons.
        seeds: 0 to this number less one; a resumed ablation may have more.
        data: the source as it was named.
        data_fingerprint: of all its rows.
        report_split: what scores are of.
        rarest: the label with the fewest training rows.
    """

    grid: Grid
    seeds: int
    data: str
    data_fingerprint: str
    report_split: str
    rarest: str

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: if there are fewer than two seeds, which have no spread.
        """
        if self.seeds < 2:
            raise ConfigError(f"--seeds must be at least 2, since one run has no spread; found {self.seeds}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of one run.

    Args:
        cell: of the grid.
        seed: of everything random in the run, the choice of labels among it.
        status: `failed` if it ended without a model.
        reason: why it failed.
        rows: what it learnt from.
        selected: score on the selection split of the epoch that was kept.
        scores: on the reported split.
        seconds: that the run took; since the last start, if it was interrupted.
    """

    cell: str
    seed: int
    status: Literal["finished", "failed"]
    reason: str | None = None
    rows: dict[str, Any] = dataclasses.field(default_factory=dict)
    selected: dict[str, Any] = dataclasses.field(default_factory=dict)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


Say = Callable[[str], None]


def ablate(
    grid: Grid,
    manifest: Manifest,
    out: Path,
    *,
    data: str,
    seeds: int = 3,
    report_split: str | None = None,
    resume: bool = False,
    say: Say = print,
) -> bool:
    """Run every cell of a grid with every seed; runs that are done are not repeated.

    Several processes may work on one folder: each run is locked by the one that is at it.

    Args:
        grid: what to run.
        manifest: rows with the splits that the recipes name.
        out: folder of the ablation.
        data: the source as it was named, for the protocol.
        seeds: how many, from 0 on.
        report_split: what is reported, and nothing is selected on; None takes the grid's.
        resume: go on with what `out` holds.
        say: takes lines for people.

    Returns:
        Whether all runs are done; else another process is at the others.

    Raises:
        CheckpointError: if encoders are missing or of other dimensions, all of them named, before anything is run.
        ConfigError: if `out` holds another ablation; the differences are listed.
        OutputError: if `out` holds this one, and `resume` is not asked for.
    """
    check_weights(grid)
    report_split = report_split or grid.report_split
    prepared = prepare(manifest, grid.cells, report_split)
    plan = Plan(
        grid=grid,
        seeds=seeds,
        data=data,
        data_fingerprint=manifest.fingerprint(),
        report_split=report_split,
        rarest=prepared.rarest,
    )
    _open_plan(plan, out, resume=resume)
    say(f"{grid.name}: {len(grid.cells)} cells, {seeds} seeds; training rows: {dataclasses.asdict(prepared.report)}")
    for cell, seed in runs_of(plan):
        folder = run_folder(out, cell.name, seed)
        if (folder / RESULT_NAME).is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        # The system lets go of the lock when its process ends, however it ends.
        lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            with lock.acquire(blocking=False):
                if not (folder / RESULT_NAME).is_file():  # it may have been finished a moment ago
                    result = _run(cell, seed, prepared, plan, folder)
                    say(_line(result))
        except filelock.Timeout:
            say(f"{cell.name} seed {seed}: another process is at it")
    return not unfinished(plan, out)


def runs_of(plan: Plan) -> Iterator[tuple[Cell, int]]:
    """Go through all runs, seed by seed, so that an unfinished ablation has whole grids."""
    for seed in range(plan.seeds):
        for cell in plan.grid.cells:
            yield cell, seed


def unfinished(plan: Plan, out: Path) -> list[tuple[str, int]]:
    """Name the runs without a result."""
    return [
        (cell.name, seed)
        for cell, seed in runs_of(plan)
        if not (run_folder(out, cell.name, seed) / RESULT_NAME).is_file()
    ]


def run_folder(out: Path, cell: str, seed: int) -> Path:
    """Give the folder of a run."""
    return out / RUNS_NAME / f"{cell}-{seed}"


def read_plan(out: Path) -> Plan:
    """Read what an ablation is.

    Raises:
        ConfigError: if there is none, or it is damaged.
    """
    file = out / PLAN_NAME
    try:
        return config.from_plain(Plan, json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{out}: holds no ablation, {PLAN_NAME} is missing") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None


def read_result(folder: Path) -> Result:
    """Read what came of a run.

    Raises:
        ConfigError: if the file is damaged.
    """
    file = folder / RESULT_NAME
    try:
        return config.from_plain(Result, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None


def check_weights(grid: Grid) -> None:
    """Find what every cell starts from, and compare it with the cell's model, before anything is run.

    Raises:
        CheckpointError: naming all files that are missing, or one of other dimensions.
    """
    first_users = {cell.recipe.backbone.weights: cell for cell in reversed(grid.cells)}
    problems = [
        f"{cell.name}: {problem}"
        for weights, cell in reversed(first_users.items())
        if weights is not None and (problem := _missing(weights))
    ]
    if problems:
        raise CheckpointError(f"the ablation {grid.name} lacks {len(problems)} encoder(s): {'; '.join(problems)}")
    for weights, cell in first_users.items():
        if weights is not None:
            check(cell.recipe, None)


def _missing(weights: str) -> str | None:
    """Say why weights are not here, and how to get them; None if they are. Nothing is fetched."""
    if is_bundle(weights) or Path(weights).exists():
        return None
    if is_hub_name(weights):
        entry = next((entry for entry in RELEASED if entry.name == weights), None)
        if entry is not None and entry.repo is None:
            return f"{weights} comes {entry.where}"
        return None if cached(weights) else f"{weights} is not in the cache: motivnet weights fetch {weights}"
    return f"{weights} is neither a file nor a name of `motivnet weights list`"


def _open_plan(plan: Plan, out: Path, *, resume: bool) -> None:
    if (out / PLAN_NAME).is_file():
        then = read_plan(out)
        known = dataclasses.replace(plan, seeds=then.seeds)
        found = differences(_by_cell(then), _by_cell(known))
        if found:
            raise ConfigError(f"{out}: holds another ablation: {'; '.join(found)}")
        if not resume:
            raise OutputError(f"{out}: holds an ablation already. Allowed: another folder, or --resume")
        if plan.seeds <= then.seeds:
            return
    elif out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: is not empty and holds no ablation. Allowed: another folder")
    write_json(out / PLAN_NAME, config.to_plain(plan), parents=True)


def _run(cell: Cell, seed: int, prepared: AblationData, plan: Plan, folder: Path) -> Result:
    """Do one run, and write its result."""
    began = time.monotonic()
    recipe = dataclasses.replace(
        cell.recipe,
        run=dataclasses.replace(cell.recipe.run, seed=seed),
        sampling=dataclasses.replace(cell.recipe.sampling, seed=seed),
    )
    cell = dataclasses.replace(cell, recipe=recipe)
    # A run that was killed goes on from its last checkpoint, and from the beginning if it had none.
    resume = (folder / RECIPE_NAME).is_file()
    try:
        rows = rows_of(cell, prepared, seed)
        bundle = fit(recipe, prepared.others, folder, rows=rows, resume=resume, progress=False)
        answers = _predict(bundle, prepared.others.split(plan.report_split), plan)
    except (DataError, TrainingError) as error:
        result = Result(cell=cell.name, seed=seed, status="failed", reason=" ".join(str(error).split()))
    else:
        answers.write(folder / PREDICTIONS_NAME)
        result = Result(
            cell=cell.name,
            seed=seed,
            status="finished",
            rows=rows.report,
            selected=bundle.config.provenance["selected"],
            scores=scores_of(answers.preds_B, answers.target_B, answers.labels.names, plan.rarest),
            seconds=round(time.monotonic() - began, 1),
        )
    write_json(folder / RESULT_NAME, config.to_plain(result))
    for name in TRANSIENT:
        shutil.rmtree(folder / name, ignore_errors=True)
    return result


def _predict(bundle: Bundle, manifest: Manifest, plan: Plan) -> Predictions:
    predictor = Predictor.load(
        bundle.path, detector="whole", backend="torch", dtype="fp32", workers=1, threads=torch.get_num_threads()
    )
    return predict_manifest(predictor, manifest, detect=False, data=plan.data, split=plan.report_split)


def scores_of(preds_B: Any, target_B: Any, labels: Sequence[str], rarest: str) -> dict[str, float]:
    """Give WAR, UAR, macro F1 and the recall of the rarest class."""
    recall_C = metrics.recall_per_class(preds_B, target_B, len(labels))
    return {
        "war": metrics.war(preds_B, target_B, len(labels)),
        "uar": metrics.uar(preds_B, target_B, len(labels)),
        "f1_macro": metrics.f1_macro(preds_B, target_B, len(labels)),
        "minority_recall": float(recall_C[list(labels).index(rarest)]),
    }


def _line(result: Result) -> str:
    if result.status == "failed":
        return f"{result.cell} seed {result.seed}: failed: {result.reason}"
    scores = ", ".join(f"{name} {value:.1%}" for name, value in result.scores.items())
    return f"{result.cell} seed {result.seed}: {scores}; {result.seconds:.0f} s"


def _by_cell(plan: Plan) -> dict[str, Any]:
    """Give a plan as plain data whose cells are named, so that differences can be."""
    plain = config.to_plain(plan)
    cells = {cell.pop("name"): cell for cell in plain["grid"].pop("cells")}
    return plain | {"cells": cells}
