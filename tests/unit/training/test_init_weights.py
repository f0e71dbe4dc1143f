"""What a run starts from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer, mobilenet_v2, mobilenet_v3_small, resnet18

from motivnet.checkpoints.bundle import BundleConfig, open_bundle, write_config
from motivnet.checkpoints.files import open_weights
from motivnet.checkpoints.load import load_backbone, write_weights
from motivnet.errors import CheckpointError
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import MotivNet, affect_names, build_model
from motivnet.preprocess import Preprocessing
from motivnet.training.init_weights import check, lineage, rebase_batch_norms, start
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

        # The recipe trains the next model, which may be of another architecture.
        recipe = dataclasses.replace(nano_fer2013(), model=open_bundle("nano").config.model)
        assert "blocks.0.0.conv_dw.weight" in started(recipe, Path("nano")).backbone.net.state_dict()
        assert lineage(recipe, Path("nano"))["bundle"] == "nano"

    def test_a_folder_that_is_none(self, tmp_path: Path) -> None:
        assert "no bundle" in refusal(a_recipe(tmp_path))
        assert "no bundle" in refusal(a_recipe(), tmp_path)


# The normalisation of torchvision's and of most of timm's weights.
IMAGENET = Preprocessing(
    geometry="stretch",
    size=(64, 64),
    channels="rgb",
    filter="bilinear",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
)


def vit() -> nn.Module:
    """timm's vit_tiny_patch16_224 by torchvision, for 32 x 32 pixels."""
    return VisionTransformer(
        image_size=32, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=5
    )


def vit_tokens(net: Any, pixels: torch.Tensor) -> torch.Tensor:
    patches = net._process_input(pixels)
    return net.encoder(torch.cat([net.class_token.expand(len(pixels), -1, -1), patches], 1))[:, 1:]


def resnet_tokens(net: Any, pixels: torch.Tensor) -> torch.Tensor:
    layers = (net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4)
    return nn.Sequential(*layers)(pixels).flatten(2).transpose(1, 2)


def map_tokens(net: Any, pixels: torch.Tensor) -> torch.Tensor:
    return net.features(pixels).flatten(2).transpose(1, 2)


# timm's name -> torchvision's model, and its tokens.
SAME: dict[str, tuple[Callable[[], Any], Callable[[Any, torch.Tensor], torch.Tensor]]] = {
    "mobilenetv2_100": (lambda: mobilenet_v2(weights=None), map_tokens),
    "mobilenetv3_small_100": (lambda: mobilenet_v3_small(weights=None), map_tokens),
    "resnet18": (lambda: resnet18(weights=None), resnet_tokens),
    "vit_tiny_patch16_224": (vit, vit_tokens),
}


@pytest.fixture(scope="module")
def nets() -> dict[str, Any]:
    """torchvision's models, with statistics and biases of trained ones."""
    torch.manual_seed(0)
    built = {name: build().eval() for name, (build, _) in SAME.items()}
    with torch.no_grad():
        for net in built.values():
            for name, tensor in net.state_dict().items():
                if name.endswith(("bias", "running_mean")):
                    tensor.normal_(0, 0.1)
                elif name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
    return built


@pytest.fixture(scope="module")
def files(nets: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    for name, net in nets.items():
        torch.save(net.state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in nets}


@pytest.fixture(scope="module")
def torchvision(files: dict[str, Path]) -> Path:
    return files["mobilenetv2_100"]


def from_file(name: str, path: Path, side: int = 32, in_chans: int = 3, **normalisation: Any) -> Recipe:
    recipe = timm_recipe(name, in_chans, path)
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, image_size=(side, side)),
        preprocessing=dataclasses.replace(IMAGENET, size=(side, side), **normalisation),
    )


