"""The loss of valence and arousal, its weight, and runs: against other people's, and where labels are missing."""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.functional.regression import concordance_corrcoef

from motivnet.data.augment import NO_CHANGE, mix
from motivnet.data.loader import Batch, FaceDataset
from motivnet.data.manifest import make_manifest
from motivnet.errors import DataError
from motivnet.evaluation.metrics import ccc, rmse
from motivnet.labels import AFFECT, EMOTIONS
from motivnet.models.config import HeadConfig, VitConfig
from motivnet.models.motivnet import build_model
from motivnet.preprocess import Preprocessing
from motivnet.training.data_module import choose_rows
from motivnet.training.losses import EVEN_SPREAD, MIN_CCC_ROWS, Concordance, TaskLoss, ccc_loss, soft_cross_entropy
from motivnet.training.module import Classifier
from motivnet.training.optimizers import WarmedAverage
from motivnet.training.recipes import mini_fer2013
from motivnet.training.settings import Recipe

NAN = float("nan")


def pair(rows: int, seed: int = 0, missing: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions and related targets from -1 to 1; the first so many targets are missing."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(rows, generator=generator) * 2 - 1
    preds = (0.5 * target + 0.3 * torch.randn(rows, generator=generator) + 0.2).tanh()
    target[:missing] = NAN
    return preds.requires_grad_(), target


class TestCccLoss:
    def test_is_one_less_ccc(self) -> None:
        for rows, tolerance in ((50, 1 / 50), (20_000, 1e-4)):
            preds, target = pair(rows)
            preds = preds.detach()
            found = 1 - float(ccc_loss(preds, target))
            assert found == pytest.approx(ccc(preds.numpy(), target.numpy()), abs=1e-5)
            # torchmetrics divides by one less.
            assert found == pytest.approx(float(concordance_corrcoef(preds, target)), abs=tolerance)

    def test_its_gradient_is_that_of_the_formula(self) -> None:
        preds, target = pair(40)
        preds = preds.detach().double().requires_grad_()
        x, y = preds, target.double()
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        formula = 1 - 2 * covariance / (x.var(correction=0) + y.var(correction=0) + (x.mean() - y.mean()) ** 2)
        (expected,) = torch.autograd.grad(formula, preds)
        found_in = preds.detach().float().requires_grad_()
        ccc_loss(found_in, target).backward()
        assert found_in.grad is not None
        torch.testing.assert_close(found_in.grad, expected.float(), atol=1e-6, rtol=1e-4)

    def test_rows_without_a_value_are_as_if_they_were_not_there(self) -> None:
        preds, target = pair(50, missing=20)
        value = ccc_loss(preds, target)
        torch.testing.assert_close(value, ccc_loss(preds[20:], target[20:]))
        value.backward()
        assert preds.grad is not None
        assert not preds.grad[:20].any()
        assert preds.grad[20:].all()

    @pytest.mark.parametrize("known", [1, 2, MIN_CCC_ROWS - 1])
    def test_of_few_rows_is_the_squared_error(self, known: int) -> None:
        preds, target = pair(30, missing=30 - known)
        expected = (preds[-known:] - target[-known:]).square().mean() / EVEN_SPREAD
        torch.testing.assert_close(ccc_loss(preds, target), expected)

    def test_of_equal_targets_is_the_squared_error(self) -> None:
        preds, _ = pair(30)
        value = ccc_loss(preds, torch.full((30,), 0.25))
        torch.testing.assert_close(value, (preds - 0.25).square().mean() / EVEN_SPREAD)
        value.backward()
        assert preds.grad is not None
        assert preds.grad.isfinite().all()
        assert preds.grad.any()

    @pytest.mark.parametrize("rows", [2, 40])
    def test_of_equal_predictions_has_a_gradient(self, rows: int) -> None:
        _, target = pair(rows)
        preds = torch.zeros(rows, requires_grad=True)
        ccc_loss(preds, target).backward()
        assert preds.grad is not None
        assert preds.grad.isfinite().all()
        assert preds.grad.any()

    def test_of_nothing_is_nothing(self) -> None:
        preds, target = pair(4, missing=4)
        value = ccc_loss(preds, target)
        value.backward()
        assert value.item() == 0
        assert preds.grad is not None
        assert not preds.grad.any()

    def test_chance_in_small_batches_is_on_the_scale_of_large_ones(self) -> None:
        # Unrelated values, evenly spread: 1 - CCC is 1, and so should be the mean of small batches.
        generator = torch.Generator().manual_seed(0)
        preds, target = torch.rand(2, 8000, generator=generator) * 2 - 1
        small = [float(ccc_loss(*both)) for both in zip(preds.split(2), target.split(2), strict=True)]
        assert float(ccc_loss(preds, target)) == pytest.approx(1, abs=0.05)
        assert np.mean(small) == pytest.approx(1, abs=0.05)


class TestTaskLoss:
    def columns(self, missing: tuple[int, int], rows: int = 40) -> tuple[Tensor, Tensor]:
        pairs = [pair(rows, seed, count) for seed, count in enumerate(missing)]
        preds, target = (torch.stack([each[side].detach() for each in pairs], 1) for side in (0, 1))
        return preds.requires_grad_(), target

    def test_a_fixed_weight(self) -> None:
        preds, target = self.columns((0, 10))
        class_loss = torch.tensor(1.5)
        whole, part = TaskLoss(0.25)(class_loss, preds, target)
        expected = (ccc_loss(preds[:, 0], target[:, 0]) + ccc_loss(preds[:, 1], target[:, 1])) / 2
        torch.testing.assert_close(part, expected)
        torch.testing.assert_close(whole, class_loss + 0.25 * expected)
        assert list(TaskLoss(0.25).parameters()) == []

    def test_one_of_the_two_alone(self) -> None:
        preds, target = self.columns((40, 10))
        _, part = TaskLoss(1.0)(torch.tensor(1.5), preds, target)
        torch.testing.assert_close(part, ccc_loss(preds[:, 1], target[:, 1]))

    def test_learned_weights_are_kendalls_and_settle_at_the_losses(self) -> None:
        preds, target = self.columns((0, 0))
        loss = TaskLoss(None)
        class_loss = torch.tensor(0.7)
        whole, part = loss(class_loss, preds, target)
        torch.testing.assert_close(whole, class_loss + part / 2)
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.3)
        for _ in range(300):
            optimizer.zero_grad()
            loss(class_loss, preds.detach(), target)[0].backward()
            optimizer.step()
        # Where the derivative vanishes: a class's variance is twice its loss, that of a number its loss.
        variances = loss.log_variances.detach().exp()
        torch.testing.assert_close(variances, torch.stack([2 * class_loss, part.detach()]), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("weight", [None, 0.5])
    def test_a_batch_without_labels_has_exactly_the_loss_of_its_classes(self, weight: float | None) -> None:
        preds, target = self.columns((40, 40))
        loss = TaskLoss(weight)
        if weight is None:
            with torch.no_grad():
                loss.log_variances += torch.tensor([0.3, -0.4])
        class_loss = torch.tensor(1.2345, requires_grad=True)
        whole, part = loss(class_loss, preds, target)
        assert part is None
        assert torch.equal(whole, class_loss)
        whole.backward()
        assert float(class_loss.grad) == 1  # type: ignore[arg-type]
        # There is a gradient of everything, for data-parallel training to wait for, and it is 0.
        for tensor in (preds, *loss.parameters()):
            assert tensor.grad is not None
            assert not tensor.grad.any()


def test_concordance_equals_that_of_evaluation() -> None:
    preds, target = (torch.stack(columns, 1).detach() for columns in zip(pair(90, 0, 30), pair(90, 1), strict=True))
    target[5:25, 1] = NAN
    metric = Concordance()
    # The first batch has no valence at all.
    for some_preds, some_target in zip(preds.split(20), target.split(20), strict=True):
        metric.update(some_preds, some_target)
    found = metric.compute()
    for column, name in enumerate(("valence", "arousal")):
        known = ~target[:, column].isnan()
        x, y = preds[known, column].numpy(), target[known, column].numpy()
        assert float(found[f"ccc_{name}"]) == pytest.approx(ccc(x, y), abs=1e-5)
        assert float(found[f"rmse_{name}"]) == pytest.approx(rmse(x, y), abs=1e-5)
    metric.reset()
    metric.update(torch.zeros(3, 2), torch.tensor([[NAN, 0.5], [NAN, -0.5], [NAN, NAN]]))
    found = metric.compute()
    assert found.keys() == {"ccc_arousal", "rmse_arousal"}
    assert float(found["ccc_arousal"]) == 0
    assert float(found["rmse_arousal"]) == 0.5


def test_mixed_targets_are_known_where_both_are() -> None:
    known = torch.tensor([0.5, NAN, -0.5, 0.1, NAN, 1.0])
    rows = torch.eye(6)
    # What is mixed in place of faces tells which rows went into each, and how much of them.
    shares, mixed = mix(rows.reshape(6, 6, 1, 1), known[:, None], 0.4, torch.Generator().manual_seed(1))
    shares = shares.flatten(1)
    assert (shares > 0).sum() > 6
    for row in range(6):
        sources = shares[row] > 0
        if known[sources].isnan().any():
            assert mixed[row].isnan()
        else:
            torch.testing.assert_close(mixed[row, 0], (shares[row, sources] * known[sources]).sum())
    assert 0 < mixed.isnan().sum() < 6


def recipe_of(**changes: Any) -> Recipe:
    recipe = mini_fer2013()
    model = dataclasses.replace(
        recipe.model,
        image_size=(16, 16),
        vit=VitConfig(embed_dim=8, depth=1, num_heads=2, patch_size=8, patch_padding=0),
        head=HeadConfig(dim=8, num_heads=2, ff_dim=8),
        affect=True,
    )
    run = dataclasses.replace(recipe.run, epochs=2, batch_size=21, mixup=0.2, ema_decay=0.9)
    return dataclasses.replace(
        recipe,
        model=model,
        preprocessing=dataclasses.replace(recipe.preprocessing, size=(16, 16)),
        augment=NO_CHANGE,
        run=run,
        **changes,
    )


def batches(labelled: int, rows: int = 63, size: int = 21) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    affect = torch.rand(rows, 2, generator=generator) * 2 - 1
    affect[labelled:] = NAN
    pixels = torch.randn(rows, 1, 16, 16, generator=generator)
    columns = (pixels, torch.arange(rows) % 7, torch.zeros(rows, 7), affect)
    return [Batch(*parts) for parts in zip(*(column.split(size) for column in columns), strict=True)]


def module_of(recipe: Recipe) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_model(recipe.model), recipe, torch.zeros(7))


