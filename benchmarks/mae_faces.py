"""How well pre-trained miniatures reconstruct faces that they never saw, against what needs no training.

    motivnet pretrain mae --data fer2013:fer2013.parquet --out runs/mae
    motivnet pretrain mae --data fer2013:fer2013.parquet --out runs/mae-pixels --set mae.normalise=false \
        --set run.epochs=20
    python benchmarks/mae_faces.py fer2013.parquet --run runs/mae --run runs/mae-pixels

Faces are FER-2013's PrivateTest, which neither training nor selection saw, without those that recur in the other
splits. Three quarters of the patches are hidden, the same ones for every method, and the error is the mean square over
the hidden pixels, with bootstrap intervals over faces.

A model that tells normalised pixels says nothing of a patch's mean and contrast, so that it can be compared in that
space only, where everybody's target is the hidden patch less its mean over its standard deviation: telling every patch
by its own true mean is an error of 63/64 there (64 pixels, the variance over 63), which is as good as knowing nothing.
A model that tells pixels as they are is compared on the grey scale from 0 to 1. In either space the baselines see what
the model sees:

- mean visible patch: the mean of the face's visible patches, pixel by pixel;
- mean training patch: the mean of all training faces at the place of the hidden patch;
- nearest visible patch: a copy of the visible patch whose centre is nearest, the first of several.
"""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import markdown_table, write_results
from torch import Tensor

from motivnet import config
from motivnet.data.clean import leave_out_repeated
from motivnet.data.loader import FaceDataset
from motivnet.data.manifest import Manifest
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.evaluation.resampling import bootstrap, paired_bootstrap
from motivnet.models.mae import MaskedAutoencoder
from motivnet.preprocess import Preprocessing
from motivnet.training.mae.pretrain import choose_images, load_pretraining
from motivnet.training.mae.pretrain_recipes import PretrainRecipe
from motivnet.training.run_dir import BEST, RECIPE_NAME

MODEL, BATCH_SIZE, SEED = "the model", 256, 0
# The other way of torch rounds, and would make one of equally near patches nearer.
EXACT = "donot_use_mm_for_euclid_dist"
HELD_OUT, OTHERS = "PrivateTest", ("Training", "PublicTest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", type=Path, action="append", required=True, help="Folder of a run; repeatable.")
    arguments = parser.parse_args()
    manifest = read_fer2013(arguments.data)
    runs = [measure(run, manifest) for run in arguments.run]
    for run in runs:
        print(f"\n{run['space']} ({run['faces']} faces, trained for {run['epochs']} epochs)\n")
        print(markdown_table([{"predicted by": name, **_shown(scores)} for name, scores in run["errors"].items()]))
    print(f"\nwritten: {write_results('mae_faces', {'runs': runs})}")


def measure(run: Path, manifest: Manifest) -> dict[str, Any]:
    """Give the errors of a run's model and of the baselines on held-out faces, as plain data."""
    recipe = config.from_plain(PretrainRecipe, json.loads((run / RECIPE_NAME).read_text(encoding="utf-8")))
    model = load_pretraining(run / BEST, recipe)
    held_out = manifest
    for other in OTHERS:
        fresh = leave_out_repeated(held_out, HELD_OUT, other)
        keep = np.array(held_out.table["split"].to_pylist()) != HELD_OUT
        keep |= np.isin(held_out.table["row"].to_numpy(), fresh.table["row"].to_numpy())
        held_out = held_out.select(keep)
    faces_BCHW = _pixels(held_out.split(HELD_OUT), recipe.preprocessing)
    space = _space(model, recipe.preprocessing)
    trained_BCHW = _pixels(choose_images(manifest, recipe.images).train, recipe.preprocessing)
    training_mean_1NP = torch.cat([space(model.target(part)) for part in trained_BCHW.split(BATCH_SIZE)]).mean(
        0, keepdim=True
    )
    order_BN = model.draw_order(len(faces_BCHW), torch.Generator().manual_seed(SEED))
    errors: dict[str, list[Tensor]] = {}
    for pixels_BCHW, batch_BN in zip(faces_BCHW.split(BATCH_SIZE), order_BN.split(BATCH_SIZE), strict=True):
        target_BNP = space(model.target(pixels_BCHW))
        with torch.no_grad():
            told = {MODEL: space(model(pixels_BCHW, batch_BN))}
        told |= baselines(model, target_BNP, batch_BN)
        told["mean training patch"] = training_mean_1NP
        hidden_BN1 = model.mask(batch_BN)[..., None]
        for name, told_BNP in told.items():
            squares_BNP = (told_BNP - target_BNP).square() * hidden_BN1
            pixels = model.num_masked * target_BNP.shape[-1]
            errors.setdefault(name, []).append(squares_BNP.sum((1, 2)) / pixels)
    scores = compare({name: torch.cat(parts).double().numpy() for name, parts in errors.items()})
    curve = _curve(run)
    return {
        "space": "normalised patches" if model.normalise else "grey scale from 0 to 1",
        "recipe": config.to_plain(recipe),
        "epochs": recipe.run.epochs,
        "faces": len(faces_BCHW),
        "hidden_patches": model.num_masked,
        "patches": model.num_patches,
        "errors": scores,
        "curve": curve,
    }


