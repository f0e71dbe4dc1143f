"""The ablations: each a function that gives a grid of recipes which differ in one question only.

A grid's cells are compared by `motivnet ablate`, over several seeds, with the comparisons named here beforehand.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from motivnet import config
from motivnet.checkpoints.released import RELEASED
from motivnet.errors import ConfigError, unknown_name
from motivnet.models.config import HeadConfig
from motivnet.training.recipes import recipe
from motivnet.training.settings import Recipe, TrainedPart

BASE_RECIPE = "mini-fer2013"
SHARES = (1.0, 0.25, 0.05)
# Name of a variant -> what the encoder learnt before; the first is MotivNet's own, and the reference where it exists.
SAPIENS_TASKS = {
    "pose": "308 keypoints of body and face",
    "depth": "relative depth",
    "normal": "surface normals",
    "seg": "parts of the body",
    "pretrain": "masked autoencoder alone",
}
SAPIENS_SIZES = ("0.3b", "0.6b", "1b", "2b")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One recipe of a grid.

    Args:
        name: in tables and as a folder: lower-case letters, digits, points and hyphens.
        recipe: what is run; its seeds are set a run.
        label_share: share of each class's training rows that the run may learn from.
    """

    name: str
    recipe: Recipe
    label_share: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: at a share that is none.
        """
        if not 0 < self.label_share <= 1:
            raise ConfigError(f"share of the labels must be above 0 and at most 1, not {self.label_share}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A question, the recipes that answer it, and which of them are compared.

    Args:
        name: of the ablation.
        question: in one line.
        cells: what is run, in the order of the table.
        comparisons: (cell, reference), decided before anything is run; p-values are corrected for their number.
        report_split: whose scores are reported, where nothing else is said.
    """

    name: str
    question: str
    cells: tuple[Cell, ...]
    comparisons: tuple[tuple[str, str], ...]
    report_split: str = "PrivateTest"

    def varied(self) -> list[str]:
        """Name the settings in which the cells' recipes differ, as `--set` names them."""
        first, *others = (config.flatten(config.to_plain(cell.recipe)) for cell in self.cells)
        return sorted(
            key
            for key in first.keys() | set().union(*(other.keys() for other in others))
            if any(other.get(key) != first.get(key) for other in others)
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GridOptions:
    """What a grid is built from.

    Args:
        settings: `name=value`, of every cell's recipe.
        encoder: bundle of a pre-trained encoder; `head` and `pretraining` need one.
        size: of the Sapiens encoders, of `backbone` only.
        weights: file of each of Sapiens' variants, of `backbone` only; those left out are looked for by name.
        label_share: of every cell; `pretraining` has shares of its own.
    """

    settings: Sequence[str] = ()
    encoder: Path | None = None
    size: str = "0.3b"
    weights: dict[str, str] = dataclasses.field(default_factory=dict)
    label_share: float = 1.0


def head(options: GridOptions) -> Grid:
    """Compare ML-Decoder with simpler heads, on a frozen and on a trained encoder (14 cells).

    Both start from the pre-trained encoder: frozen random weights would only measure how heads cope with noise. The
    reference of each half is the head as MotivNet has it, with fixed queries, in one layer.
    """
    base = _base(options)
    base = _starting_from(base, _encoder(options, "head"))
    heads: dict[str, dict[str, Any]] = {
        f"ml-decoder-{layers}-{queries}": {
            "kind": "ml_decoder",
            "num_layers": layers,
            "learnable_queries": queries == "learnable",
        }
        for layers in (1, 2)
        for queries in ("fixed", "learnable")
    }
    heads |= {"linear": {"kind": "linear"}, "mlp": {"kind": "mlp"}, "attention-pool": {"kind": "attention_pool"}}
    parts: dict[str, TrainedPart] = {"frozen": "none", "trained": "all"}
    cells = tuple(
        Cell(
            name=f"{part}.{name}",
            recipe=_with_head(_training(base, train), dataclasses.replace(base.model.head, **changes)),
            label_share=options.label_share,
        )
        for part, train in parts.items()
        for name, changes in heads.items()
    )
    first = next(iter(heads))
    return _checked(
        Grid(
            name="head",
            question="Does ML-Decoder read more out of the encoder's tokens than simpler heads do?",
            cells=cells,
            comparisons=tuple(
                (f"{part}.{name}", f"{part}.{first}") for part in parts for name in heads if name != first
            ),
        ),
        options,
    )


def sampling(options: GridOptions) -> Grid:
    """Compare four answers to classes of unequal size (4 cells), without any correction of the logits.

    Every cell takes the same number of optimizer steps: the rows that uniform sampling leaves are gone through so much
    more often.
    """
    base = _base(options)
    if options.encoder is not None:
        base = _starting_from(base, options.encoder)
    base = dataclasses.replace(base, loss=dataclasses.replace(base.loss, prior_weight=0.0))
    kinds = ("natural", "uniform", "class-weighted", "balanced")
    cells = tuple(
        Cell(
            name=kind,
            recipe=dataclasses.replace(base, sampling=dataclasses.replace(base.sampling, kind=kind)),
            label_share=options.label_share,
        )
        for kind in kinds
    )
    return _checked(
        Grid(
            name="sampling",
            question="What should be done about classes of unequal size?",
            cells=cells,
            comparisons=tuple((kind, "natural") for kind in kinds[1:]),
        ),
        options,
        "loss.prior_weight",
    )


def pretraining(options: GridOptions) -> Grid:
    """Compare random weights with a pre-trained encoder, at 100, 25 and 5 % of the labels (6 cells).

    The subsets of a seed are nested and keep the shares of the classes. Every cell takes the same number of optimizer
    steps; the price of the pre-training itself comes on top.
    """
    base, encoder = _base(options), _encoder(options, "pretraining")
    if options.label_share != 1:
        raise ConfigError(f"the ablation pretraining has shares of its own: {', '.join(f'{s:.0%}' for s in SHARES)}")
    starts = {"random": _random(base), "mae": _starting_from(base, encoder)}
    cells = tuple(
        Cell(name=f"{name}.{share:.0%}".removesuffix("%"), recipe=start, label_share=share)
        for share in SHARES
        for name, start in starts.items()
    )
    return _checked(
        Grid(
            name="pretraining",
            question="What is masked pre-training worth, and at how many labels?",
            cells=cells,
            comparisons=tuple((cell.name, cell.name.replace("mae", "random")) for cell in cells if "mae" in cell.name),
        ),
        options,
    )


def backbone(options: GridOptions) -> Grid:
    """Compare what Sapiens encoders learnt before: pose, depth, normals, segmentation, or pre-training alone.

    Five cells; of the variants that were never released at a size, only those whose file is given.

    The recipe is MotivNet's of that size, as in the paper, for AffectNet; the files are found by name in the cache of
    `motivnet weights`, or given one by one.
    """
    if options.size not in SAPIENS_SIZES:
        raise ConfigError(unknown_name("size", options.size, SAPIENS_SIZES))
    unknown = options.weights.keys() - SAPIENS_TASKS
    if unknown:
        raise ConfigError(unknown_name("variant", min(unknown), SAPIENS_TASKS))
    if options.encoder is not None:
        raise ConfigError("the ablation backbone compares encoders of its own. Allowed: --weights VARIANT=FILE")
    base = config.override(recipe(f"motivnet-{options.size}"), list(options.settings))
    names = {task: f"sapiens-{task}-{options.size}" for task in SAPIENS_TASKS}
    released = {entry.name for entry in RELEASED}
    cells = tuple(
        Cell(
            name=task,
            recipe=_starting_from(base, options.weights.get(task) or name),
            label_share=options.label_share,
        )
        for task, name in names.items()
        if task in options.weights or name in released
    )
    reference = next(cell.name for cell in cells if cell.name in ("pose", "pretrain"))
    return _checked(
        Grid(
            name="backbone",
            question=f"Which task should Sapiens-{options.size} have learnt before emotions?",
            cells=cells,
            comparisons=tuple((cell.name, reference) for cell in cells if cell.name != reference),
            report_split="val",
        ),
        options,
    )


GRIDS: dict[str, Callable[[GridOptions], Grid]] = {
    "head": head,
    "sampling": sampling,
    "pretraining": pretraining,
    "backbone": backbone,
}


def make_grid(name: str, options: GridOptions) -> Grid:
    """Give a grid by name.

    Raises:
        ConfigError: if there is none of that name, or the options do not fit it.
    """
    if name not in GRIDS:
        raise ConfigError(unknown_name("ablation", name, GRIDS))
    return GRIDS[name](options)


def _base(options: GridOptions) -> Recipe:
    if options.weights:
        raise ConfigError("--weights is of the ablation backbone only. Allowed: --encoder BUNDLE")
    return config.override(recipe(BASE_RECIPE), list(options.settings))


def _encoder(options: GridOptions, name: str) -> Path:
    if options.encoder is None:
        raise ConfigError(
            f"the ablation {name} needs a pre-trained encoder: --encoder BUNDLE, which `motivnet pretrain` writes"
        )
    return options.encoder


def _starting_from(base: Recipe, weights: str | Path) -> Recipe:
    return dataclasses.replace(base, backbone=dataclasses.replace(base.backbone, weights=str(weights)))


def _random(base: Recipe) -> Recipe:
    return dataclasses.replace(base, backbone=dataclasses.replace(base.backbone, weights=None))


def _training(base: Recipe, train: TrainedPart) -> Recipe:
    return dataclasses.replace(base, backbone=dataclasses.replace(base.backbone, train=train))


def _with_head(base: Recipe, config: HeadConfig) -> Recipe:
    return dataclasses.replace(base, model=dataclasses.replace(base.model, head=config))


def _checked(grid: Grid, options: GridOptions, *fixed: str) -> Grid:
    """Refuse settings that the grid decides itself; they would be overwritten without a word."""
    decided = {*grid.varied(), *fixed, "backbone.weights", "run.seed", "sampling.seed"}
    for setting in options.settings:
        name = setting.partition("=")[0].strip()
        clash = next((key for key in sorted(decided) if key == name or key.startswith(f"{name}.")), None)
        if clash:
            raise ConfigError(f"--set {name}: the ablation {grid.name} decides {clash} itself")
    return grid
