"""Lightning's trainer as every run uses it: curves, checkpoints, early exits, any number of devices."""

import logging
import os
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only

from motivnet.data.loader import ResumableLoader
from motivnet.errors import ConfigError, require
from motivnet.machine import KEEP_STEPS, keep_freed_memory
from motivnet.models.backbone import write_out_short_attention
from motivnet.storage import atomic_file
from motivnet.training.callbacks.csv_logger import Curve
from motivnet.training.callbacks.diagnostics import Diagnostics
from motivnet.training.callbacks.stopping import StopAtNan, StopEarly
from motivnet.training.mae.pretrain_recipes import PretrainRecipe
from motivnet.training.optimizers import WarmedAverage
from motivnet.training.run_dir import BEST, LAST, disk_advice
from motivnet.training.settings import Logger, Place, Recipe

AnyRecipe = Recipe | PretrainRecipe


class FastAttention(Callback):
    """Choose the faster of torch's two implementations of attention, once the device is known."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose."""
        if trainer.strategy.root_device.type == "cpu" and str(trainer.precision).startswith("bf16"):
            write_out_short_attention(pl_module)


class AtomicCheckpoints(TorchCheckpointIO):
    """Write checkpoints atomically; Lightning builds them in memory, and moves them between file systems in pieces."""

    def __init__(self, out: Path) -> None:
        """Set the folder of the run.

        Args:
            out: the folder.
        """
        super().__init__()
        self._out = out

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; OutputError if the disk is full."""
        with atomic_file(Path(path), parents=True, advice=disk_advice(self._out)) as file:
            _save(checkpoint, file)


def _save(checkpoint: dict[str, Any], file: Any) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # torch's writer wraps what the file object raised.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None


class BestCheckpoint(ModelCheckpoint):
    """The checkpoint of the best epoch, which keeps its score when the folder of the run is moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, with paths below the present folder."""
        there, here = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(path: str) -> str:
            return here + path.removeprefix(there) if path.startswith(there) else path

        super().load_state_dict(
            state_dict
            | {"dirpath": self.dirpath, "best_k_models": {moved(k): v for k, v in state_dict["best_k_models"].items()}}
            | {name: moved(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        )


class LastCheckpoint(Checkpoint):
    """A checkpoint to resume from, after every epoch and every few minutes.

    Only between optimizer steps, since accumulated gradients are not saved. It must come after all other callbacks,
    whose state it saves.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        """Set place and interval.

        Args:
            path: of the checkpoint.
            minutes: between two checkpoints within an epoch.
        """
        self._path, self._seconds = path, 60 * minutes
        self._saved_at, self._step, self._batches = 0.0, 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and skip the batches that a resumed epoch has had."""
        self._saved_at, self._step = time.monotonic(), trainer.global_step
        # Lightning would save the position of a loader as well, but does not restore it once the schedule has asked for
        # the number of steps.
        if self._batches:
            cast(ResumableLoader, trainer.train_dataloader).skip(self._batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, except after the last batch, since the epoch is about to be saved."""
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        self._batches = (batch_idx + 1) % int(trainer.num_training_batches)
        if not stepped or not self._batches:
            return
        due = time.monotonic() - self._saved_at >= self._seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after validation, when the best checkpoint and early stopping have seen its score."""
        self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches of the epoch so far; 0 after a whole epoch."""
        return {"batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self._batches = state_dict["batches"]

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._path)
        self._saved_at = time.monotonic()


