"""Encoders of transformers and timm from a folder: their own features, in training, export and prediction."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from motivnet.checkpoints.bundle import model_fingerprint
from motivnet.checkpoints.load import load_model
from motivnet.data.manifest import Manifest
from motivnet.errors import CheckpointError, ConfigError
from motivnet.export.onnx import export_onnx, verify_onnx
from motivnet.models.config import HeadConfig, ModelConfig
from motivnet.models.cost import cost
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.training.estimate import estimate
from motivnet.training.fit import fit
from motivnet.training.freezing import layers, set_trained
from motivnet.training.init_weights import check, follow_folder, start
from motivnet.training.optimizers import parameter_groups
from motivnet.training.recipes import mini_fer2013, vjepa2_probe
from motivnet.training.settings import BackboneConfig, Place, Recipe

TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
IMAGES: dict[str, Any] = TINY | {"image_size": 32, "patch_size": 8}
# Kind -> its class, settings, and how many tokens stand before those of the image.
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("ViT", IMAGES, 1),
    "dinov2": ("Dinov2", IMAGES, 1),
    "dinov2_with_registers": ("Dinov2WithRegisters", IMAGES | {"num_register_tokens": 3}, 4),
    "dinov3_vit": ("DINOv3ViT", IMAGES | {"num_register_tokens": 2}, 3),
    "siglip_vision_model": ("SiglipVision", IMAGES, 0),
    "clip_vision_model": ("CLIPVision", IMAGES, 1),
    "vjepa2": (
        "VJEPA2",
        {name: value for name, value in TINY.items() if name != "intermediate_size"}
        | {"crop_size": 32, "patch_size": 8, "hidden_size": 48, "pred_hidden_size": 24, "pred_num_attention_heads": 2}
        | {"pred_num_hidden_layers": 1, "pred_num_mask_tokens": 1, "frames_per_clip": 4},
        0,
    ),
}


def published(kind: str, folder: Path, **changes: Any) -> Any:
    """Save a random model of transformers; return it."""
    torch.manual_seed(1)
    name, settings, _ = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**settings | changes)
    model = getattr(transformers, f"{name}Model")(config).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3})
    )
    return model


def a_recipe(folder: Path, size: tuple[int, int] = (32, 32)) -> Recipe:
    """A recipe for grey images of another encoder, until it follows the folder."""
    recipe = mini_fer2013()
    head = HeadConfig(kind="linear", dropout=0.0)
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, image_size=size, head=head),
        preprocessing=dataclasses.replace(recipe.preprocessing, geometry="stretch", size=size),
        backbone=BackboneConfig(weights=str(folder)),
    )


def started(folder: Path, size: tuple[int, int] = (32, 32)) -> MotivNet:
    recipe = follow_folder(a_recipe(folder, size))
    assert follow_folder(recipe) == recipe
    check(recipe, None)
    model = build_model(recipe.model)
    start(model, recipe, None)
    return model.eval()


@torch.no_grad()
def expected(kind: str, model: Any, pixels: Tensor) -> Tensor:
    if kind == "vjepa2":
        clips = pixels if pixels.ndim == 5 else pixels[:, None].repeat(1, 2, 1, 1, 1)
        return model(clips, skip_predictor=True).last_hidden_state
    options = {} if kind.startswith("dino") else {"interpolate_pos_encoding": True}
    tokens = model(pixels, **options).last_hidden_state
    if kind == "clip_vision_model":
        tokens = model.post_layernorm(tokens)
    return tokens[:, KINDS[kind][2] :]


@pytest.mark.parametrize("size", [(32, 32), (48, 24)])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_transformers(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = published(kind, tmp_path)
    if kind == "vjepa2" and size[0] != size[1]:
        with pytest.raises(ConfigError, match=r"V-JEPA 2 for images of \(48, 24\)\. Allowed: squares"):
            started(tmp_path, size)
        return
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        tokens = started(tmp_path, size).forward_features(pixels)
    assert tokens.shape[1] == size[0] * size[1] // 64
    torch.testing.assert_close(tokens, expected(kind, theirs, pixels))


def test_the_recipe_takes_encoder_colours_and_normalisation_of_the_folder(tmp_path: Path) -> None:
    published("dinov2", tmp_path)
    recipe = follow_folder(a_recipe(tmp_path))
    model, images = recipe.model, recipe.preprocessing
    assert (model.backbone, model.vit, model.in_chans, model.image_size) == ("transformers", None, 3, (32, 32))
    assert model.transformers is not None
    assert (model.transformers["model_type"], model.transformers["hidden_size"]) == ("dinov2", 32)
    assert (images.channels, images.std, images.mean) == ("rgb", (51.0,) * 3, (127.5, 102.0, 76.5))
    (tmp_path / "preprocessor_config.json").unlink()
    assert follow_folder(a_recipe(tmp_path)).preprocessing.mean == (127.5,) * 3  # of the recipe


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("MOTIVNET_OFFLINE", "1")
    recipe = dataclasses.replace(a_recipe(tmp_path), backbone=BackboneConfig(weights="hf:me/encoder"))
    assert follow_folder(recipe, fetch=False) == recipe
    with pytest.raises(CheckpointError, match="hf:me/encoder: not in the cache"):
        follow_folder(recipe)
    place = tmp_path / "models--me--encoder"
    published("vit", place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    assert follow_folder(recipe).model.backbone == "transformers"
    check(follow_folder(recipe), None)


class TestFiles:
    def test_a_pair_gives_its_images_encoder(self, tmp_path: Path) -> None:
        config = transformers.SiglipConfig(vision_config=IMAGES, text_config=TINY | {"vocab_size": 50})
        model = transformers.SiglipModel(config).eval()
        model.save_pretrained(tmp_path)
        pixels = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            found, own = started(tmp_path).forward_features(pixels), model.vision_model(pixels).last_hidden_state
        torch.testing.assert_close(found, own)

    def test_a_classifier_in_several_files_as_a_pickle(self, tmp_path: Path) -> None:
        config = transformers.ViTConfig(**IMAGES)
        model = transformers.ViTForImageClassification(config).eval()
        config.save_pretrained(tmp_path)
        tensors = list(model.state_dict().items())
        for number, part in enumerate((tensors[:9], tensors[9:]), start=1):
            torch.save(dict(part), tmp_path / f"pytorch_model-0000{number}-of-00002.bin")
        pixels = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            own = model.vit(pixels).last_hidden_state[:, 1:]
            torch.testing.assert_close(started(tmp_path).forward_features(pixels), own)

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ({"model_type": "bert"}, "transformers' 'bert'. Allowed: clip, siglip, clip_vision_model, dinov2"),
            ({"model_type": "vit", "quantization_config": {}}, "quantised weights"),
            ({"model_type": "vit", "hidden_size": "wide"}, "hidden_size"),
            ({"model_type": "mine", "auto_map": {"AutoModel": "mine.Model"}}, "transformers' 'mine'. Allowed"),
        ],
    )
    def test_others_are_refused(self, config: dict[str, Any], said: str, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "mine.py").write_text("raise SystemExit('executed')")
        with pytest.raises(CheckpointError, match=r"config\.json: ") as refused:
            follow_folder(a_recipe(tmp_path))
        assert said in str(refused.value)

    def test_settings_that_choose_code_are_left_out(self, tmp_path: Path) -> None:
        published("vit", tmp_path)
        file = tmp_path / "config.json"
        more = {"auto_map": {"AutoModel": "mine.Model"}, "_attn_implementation": "kernels-community/flash-attn"}
        file.write_text(json.dumps(json.loads(file.read_text()) | more))
        settings = follow_folder(a_recipe(tmp_path)).model.transformers
        assert settings is not None
        assert not more.keys() & settings.keys()

    def test_other_weights_are_named(self, tmp_path: Path) -> None:
        published("vit", tmp_path)
        file = tmp_path / "model.safetensors"
        tensors = load_file(file)
        save_file(
            {name: tensor for name, tensor in tensors.items() if name != "layernorm.bias"} | {"odd": torch.zeros(1)},
            file,
        )
        with pytest.raises(CheckpointError, match=r"2 differences: missing layernorm.bias; unexpected odd"):
            started(tmp_path)
        file.unlink()
        with pytest.raises(CheckpointError, match=r"no weights. Allowed: model.safetensors"):
            started(tmp_path)

    def test_a_size_that_does_not_fit(self, tmp_path: Path) -> None:
        published("dinov2", tmp_path, patch_size=16)
        with pytest.raises(ConfigError, match=r"images of \(24, 32\): height and width must be divisible by 16"):
            started(tmp_path, (24, 32))

    @pytest.mark.parametrize("name", ["test_vit", "vit_pe_core_tiny_patch16_384"])
    def test_timm(self, name: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        net = timm.create_model(name, img_size=32).eval()
        save_file(net.state_dict(), tmp_path / "model.safetensors")
        described = {"mean": [0.5, 0.4, 0.3], "std": [0.2] * 3, "tag": "none"}
        (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "pretrained_cfg": described}))
        recipe = follow_folder(a_recipe(tmp_path))
        assert (recipe.model.backbone, recipe.preprocessing.mean) == (f"timm:{name}", (127.5, 102.0, 76.5))
        pixels = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            own = net.forward_features(pixels)[:, net.num_prefix_tokens :]
            torch.testing.assert_close(started(tmp_path).forward_features(pixels), own)


class TestClips:
    def test_features_are_those_of_transformers(self, tmp_path: Path) -> None:
        theirs, model = published("vjepa2", tmp_path), started(tmp_path)
        clips = torch.randn(2, 6, 3, 32, 32)
        with torch.no_grad():
            tokens = model.forward_features(clips)
        assert model.backbone.takes_clips
        assert tokens.shape == (2, 3 * 16, 48)
        torch.testing.assert_close(tokens, expected("vjepa2", theirs, clips))
        with pytest.raises(ValueError, match=r"a clip of 3 frames\. Allowed: multiples of 2"):
            model.forward_features(clips[:, :3])

    def test_an_image_is_a_clip_of_one_frame(self, tmp_path: Path) -> None:
        published("vjepa2", tmp_path)
        model, pixels = started(tmp_path), torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(model(pixels), model(torch.stack([pixels, pixels], 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_that_is_trained_has_a_gradient(kind: str, tmp_path: Path) -> None:
    published(kind, tmp_path)
    model = started(tmp_path).train()
    set_trained(model, BackboneConfig(recompute=True))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    without = {name for name, each in model.named_parameters() if each.requires_grad and each.grad is None}
    assert not without


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_are_trained(kind: str, tmp_path: Path) -> None:
    published(kind, tmp_path)
    model = started(tmp_path)
    names = [name for name, parameters in layers(model.backbone, "") if parameters]
    assert names == ["embed", "00", "01", "norm"]
    recipe = follow_folder(a_recipe(tmp_path))
    (no_decay,) = (group for group in parameter_groups(model, recipe) if group["name"] == "backbone_no_decay")
    undecayed = {id(each) for each in no_decay["params"]}
    positions = {name for name, each in model.named_parameters() if "position_embedding" in name}
    assert positions == {name for name, each in model.named_parameters() if name in positions and id(each) in undecayed}
    set_trained(model, BackboneConfig(train="lora", lora_rank=2))
    trained = {name.split(".")[-3] for name, each in model.backbone.named_parameters() if each.requires_grad}
    assert trained == {"lora_A", "lora_B"}


@pytest.mark.parametrize("kind", ["vit", "vjepa2"])
def test_from_a_folder_to_onnx(kind: str, faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    published(kind, tmp_path / "encoder")
    recipe = tiny(epochs=1, batch_size=14)
    head = HeadConfig(kind="attention_pool", num_heads=2, dropout=0.0)
    recipe = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, head=head),
        backbone=BackboneConfig(weights=str(tmp_path / "encoder"), train="none"),
    )
    bundle = fit(recipe, faces, tmp_path / "run", progress=False)
    assert bundle.config.provenance["init"] == "encoder"
    assert bundle.config.model.backbone == "transformers"
    export_onnx(bundle)
    assert verify_onnx(bundle) < 1e-3
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))
    with torch.no_grad():
        frozen, own = load_model(bundle.path).forward_features(pixels), started(tmp_path / "encoder")
        torch.testing.assert_close(frozen, own.forward_features(pixels), atol=5e-3, rtol=0)  # in half precision
    assert model_fingerprint(bundle.path).startswith("m")


def test_the_recipe_of_the_probe() -> None:
    recipe = vjepa2_probe()
    found = estimate(recipe, Place(accelerator="cpu"))
    # ViT-L/16 with patches of two frames, and 256 tokens of one image.
    assert (found["tokens"], found["parameters"] - found["trained_parameters"]) == (256, 303_885_312)
    assert {group for group, number in found["groups"].items() if number} == {"head", "head_no_decay"}


def test_unknown_settings_are_refused() -> None:
    settings = {"model_type": "vit", "attn_implementation": "kernels-community/flash-attn"}
    with pytest.raises(ConfigError, match=r"transformers' vit: unknown settings \['attn_implementation'\]"):
        build_model(ModelConfig(backbone="transformers", transformers=settings, image_size=(32, 32)))


def test_cost_without_memory() -> None:
    settings = {"model_type": "vit", **IMAGES}
    found = cost(ModelConfig(backbone="transformers", transformers=settings, image_size=(32, 32)))
    assert found.tokens == 16
