"""Run a recipe: data in, a bundle out. Lightning does all that it can."""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning
import numpy as np
import torch
from torch.utils.data import Sampler

from motivnet import config
from motivnet.checkpoints.bundle import Bundle, BundleConfig, open_bundle
from motivnet.checkpoints.load import built_without_memory, load_strict
from motivnet.data.loader import BalancedSampler, FaceDataset
from motivnet.data.manifest import Manifest, write_table
from motivnet.data.sources.named import read_source
from motivnet.errors import CheckpointError, ConfigError
from motivnet.models.backbone import keep_depthwise_float32, to_channels_last
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.storage import LOCK_NAME, explained, locked, remove_leftovers, stored_json
from motivnet.training import init_weights, run_dir
from motivnet.training.callbacks.stopping import handle_exits
from motivnet.training.data_module import FaceData, Rows, Splits, announce, choose_rows
from motivnet.training.freezing import plain_state, set_trained
from motivnet.training.module import Classifier, TrainedModule, check_precision, compile_parts
from motivnet.training.optimizers import parameter_groups
from motivnet.training.recipes import recipe as recipe_named
from motivnet.training.settings import Place, Recipe
from motivnet.training.trainer import AnyRecipe, check_place, is_first, make_trainer

SAMPLED_NAME = "sampled_rows.parquet"
NUM_SOME_FACES = 256

T = TypeVar("T")


def fit(
    recipe: str | Recipe,
    data: str | Manifest,
    out: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    init: str | Path | None = None,
    place: Place | None = None,
    resume: bool = False,
    progress: bool = True,
    rows: Rows | None = None,
) -> Bundle:
    """Train with a recipe and write the weights of the best epoch as a bundle.

    As `motivnet train` does, which also exports the bundle to ONNX:

    ```python
    bundle = motivnet.fit("mini-fer2013", "fer2013:fer2013.parquet", "runs/mini", overrides={"run.epochs": 2})
    predictor = motivnet.Predictor.load(bundle.path)
    ```

    Everything is checked before anything is written. With more than one device, every process of the run calls this,
    and the bundle exists when it returns.

    Args:
        recipe: a name from `motivnet train`, or the recipe itself.
        data: `KIND:PATH`, such as `fer2013:fer2013.parquet`, or a manifest; with the splits that the recipe names.
        out: folder of the run, see `run_dir`, and `sampled_rows.parquet`, the rows that uniform sampling drew.
        overrides: settings of the recipe to change, by dotted names.
        init: weights of a whole model to start from; None starts with those of the recipe.
        place: devices; None takes one.
        resume: continue from the last checkpoint in `out`, or from step zero if there is none yet.
        progress: show a progress bar.
        rows: the result of `choose_rows` for this recipe and data, if known.

    Raises:
        OutputError: if `out` holds a run and `resume` is False, another process is training in it, or the disk is full.
        CheckpointError: if there is nothing to resume, or initial weights cannot be read.
        ConfigError: if a setting is unknown or out of range, devices are missing, or the run to resume has another
            recipe; the differences are listed.
        DataError: if the data cannot be read, a class has too few rows for the recipe's sampling, all rows are too few
            for one step, or the run to resume has other rows.
        TrainingError: if loss or weights become NaN or infinite.
    """
    named = recipe_named(recipe) if isinstance(recipe, str) else recipe
    chosen = adopt_labels(init_weights.follow_folder(override(named, overrides)), data)
    init = Path(init) if init else None

    def prepare(manifest: Manifest, start: bool) -> Job:
        lineage = init_weights.lineage(chosen, init)
        if start:
            init_weights.check(chosen, init)
        elif init:
            then = stored_json(Path(out) / run_dir.RUN_NAME, CheckpointError)
            if then and then["init"] != lineage:
                raise ConfigError(f"--init {init}: the run started with other weights. Allowed: --resume alone")
        found, sampling = rows or choose_rows(chosen, manifest), chosen.sampling
        return Job(
            rows=found,
            sampler=BalancedSampler(found.train, sampling.seed) if sampling.kind == "balanced" else None,
            # Without gradients, a device has room for more.
            select_batch_size=4 * chosen.run.batch_size,
            build=lambda: Classifier(
                prepare_model(chosen, init, start=start, rows=found.train),
                chosen,
                found.log_prior_C,
                found.class_weights_C,
            ),
            write_bundle=lambda bundle_config: write_classifier(Path(out), chosen, bundle_config),
            select=chosen.split.select,
            facts={"init": lineage},
            described={"summary": f"trained with the recipe {chosen.name}", "labels": found.train.labels},
            sampled=found.train if sampling.kind == "uniform" else None,
            pretrained=bool(init or chosen.backbone.weights),
        )

    return run(chosen, data, Path(out), prepare, place or Place(), resume=resume, progress=progress)


