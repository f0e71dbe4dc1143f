"""Run a recipe: data in, a bundle out. Lightning does all that it can."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning
import pyarrow.parquet as pq
import torch

from motivnet import config
from motivnet.checkpoints.bundle import Bundle, BundleConfig, open_bundle
from motivnet.checkpoints.load import built_without_memory, load_strict
from motivnet.data.loader import BalancedSampler
from motivnet.data.manifest import Manifest
from motivnet.data.sources.named import read_source
from motivnet.errors import CheckpointError, ConfigError, OutputError
from motivnet.models.backbone import keep_depthwise_float32
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.storage import RunFolder, atomic_path, remove_leftovers
from motivnet.training import init_weights
from motivnet.training.callbacks.stopping import handle_exits
from motivnet.training.data_module import FaceData, Rows, Splits, choose_rows
from motivnet.training.freezing import plain_state, set_trained
from motivnet.training.module import Classifier, TrainedModule, check_precision, compile_parts
from motivnet.training.optimizers import parameter_groups
from motivnet.training.recipes import recipe as recipe_named
from motivnet.training.run_dir import (
    BEST,
    BUNDLE_NAME,
    CHECKPOINTS,
    RUN_NAME,
    begin,
    check_folder,
    versions,
    weights_in,
    write_bundle,
)
from motivnet.training.settings import Place, Recipe
from motivnet.training.trainer import AnyRecipe, check_place, is_first, make_trainer

SAMPLED_NAME = "sampled_rows.parquet"


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
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    chosen = config.override(chosen, [f"{name}={json.dumps(value)}" for name, value in (overrides or {}).items()])
    init = Path(init) if init else None

    def prepare(manifest: Manifest, start: bool) -> Job:
        lineage = init_weights.lineage(chosen, init)
        if start:
            init_weights.check(chosen, init)
        elif init:
            then = RunFolder(Path(out), plan_name=RUN_NAME, error=CheckpointError).read_plan()
            if then and then["init"] != lineage:
                raise ConfigError(f"--init {init}: the run started with other weights. Allowed: --resume alone")
        found = rows or choose_rows(chosen, manifest)
        return ClassifierJob(chosen, found, init, lineage, start=start)

    pretrained = bool(init or chosen.backbone.weights)
    return run(chosen, data, Path(out), prepare, place, resume=resume, progress=progress, pretrained=pretrained)


class Job:
    """One kind of training, for `run`.

    Attributes:
        rows: to train and select on.
        data: their loaders.
        rows_name: name of the report on the rows in a bundle's provenance.
        select: the split that selects the best epoch; None if it was held out.
        monitor: logged value that selects the best epoch.
        mode: whether its minimum or maximum is best.
        facts: what else a resumed run should know of its start.
        described: of the bundle, beside the recipe.
    """

    rows: Splits
    data: FaceData
    rows_name: str
    select: str | None
    monitor: str
    mode: Literal["min", "max"]
    facts: Mapping[str, Any] = {}
    described: Mapping[str, Any]

    def build(self) -> TrainedModule:
        """Build the module with its initial weights."""
        raise NotImplementedError

    def write_extras(self, out: Path) -> None:
        """Write more files of the run before it starts."""

    def write_bundle(self, out: Path, bundle_config: BundleConfig) -> None:
        """Write the bundle from the checkpoint of the best epoch."""
        raise NotImplementedError


class ClassifierJob(Job):
    """Training of a classifier."""

    rows: Rows
    rows_name, monitor, mode = "training_rows", "val/score", "max"

    def __init__(self, recipe: Recipe, rows: Rows, init: Path | None, lineage: Any, *, start: bool) -> None:
        """Set recipe, rows and initial weights; `start` is False for a run that resumes from a checkpoint."""
        sampling, run = recipe.sampling, recipe.run
        self.rows, self.select, self.facts = rows, recipe.split.select, {"init": lineage}
        self.described = {"summary": f"trained with the recipe {recipe.name}", "labels": rows.train.labels}
        self._recipe, self._init, self._start = recipe, init, start
        self.data = FaceData(
            recipe.preprocessing,
            run,
            rows.train,
            rows.select,
            sampler=BalancedSampler(rows.train, sampling.seed) if sampling.kind == "balanced" else None,
            # Without gradients, a device has room for more.
            select_batch_size=4 * run.batch_size,
        )

    def build(self) -> Classifier:
        """Build the classifier."""
        model = prepare_model(self._recipe, self._init, start=self._start)
        return Classifier(model, self._recipe, self.rows.log_prior_C, self.rows.class_weights_C)

    def write_extras(self, out: Path) -> None:
        """Write the rows that uniform sampling drew."""
        if self._recipe.sampling.kind == "uniform":
            with atomic_path(out / SAMPLED_NAME) as temporary:
                pq.write_table(self.rows.train.table.select(["row", "path", "label", "split"]), temporary)

    def write_bundle(self, out: Path, bundle_config: BundleConfig) -> None:
        """Write the (averaged) weights of the best epoch, rounded to half precision to halve their size."""
        checkpoint, recipe = out / BEST, self._recipe
        with built_without_memory():
            trained, plain = build_model(recipe.model), build_model(recipe.model)
            set_trained(trained, dataclasses.replace(recipe.backbone, recompute=False))
        load_strict(trained, weights_in(checkpoint), checkpoint, assign=True)
        load_strict(plain, plain_state(trained), checkpoint, assign=True)
        write_bundle(out / BUNDLE_NAME, bundle_config, plain.half(), checkpoint)


def prepare_model(recipe: Recipe, init: Path | None, *, start: bool) -> MotivNet:
    """Build the model, with its initial weights if the run starts, and freeze what the recipe does not train."""
    model = build_model(recipe.model)
    check_precision(model, recipe.run.precision)
    if start:
        init_weights.start(model, recipe, init)
    keep_depthwise_float32(model)
    set_trained(model, recipe.backbone)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameter_groups(model, recipe)  # refuses now what it would refuse once the run has started
    if recipe.run.compile:
        compile_parts(model)
    return model


def run(
    recipe: AnyRecipe,
    data: str | Manifest,
    out: Path,
    prepare: Callable[[Manifest, bool], Job],
    place: Place | None,
    *,
    resume: bool,
    progress: bool,
    pretrained: bool = False,
) -> Bundle:
    """Run a recipe of any kind in a folder; see `fit`.

    Args:
        recipe: of training or pre-training.
        data: as for `fit`.
        out: folder of the run.
        prepare: makes the job from the data, and whether the run starts or resumes from a checkpoint.
        place: devices; None takes one.
        resume: as for `fit`.
        progress: show a progress bar.
        pretrained: whether the encoder starts from pretrained weights.
    """
    place, first, facts = place or Place(), is_first(), {}
    check_place(place, recipe)
    checkpoint = check_folder(recipe, out, resume=resume, first=first)
    if resume and (out / BUNDLE_NAME).is_dir():
        return open_bundle(out / BUNDLE_NAME)
    manifest = read_source(data) if isinstance(data, str) else data
    source = {"source": without_folders(data)} if isinstance(data, str) else {}
    job = prepare(manifest, checkpoint is None)
    job.data.check(place.world_size)
    lightning.seed_everything(recipe.run.seed, verbose=False)
    module = job.build()
    with contextlib.ExitStack() as stack:
        if first:
            stack.enter_context(_locked(out))
            rows = {"train": job.rows.train.fingerprint(), "select": job.rows.select.fingerprint()}
            where = {"world_size": place.world_size, "strategy": place.strategy}
            facts = begin(recipe, out, {**job.facts, "place": where, "rows": rows}, resume=checkpoint is not None)
            job.write_extras(out)
            sys.stderr.write(f"rows: {job.rows.report}\n")
        trainer, best = make_trainer(
            recipe, out, place, monitor=job.monitor, mode=job.mode, pretrained=pretrained, progress=progress
        )
        with handle_exits(trainer, out):
            trainer.fit(module, job.data, ckpt_path=checkpoint, weights_only=True)
            if trainer.is_global_zero:
                score = math.nan if best.best_model_score is None else float(best.best_model_score)
                provenance = {
                    "recipe": config.to_plain(recipe),
                    job.rows_name: job.rows.report,
                    "versions": versions(),
                    **{name: facts[name] for name in job.facts},
                    "selected": {"split": job.select, job.monitor.removeprefix("val/"): score},
                    "data": {**source, "fingerprint": manifest.fingerprint()},
                }
                job.write_bundle(out, _bundle_config(recipe, job, provenance))
            trainer.strategy.barrier()
    return open_bundle(out / BUNDLE_NAME)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make the folder of a run, keep other processes out of it, and remove what killed ones left."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: the folder cannot be made: {error.strerror}") from None
    with RunFolder(out).lock():
        for folder in (out, out / CHECKPOINTS):
            remove_leftovers(folder)
        yield


def _bundle_config(recipe: AnyRecipe, job: Job, provenance: dict[str, Any]) -> BundleConfig:
    return BundleConfig(
        name=recipe.name,
        licence="not stated: depends on the training data",
        model=recipe.model,
        preprocessing=recipe.preprocessing,
        provenance=provenance,
        **job.described,
    )


def without_folders(data: str) -> str:
    """Reduce `kind:path?options` to the kind, the last part of the path and the options: no folder of the user's."""
    kind, _, rest = data.partition(":")
    path, question, options = rest.partition("?")
    return f"{kind}:{Path(path).name}{question}{options}"
