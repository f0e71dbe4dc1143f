"""Lightning's trainer with what every run here has: curves, checkpoints, endings, and any number of devices."""

import ctypes
import logging
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only

from motivnet.data.loader import ResumableLoader
from motivnet.errors import ConfigError
from motivnet.training.callbacks.csv_logger import Curve
from motivnet.training.callbacks.data_time import Waiting
from motivnet.training.callbacks.diagnostics import Diagnostics
from motivnet.training.callbacks.ema import WarmedAverage
from motivnet.training.callbacks.stopping import StopAtNan, StopEarly
from motivnet.training.run_dir import BEST, LAST
from motivnet.training.settings import Place, Recipe, RunConfig
from motivnet.training.speed import FastAttention


class HasRun(Protocol):
    """A recipe, of whatever kind."""

    @property
    def run(self) -> RunConfig:
        """How long, and on what terms."""
        ...


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written beside their place and moved there when they are whole.

    Lightning's own are first made in memory, and moved from another file system in pieces.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint, completely or not at all.

        Raises:
            OSError: if the disk is full.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            with unfinished.open("wb") as file:
                _save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:  # which does not say where
            raise OSError(error.errno, error.strerror, str(path)) from None
        finally:
            unfinished.unlink(missing_ok=True)


def _save(checkpoint: dict[str, Any], file: Any) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # What a file object raises comes out of torch's writer as the cause of something else.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None