def adopt_labels(recipe: Recipe, data: str | Manifest) -> Recipe:
    """Return a recipe whose labels are empty with those that the data have, in their order; others as they are."""
    if recipe.labels != ():
        return recipe
    found = read_source(data) if isinstance(data, str) else data
    present = {*found.table["label"].to_pylist()}
    labels = tuple(name for name in found.labels if name in present)
    return dataclasses.replace(recipe, labels=labels, model=dataclasses.replace(recipe.model, num_classes=len(labels)))


def said(report: Mapping[str, Any]) -> str:
    """Return a report's counts for people."""
    counts = {**report, **report.get("left_out", {})}
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items() if isinstance(value, int))


def override(recipe: T, overrides: Mapping[str, Any] | None) -> T:
    """Return a recipe with some settings changed, by dotted names; ConfigError at an unknown one."""
    return config.override(recipe, [f"{name}={json.dumps(value)}" for name, value in (overrides or {}).items()])  # noqa: TID251


def prepare_model(recipe: Recipe, init: Path | None, *, start: bool, rows: Manifest | None = None) -> MotivNet:
    """Build the model, with its initial weights if the run starts, and freeze what the recipe does not train.

    Args:
        recipe: of the run.
        init: weights of a whole model to start from.
        start: whether the run starts, and does not resume.
        rows: to train on; the statistics of folded batch norms are estimated on some of them.
    """
    model = build_model(recipe.model)
    check_precision(model, recipe.run.precision)
    if start:
        faces = None if rows is None else functools.partial(some_faces, rows, recipe)
        init_weights.start(model, recipe, init, faces)
    keep_depthwise_float32(model)
    set_trained(model, recipe.backbone)
    model = to_channels_last(model)
    parameter_groups(model, recipe)  # refuses now what it would refuse once the run has started
    if recipe.run.compile:
        compile_parts(model)
    return model


def some_faces(rows: Manifest, recipe: Recipe) -> torch.Tensor:
    """Return up to 256 normalised faces, evenly spread over the rows: float32 (B, C, H, W)."""
    announce("estimating the statistics of batch norms that the initial weights do not have")
    places = np.linspace(0, len(rows) - 1, min(NUM_SOME_FACES, len(rows))).astype(int).tolist()
    return FaceDataset(rows, recipe.preprocessing, num_frames=recipe.model.num_frames).__getitems__(places).pixels


