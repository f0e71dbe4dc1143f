"""Adapt a model to a target without labels, and score what each way of choosing the epoch gives.

`source`: the epoch that is best on held-out source faces; `information`: on the target without labels, see
`adaptation_losses.information`; `oracle`: on the labels of the target, which nobody has who needs to adapt. Published
results, such as those of AGRA's code, are often of the last kind.

Shape suffixes: T target images, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from motivnet import config
from motivnet.data.manifest import Manifest, write_table
from motivnet.data.sources.folder import UNLABELLED
from motivnet.data.sources.named import read_source
from motivnet.errors import ConfigError
from motivnet.evaluation.metrics import uar, war
from motivnet.experiments.protocols import parse_data
from motivnet.labels import EMOTIONS
from motivnet.storage import write_json
from motivnet.training.adapter import TARGET_FOLDER, AdaptRecipe, adapt_recipe, fit_adapted
from motivnet.training.data_module import random_order
from motivnet.training.recipes import recipe as recipe_named

RESULT_NAME, PREDICTIONS_NAME = "result.json", "predictions.parquet"
CHOICES = ("source", "information", "oracle")


def adapt(
    method: str,
    source: str,
    target: str,
    out: Path,
    *,
    recipe: str = "nano-fer2013",
    settings: Sequence[str] = (),
    init: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Adapt to a target, and write a bundle, the target's predictions and the scores; what `motivnet adapt` does.

    Args:
        method: of adaptation.
        source: `KIND:PATH@SPLIT` of the labelled faces.
        target: `KIND:PATH` or `KIND:PATH@SPLIT` of the others. Labels, if there are any, score only.
        out: folder of the run; see `run_dir` and `fit_adapted`. With them go `predictions.parquet`, of the epoch of
            the bundle, and `result.json`.
        recipe: name of a recipe of training.
        settings: `KEY=VALUE` of the recipe, with `adapt.*`, see `AdaptConfig`.
        init: weights of a whole model to start from.
        resume: continue with what `out` holds.
        progress: show a progress bar.

    Returns:
        The content of `result.json`: see `score`.

    Raises:
        MotivNetError: as `fit`.
    """
    chosen, data = chosen_recipe(method, source, recipe, settings), parse_data(source).source
    found, labelled = read_target(target)
    fit_adapted(chosen, data, found, out, init=init, resume=resume, progress=progress)
    result: dict[str, Any] = {"method": method, "source": parse_data(source).title, "target": parse_data(target).title}
    result |= score(out, found.targets if labelled else None)
    best = result["chosen"][chosen.adapt.select]["epoch"]
    write_predictions(out, found, best, labelled=labelled)
    write_json(out / RESULT_NAME, result)
    return result


def chosen_recipe(method: str, source: str, recipe: str, settings: Sequence[str]) -> AdaptRecipe:
    """Return the recipe of a run; ConfigError if the source names no split, or there is no such method."""
    split = parse_data(source).split
    if split is None:
        raise ConfigError(f"--source {source}: names no split. Allowed: KIND:PATH@SPLIT, such as @Training or @all")
    return config.override(adapt_recipe(method, recipe_named(recipe), split), list(settings))


def read_target(target: str) -> tuple[Manifest, bool]:
    """Read the target, and whether it has labels; faces of other labels than the emotions are left out.

    In random order: to `batchnorm`, a batch stands for the whole target.
    """
    name = parse_data(target)
    found = read_source(name.source)
    found = found.split(name.split) if name.split else found
    labelled = UNLABELLED not in found.labels.names
    found = found.restrict(EMOTIONS) if labelled else found.without_labels()
    return found.select(random_order(len(found), 0)), labelled


def score(out: Path, target_T: np.ndarray | None) -> dict[str, Any]:
    """Score the epochs of a run, and choose one in each way.

    Args:
        out: folder of the run.
        target_T: labels of the target; None if there are none, and neither scores nor oracle.

    Returns:
        `epochs`, with the scores that may choose, and WAR and UAR on the target; `chosen`, one of them for each of
        CHOICES.
    """
    epochs = []
    for file in sorted((out / TARGET_FOLDER).glob("*.npz")):
        with np.load(file) as saved:
            preds_T, each = saved["probs"].argmax(1), {"epoch": int(file.stem)}
            each |= {"source": float(saved["score"]), "information": float(saved["information"])}
        if target_T is not None:
            each |= {name: metric(preds_T, target_T, len(EMOTIONS)) for name, metric in (("war", war), ("uar", uar))}
            each["oracle"] = (each["war"] + each["uar"]) / 2
        epochs.append(each)
    ways = CHOICES if target_T is not None else CHOICES[:2]
    return {"epochs": epochs, "chosen": {way: max(epochs, key=lambda each: each[way]) for way in ways}}


def probs_of(out: Path, epoch: int) -> np.ndarray:
    """Return the target's probabilities after an epoch, float32 (T, C)."""
    with np.load(out / TARGET_FOLDER / f"{epoch:03}.npz") as saved:
        return saved["probs"]


def write_predictions(out: Path, target: Manifest, epoch: int, *, labelled: bool) -> None:
    """Write the target's predictions after an epoch, one row for each image."""
    probs_TC = probs_of(out, epoch)
    columns = {"row": target.table["row"], "path": target.table["path"]}
    columns |= {"label": target.table["label"]} if labelled else {}
    columns["pred"] = pa.array([EMOTIONS.names[place] for place in probs_TC.argmax(1)])
    columns |= {name: pa.array(probs_TC[:, place]) for place, name in enumerate(EMOTIONS)}
    write_table(pa.table(columns), out / PREDICTIONS_NAME)