def train(
    module: Classifier, folder: Path, *, labelled: int = 63, epochs: int = 2, resume: Path | None = None
) -> lightning.Trainer:
    """Train, and keep `epoch=0.ckpt` and so on."""
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[WarmedAverage(0.9), ModelCheckpoint(folder, "{epoch}", save_top_k=-1)],
        num_sanity_val_steps=0,
    )
    loader: Any = DataLoader(batches(labelled), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, loader, ckpt_path=resume, weights_only=True)
    return trainer


class Run(NamedTuple):
    module: Classifier
    trainer: lightning.Trainer
    before: dict[str, Tensor]
    folder: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    module = module_of(recipe_of())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    folder = tmp_path_factory.mktemp("whole")
    return Run(module, train(module, folder), before, folder)


@pytest.mark.filterwarnings("ignore")  # Lightning's
class TestRun:
    def test_everything_is_logged_and_learnt(self, whole: Run) -> None:
        logged = whole.trainer.callback_metrics
        names = {"val/ccc_valence", "val/ccc_arousal", "val/rmse_valence", "val/rmse_arousal"}
        assert names | {"train/loss", "train/class_loss", "train/affect_loss"} <= {
            name.removesuffix("_epoch") for name in logged
        }
        assert float(logged["val/score"]) == pytest.approx((float(logged["val/war"]) + float(logged["val/uar"])) / 2)
        for name, parameter in whole.module.named_parameters():
            assert not torch.equal(parameter, whole.before[name]), name

    def test_log_variances_are_in_checkpoints_and_resumed_exactly(self, whole: Run, tmp_path: Path) -> None:
        recipe = recipe_of()
        torch.manual_seed(99)
        again = Classifier(build_model(recipe.model), recipe, torch.zeros(7))
        train(again, tmp_path, resume=whole.folder / "epoch=0.ckpt")
        expected, found = (
            torch.load(folder / "epoch=1.ckpt", weights_only=True)["state_dict"] for folder in (whole.folder, tmp_path)
        )
        assert found.keys() == expected.keys()
        assert expected["task_loss.log_variances"].abs().min() > 0
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
        # What becomes a bundle has names of the model alone.
        assert {name for name in found if not name.startswith("model.")} == {"task_loss.log_variances"}

    def test_they_do_not_decay_and_have_the_heads_rate(self, whole: Run) -> None:
        log_variances = whole.module.task_loss.log_variances  # type: ignore[union-attr]
        groups = whole.trainer.optimizers[0].param_groups
        (group,) = [group for group in groups if any(each is log_variances for each in group["params"])]
        assert group["weight_decay"] == 0
        assert group["initial_lr"] == whole.module.recipe.optimizer.head_lr

    def test_without_labels_the_classes_are_trained_as_in_a_model_of_classes_alone(self, tmp_path: Path) -> None:
        recipe = recipe_of()
        # Dropout would be drawn for two queries more.
        head = dataclasses.replace(recipe.model.head, dropout=0.0)
        found, expected = (
            module_of(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, head=head, affect=affect)))
            for affect in (True, False)
        )
        # A model of classes alone has no use for labels that are there.
        for module, labelled in ((found, 0), (expected, 63)):
            logged = train(module, tmp_path / str(labelled), labelled=labelled, epochs=1).callback_metrics
            assert not any("ccc" in name or "affect" in name for name in logged)
        assert not found.task_loss.log_variances.any()  # type: ignore[union-attr]
        assert not any("task" in name for name, _ in expected.named_parameters())
        # Not weight by weight: of those whose gradient is 0, such as biases of keys, Adam makes rounding errors large.
        pixels = batches(labelled=0)[0].pixels
        with torch.no_grad():
            torch.testing.assert_close(found.model(pixels), expected.model(pixels), rtol=1e-4, atol=1e-4)

    def test_the_loss_is_put_together_of_the_batchs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe = recipe_of(loss=dataclasses.replace(mini_fer2013().loss, affect_weight=0.5, label_smoothing=0.0))
        recipe = dataclasses.replace(
            recipe,
            run=dataclasses.replace(recipe.run, mixup=0.0),
            model=dataclasses.replace(recipe.model, head=dataclasses.replace(recipe.model.head, dropout=0.0)),
        )
        module = module_of(recipe)
        monkeypatch.setattr(Classifier, "trainer", SimpleNamespace(world_size=1))
        monkeypatch.setattr(Classifier, "log", lambda *args, **kwargs: None)
        (batch, *_) = batches(labelled=63)
        logits, affect = module.model.outputs(batch.pixels)
        assert affect is not None
        parts = [ccc_loss(affect[:, column], batch.affect[:, column]) for column in (0, 1)]
        classes = soft_cross_entropy(logits, torch.nn.functional.one_hot(batch.labels, 7).float())
        torch.testing.assert_close(module.training_step(batch, 0), classes + 0.5 * sum(parts) / 2)