class BestCheckpoint(ModelCheckpoint):
    """The checkpoint of the best epoch, whose score is still known after the run's folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state back, its paths being below where the folder is now."""
        there, here = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(path: str) -> str:
            return here + path.removeprefix(there) if path.startswith(there) else path

        super().load_state_dict(
            state_dict
            | {"dirpath": self.dirpath, "best_k_models": {moved(k): v for k, v in state_dict["best_k_models"].items()}}
            | {name: moved(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        )


class LastCheckpoint(Checkpoint):
    """A checkpoint to go on from: after every epoch, and within one after every so many minutes.

    Only between optimizer steps, since half-gathered gradients are not saved. It must come after all other callbacks,
    whose state it saves.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        """Prepare the callback.

        Args:
            path: of the checkpoint.
            minutes: between two of them within an epoch.
        """
        self._path, self._seconds = path, 60 * minutes
        self._saved_at, self._step, self._batches = 0.0, 0, 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock, and in an epoch that goes on, begin after the batches that it has had."""
        self._saved_at, self._step = time.monotonic(), trainer.global_step
        # Lightning would keep a loader's place as well, but does not give it back once the schedule asked for the
        # number of steps.
        if self._batches:
            cast(ResumableLoader, trainer.train_dataloader).skip(self._batches)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if it is time. After the last batch of an epoch, that of the epoch is about to come."""
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        self._batches = (batch_idx + 1) % int(trainer.num_training_batches)
        if not stepped or not self._batches:
            return
        due = time.monotonic() - self._saved_at >= self._seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save after validation, when the best checkpoint and early stopping know of it."""
        self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Give how many batches of the epoch are behind; of a whole epoch, none of the next."""
        return {"batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self._batches = state_dict["batches"]

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self._path)
        self._saved_at = time.monotonic()


def make_trainer(
    recipe: HasRun,
    out: Path,
    place: Place,
    *,
    monitor: str = "val/score",
    mode: Literal["min", "max"] = "max",
    clip_norm: float = 0.0,
    pretrained: bool = False,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
) -> tuple[lightning.Trainer, ModelCheckpoint]:
    """Make the trainer of a run. Train with it inside `stopping.clear_endings`.

    Args:
        recipe: of any kind, with a `run`.
        out: folder of the run, laid out as `folder` says.
        place: devices, checked.
        monitor: what the best epoch is chosen by, as the module logs it.
        mode: whether the lowest or the highest is best.
        clip_norm: largest norm of all gradients together; 0 does not clip.
        pretrained: whether the encoder starts from weights that know something.
        progress: show a progress bar.
        callbacks: what else is called, before checkpoints are saved.

    Returns:
        The trainer, and what knows the best checkpoint and its score.
    """
    run, curve = recipe.run, Curve(out)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its news, and advertisements
    keep_freed_memory()
    best = BestCheckpoint(
        dirpath=(out / BEST).parent,
        filename=BEST.stem,
        monitor=monitor,
        mode=mode,
        enable_version_counter=False,
    )
    # Of those that save, Lightning calls all after the others, in this order.
    called: list[Callback] = [curve, StopAtNan(curve, out), LearningRateMonitor("step")]
    called += [FastAttention(), Waiting(), Diagnostics(out, pretrained=pretrained), *callbacks]
    if run.ema_decay:
        called.insert(0, WarmedAverage(run.ema_decay))
    if run.patience is not None:
        called.append(StopEarly(monitor, mode=mode, patience=run.patience))
    if progress:
        called.append(RichProgressBar())
    trainer = lightning.Trainer(
        accelerator=place.accelerator,
        devices=place.devices,
        num_nodes=place.nodes,
        strategy=_strategy(place),
        plugins=_plugins(),
        max_epochs=run.epochs,
        accumulate_grad_batches=run.accumulate,
        gradient_clip_val=clip_norm or None,
        precision=run.precision,
        callbacks=[*called, best, LastCheckpoint(out / LAST, run.checkpoint_minutes)],
        logger=TensorBoardLogger(out, name="tensorboard"),
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic=True,
    )
    # Deterministic mode would also fill fresh memory with NaN: slow, and a guard against bugs, not randomness.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    return trainer, best


def _strategy(place: Place) -> Any:
    if place.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=place.world_size, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return "ddp" if place.world_size > 1 else "auto"


def _plugins() -> list[Any]:
    plugins: list[Any] = [WholeCheckpoints()]
    if _launched()[0] == "srun":
        # A job that is queued again goes on with --resume; Lightning's own checkpoint for it would take precedence.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def check_place(place: Place, recipe: HasRun | None = None) -> None:
    """Refuse devices that are not there, and what cannot be done on them.

    Args:
        place: devices.
        recipe: of what, if that is known already.

    Raises:
        ConfigError: saying what there is.
    """
    kind, count = _devices(place)
    if place.devices > count:
        raise ConfigError(f"--devices {place.devices}: there are {count} of kind {kind} on this machine")
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
    if problem:
        raise ConfigError(f"--strategy fsdp {problem}")


def sharding_problem(recipe: HasRun) -> str | None:
    """Say why a recipe's model cannot be shared out (`fsdp`), and what would help; None if it can be."""
    if recipe.run.ema_decay:
        return "keeps no averaged weights. Allowed: --set run.ema_decay=0"
    if recipe.run.precision == "16-mixed":
        return "cannot have run.precision 16-mixed. Allowed: 32-true, bf16-mixed, bf16-true"
    if isinstance(recipe, Recipe) and recipe.model.affect and recipe.loss.affect_weight is None:
        return "learns no weight of valence and arousal. Allowed: --set loss.affect_weight=1"
    return None


def _launched() -> tuple[str, int, int]:
    """Give what started the processes of this run, and how many, in all and on each machine; 0: the program will."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if SLURMEnvironment.detect():
        started = int(os.environ["SLURM_NTASKS"])
        return "srun", started, started // int(os.environ.get("SLURM_NNODES", "1"))
    return "", 0, 0


def _devices(place: Place) -> tuple[str, int]:
    """Give the kind of device that Lightning takes, and how many of it there are."""
    if place.accelerator != "cpu":
        if torch.cuda.is_available():
            return "gpu", torch.cuda.device_count()
        if torch.backends.mps.is_available():
            return "mps", 1
        if place.accelerator == "gpu":
            return "gpu", 0
    return "cpu", os.cpu_count() or 1


def is_first() -> bool:
    """Say whether this is the process that writes and speaks, among those of a run."""
    return rank_zero_only.rank == 0


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step instead of returning it to the system.

    Every activation of a CPU training step is otherwise mapped and faulted in anew, which takes a large part of the
    step. Does nothing where the C library is another.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # names of glibc's malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 64 * 2**20)
        mallopt(mmap_max, 0)
