"""What a run starts from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import mobilenet_v2

from motivnet.checkpoints.bundle import BundleConfig, write_config
from motivnet.checkpoints.files import open_weights
from motivnet.checkpoints.load import load_backbone, write_weights
from motivnet.errors import CheckpointError
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import MotivNet, affect_names, build_model
from motivnet.preprocess import Preprocessing
from motivnet.training.init_weights import check, lineage, start
from motivnet.training.recipes import mini_fer2013
from motivnet.training.settings import BackboneConfig, Recipe

# As the files of the fixture `released`.
VIT = VitConfig(embed_dim=24, depth=2, num_heads=3)
HEAD = HeadConfig(dim=32, num_layers=2, ff_dim=24)
SIZE = (64, 48)


def a_recipe(weights: Path | str | None = None, **model: Any) -> Recipe:
    settings: dict[str, Any] = {"backbone": "sapiens", "image_size": SIZE, "vit": VIT, "head": HEAD}
    own = ModelConfig(**settings | model)
    return dataclasses.replace(
        mini_fer2013(), model=own, backbone=BackboneConfig(weights=None if weights is None else str(weights))
    )


def timm_recipe(name: str, in_chans: int, weights: Path | str | None = None) -> Recipe:
    return a_recipe(
        weights,
        backbone=f"timm:{name}",
        vit=None,
        image_size=(64, 64),
        in_chans=in_chans,
        head=HeadConfig(kind="linear"),
    )


def started(recipe: Recipe, init: Path | None = None) -> MotivNet:
    model = build_model(recipe.model)
    check(recipe, init)
    start(model, recipe, init)
    return model.eval()


def refusal(recipe: Recipe, init: Path | None = None) -> str:
    """What both say."""
    with pytest.raises(CheckpointError) as checked:
        check(recipe, init)
    model = build_model(recipe.model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as refused:
        start(model, recipe, init)
    assert str(checked.value) == str(refused.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(refused.value)


def write_bundle(folder: Path, model: torch.nn.Module, config: ModelConfig, **settings: Any) -> Path:
    channels = ("grey", (127.5,), (64.0,)) if config.in_chans == 1 else ("rgb", (127.5,) * 3, (64.0,) * 3)
    preprocessing = Preprocessing(
        geometry="stretch",
        size=config.image_size,
        channels=channels[0],  # type: ignore[arg-type]
        filter="bilinear",
        mean=channels[1],
        std=channels[2],
    )
    own = BundleConfig(name="first", summary="", licence="none", model=config, preprocessing=preprocessing, **settings)
    write_weights(write_config(folder, own), model)
    return folder


def same(found: torch.nn.Module, expected: torch.nn.Module) -> bool:
    own, others = found.state_dict(), expected.state_dict()
    return own.keys() == others.keys() and all(torch.equal(own[name], others[name]) for name in own)


def test_nothing_is_named() -> None:
    recipe = a_recipe()
    model = build_model(recipe.model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check(recipe, None)
    start(model, recipe, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert lineage(recipe, None) is None


class TestReleased:
    """Encoders in the formats of Sapiens and Sapiens2."""

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    def test_a_task_encoder(self, released: Callable, name: str) -> None:
        written = released("sapiens-task", name=name)
        recipe = a_recipe(written.path)
        model = started(recipe)
        assert same(model.backbone, written.net)
        assert lineage(recipe, None) == name

    def test_at_another_size_positions_are_resized(self, released: Callable) -> None:
        written = released("sapiens-task", metadata={"num_heads": 3})
        model = started(a_recipe(written.path, image_size=(32, 32)))
        assert same(model.backbone, load_backbone(written.path, (32, 32)))

    def test_the_class_token_of_pre_training_is_dropped(self, released: Callable) -> None:
        written = released("sapiens-pretrain", image_size=(64, 64), metadata={"num_heads": 3})
        model = started(a_recipe(written.path))
        assert "net.cls_token" not in model.backbone.state_dict()
        assert same(model.backbone, load_backbone(written.path, SIZE))

    def test_or_kept_where_the_model_has_one(self, released: Callable) -> None:
        written = released("sapiens-pretrain", image_size=(64, 64))
        vit = dataclasses.replace(VIT, class_token=True, patch_padding=0)
        assert same(started(a_recipe(written.path, vit=vit, image_size=(64, 64))).backbone, written.net)

    def test_sapiens2(self, released: Callable) -> None:
        written = released("sapiens2")
        vit = dataclasses.replace(VIT, patch_padding=0)
        assert same(started(a_recipe(written.path, backbone="sapiens2", vit=vit)).backbone, written.net)

    def test_half_precision_is_widened(self, released: Callable) -> None:
        written = released("sapiens-task", dtype=torch.float16)
        model = started(a_recipe(written.path))
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
        torch.testing.assert_close(model.backbone.state_dict(), written.net.state_dict(), atol=1e-3, rtol=1e-3)

    def test_a_whole_model_gives_its_encoder(self, released: Callable) -> None:
        written = released("motivnet", metadata={"num_heads": 3, "decoder_heads": 8})
        model = started(a_recipe(written.path))
        assert same(model.backbone, written.net.backbone)
        assert not same(model.head, written.net.head)

    def test_or_all_of_it(self, released: Callable) -> None:
        written = released("motivnet", metadata={"num_heads": 3, "decoder_heads": 8})
        assert same(started(a_recipe("absent.pth"), written.path), written.net)

    def test_a_grey_stem_gets_the_sum(self, released: Callable) -> None:
        written = released("sapiens-task")
        model = started(a_recipe(written.path, in_chans=1))
        pixels = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = written.net(pixels.expand(-1, 3, -1, -1))
            torch.testing.assert_close(model.backbone(pixels), expected, atol=1e-4, rtol=1e-3)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"embed_dim": 48}, "vit.embed_dim is 24, not 48"),
            ({"depth": 3}, "vit.depth is 2, not 3"),
            ({"patch_size": 8}, "vit.patch_size is 16, not 8"),
            ({"mlp_ratio": 2.0}, "vit.mlp_ratio is 4.0, not 2.0"),
            ({"num_heads": 2}, "vit.num_heads is 3, not 2"),
            ({"class_token": True}, "vit.class_token is False, not True"),
        ],
    )
    def test_another_architecture_is_named(self, released: Callable, changes: dict[str, Any], said: str) -> None:
        written = released("sapiens-task", metadata={"num_heads": 3})
        text = refusal(a_recipe(written.path, vit=dataclasses.replace(VIT, **changes)))
        assert "not the weights of this model" in text
        assert said in text

    def test_another_kind_of_backbone_is_named(self, released: Callable) -> None:
        path = released("sapiens-task").path
        assert "backbone is sapiens, not timm:test_resnet" in refusal(timm_recipe("test_resnet", 3, path))

    def test_a_head_is_no_start(self, released: Callable) -> None:
        assert "a head in format ml-decoder, but an encoder is needed" in refusal(a_recipe(released("ml-decoder").path))

    def test_an_encoder_is_no_whole_model(self, released: Callable) -> None:
        path = released("sapiens-task").path
        assert f"Allowed: --set backbone.weights={path}" in refusal(a_recipe(), path)


class TestBundles:
    """Bundles of whole models, and of encoders alone."""

    def test_a_whole_model(self, tmp_path: Path) -> None:
        recipe = timm_recipe("test_resnet", 1)
        first = build_model(recipe.model)
        bundle = write_bundle(tmp_path / "bundle", first, recipe.model, provenance={"recipe": "a"})
        assert same(started(recipe, bundle), first)
        assert lineage(recipe, bundle) == {"bundle": "first", "provenance": {"recipe": "a"}}

    def test_its_encoder_alone(self, tmp_path: Path) -> None:
        recipe = a_recipe()
        first = build_model(recipe.model)
        bundle = write_bundle(tmp_path / "bundle", first.half(), recipe.model)
        other = a_recipe(bundle, head=HeadConfig(kind="linear"), image_size=(32, 32))
        model = started(other)
        found, expected = model.backbone.state_dict(), first.backbone.state_dict()
        assert all(torch.equal(found[name], expected[name].float()) for name in found if name != "net.pos_embed")
        assert found["net.pos_embed"].shape == (1, 4, 24)
        assert lineage(other, None)["bundle"] == "first"

    def test_an_encoder_of_pre_training(self, tmp_path: Path) -> None:
        """Its tensors have the names of a backbone."""
        vit = dataclasses.replace(VIT, class_token=True, patch_padding=0)
        config = a_recipe(vit=vit).model
        first = build_model(config)
        bundle = write_bundle(tmp_path / "bundle", first.backbone, config)
        assert same(started(a_recipe(bundle, vit=vit)).backbone, first.backbone)
        padded = started(a_recipe(bundle))  # without the token, as the task encoders
        assert torch.equal(padded.backbone.state_dict()["net.pos_embed"], first.backbone.net.pos_embed[:, 1:])  # type: ignore[index]
        assert "only an encoder, but a whole model is needed" in refusal(a_recipe(vit=vit), bundle)

    def test_valence_and_arousal_are_added(self, tmp_path: Path) -> None:
        recipe = a_recipe()
        first = build_model(recipe.model)
        bundle = write_bundle(tmp_path / "bundle", first, recipe.model)
        both = a_recipe(affect=True)
        model = started(both, bundle)
        found, expected = model.state_dict(), first.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert found.keys() - expected.keys() == affect_names(model) != set()
        other = write_bundle(tmp_path / "both", model, both.model)
        assert same(started(both, other), model)
        assert "affect is True, not False" in refusal(recipe, other)

    @pytest.mark.parametrize(
        ("model", "said"),
        [
            ({"vit": dataclasses.replace(VIT, depth=1)}, "vit.depth is 2, not 1"),
            ({"head": dataclasses.replace(HEAD, num_heads=4)}, "head.num_heads is 8, not 4"),
            ({"head": HeadConfig(kind="linear")}, "head.kind is ml_decoder, not linear"),
            ({"head": dataclasses.replace(HEAD, dim=64)}, "head.embed.weight: found (32, 24), expected (64, 24)"),
            ({"in_chans": 4}, "in_chans is 3, not 4"),
        ],
    )
    def test_another_model_is_named(self, tmp_path: Path, model: dict[str, Any], said: str) -> None:
        recipe = a_recipe()
        bundle = write_bundle(tmp_path / "bundle", build_model(recipe.model), recipe.model)
        assert said in refusal(a_recipe(**model), bundle)

    def test_the_embedded_model(self) -> None:
        from motivnet.training.recipes import nano_fer2013

        recipe = nano_fer2013()
        assert "blocks.0.0.conv_dw.weight" in started(recipe, Path("nano")).backbone.net.state_dict()
        assert lineage(recipe, Path("nano"))["bundle"] == "nano"

    def test_a_folder_that_is_none(self, tmp_path: Path) -> None:
        assert "no bundle" in refusal(a_recipe(tmp_path))
        assert "no bundle" in refusal(a_recipe(), tmp_path)


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(mobilenet_v2(weights=None).state_dict(), path)
    return path


class TestTorchvision:
    """torchvision's mobilenet_v2."""

    def test_a_grey_stem_answers_as_the_colour_stem_does_for_grey(self, torchvision: Path) -> None:
        grey, colour = (started(timm_recipe("mobilenetv2_100", channels, torchvision)) for channels in (1, 3))
        pixels = torch.randn(2, 1, 64, 64)
        with torch.inference_mode():
            expected = colour.backbone(pixels.expand(-1, 3, -1, -1))
            torch.testing.assert_close(grey.backbone(pixels), expected, atol=1e-4, rtol=1e-3)

    def test_a_tag_of_published_weights_changes_nothing(self, torchvision: Path) -> None:
        check(timm_recipe("mobilenetv2_100.ra_in1k", 3, torchvision), None)

    def test_another_backbone_is_refused(self, torchvision: Path) -> None:
        text = refusal(timm_recipe("resnet10t", 3, torchvision))
        assert "backbone is timm:mobilenetv2_100, not timm:resnet10t" in text

    def test_it_is_no_whole_model(self, torchvision: Path) -> None:
        with pytest.raises(CheckpointError, match="only an encoder"):
            check(timm_recipe("mobilenetv2_100", 1), torchvision)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    assert "unknown model" in refusal(a_recipe(tmp_path / "absent.pth"))
    (tmp_path / "text.pth").write_text("hello")
    assert "cannot be read: found a file that begins with b'hello'" in refusal(a_recipe(tmp_path / "text.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    assert "expected a dict of tensors" in refusal(a_recipe(tmp_path / "list.pth"))
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    assert "tensors of no known format" in refusal(a_recipe(tmp_path / "other.pth"))


def test_a_name_of_the_hub_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIVNET_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="sapiens-pose-1b"):
        check(a_recipe("sapiens-pose-1b"), None)
    assert lineage(a_recipe("sapiens-pose-1b"), None) == "sapiens-pose-1b"


def test_damaged_weights_end_in_our_error(torchvision: Path, tmp_path: Path) -> None:
    whole, rng = torchvision.read_bytes(), np.random.default_rng(0)
    damaged = tmp_path / "damaged.pth"
    num_refused = 0
    for _ in range(60):
        content = bytearray(whole[: int(rng.integers(0, len(whole)))] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, 20_000, 20):
            content[place % max(1, len(content)) : place % max(1, len(content)) + 1] = rng.bytes(1)
        damaged.write_bytes(content)
        try:
            open_weights(damaged)
        except CheckpointError:
            num_refused += 1
    assert num_refused > 30