@pytest.mark.parametrize(("missing", "named"), [((), None), (("arousal",), "arousal"), (AFFECT, "valence or arousal")])
def test_a_run_without_any_labels_of_them_is_refused(missing: tuple[str, ...], named: str | None) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {
        "label": list(EMOTIONS) * 2,
        "split": ["Training"] * 7 + ["PublicTest"] * 7,
        "image": [cv2.imencode(".png", rng.integers(0, 255, (9, 9), np.uint8))[1].tobytes() for _ in range(14)],
        # One row is enough, of any number.
        "valence": [0.5] + [None] * 13,
        "arousal": [None] * 6 + [-0.5] + [None] * 7,
    }
    manifest = make_manifest({name: values for name, values in columns.items() if name not in missing})
    recipe = recipe_of()
    if named is None:
        assert len(choose_rows(recipe, manifest).train) == 7
        return
    with pytest.raises(DataError, match=f"no training row has {named}, which the model should learn"):
        choose_rows(recipe, manifest)
    plain = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, affect=False))
    assert len(choose_rows(plain, manifest).train) == 7


def test_batches_have_what_the_rows_have() -> None:
    values = [(0.5, -0.25), (None, None), (None, 1.0), (-1.0, None)]
    png = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    manifest = make_manifest(
        {
            "label": list(itertools.islice(EMOTIONS, 4)),
            "split": ["train"] * 4,
            "image": [png] * 4,
            "valence": [valence for valence, _ in values],
            "arousal": [arousal for _, arousal in values],
        }
    )
    expected = np.array([[NAN if value is None else value for value in row] for row in values], np.float32)
    np.testing.assert_array_equal(manifest.affect, expected)
    preprocessing = Preprocessing(
        geometry="square", size=(8, 8), channels="grey", filter="bilinear", mean=(127.5,), std=(64.0,)
    )
    batch = FaceDataset(manifest, preprocessing).__getitems__([3, 0])
    assert batch.affect.dtype == torch.float32
    np.testing.assert_array_equal(batch.affect.numpy(), expected[[3, 0]])
    nothing = make_manifest({"label": ["fear"], "split": ["train"], "path": ["a.png"]})
    np.testing.assert_array_equal(nothing.affect, [[NAN, NAN]])