class TestTorchvision:
    """Files of torchvision's models."""

    @pytest.mark.parametrize("name", SAME)
    def test_features_are_torchvisions(self, name: str, nets: dict[str, Any], files: dict[str, Path]) -> None:
        model = started(from_file(name, files[name]))
        pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = SAME[name][1](nets[name], pixels)
            # The batch norms of its MobileNet-v3 add a larger epsilon to the variance, which no file tells.
            tolerance = 5e-3 if name.startswith("mobilenetv3") else 1e-4
            torch.testing.assert_close(model.backbone(pixels), expected, atol=tolerance, rtol=tolerance)

    def test_files_of_old_without_counters_of_batch_norms(self, nets: dict[str, Any], tmp_path: Path) -> None:
        state = {name: tensor for name, tensor in nets["resnet18"].state_dict().items() if "num_batches" not in name}
        torch.save(state, tmp_path / "old.pth")
        found = started(from_file("resnet18", tmp_path / "old.pth")).backbone.net.state_dict()
        assert all(torch.equal(found[name], state[name]) for name in state if name[:3] not in ("fc.", "con"))

    def test_positions_are_resized(self, nets: dict[str, Any], files: dict[str, Path]) -> None:
        net = started(from_file("vit_tiny_patch16_224", files["vit_tiny_patch16_224"], side=64)).backbone.net
        token, own = nets["vit_tiny_patch16_224"].encoder.pos_embedding[:, :1], net.pos_embed[:, :1]  # type: ignore[index]
        assert torch.equal(own, token)
        assert net.pos_embed.shape == (1, 17, 192)

    @pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
    def test_another_normalisation_is_folded_into_the_stem(
        self, name: str, nets: dict[str, Any], files: dict[str, Path]
    ) -> None:
        """By a batch norm, or a bias. The padding of zeros is another colour, so the image ends in the old zero."""
        ours = {"mean": (100.0, 120.0, 140.0), "std": (50.0, 60.0, 70.0)}
        recipe = from_file(name, files[name], **ours)
        if name == "resnet18":
            recipe = from_file(name, files[name], mean=IMAGENET.mean, std=ours["std"])
        image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
        theirs, own = (torch.from_numpy(one.normalise(image)) for one in (IMAGENET, recipe.preprocessing))
        with torch.inference_mode():
            expected = SAME[name][1](nets[name], theirs)
            torch.testing.assert_close(started(recipe).backbone(own), expected, atol=1e-3, rtol=1e-3)

    def test_also_the_mean_before_a_batch_norm(self, nets: dict[str, Any], files: dict[str, Path]) -> None:
        recipe = from_file("resnet18", files["resnet18"], mean=(100.0, 120.0, 140.0))
        image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
        theirs, own = (torch.from_numpy(one.normalise(image)) for one in (IMAGENET, recipe.preprocessing))
        net: Any = started(recipe).backbone.net
        with torch.inference_mode():
            expected = nets["resnet18"].bn1(nets["resnet18"].conv1(theirs))
            found = net.bn1(net.conv1(own))
            inside = (..., slice(2, -2), slice(2, -2))  # of the padding
            torch.testing.assert_close(found[inside], expected[inside], atol=1e-4, rtol=1e-4)

    def test_a_grey_stem_answers_as_the_colour_stem_does_for_grey(self, files: dict[str, Path]) -> None:
        path = files["resnet18"]
        grey = started(from_file("resnet18", path, in_chans=1, channels="grey", mean=(127.5,), std=(64.0,)))
        colour = started(from_file("resnet18", path, mean=(127.5,) * 3, std=(64.0,) * 3))
        pixels = torch.randn(2, 1, 32, 32)
        with torch.inference_mode():
            expected = colour.backbone(pixels.expand(-1, 3, -1, -1))
            torch.testing.assert_close(grey.backbone(pixels), expected, atol=1e-4, rtol=1e-3)

    def test_a_tag_of_published_weights_changes_nothing(self, torchvision: Path) -> None:
        check(from_file("mobilenetv2_100.ra_in1k", torchvision), None)

    def test_another_backbone_is_refused(self, torchvision: Path, files: dict[str, Path]) -> None:
        for path in (torchvision, files["mobilenetv3_small_100"]):
            text = refusal(from_file("resnet10t", path))
            assert f"{path}: not the weights of this model" in text
            assert "Expected: the weights of resnet10t, by timm or torchvision" in text
            assert "\n" not in text
        assert "in_chans is 3, not 4" in refusal(from_file("mobilenetv2_100", torchvision, in_chans=4))

    def test_an_unknown_tensor_among_known_ones(self, nets: dict[str, Any], tmp_path: Path) -> None:
        state = nets["vit_tiny_patch16_224"].state_dict() | {"encoder.more": torch.zeros(1)}
        torch.save(state, tmp_path / "more.pth")
        text = refusal(from_file("vit_tiny_patch16_224", tmp_path / "more.pth"))
        assert text == f"{tmp_path / 'more.pth'}: torchvision vision transformer: unexpected tensor 'encoder.more'"

    def test_it_is_no_whole_model(self, torchvision: Path) -> None:
        with pytest.raises(CheckpointError, match="only an encoder"):
            check(timm_recipe("mobilenetv2_100", 1), torchvision)


