"""Every warning is provoked in a real run of a tiny model; a healthy run gives none."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning", reason="the extra `train` is not installed")

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from motivnet.data.augment import NO_CHANGE
from motivnet.data.loader import Batch
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import build_model
from motivnet.training.callbacks.csv_logger import Curve
from motivnet.training.callbacks.diagnostics import WARNINGS_NAME, Diagnostics, DiagnosticsConfig
from motivnet.training.callbacks.stopping import handle_exits
from motivnet.training.module import Classifier
from motivnet.training.recipes import mini_fer2013
from motivnet.training.settings import LossConfig, OptimizerConfig, Recipe

MODEL = ModelConfig(
    backbone="sapiens",
    image_size=(16, 16),
    in_chans=1,
    vit=VitConfig(embed_dim=16, depth=1, num_heads=2, patch_size=8, patch_padding=0),
    head=HeadConfig(dim=16, num_heads=2, ff_dim=16, dropout=0.0),
)
USUAL = DiagnosticsConfig()


def read_warnings(out: Path) -> list[dict[str, Any]]:
    file = out / WARNINGS_NAME
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def make_recipe(lr: float) -> Recipe:
    return dataclasses.replace(
        mini_fer2013(),
        model=MODEL,
        augment=NO_CHANGE,
        loss=LossConfig(label_smoothing=0.1),
        optimizer=OptimizerConfig(backbone_lr=lr, head_lr=lr, warmup=0.0, schedule="constant"),
    )


def draw(count: int, *, noise: float = 0.0, seed: int = 0, labels: Sequence[int] = range(7), size: int = 28) -> Any:
    """Draw batches of pictures whose brightness by rows tells their label."""
    generator = torch.Generator().manual_seed(seed)
    patterns_CHW = torch.randn(7, 1, 16, 16, generator=torch.Generator().manual_seed(99))
    batches = []
    for _ in range(count):
        label_B = torch.tensor(labels)[torch.arange(size) % len(labels)]
        pixels = patterns_CHW[label_B] + noise * torch.randn(size, 1, 16, 16, generator=generator)
        batches.append(Batch(pixels, label_B, torch.zeros(size, 7), torch.full((size, 2), torch.nan)))
    return batches


def run(
    out: Path,
    *,
    train: Sequence[Batch],
    select: Sequence[Batch] | None = None,
    lr: float = 3e-4,
    epochs: int = 1,
    config: DiagnosticsConfig = USUAL,
    change: Callable[[Classifier], object] = lambda _: None,
    watch: Sequence[Callable[[Curve], Callback]] = (),
    callbacks: Sequence[Callback] = (),
    resume: Path | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Train for real, with more watchers of the same curves; return the warnings."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    module = Classifier(build_model(MODEL), make_recipe(lr), torch.zeros(7))
    change(module)
    curves = Curve(out)
    watchers = [make(curves) for make in watch]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[curves, Diagnostics(out, curves, config=config), *watchers, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )

    def load(batches: Sequence[Batch]) -> DataLoader[Any]:
        return DataLoader(batches, batch_size=None)  # pyright: ignore[reportArgumentType]

    with handle_exits(trainer, out):
        trainer.fit(module, load(train), load(select or train), ckpt_path=resume, weights_only=True)
    return read_warnings(out)


def kinds(warnings: list[dict[str, Any]]) -> set[str]:
    return {warning["kind"] for warning in warnings}


def test_a_healthy_run_gives_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, select = draw(12, noise=1.0), draw(4, noise=1.0, seed=1)
    assert run(tmp_path, train=train, select=select, lr=1e-3, epochs=4, config=DiagnosticsConfig(every=1)) == []
    assert not (tmp_path / WARNINGS_NAME).exists()
    assert "warning" not in capsys.readouterr().err


def test_an_encoder_that_converges_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (warning,) = run(tmp_path, train=draw(12), select=draw(1), lr=2e-2, epochs=5)
    assert warning["kind"] == "encoder converges early"
    assert (warning["epoch"], warning["step"]) == (3, 48)
    assert "its learning rate, 2.0e-02, is probably too high" in warning["message"]
    assert "optimizer.backbone_lr" in warning["message"]
    assert f"warning: step 48: encoder converges early: {warning['message']}\n" == capsys.readouterr().err


def test_an_encoder_that_hardly_moves_did_not_converge(tmp_path: Path) -> None:
    def slow(module: Classifier) -> None:
        optimizer = dataclasses.replace(module.recipe.optimizer, backbone_lr=1e-7)
        module.recipe = dataclasses.replace(module.recipe, optimizer=optimizer)

    # It is the change of the weights that tells.
    class Strict(Diagnostics):
        """Warns whatever the change."""

    (tmp_path / "strict").mkdir()

    def strict(curves: Curve) -> Callback:
        return Strict(tmp_path / "strict", curves, config=dataclasses.replace(USUAL, fast_change=0.0))

    assert run(tmp_path, train=draw(16), select=draw(1), lr=2e-2, epochs=4, change=slow, watch=[strict]) == []
    assert kinds(read_warnings(tmp_path / "strict")) == {"encoder converges early"}


def test_from_random_weights_every_loss_falls_fast(tmp_path: Path) -> None:
    class Untaught(Diagnostics):
        """Beside the one that warns in the same run."""

    (tmp_path / "untaught").mkdir()

    def untaught(curves: Curve) -> Callback:
        return Untaught(tmp_path / "untaught", curves, pretrained=False, config=USUAL)

    warnings = run(tmp_path, train=draw(12), select=draw(1), lr=2e-2, epochs=5, watch=[untaught])
    assert kinds(warnings) == {"encoder converges early"}
    assert read_warnings(tmp_path / "untaught") == []


def test_a_class_that_is_never_recognised(tmp_path: Path) -> None:
    train = draw(4, labels=[0, 1, 2, 3, 4, 6])
    warnings = run(tmp_path, train=train, select=draw(1), epochs=4, lr=1e-3)
    assert kinds(warnings) == {"class not recognised"}
    told = {warning["message"].split(" was ")[0]: warning for warning in warnings}
    missing = told["the recall of disgust"]
    assert (missing["epoch"], "in 3 validations in a row, and is 0.0%" in missing["message"]) == (2, True)
    assert "sampling.kind=balanced" in missing["message"]


def test_a_class_without_rows_is_no_matter(tmp_path: Path) -> None:
    some = draw(8, labels=[0, 1, 2, 3, 4, 6])
    told = [warning["message"] for warning in run(tmp_path, train=some, select=some[:1], epochs=3, lr=1e-2)]
    assert not any("disgust" in message for message in told)


def test_faces_learnt_by_heart(tmp_path: Path) -> None:
    train, select = draw(1, noise=30.0, size=14), draw(4, noise=30.0, seed=1)
    config = dataclasses.replace(USUAL, early_epochs=100, low_recall=-1.0)
    (warning,) = run(tmp_path, train=train, select=select, lr=1e-2, epochs=20, config=config)
    assert warning["kind"] == "training and validation apart"
    assert "% in training and" in warning["message"]
    assert "augment" in warning["message"]


class Losses(lightning.LightningModule):
    """Training whose loss falls while that of validation does not: what it logs is all that is known of it."""

    def __init__(self, told: float) -> None:
        super().__init__()
        self.told, self.weight = told, torch.nn.Parameter(torch.ones(3))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.square().sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", torch.tensor(self.told), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([{"name": "all", "params": [self.weight]}], lr=1e-3)


@pytest.mark.parametrize(("told", "number"), [(4.0, 0), (5.0, 1)])
def test_without_accuracy_the_loss_tells(told: float, number: int, tmp_path: Path) -> None:
    curves = Curve(tmp_path)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[curves, Diagnostics(tmp_path, curves, config=USUAL)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    rows: Any = [0, 1]
    with handle_exits(trainer, tmp_path):
        trainer.fit(Losses(told), DataLoader(rows), DataLoader(rows))
    messages = [warning["message"] for warning in read_warnings(tmp_path)]
    assert len(messages) == number
    assert all("the loss is 3 in training and 5 in validation" in message for message in messages)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_resumed_run_does_not_repeat_itself(epoch: int, tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            if trainer.current_epoch == epoch:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    settings = {"train": draw(4, labels=[0, 1, 2, 3, 4, 6]), "select": draw(1), "lr": 1e-3}
    config = DiagnosticsConfig(patience=2, gap=-1.0)
    whole = run(tmp_path, **settings, epochs=4, config=config, callbacks=[Save()])
    # One comes after the first epoch, the other after the second.
    assert kinds(whole) == {"training and validation apart", "class not recognised"}
    assert run(tmp_path, **settings, epochs=4, config=config, resume=tmp_path / "saved.ckpt") == whole


def test_what_a_run_of_before_left_is_dropped(tmp_path: Path) -> None:
    line = json.dumps({"step": 0, "epoch": 0, "kind": "old", "about": "", "message": ""})
    (tmp_path / WARNINGS_NAME).write_text(f'{line}\n{{"step": 3, "kin', encoding="utf-8")
    assert run(tmp_path, train=draw(1)) == []