def make_trainer(
    recipe: AnyRecipe,
    out: Path,
    place: Place,
    *,
    monitor: str = "val/score",
    mode: Literal["min", "max"] = "max",
    pretrained: bool = False,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
) -> tuple[Trainer, ModelCheckpoint]:
    """Make the trainer of a run. Fit inside `stopping.handle_exits`.

    Args:
        recipe: of training or pre-training.
        out: folder of the run, see `run_dir`.
        place: devices, checked.
        monitor: logged value that selects the best epoch.
        mode: whether its minimum or maximum is best.
        pretrained: whether the encoder starts from pretrained weights.
        progress: show a progress bar.
        callbacks: more callbacks, called before checkpoints are saved.

    Returns:
        The trainer, and the callback that knows the best checkpoint and its score.
    """
    run, curves, logger = recipe.run, Curve(out), _logger(recipe.run.logger, out)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no news, no tips
    keep_freed_memory(KEEP_STEPS)
    best = BestCheckpoint(
        dirpath=(out / BEST).parent, filename=BEST.stem, monitor=monitor, mode=mode, enable_version_counter=False
    )
    # Lightning calls those that save checkpoints after the others, in this order.
    called: list[Callback] = [curves, StopAtNan(curves, out), *([LearningRateMonitor("step")] if logger else [])]
    called += [FastAttention(), Diagnostics(out, curves, pretrained=pretrained), *callbacks]
    if run.ema_decay:
        called.insert(0, WarmedAverage(run.ema_decay))
    if run.patience is not None:
        called.append(StopEarly(monitor, mode=mode, patience=run.patience))
    if progress:
        called.append(RichProgressBar())
    plugins: list[Any] = [AtomicCheckpoints(out)]
    if _launched()[0] == "srun":
        # A requeued job goes on with --resume; Lightning's own checkpoint for that would take precedence.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    strategy: Any = "ddp" if place.world_size > 1 else "auto"
    if place.strategy == "fsdp":
        strategy = ModelParallelStrategy(
            data_parallel_size=place.world_size, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    trainer = Trainer(
        accelerator=place.accelerator,
        devices=place.devices,
        num_nodes=place.nodes,
        strategy=strategy,
        plugins=plugins,
        max_epochs=run.epochs,
        accumulate_grad_batches=run.accumulate,
        gradient_clip_val=recipe.optimizer.clip_norm or None,
        precision=run.precision,
        callbacks=[*called, best, LastCheckpoint(out / LAST, run.checkpoint_minutes)],
        logger=logger,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic=True,
    )
    # Deterministic mode would also fill new memory with NaN: slow, and meant to find bugs, not for reproducibility.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    return trainer, best


def _logger(name: Logger, out: Path) -> Any:
    """Return Lightning's logger of a name; False for none. Runs are named for their folder."""
    if name == "mlflow":
        return MLFlowLogger(experiment_name="motivnet", run_name=out.name, save_dir=str(out / "mlflow"))
    if name == "wandb":
        return WandbLogger(name=out.name, save_dir=out, project=os.environ.get("WANDB_PROJECT", "motivnet"))
    return name == "tensorboard" and TensorBoardLogger(out, name="tensorboard")


def check_place(place: Place, recipe: AnyRecipe | None = None) -> None:
    """Refuse devices that are not available, recipes that cannot be trained on them, and loggers not installed.

    Args:
        place: devices.
        recipe: if it is known already.

    Raises:
        ConfigError: naming what is available.
    """
    package = recipe.run.logger if recipe else "none"
    if package != "none" and find_spec(package) is None:
        raise ConfigError(f"run.logger={package}: not installed. Allowed: pip install {package}, or run.logger=none")
    kind, count = _devices(place)
    require(place.devices <= count, f"--devices {place.devices}: there are {count} of kind {kind} on this machine")
    launcher, started, here = _launched()
    if (started, here) not in ((0, 0), (place.world_size, place.devices)):
        raise ConfigError(
            f"{launcher} started {started} processes, {here} on each machine; --devices {place.devices} and --nodes "
            f"{place.nodes} are {place.world_size}. Allowed: --devices as processes on each machine, --nodes as "
            "machines"
        )
    if place.nodes > 1 and not started:
        raise ConfigError(f"--nodes {place.nodes}: start the program on every machine, with torchrun or srun")
    problem = sharding_problem(recipe) if recipe and place.strategy == "fsdp" else None
    require(not problem, f"--strategy fsdp {problem}")


def sharding_problem(recipe: AnyRecipe) -> str | None:
    """Return why a recipe's model cannot be sharded (`fsdp`), and what would help; None if it can."""
    if recipe.run.ema_decay:
        return "keeps no averaged weights. Allowed: --set run.ema_decay=0"
    if recipe.run.precision == "16-mixed":
        return "cannot have run.precision 16-mixed. Allowed: 32-true, bf16-mixed, bf16-true"
    if isinstance(recipe, Recipe) and recipe.model.affect and recipe.loss.affect_weight is None:
        return "cannot learn the weight of valence and arousal. Allowed: --set loss.affect_weight=1"
    return None


def _launched() -> tuple[str, int, int]:
    """Return the launcher of this run's processes, and their number, in total and per machine; 0 without a launcher."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if SLURMEnvironment.detect():
        started = int(os.environ["SLURM_NTASKS"])
        return "srun", started, started // int(os.environ.get("SLURM_NNODES", "1"))
    return "", 0, 0


def _devices(place: Place) -> tuple[str, int]:
    """Return the kind of device that Lightning chooses, and how many there are."""
    if place.accelerator != "cpu":
        if torch.cuda.is_available():
            return "gpu", torch.cuda.device_count()
        if torch.backends.mps.is_available():
            return "mps", 1
        if place.accelerator == "gpu":
            return "gpu", 0
    return "cpu", os.cpu_count() or 1


def is_first() -> bool:
    """Return whether this is the process that writes files and messages, of all processes of a run."""
    return rank_zero_only.rank == 0
