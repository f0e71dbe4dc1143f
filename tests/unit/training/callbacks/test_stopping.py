"""How runs end before their end, and that they can go on."""

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from motivnet.data.manifest import Manifest
from motivnet.errors import OutputError, TrainingError
from motivnet.training import run_dir
from motivnet.training import trainer as trainer_module
from motivnet.training.callbacks.csv_logger import CsvFile
from motivnet.training.fit import fit
from motivnet.training.module import Classifier
from motivnet.training.run_dir import LAST
from motivnet.training.settings import Recipe

EVERY_STEP = 1e-9  # minutes


def steps(out: Path) -> list[int]:
    return [int(line.partition(",")[0]) for line in (out / "metrics.csv").read_text().splitlines()[1:]]


def weights(out: Path) -> bytes:
    return (out / "bundle/model.safetensors").read_bytes()


def saved_step(out: Path) -> int:
    return torch.load(out / LAST, weights_only=True)["global_step"]


def break_at(monkeypatch: pytest.MonkeyPatch, step: int, change: Callable[[Classifier, Any], Any]) -> None:
    """Have the training step of a number give something else."""
    own = Classifier.training_step

    def broken(self: Classifier, batch: Any, batch_idx: int) -> Any:
        loss = own(self, batch, batch_idx)
        return change(self, loss) if self.trainer.global_step == step else loss

    monkeypatch.setattr(Classifier, "training_step", broken)


def test_a_loss_that_is_no_number_ends_the_run(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(checkpoint_minutes=EVERY_STEP)
    with monkeypatch.context() as patch:
        break_at(patch, 5, lambda module, loss: loss * float("nan"))
        with pytest.raises(TrainingError) as raised:
            fit(recipe, faces, tmp_path, progress=False)
    assert "the loss is nan at step 6 (epoch 0), learning rates 0.000" in str(raised.value)
    assert f"{tmp_path / LAST} is from before" in str(raised.value)
    assert saved_step(tmp_path) == 5
    fit(recipe, faces, tmp_path, resume=True, progress=False)
    assert steps(tmp_path) == list(range(1, 17))


def test_weights_that_are_no_numbers_are_not_saved(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loss of the step is still one: it is from before the weights changed.
    def poison(module: Classifier, loss: torch.Tensor) -> torch.Tensor:
        parameter = next(module.model.head.parameters())
        parameter.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    break_at(monkeypatch, 4, poison)
    with pytest.raises(TrainingError, match=r"weights are not finite at step 5 \(epoch 0\)"):
        fit(tiny(checkpoint_minutes=EVERY_STEP), faces, tmp_path, progress=False)
    assert saved_step(tmp_path) == 4


class FullDisk(io.FileIO):
    """A file that takes a little, and then no more."""

    room = 10_000

    def write(self, data: Any) -> int:
        self.room -= len(memoryview(data).cast("B"))
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_leaves_the_checkpoint_of_before(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, save = tiny(checkpoint_minutes=EVERY_STEP), trainer_module._save

    def full(checkpoint: dict[str, Any], file: Any) -> None:
        save(checkpoint, FullDisk(file.fileno(), "wb", closefd=False) if checkpoint["global_step"] == 4 else file)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "_save", full)
        with pytest.raises(
            OutputError,
            match=r"last\.ckpt: cannot be written: No space left on device; .*last\.ckpt is whole: make room, and",
        ):
            fit(recipe, faces, tmp_path, progress=False)
    assert saved_step(tmp_path) == 3
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    fit(recipe, faces, tmp_path, resume=True, progress=False)
    assert steps(tmp_path) == list(range(1, 17))


def test_a_full_disk_under_the_curve(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = CsvFile.write

    def full(self: CsvFile, values: list[Any]) -> None:
        if values[0] == 3:
            raise OSError(errno.ENOSPC, "No space left on device", "metrics.csv")
        write(self, values)

    monkeypatch.setattr(CsvFile, "write", full)
    with pytest.raises(OutputError, match=r"metrics.csv: cannot be written: No space .*; there is no checkpoint yet"):
        fit(tiny(), faces, tmp_path, progress=False)


def test_a_full_disk_under_the_bundle(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    recipe = tiny(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(run_dir, "write_weights", full)
        with pytest.raises(OutputError, match=r"bundle: cannot be written: .*No space left .*; .*best\.ckpt is whole"):
            fit(recipe, faces, tmp_path, progress=False)
    assert not (tmp_path / "bundle").exists()
    assert fit(recipe, faces, tmp_path, resume=True, progress=False).weights.is_file()


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(module: Classifier, loss: torch.Tensor) -> torch.Tensor:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    break_at(monkeypatch, 1, lost)
    with pytest.raises(ConnectionResetError):
        fit(tiny(), faces, tmp_path, progress=False)


def test_ctrl_c_is_passed_on_and_the_run_can_go_on(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(checkpoint_minutes=EVERY_STEP)

    def interrupt(module: Classifier, loss: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        break_at(patch, 10, interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, faces, tmp_path, progress=False)
    assert saved_step(tmp_path) == 10
    fit(recipe, faces, tmp_path, resume=True, progress=False)
    assert steps(tmp_path) == list(range(1, 17))


def scores_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the second epoch score best."""
    monkeypatch.setattr(
        Classifier,
        "on_validation_epoch_end",
        lambda self: self.log("val/score", [0.4, 0.5, 0.3, 0.2, 0.1, 0.6, 0.7][self.current_epoch]),
    )


def test_early_stopping_counts_on_where_a_run_goes_on(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_fall(monkeypatch)
    recipe = tiny(epochs=7, patience=3)
    bundle = fit(recipe, faces, tmp_path / "whole", progress=False)
    assert bundle.config.provenance["selected"]["score"] == pytest.approx(0.5)
    assert max(steps(tmp_path / "whole")) == 5 * 8

    def fail(module: Classifier, loss: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the power failed")

    with monkeypatch.context() as patch:
        break_at(patch, 3 * 8 + 2, fail)
        with pytest.raises(RuntimeError, match="the power failed"):
            fit(recipe, faces, tmp_path / "cut", progress=False)
    with monkeypatch.context() as patch:  # all is trained, the bundle is not written
        patch.setattr("motivnet.training.fit.write_classifier", lambda *_: fail(None, None))  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="the power failed"):
            fit(recipe, faces, tmp_path / "cut", resume=True, progress=False)
    fit(recipe, faces, tmp_path / "cut", resume=True, progress=False)
    assert (tmp_path / "cut/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_moved_folder_still_knows_its_best_epoch(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_fall(monkeypatch)

    def fail(module: Classifier, loss: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the power failed")

    with monkeypatch.context() as patch:
        break_at(patch, 2 * 8 + 1, fail)
        with pytest.raises(RuntimeError, match="the power failed"):
            fit(tiny(epochs=4), faces, tmp_path / "before", progress=False)
    (tmp_path / "before").rename(tmp_path / "after")
    bundle = fit(tiny(epochs=4), faces, tmp_path / "after", resume=True, progress=False)
    assert bundle.config.provenance["selected"]["score"] == pytest.approx(0.5)
    assert torch.load(tmp_path / "after/checkpoints/best.ckpt", weights_only=True)["epoch"] == 1
    assert not (tmp_path / "before").exists()
