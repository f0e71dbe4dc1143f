"""Probes: heads trained on the tokens of a frozen encoder, which are computed once for all of them.

A comparison of probes is an ablation (`experiments.ablation`) whose runs read tokens instead of images, and each take
the learning rate and weight decay that are best on the selection split. `OUT/tokens` holds the tokens of each set of
rows in half precision, under the fingerprints of the rows and of the encoder.

Shape suffixes: B images, N tokens, D token width, C classes.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from motivnet import config
from motivnet.data.loader import FaceDataset
from motivnet.data.manifest import Manifest
from motivnet.data.sampling import balanced_rows
from motivnet.errors import DataError
from motivnet.evaluation import metrics
from motivnet.evaluation.predictions import Predictions, Protocol, measured
from motivnet.experiments.ablation import Plan, Trained, ablate, choose_run_rows
from motivnet.experiments.grids import BASE_RECIPE, Cell, Grid
from motivnet.models.motivnet import MotivNet, build_head
from motivnet.storage import atomic_file
from motivnet.training import fit, init_weights, losses, optimizers, recipes
from motivnet.training.data_module import Rows
from motivnet.training.settings import Recipe

# Probe -> kind of its head; `bn-linear` is made here.
PROBES = {"linear": "linear", "bn-linear": "linear", "attentive": "attention_pool", "ml-decoder": "ml_decoder"}
RATES, DECAYS = (3e-4, 1e-3, 3e-3), (0.01, 0.3)
# Whatever the recipe says: tokens do not change, and a probe tells classes.
FIXED = (*("backbone.train=none", "backbone.layer_decay=1.0", "backbone.recompute=false"), "model.affect=false")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def probe_grid(
    recipe: str = BASE_RECIPE,
    settings: Sequence[str] = (),
    *,
    rates: Sequence[float] = RATES,
    decays: Sequence[float] = DECAYS,
    report_split: str = "PrivateTest",
) -> Grid:
    """Build the grid of a comparison of probes.

    `linear` maps the mean token; `bn-linear` maps all tokens, after batch norm without scale and shift, as in MAE's
    probe (arXiv 2111.06377); `attentive` pools by attention with one learned query; `ml-decoder` is the recipe's.

    Args:
        recipe: of training, whose encoder, preprocessing, splits, sampling, loss, optimizer and number of epochs count.
            There is no augmentation, degradation, mixup, average of weights or choice of an epoch.
        settings: `name=value`, changes of the recipe; `backbone.weights` is the encoder.
        rates: learning rates to choose from.
        decays: weight decays to choose from.
        report_split: the split that is scored.

    Raises:
        ConfigError: if there is no such recipe or setting.
    """
    return Grid(
        name="probe",
        question="What do probes read out of the tokens of the frozen encoder?",
        recipe=init_weights.follow_folder(config.override(recipes.recipe(recipe), [*settings, *FIXED])),
        cells={name: Cell(settings=(f"model.head.kind={kind}",)) for name, kind in PROBES.items()},
        comparisons=tuple((name, "ml-decoder") for name in PROBES if name != "ml-decoder"),
        report_split=report_split,
        sweep={"optimizer.head_lr": tuple(rates), "optimizer.weight_decay": tuple(decays)},
    )


def probe(grid: Grid, manifest: Manifest, out: Path, **settings: Any) -> dict[str, Any] | None:
    """Train every probe of a grid with every seed, and write the report; what `motivnet probe` does.

    Arguments, result and errors are those of `ablate`.

    Raises:
        DataError: if a token does not fit half precision.
    """
    return ablate(grid, manifest, out, train_run=train_on_tokens, **settings)


def train_on_tokens(plan: Plan, cell: str, seed: int, train: Manifest, others: Manifest, folder: Path) -> Trained:
    """Train a probe with each of the swept settings, and predict with the best; arguments of `train_from_images`."""
    rows, reported = choose_run_rows(plan.grid, cell, seed, train, others), others.split(plan.report_split)
    tokens = cached_tokens(plan.grid.recipe, (rows.train, rows.select, reported), folder.parents[1] / "tokens")
    train_BND, select_BND, report_BND = tokens
    tried, heads = [], []
    for values in itertools.product(*plan.grid.sweep.values()):
        chosen = dict(zip(plan.grid.sweep, values, strict=True))
        settings = [f"{name}={value}" for name, value in chosen.items()]
        recipe = config.override(plan.grid.recipe_of(cell, seed), settings)
        heads.append(fit_probe(cell, recipe, rows, train_BND))
        preds_B = _outputs(heads[-1], _parts(select_BND), recipe).argmax(1)
        scores = metrics.class_scores(("war", "uar"), preds_B, rows.select.targets, recipe.model.num_classes)
        tried.append(chosen | scores | {"score": sum(scores.values()) / 2})
    best, recipe = int(np.argmax([each["score"] for each in tried])), plan.grid.recipe
    how = {"detection": "none: images are crops, or have boxes", "preprocessing": recipe.preprocessing.fingerprint}
    answers = Predictions(
        manifest=reported,
        probs_BC=_outputs(heads[best], _parts(report_BND), recipe).double().softmax(1).numpy(),
        status=("ok",) * len(reported),
        protocol=Protocol(**measured(reported, data=plan.data, split=plan.report_split, model=cell, **how)),
    )
    return answers, rows.report, {"split": recipe.split.select, **tried[best], "tried": tried}


def fit_probe(name: str, recipe: Recipe, rows: Rows, tokens_BND: np.ndarray) -> nn.Module:
    """Train the head of a probe on the tokens of the training rows."""
    torch.manual_seed(recipe.run.seed)
    run, labels_B = recipe.run, rows.train.targets
    blend = {name: getattr(recipe.loss, name) for name in ("vote_weight", "label_smoothing")}
    target_BC = losses.blend_targets(torch.from_numpy(labels_B), torch.from_numpy(rows.train.votes), **blend)
    _, num_tokens, width = tokens_BND.shape
    head = build_head(recipe.model.head, width, recipe.model.num_classes)
    if name == "bn-linear":
        norm = nn.BatchNorm1d(num_tokens * width, affine=False)
        head = nn.Sequential(nn.Flatten(), norm, nn.Linear(num_tokens * width, recipe.model.num_classes))
    model = MotivNet(cast(Any, nn.Identity()), head).to(DEVICE).train()
    size = min(run.batch_size * run.accumulate, len(labels_B))
    steps = len(labels_B) // size
    optimizer, schedule = optimizers.make_optimizer(model, recipe, num_steps=steps * run.epochs, steps_per_epoch=steps)
    for epoch in range(run.epochs):
        order_B = torch.randperm(len(labels_B)).numpy()
        if recipe.sampling.kind == "balanced":
            order_B = balanced_rows(labels_B, rows.train.labels, seed=recipe.sampling.seed, epoch=epoch)
        for batch_B in order_B[: steps * size].reshape(steps, size):
            logits_BC = _answer(model, tokens_BND[batch_B], recipe) + recipe.loss.prior_weight * rows.log_prior_C
            optimizer.zero_grad()
            losses.soft_cross_entropy(logits_BC, target_BC[batch_B], rows.class_weights_C).backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm or torch.inf)
            optimizer.step()
            schedule.step()
    return model.eval()


def cached_tokens(recipe: Recipe, parts: Sequence[Manifest], folder: Path) -> Iterator[np.ndarray]:
    """Yield the encoder's tokens of sets of rows, float16 (B, N, D), memory-mapped; `folder` keeps them.

    Raises:
        DataError: if an image cannot be read, or a token does not fit half precision.
    """
    torch.manual_seed(recipe.run.seed)
    encoder = fit.prepare_model(recipe, None, start=True).backbone.to(DEVICE).eval()
    digest = hashlib.sha256(f"{recipe.preprocessing.fingerprint} {recipe.run.precision}".encode())
    for tensor in encoder.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    folder.mkdir(exist_ok=True)
    for rows in parts:
        path = folder / f"{rows.fingerprint()}-{digest.hexdigest()[:12]}.npy"
        if not path.is_file():
            faces = FaceDataset(rows, recipe.preprocessing)
            batches = (faces.__getitems__(part.tolist()).pixels for part in _parts(np.arange(len(rows))))
            tokens_BND = _outputs(encoder, batches, recipe, torch.float16)
            if not tokens_BND.isfinite().all():
                raise DataError(f"tokens of {recipe.backbone.weights} do not fit half precision")
            with atomic_file(path) as file:
                np.save(file, tokens_BND.numpy())
        yield np.load(path, mmap_mode="c")  # torch warns of arrays that are read-only


@torch.no_grad()
def _outputs(module: nn.Module, batches: Iterable[Any], recipe: Recipe, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.cat([_answer(module, batch, recipe).to(dtype) for batch in batches])


def _parts(array: np.ndarray) -> list[np.ndarray]:
    return np.array_split(array, len(array) // 256 + 1)


def _answer(module: nn.Module, inputs: np.ndarray | Tensor, recipe: Recipe) -> Tensor:
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=recipe.run.precision.startswith("bf16")):
        return module(torch.as_tensor(inputs).to(DEVICE).float()).cpu()