def write_classifier(out: Path, recipe: Recipe, bundle_config: BundleConfig) -> None:
    """Write the bundle of a run: the (averaged) weights of the best epoch, rounded to half precision for their size."""
    checkpoint = out / run_dir.BEST
    with built_without_memory():
        trained, plain = build_model(recipe.model), build_model(recipe.model)
        set_trained(trained, dataclasses.replace(recipe.backbone, recompute=False))
    load_strict(trained, run_dir.weights_in(checkpoint), checkpoint, assign=True)
    load_strict(plain, plain_state(trained), checkpoint, assign=True)
    run_dir.write_bundle(out / run_dir.BUNDLE_NAME, bundle_config, plain.half(), checkpoint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One kind of training, for `run`.

    Args:
        rows: to train and select on.
        build: builds the module with its initial weights.
        write_bundle: writes the bundle from the checkpoint of the best epoch.
        select: split that selects the best epoch; None if it was held out.
        described: more fields of the bundle's config.
        facts: what else a resumed run should know of its start.
        sampler: of each epoch's training rows; None shuffles all of them.
        select_batch_size: batch size of validation; None takes the run's.
        sampled: rows that were drawn from the training split, to be written; None writes none.
        pretrained: whether the encoder starts from pretrained weights.
        rows_name: name of the report on the rows in the bundle's provenance.
        monitor: logged value that selects the best epoch.
        mode: whether its minimum or maximum is best.
    """

    rows: Splits
    build: Callable[[], TrainedModule]
    write_bundle: Callable[[BundleConfig], None]
    select: str | None
    described: Mapping[str, Any]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sampler: Sampler[int] | None = None
    select_batch_size: int | None = None
    sampled: Manifest | None = None
    pretrained: bool = False
    rows_name: str = "training_rows"
    monitor: str = "val/score"
    mode: Literal["min", "max"] = "max"


def run(
    recipe: AnyRecipe,
    data: str | Manifest,
    out: Path,
    prepare: Callable[[Manifest, bool], Job],
    place: Place,
    *,
    resume: bool,
    progress: bool,
) -> Bundle:
    """Run a recipe of any kind in a folder; see `fit`.

    Args:
        recipe: of training or pre-training.
        data: as for `fit`.
        out: folder of the run.
        prepare: makes the job from the data, and whether the run starts or resumes from a checkpoint.
        place: devices.
        resume: as for `fit`.
        progress: show a progress bar.
    """
    first, bundle, facts = is_first(), out / run_dir.BUNDLE_NAME, {}
    check_place(place, recipe)
    checkpoint = run_dir.check_folder(recipe, out, resume=resume, first=first)
    if resume and run_dir.is_finished(recipe, out):
        return open_bundle(bundle)
    manifest = read_source(data) if isinstance(data, str) else data
    job = prepare(manifest, checkpoint is None)
    faces = FaceData(recipe, job.rows, sampler=job.sampler, select_batch_size=job.select_batch_size)
    faces.check(place.world_size)
    lightning.seed_everything(recipe.run.seed, verbose=False)
    module = job.build()
    with _locked(out) if first else contextlib.nullcontext():
        if first:
            facts = {
                **job.facts,
                "place": {"world_size": place.world_size, "strategy": place.strategy},
                "rows": {"train": job.rows.train.fingerprint(), "select": job.rows.select.fingerprint()},
            }
            facts = run_dir.begin(recipe, out, facts, resume=checkpoint is not None)
            if job.sampled is not None:
                write_table(job.sampled.table.select(["row", "path", "label", "split"]), out / SAMPLED_NAME)
            announce(f"training data: {said(job.rows.report)}")
            if recipe.run.cache:
                announce("the first epoch is slower than the others: it decodes the faces, and keeps them in memory")
        trainer, best = make_trainer(
            recipe, out, place, monitor=job.monitor, mode=job.mode, pretrained=job.pretrained, progress=progress
        )
        with handle_exits(trainer, out):
            trainer.fit(module, faces, ckpt_path=checkpoint, weights_only=True)
            if trainer.is_global_zero:
                score = math.nan if best.best_model_score is None else float(best.best_model_score)
                source = {"source": without_folders(data)} if isinstance(data, str) else {}
                provenance = {
                    job.rows_name: job.rows.report,
                    **{name: facts[name] for name in job.facts},
                    "selected": {"split": job.select, job.monitor.removeprefix("val/"): score},
                    "data": {**source, "fingerprint": manifest.fingerprint()},
                }
                job.write_bundle(run_dir.describe(recipe, provenance, **job.described))
            trainer.strategy.barrier()
    return open_bundle(bundle)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make the folder of a run, keep other processes out of it, and remove what killed ones left."""
    with explained(out, "the folder cannot be made"):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK_NAME, out):
        for folder in (out, out / run_dir.CHECKPOINTS):
            remove_leftovers(folder)
        yield


def without_folders(data: str) -> str:
    """Reduce `kind:path?options` to the kind, the last part of the path and the options: no folder of the user's."""
    kind, _, rest = data.partition(":")
    path, question, options = rest.partition("?")
    return f"{kind}:{Path(path).name}{question}{options}"