def baselines(model: MaskedAutoencoder, target_BNP: Tensor, order_BN: Tensor) -> dict[str, Tensor]:
    """Tell hidden patches by visible ones, without training."""
    hidden_BN = model.mask(order_BN)
    visible_BN1 = (~hidden_BN)[..., None]
    mean_B1P = (target_BNP * visible_BN1).sum(1, keepdim=True) / model.num_visible
    places_N2 = torch.cartesian_prod(*(torch.arange(float(side)) for side in model.grid))
    distance_BNN = torch.cdist(places_N2, places_N2, compute_mode=EXACT).repeat(len(order_BN), 1, 1)
    nearest_BN = distance_BNN.masked_fill(hidden_BN[:, None, :], torch.inf).argmin(2)
    nearest_BNP = target_BNP.gather(1, nearest_BN[..., None].expand_as(target_BNP))
    return {"mean visible patch": mean_B1P, "nearest visible patch": nearest_BNP}


def compare(errors: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Give the mean error of each method, its interval, and by how much the model's is lower."""

    def mean(values_B: np.ndarray) -> Callable[[np.ndarray], dict[str, float]]:
        return lambda weights_B: {"mse": float(np.average(values_B, weights=weights_B))}

    scores: dict[str, dict[str, Any]] = {}
    for name, values_B in errors.items():
        interval = bootstrap(mean(values_B), len(values_B))["mse"]
        scores[name] = {"mse": float(values_B.mean()), "interval": list(interval)}
        if name != MODEL:
            less = paired_bootstrap(mean(values_B), mean(errors[MODEL]), len(values_B))["mse"]
            scores[name] |= {
                "above_model": less.value,
                "above_model_interval": list(less.interval),
                "p_value": less.p_value,
                "model_over_it": float(errors[MODEL].mean() / values_B.mean()),
            }
    return scores


def _space(model: MaskedAutoencoder, preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    """Give what takes patches from what the model tells to the space that errors are measured in."""
    if model.normalise:
        return lambda patches_BNP: patches_BNP
    (mean,), (std,) = preprocessing.mean, preprocessing.std
    return lambda patches_BNP: ((patches_BNP * std + mean) / 255).clamp(0, 1)


def _pixels(manifest: Manifest, preprocessing: Preprocessing) -> Tensor:
    return FaceDataset(manifest, preprocessing).__getitems__(list(range(len(manifest)))).pixels


def _curve(run: Path) -> list[dict[str, float]]:
    """Read the losses of the epochs."""
    with (run / "validation.csv").open(encoding="utf-8") as file:
        return [
            {name: round(float(row[name]), 5) for name in ("epoch", "train_loss", "loss")}
            for row in csv.DictReader(file)
        ]


def _shown(scores: dict[str, Any]) -> dict[str, str]:
    low, high = scores["interval"]
    ratio = scores.get("model_over_it")
    return {
        "mean square": f"{scores['mse']:.4f} ({low:.4f} to {high:.4f})",
        "the model's over it": "" if ratio is None else f"{ratio:.3f}",
    }


if __name__ == "__main__":
    main()
