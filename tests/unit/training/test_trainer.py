"""Devices that are not there, and checkpoints that are whole."""

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from motivnet import config
from motivnet.errors import ConfigError, OutputError
from motivnet.training import trainer as trainer_module
from motivnet.training.settings import Place, Recipe
from motivnet.training.trainer import AtomicCheckpoints, check_place, make_trainer


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    check_place(Place(devices=2, accelerator="cpu"))
    with pytest.raises(ConfigError, match="--devices 3: there are 2 of kind cpu on this machine"):
        check_place(Place(devices=3, accelerator="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for accelerator in ("gpu", "auto"):
        check_place(Place(devices=3, accelerator=accelerator))
        with pytest.raises(ConfigError, match="--devices 4: there are 3 of kind gpu"):
            check_place(Place(devices=4, accelerator=accelerator))


def test_no_gpu_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--devices 1: there are 0 of kind gpu"):
        check_place(Place(accelerator="gpu"))
    check_place(Place())


def test_several_machines_need_somebody_to_start_them(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(nodes=2, accelerator="cpu")
    with pytest.raises(ConfigError, match="--nodes 2: start the program on every machine, with torchrun or srun"):
        check_place(place)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    check_place(place)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # both on this machine
    with pytest.raises(ConfigError, match="torchrun started 2 processes, 2 on each machine"):
        check_place(place)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="started 4 processes, 2 on each machine; --devices 1 and --nodes 2 are 2"):
        check_place(place)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_NNODES", "2")
    check_place(place)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    with pytest.raises(ConfigError, match="srun started 1 processes, 0 on each machine; --devices 1 and --nodes 2"):
        check_place(place)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")  # a shell within a job starts nothing
    check_place(Place(accelerator="cpu"))


def test_what_sharding_cannot_do(tiny: Callable[..., Recipe]) -> None:
    place = Place(strategy="fsdp", accelerator="cpu")
    check_place(place, tiny(ema_decay=0.0))
    with pytest.raises(ConfigError, match=r"keeps no averaged weights. Allowed: --set run.ema_decay=0"):
        check_place(place, tiny())
    with pytest.raises(ConfigError, match=r"run\.precision 16-mixed\. Allowed: 32-true, bf16-mixed, bf16-true"):
        check_place(place, tiny(ema_decay=0.0, precision="16-mixed"))
    recipe = tiny(ema_decay=0.0)
    both = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, affect=True))
    with pytest.raises(ConfigError, match=r"Allowed: --set loss\.affect_weight=1"):
        check_place(place, both)


def test_a_checkpoint_is_there_completely_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, io = tmp_path / "checkpoints/last.ckpt", AtomicCheckpoints(tmp_path)
    io.save_checkpoint({"step": 1}, path)

    def half(content: Any, file: Any) -> None:
        file.write(b"PK\3\4")
        # What torch makes of an error under its writer.
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 4") from error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(OutputError, match=r"last\.ckpt: cannot be written: No space left on device; .*make room"):
            io.save_checkpoint({"step": 2}, path)
        patch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
        with pytest.raises(RuntimeError, match="a bug"):
            io.save_checkpoint({"step": 2}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert io.load_checkpoint(path, weights_only=True) == {"step": 1}
    io.save_checkpoint({"step": 2}, path)
    assert io.load_checkpoint(path, weights_only=True) == {"step": 2}


@pytest.mark.filterwarnings("ignore")
def test_settings_reach_lightning(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny(accumulate=3, precision="bf16-mixed", epochs=5, patience=2)
    recipe = config.override(recipe, ["optimizer.clip_norm=0.5"])
    trainer, best = make_trainer(
        recipe, tmp_path, Place(accelerator="cpu"), monitor="val/loss", mode="min", progress=False
    )
    assert (trainer.max_epochs, trainer.accumulate_grad_batches, trainer.gradient_clip_val) == (5, 3, 0.5)
    assert (trainer.precision, trainer.world_size, best.monitor, best.mode) == ("bf16-mixed", 1, "val/loss", "min")
    kinds = [type(callback).__name__ for callback in trainer.callbacks]
    # The average takes part in what is checked and saved; what saves comes last, and the checkpoint to go on from
    # knows of the best one.
    assert kinds[0] == "WarmedAverage"
    assert kinds.index("Curve") < kinds.index("StopAtNan") < kinds.index("StopEarly")
    assert kinds[-2:] == ["BestCheckpoint", "LastCheckpoint"]
    assert trainer_module.is_first()
    assert list(tmp_path.iterdir()) == []
