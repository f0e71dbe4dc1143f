"""Models of clips: what their heads see, and clips through training, evaluation and the benchmark."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from motivnet.checkpoints.bundle import Bundle, BundleConfig
from motivnet.checkpoints.load import load_bundle
from motivnet.data.augment import DegradeConfig, degrade
from motivnet.data.manifest import Manifest, make_manifest, write_manifest
from motivnet.errors import ConfigError, DataError
from motivnet.evaluation.evaluate import evaluate
from motivnet.evaluation.explain import Explainer
from motivnet.evaluation.predictions import predict_manifest
from motivnet.experiments.benchmark import run_benchmark
from motivnet.experiments.protocols import BenchmarkSettings
from motivnet.export.onnx import export_onnx, verify_onnx
from motivnet.faces import Detection
from motivnet.inference.predictor import Predictor
from motivnet.labels import EMOTIONS
from motivnet.models.config import HeadConfig, HeadKind, ModelConfig, VitConfig
from motivnet.models.motivnet import build_model
from motivnet.preprocess import NANO, Box
from motivnet.training.fit import fit
from motivnet.training.optimizers import parameter_groups
from motivnet.training.settings import Recipe, SplitConfig

Draw = Callable[..., Path]
NUM_FRAMES = 4
VIT = VitConfig(embed_dim=24, depth=1, num_heads=3, patch_size=8, patch_padding=0)
VJEPA = {"model_type": "vjepa2", "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


def a_model(kind: HeadKind = "ml_decoder", **changes: Any) -> ModelConfig:
    head = HeadConfig(kind=kind, dim=16, num_heads=2, ff_dim=16, dropout=0.0)
    usual: dict[str, Any] = {"backbone": "sapiens", "image_size": (32, 32), "in_chans": 1, "vit": VIT}
    return ModelConfig(**usual | {"head": head, "num_frames": NUM_FRAMES} | changes)


def clips(batch: int = 2, channels: int = NUM_FRAMES) -> torch.Tensor:
    return torch.randn(batch, channels, 32, 32, generator=torch.Generator().manual_seed(0))


class TestModel:
    @pytest.mark.parametrize("kind", get_args(HeadKind))
    def test_the_head_sees_the_tokens_of_all_frames(self, kind: HeadKind) -> None:
        torch.manual_seed(0)
        model, pixels = build_model(a_model(kind)).eval(), clips()
        tokens = model.forward_features(pixels)
        assert tokens.shape == (2, NUM_FRAMES * 16, 24)
        for frame in range(NUM_FRAMES):
            own = model.backbone(pixels[:, frame : frame + 1])
            torch.testing.assert_close(tokens[:, 16 * frame : 16 * (frame + 1)], own, atol=1e-5, rtol=1e-5)
        model(pixels).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())

    def test_a_linear_head_is_the_mean_over_frames(self) -> None:
        model, pixels = build_model(a_model("linear")).eval(), clips()
        alone = dataclasses.replace(a_model("linear"), num_frames=None)
        images = build_model(alone).eval()
        images.load_state_dict({name: x for name, x in model.state_dict().items() if "frame" not in name})
        each = torch.stack([images(pixels[:, frame : frame + 1]) for frame in range(NUM_FRAMES)])
        torch.testing.assert_close(model(pixels), each.mean(0), atol=1e-5, rtol=1e-5)

    def test_the_order_of_frames_counts_once_it_is_learnt(self) -> None:
        model, pixels = build_model(a_model()).eval(), clips()
        torch.testing.assert_close(model(pixels), model(pixels.flip(1)), atol=1e-5, rtol=1e-5)
        torch.nn.init.normal_(model.head.frame_embed)  # type: ignore[arg-type]
        assert (model(pixels) - model(pixels.flip(1))).abs().max() > 1e-3

    def test_v_jepa_2_takes_clips_itself(self) -> None:
        pytest.importorskip("transformers")
        config = a_model(backbone="transformers", vit=None, transformers=VJEPA, in_chans=3)
        model, pixels = build_model(config).eval(), clips(channels=3 * NUM_FRAMES)
        assert "head.frame_embed" not in model.state_dict()
        # Two frames make a patch in time.
        tokens = model.forward_features(pixels)
        assert tokens.shape == (2, NUM_FRAMES // 2 * 16, 48)
        torch.testing.assert_close(tokens, model.backbone(pixels.unflatten(1, (NUM_FRAMES, 3))))

    def test_places_of_frames_are_trained_without_decay(self, tiny: Callable[..., Recipe]) -> None:
        recipe = dataclasses.replace(tiny(), model=a_model())
        model = build_model(recipe.model)
        groups = {group["name"]: group["params"] for group in parameter_groups(model, recipe)}
        assert any(parameter is model.head.frame_embed for parameter in groups["head_no_decay"])

    def test_all_frames_of_a_clip_are_degraded_alike(self) -> None:
        settings = DegradeConfig(prob=1.0)
        image, pixels = clips(6, 1), clips(6, 1).repeat(1, NUM_FRAMES, 1, 1)
        alone = degrade(image, settings, NANO, torch.Generator().manual_seed(1))
        together = degrade(pixels, settings, NANO, torch.Generator().manual_seed(1))
        torch.testing.assert_close(together, alone.repeat(1, NUM_FRAMES, 1, 1))


@pytest.fixture
def moving(tmp_path: Path, draw_clip: Draw) -> Manifest:
    """Clips of eight people in four folds: sadness gets darker, happiness brighter, and both have the same mean."""
    rows: list[dict[str, Any]] = []
    for person in range(8):
        for label in ("happiness", "sadness"):
            stairs = [60 + 20 * step + person for step in range(8)]
            path = draw_clip(tmp_path / f"{person}{label}.mp4", stairs if label == "happiness" else stairs[::-1])
            fold = str(person % 4 + 1)
            rows.append({"path": str(path), "label": label, "subject": f"S{person}", "fold": fold})
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    manifest = make_manifest(columns | {"split": ["all"] * len(rows), "start_s": [0.0] * len(rows)}, EMOTIONS)
    write_manifest(manifest, tmp_path / "clips.parquet")
    return manifest


@pytest.fixture
def recipe(tiny: Callable[..., Recipe]) -> Recipe:
    own = tiny(epochs=2, batch_size=4, mixup=0.0)
    return dataclasses.replace(
        own,
        model=a_model(num_classes=2),
        labels=("happiness", "sadness"),
        split=SplitConfig(train="train", hold_out=0.2),
        loss=dataclasses.replace(own.loss, vote_weight=0.0),
    )


def test_clips_are_trained_on_evaluated_and_compared(moving: Manifest, recipe: Recipe, tmp_path: Path) -> None:
    data = f"manifest:{tmp_path / 'clips.parquet'}"
    bundle = fit(recipe, f"{data}?fold=2", tmp_path / "run", progress=False)
    assert bundle.config.model.num_frames == NUM_FRAMES
    assert bundle.config.provenance["training_rows"]["rows"] == 12
    export_onnx(bundle)
    verify_onnx(bundle)
    found = evaluate(bundle.path, data, out=tmp_path / "scores", thumbnails=True)
    assert found.metrics["n"] == 16
    folds = [row for row in found.groups if row["group"] == "fold"]
    assert [(row["value"], row["n"]) for row in folds] == [("1", 4), ("2", 4), ("3", 4), ("4", 4)]
    assert np.mean([row["war"] for row in folds]) == pytest.approx(found.metrics["war"])
    assert {"uar", "war"} <= set(folds[0])
    # In torch, the same.
    predictor = Predictor(bundle.config, _Torch(bundle), Predictor.load(bundle.path, detector="whole").detector)
    again = predict_manifest(predictor, moving.restrict(bundle.config.labels), detect=False, data=data, split=None)
    np.testing.assert_allclose(again.probs_BC, found.predictions.probs_BC, atol=1e-4)
    table = run_benchmark(
        [str(bundle.path)], [f"Moving={data}"], tmp_path / "table", BenchmarkSettings(num_resamples=5)
    )
    (entry,) = table.cells
    assert entry.folds is not None
    assert entry.folds.num_folds == 4
    assert entry.folds.scores["war"].folds == pytest.approx([row["war"] for row in folds])
    with pytest.raises(ConfigError, match=r"is a model of clips\. Allowed: a model of images"):
        Explainer.load(bundle.path)


class _Torch:
    max_batch = None

    def __init__(self, bundle: Bundle) -> None:
        self.model = load_bundle(bundle)

    def outputs(self, pixels_BCHW: np.ndarray) -> Any:
        with torch.inference_mode():
            logits, _ = self.model.outputs(torch.from_numpy(pixels_BCHW))
        return type("Found", (), {"logits": logits.numpy(), "affect": None})


def test_a_model_of_images_starts_one_of_clips(
    faces: Manifest, moving: Manifest, tiny: Callable[..., Recipe], recipe: Recipe, tmp_path: Path
) -> None:
    both = faces.restrict(recipe.label_set)
    images = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, num_frames=None),
        split=SplitConfig(train="Training", select="PublicTest"),
    )
    start = fit(images, both, tmp_path / "images", progress=False, overrides={"run.epochs": 1})
    data = f"manifest:{tmp_path / 'clips.parquet'}?fold=1"
    fit(recipe, data, tmp_path / "clips", init=start.path, progress=False, overrides={"run.epochs": 1})
    # The other way, there is more than a model of images has.
    with pytest.raises(Exception, match=r"head\.frame_embed"):
        fit(images, both, tmp_path / "back", init=tmp_path / "clips" / "bundle", progress=False)


class Dark:
    """Finds a face in bright frames alone."""

    name = "dark"

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        return [Detection(Box(4, 4, 24, 24), 0.9)] if image_hwc_u8.mean() > 100 else []


def test_a_model_of_images_averages_over_the_frames(tiny_bundle: Bundle, tmp_path: Path, draw_clip: Draw) -> None:
    paths = [draw_clip(tmp_path / f"{name}.mp4", steps) for name, steps in (("a", [20, 230] * 4), ("b", [20] * 8))]
    columns = {"path": [*map(str, paths), str(tmp_path / "absent.mp4")], "label": ["happiness"] * 3}
    manifest = make_manifest(columns | {"split": ["all"] * 3, "start_s": [0.0] * 3})
    options: dict[str, Any] = {"data": "x", "split": None}
    whole = predict_manifest(Predictor.load(tiny_bundle.path, detector="whole"), manifest, detect=False, **options)
    assert whole.status == ("ok", "ok", "unreadable")
    images = Predictor.load(tiny_bundle.path, detector="whole").predict(
        [np.full((32, 32, 3), value, np.uint8) for value in (20, 230)]
    )
    expected = np.mean([list(result.faces[0].probs.values()) for result in images], 0)
    np.testing.assert_allclose(whole.probs_BC[0], expected, atol=0.02)
    assert "no such file" in whole.errors[2]
    detected = predict_manifest(Predictor.load(tiny_bundle.path, detector=Dark()), manifest, detect=True, **options)
    assert detected.status == ("ok", "no_face", "unreadable")
    # A frame without a face shows that of another.
    np.testing.assert_allclose(detected.probs_BC[0], list(images[1].faces[0].probs.values()), atol=0.02)
    with pytest.raises(ConfigError, match="degrade is for images, not for clips"):
        predict_manifest(Predictor.load(tiny_bundle.path), manifest, detect=False, degrade=True, **options)


def test_a_model_of_clips_takes_an_image_as_one_that_stands_still() -> None:
    config = a_model()
    bundle = BundleConfig(
        name="x",
        summary="x",
        licence="x",
        model=config,
        preprocessing=dataclasses.replace(NANO, size=(32, 32)),
    )
    seen = []

    class Backend:
        max_batch = None

        def outputs(self, pixels_BCHW: np.ndarray) -> Any:
            seen.append(pixels_BCHW)
            return type("Found", (), {"logits": np.zeros((len(pixels_BCHW), 7), np.float32), "affect": None})

    face = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    predictor = Predictor(bundle, Backend(), Predictor.load("nano", detector="whole").detector)
    predictor.predict(face)
    assert seen[0].shape == (1, NUM_FRAMES, 32, 32)
    assert all(np.array_equal(seen[0][0, 0], frame) for frame in seen[0][0])


def test_training_names_a_clip_that_is_missing(
    moving: Manifest, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "3sadness.mp4").unlink()
    with pytest.raises(DataError, match="1 of 16 images cannot be read"):
        fit(recipe, f"manifest:{tmp_path / 'clips.parquet'}?fold=1", tmp_path / "run", progress=False)
    assert "3sadness.mp4" in capsys.readouterr().err
