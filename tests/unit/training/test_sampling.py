"""Sampling inside a run: the rows written down, the loss weighed, and a resumed run that is the same."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional

from motivnet import config
from motivnet.data.loader import BalancedSampler
from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sampling import SamplingConfig
from motivnet.errors import ConfigError, DataError
from motivnet.labels import EMOTIONS
from motivnet.models.config import HeadConfig
from motivnet.training.fit import fit
from motivnet.training.losses import soft_cross_entropy
from motivnet.training.module import Classifier
from motivnet.training.recipes import nano_fer2013
from motivnet.training.settings import Recipe

# Lightning warns of what does not matter to a run of seconds.
pytestmark = pytest.mark.filterwarnings("ignore")


def tiny(**sampling: object) -> Recipe:
    recipe = nano_fer2013()
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(
            recipe.model,
            backbone="timm:test_resnet",
            image_size=(32, 32),
            head=HeadConfig(kind="linear", dropout=0.0),
        ),
        preprocessing=dataclasses.replace(recipe.preprocessing, size=(32, 32)),
        run=dataclasses.replace(recipe.run, epochs=2, batch_size=7, precision="32-true"),
        sampling=SamplingConfig(**sampling),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """Training rows of 2, 3, ... 8 of the seven classes, and as many to select on."""
    rng = np.random.default_rng(0)
    labels = [name for number, name in enumerate(EMOTIONS, start=2) for _ in range(number)] * 2
    images = []
    for _ in labels:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    half = len(labels) // 2
    return make_manifest(
        {"image": images, "label": labels, "split": ["Training"] * half + ["PublicTest"] * half}, EMOTIONS
    )


def weights(out: Path) -> bytes:
    return (out / "bundle/model.safetensors").read_bytes()


def test_a_resumed_balanced_run_equals_the_uninterrupted_one(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, epochs = tiny(kind="balanced", seed=5), []
    draw = BalancedSampler.set_epoch
    monkeypatch.setattr(BalancedSampler, "set_epoch", lambda self, epoch: (epochs.append(epoch), draw(self, epoch)))
    fit(recipe, manifest, tmp_path / "whole", progress=False)
    assert set(epochs) == {0, 1}
    step = Classifier.training_step

    def stop(self: Classifier, batch: object, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1:
            raise RuntimeError("the power failed")
        return step(self, batch, batch_idx)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", stop)
        with pytest.raises(RuntimeError, match="the power failed"):
            fit(recipe, manifest, tmp_path / "cut", progress=False)
    fit(recipe, manifest, tmp_path / "cut", resume=True, progress=False)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_uniform_rows_are_written_down(manifest: Manifest, tmp_path: Path) -> None:
    bundle = fit(tiny(kind="uniform"), manifest, tmp_path / "run", progress=False)
    written = pq.read_table(tmp_path / "run/sampled_rows.parquet")
    assert sorted(written["label"].to_pylist()) == sorted([*EMOTIONS] * 2)
    assert bundle.config.provenance["training_rows"]["sampled"] == 14


def test_too_few_rows_leave_nothing_behind(manifest: Manifest, tmp_path: Path) -> None:
    other = manifest.select(np.arange(1, len(manifest)))
    with pytest.raises(DataError, match="neutral has 1 rows, 2 of each"):
        fit(tiny(kind="uniform", per_class=2), other, tmp_path / "other", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_before_sampling_was_a_setting_can_be_resumed(manifest: Manifest, tmp_path: Path) -> None:
    recipe = tiny()
    fit(recipe, manifest, tmp_path / "run", progress=False)
    assert not (tmp_path / "run/sampled_rows.parquet").exists()
    file = tmp_path / "run/recipe.json"
    settings = json.loads(file.read_text())
    del settings["sampling"]
    file.write_text(json.dumps(settings))
    before = weights(tmp_path / "run")
    fit(recipe, manifest, tmp_path / "run", resume=True, progress=False)
    assert weights(tmp_path / "run") == before
    with pytest.raises(ConfigError, match=r"sampling\.kind was 'natural', is 'balanced'"):
        fit(tiny(kind="balanced"), manifest, tmp_path / "run", resume=True, progress=False)


def test_the_weighted_loss_is_torchs() -> None:
    logits, targets, weights_C = torch.randn(5, 3), torch.randn(5, 3).softmax(1), torch.tensor([0.5, 1.0, 2.0])
    expected = functional.cross_entropy(logits, targets, weight=weights_C)
    torch.testing.assert_close(soft_cross_entropy(logits, targets, weights_C), expected)


def test_sampling_is_set_like_any_other_setting() -> None:
    changed = config.override(nano_fer2013(), ["sampling.kind=uniform", "sampling.per_class=3803"])
    assert changed.sampling == SamplingConfig(kind="uniform", per_class=3803)
    with pytest.raises(ConfigError, match="'fair' is not allowed"):
        config.override(nano_fer2013(), ["sampling.kind=fair"])
