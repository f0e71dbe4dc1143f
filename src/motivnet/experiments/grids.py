"""The ablations: each is a base recipe, and cells that change a few of its settings as `motivnet train --set` does."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from motivnet import config
from motivnet.checkpoints.released import RELEASED
from motivnet.errors import ConfigError, require, unknown_name
from motivnet.labels import LabelSet
from motivnet.training.recipes import recipe
from motivnet.training.settings import Recipe

BASE_RECIPE = "mini-fer2013"
SHARES = (1.0, 0.25, 0.05)
# What the Sapiens encoders were trained on; the first is MotivNet's own, and the reference where it was released.
SAPIENS_TASKS = ("pose", "depth", "normal", "seg", "pretrain")
SAPIENS_SIZES = ("0.3b", "0.6b", "1b", "2b")
# What grids or seeds decide, whether or not the cells of a grid differ in it.
DECIDED = ("backbone.weights", "run.seed", "sampling.seed")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One configuration of a grid.

    Args:
        settings: `name=value`, changes of the base recipe; `backbone.weights` is the encoder to start from.
        label_share: share of each class's training rows to train on, above 0, at most 1.
    """

    settings: tuple[str, ...]
    label_share: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A question, the configurations that answer it, and which of them are compared.

    Args:
        name: of the ablation.
        question: in one line.
        recipe: the base of all cells.
        cells: by name, in the order of the table; a name is part of a folder's.
        comparisons: (cell, reference), fixed before any run; p-values are corrected for their number.
        report_split: the split whose scores are reported by default.
        sweep: settings, by dotted names, of which each run takes what is best on its selection split; of probes.
    """

    name: str
    question: str
    recipe: Recipe
    cells: dict[str, Cell]
    comparisons: tuple[tuple[str, str], ...]
    report_split: str = "PrivateTest"
    sweep: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def recipe_of(self, cell: str, seed: int = 0) -> Recipe:
        """Return the recipe of one run."""
        settings = self.cells[cell].settings
        return config.override(self.recipe, [*settings, f"run.seed={seed}", f"sampling.seed={seed}"])

    @property
    def labels(self) -> LabelSet:
        """The label set, which is that of all cells."""
        return self.recipe_of(next(iter(self.cells))).label_set

    def varied(self) -> list[str]:
        """Return the dotted names of the settings in which the cells differ."""
        flat = [config.flatten(config.to_plain(self.recipe_of(cell))) for cell in self.cells]
        return sorted(name for name in set().union(*flat) if any(each.get(name) != flat[0].get(name) for each in flat))


def make_grid(
    name: str,
    settings: Sequence[str] = (),
    *,
    encoder: Path | None = None,
    size: str = "0.3b",
    weights: Sequence[str] = (),
    label_share: float = 1.0,
) -> Grid:
    """Build a grid.

    Args:
        name: `head`, `sampling`, `pretraining` or `backbone`.
        settings: `name=value`, changes of the base recipe in every cell.
        encoder: bundle of a pre-trained encoder; `head` and `pretraining` need one, `sampling` takes one.
        size: of the Sapiens encoders of `backbone`.
        weights: `VARIANT=FILE`, Sapiens encoders of `backbone`; the others are found by name.
        label_share: of every cell, except in `pretraining`, which has its own shares.

    Raises:
        ConfigError: if there is no such grid, or the arguments do not fit it.
    """
    require(name in GRIDS, unknown_name("ablation", name, GRIDS))
    require(not weights or name == "backbone", "--weights is of the ablation backbone only. Allowed: --encoder BUNDLE")
    if encoder is not None and name == "backbone":
        raise ConfigError("the ablation backbone compares encoders of its own. Allowed: --weights VARIANT=FILE")
    if encoder is None and name in ("head", "pretraining"):
        raise ConfigError(f"the ablation {name} needs a pre-trained encoder: --encoder BUNDLE, of `motivnet pretrain`")
    if label_share != 1 and name == "pretraining":
        raise ConfigError(f"the ablation pretraining has shares of its own: {', '.join(f'{s:.0%}' for s in SHARES)}")
    require(0 < label_share <= 1, f"share of the labels must be above 0 and at most 1, not {label_share}")
    grid = backbone(size, weights) if name == "backbone" else GRIDS[name](encoder and _start(encoder))
    decided = {each.partition("=")[0] for cell in grid.cells.values() for each in cell.settings}.union(DECIDED)
    for key in (each.partition("=")[0].strip() for each in settings):
        clash = min((each for each in decided if f"{each}.".startswith(f"{key}.")), default=None)
        require(not clash, f"--set {key}: the ablation {name} decides {clash} itself")
    cells = {
        cell: dataclasses.replace(each, label_share=each.label_share * label_share) for cell, each in grid.cells.items()
    }
    return dataclasses.replace(grid, recipe=config.override(grid.recipe, list(settings)), cells=cells)


def head(start: str) -> Grid:
    """Compare ML-Decoder with simpler heads, on a frozen and on a trained encoder (14 cells).

    Both start from the pre-trained encoder: frozen random weights would only show how heads cope with noise. The
    reference of each half is MotivNet's head with fixed queries and one layer.
    """
    heads = {
        f"ml-decoder-{layers}-{queries}": (
            "model.head.kind=ml_decoder",
            f"model.head.num_layers={layers}",
            f"model.head.learnable_queries={learnable}",
        )
        for layers in (1, 2)
        for queries, learnable in (("fixed", "false"), ("learnable", "true"))
    }
    heads |= {kind.replace("_", "-"): (f"model.head.kind={kind}",) for kind in ("linear", "mlp", "attention_pool")}
    parts, (first, *others) = {"frozen": "none", "trained": "all"}, heads
    return Grid(
        name="head",
        question="Does ML-Decoder read more out of the encoder's tokens than simpler heads do?",
        recipe=recipe(BASE_RECIPE),
        cells={
            f"{part}.{name}": Cell(settings=(start, f"backbone.train={train}", *settings))
            for part, train in parts.items()
            for name, settings in heads.items()
        },
        comparisons=tuple((f"{part}.{name}", f"{part}.{first}") for part in parts for name in others),
    )


def sampling(start: str | None) -> Grid:
    """Compare four ways to sample classes of unequal size (4 cells), without logit adjustment.

    Every cell takes the same number of optimizer steps: the rows that uniform sampling keeps are repeated more often.
    """
    kinds = ("natural", "uniform", "class-weighted", "balanced")
    both = ("loss.prior_weight=0", *filter(None, [start]))
    return Grid(
        name="sampling",
        question="What should be done about classes of unequal size?",
        recipe=recipe(BASE_RECIPE),
        cells={kind: Cell(settings=(*both, f"sampling.kind={kind}")) for kind in kinds},
        comparisons=tuple((kind, kinds[0]) for kind in kinds[1:]),
    )


def pretraining(start: str) -> Grid:
    """Compare random weights with a pre-trained encoder, at 100, 25 and 5 % of the labels (6 cells).

    The subsets of a seed are nested and stratified. Every cell takes the same number of optimizer steps; the cost of
    the pre-training itself is not counted.
    """
    starts = {"random": "backbone.weights=null", "mae": start}
    return Grid(
        name="pretraining",
        question="What is masked pre-training worth, and at how many labels?",
        recipe=recipe(BASE_RECIPE),
        cells={
            f"{name}.{100 * share:.0f}": Cell(settings=(weights,), label_share=share)
            for share in SHARES
            for name, weights in starts.items()
        },
        comparisons=tuple((f"mae.{100 * share:.0f}", f"random.{100 * share:.0f}") for share in SHARES),
    )


def backbone(size: str, weights: Sequence[str]) -> Grid:
    """Compare Sapiens encoders trained on pose, depth, normals, segmentation, or pre-trained alone (5 cells).

    Of the encoders that were never released at a size, only those whose file is given. The recipe is MotivNet's of
    that size, as in the paper, for AffectNet.
    """
    require(size in SAPIENS_SIZES, unknown_name("size", size, SAPIENS_SIZES))
    files: dict[str, str] = {}
    for text in weights:
        task, _, file = text.partition("=")
        require(file != "" and task not in files, f"--weights {text!r}. Allowed: VARIANT=FILE, each variant once")
        require(task in SAPIENS_TASKS, unknown_name("variant", task, SAPIENS_TASKS))
        files[task] = file
    released = {entry.name for entry in RELEASED}
    names = {task: files.get(task) or f"sapiens-{task}-{size}" for task in SAPIENS_TASKS}
    names = {task: name for task, name in names.items() if task in files or name in released}
    reference = "pose" if "pose" in names else "pretrain"
    return Grid(
        name="backbone",
        question=f"Which task should Sapiens-{size} be trained on before emotions?",
        recipe=recipe(f"motivnet-{size}"),
        cells={task: Cell(settings=(_start(name),)) for task, name in names.items()},
        comparisons=tuple((task, reference) for task in names if task != reference),
        report_split="val",
    )


GRIDS: dict[str, Callable[..., Grid]] = {each.__name__: each for each in (head, sampling, pretraining, backbone)}


def _start(weights: str | Path) -> str:
    return f"backbone.weights={config.to_json(str(weights))}"