class TestTimm:
    """Files with timm's own names, and of EfficientNet-Lite."""

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_timms_own_names(self, name: str, suffix: str, tmp_path: Path) -> None:
        net = timm.create_model(name, num_classes=3, **({"img_size": 32} if name == "test_vit" else {}))
        path = tmp_path / f"w.{suffix}"
        state = net.state_dict()
        torch.save(state, path) if suffix == "pth" else save_file(state, path)
        config = net.pretrained_cfg
        normalisation = {key: tuple(255 * value for value in config[key]) for key in ("mean", "std")}
        model = started(from_file(name, path, **normalisation))
        found = model.backbone.net.state_dict()
        assert state.keys() - found.keys() == {f"{config['classifier']}.{part}" for part in ("weight", "bias")}
        torch.testing.assert_close({name: state[name] for name in found}, dict(found), atol=1e-5, rtol=1e-5)
        assert lineage(from_file(name, path), None) == path.name

    def test_a_grey_file(self, tmp_path: Path) -> None:
        net = timm.create_model("test_resnet", in_chans=1)
        torch.save(net.state_dict(), tmp_path / "grey.pth")
        recipe = from_file("test_resnet", tmp_path / "grey.pth", in_chans=1, channels="grey", mean=(0.0,), std=(1.0,))
        assert torch.equal(started(recipe).backbone.net.state_dict()["conv1.0.weight"], net.conv1[0].weight)
        assert "conv1.0.weight: found (16, 1, 3, 3)" in refusal(from_file("test_resnet", tmp_path / "grey.pth"))

    def test_efficientnet_lite(self, tmp_path: Path) -> None:
        """The file has timm's order under other names, and images of another normalisation."""
        name = "tf_efficientnet_lite0"
        net = timm.create_model(name)
        state, blocks = net.state_dict(), []
        renamed = {}
        for own, tensor in state.items():
            parts = own.split(".")
            if parts[0] == "blocks" and parts[1:3] not in blocks:
                blocks.append(parts[1:3])
            place = ["_blocks", str(len(blocks) - 1), *parts[3:-1]] if parts[0] == "blocks" else parts[:-1]
            renamed[".".join([*place[:-1], f"_{place[-1].removeprefix('_')}", parts[-1]])] = tensor
        assert "_conv_stem.weight" in renamed
        torch.save(renamed, tmp_path / "lite.pth")
        found = started(from_file(name, tmp_path / "lite.pth", mean=(127.0,) * 3, std=(128.0,) * 3)).backbone.net
        own = found.state_dict()
        torch.testing.assert_close({name: state[name] for name in own}, dict(own), atol=1e-6, rtol=1e-6)

    def test_another_order_is_refused(self, tmp_path: Path) -> None:
        state = timm.create_model("test_resnet").state_dict()
        names = list(state)
        swapped = {f"other.{name}": state[name] for name in [*names[1:], names[0]]}
        torch.save(swapped, tmp_path / "swapped.pth")
        text = refusal(from_file("test_resnet", tmp_path / "swapped.pth"))
        assert f"the file has other.{names[1]}. Expected: the weights of test_resnet" in text


@pytest.mark.parametrize("in_chans", [1, 3])
def test_statistics_of_batch_norms_without_a_change_of_the_outputs(in_chans: int) -> None:
    model = build_model(timm_recipe("test_resnet", in_chans).model).train()
    pixels = 2 * torch.randn(8, in_chans, 32, 32, generator=torch.Generator().manual_seed(0)) + 1
    seen: dict[str, torch.Tensor] = {}
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    with torch.no_grad():
        expected = model.eval()(pixels)
        model.train()
        rebase_batch_norms(model, pixels)
        assert model.training
        hooks = [
            norm.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
            for name, norm in norms.items()
        ]
        torch.testing.assert_close(model.eval()(pixels), expected, atol=1e-5, rtol=1e-4)
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        torch.testing.assert_close(norm.running_mean, seen[name].mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(norm.running_var, seen[name].var((0, 2, 3), correction=0), atol=1e-4, rtol=1e-4)


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
