"""Weights into modules: strict, at any size, owning their memory, and refused before memory runs out."""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from motivnet import load_backbone, load_head, load_model
from motivnet.checkpoints import bundle as bundles
from motivnet.checkpoints import load
from motivnet.checkpoints.bundle import ASSETS, BundleConfig, write_config
from motivnet.checkpoints.formats import inspect_weights
from motivnet.errors import CheckpointError
from motivnet.models.config import HeadConfig, ModelConfig
from motivnet.models.motivnet import build_model
from motivnet.preprocess import Preprocessing

Tensors = dict[str, torch.Tensor]
HEADS = {"num_heads": 3}


def same(found: nn.Module, expected: nn.Module) -> bool:
    """Whether two modules hold the same tensors under the same names."""
    own, others = found.state_dict(), expected.state_dict()
    return list(own) == list(others) and all(torch.equal(own[name], others[name]) for name in own)


class TestModels:
    """`load_model`."""

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    def test_a_released_file(self, released: Callable, pixels: Callable, name: str) -> None:
        written = released("motivnet", name=name)
        model = load_model(written.path, num_heads=3)
        assert not model.training
        assert same(model, written.net)
        with torch.inference_mode():
            images = pixels(64, 48, batch=2)
            assert torch.equal(model(images), written.net(images))
            assert model(images).shape == (2, 7)
            assert model.backbone(images).shape == (2, 12, 24)

    def test_strings_do_for_paths(self, released: Callable) -> None:
        written = released("motivnet", metadata=HEADS)
        assert same(load_model(str(written.path)), written.net)

    @pytest.mark.parametrize("classes", [1, 6, 8])
    def test_any_number_of_classes(self, released: Callable, pixels: Callable, classes: int) -> None:
        model = load_model(released("motivnet", metadata=HEADS, num_classes=classes).path)
        with torch.inference_mode():
            assert model(pixels(64, 48)).shape == (1, classes)

    def test_other_heads_give_other_logits(self, released: Callable, pixels: Callable) -> None:
        """The number of heads does matter: it must not be guessed."""
        path = released("motivnet").path
        with torch.inference_mode():
            three, two = (load_model(path, num_heads=heads)(pixels(64, 48)) for heads in (3, 2))
        assert (three - two).abs().max() > 1e-3

    def test_a_grid_of_other_proportions_needs_the_size(self, released: Callable) -> None:
        written = released("motivnet", metadata=HEADS, image_size=(128, 16))
        with pytest.raises(CheckpointError, match="8 positions fit neither"):
            load_model(written.path)
        assert same(load_model(written.path, image_size=(128, 16)), written.net)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_precision(self, released: Callable, pixels: Callable, dtype: torch.dtype) -> None:
        written = released("motivnet", metadata=HEADS)
        model = load_model(written.path, dtype=dtype)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
        assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
        with torch.inference_mode():
            found, expected = model(pixels(64, 48).to(dtype)).float(), written.net(pixels(64, 48))
        torch.testing.assert_close(found, expected, atol=1e-6 if dtype is torch.float32 else 0.3, rtol=0)

    def test_half_precision_on_disk_is_widened(self, released: Callable) -> None:
        written = released("motivnet", metadata=HEADS, dtype=torch.bfloat16)
        expected = {name: tensor.bfloat16().float() for name, tensor in written.net.state_dict().items()}
        found = load_model(written.path).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_parameters_can_be_trained_and_the_frozen_queries_stay_frozen(self, released: Callable) -> None:
        model = load_model(released("motivnet", metadata=HEADS).path)
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
        assert not model.head.queries.requires_grad  # type: ignore[union-attr]

    def test_the_embedded_model(self, pixels: Callable) -> None:
        model = load_model("nano")
        with torch.inference_mode():
            assert model(pixels(96, 96, channels=1)).shape == (1, 7)
        assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("sapiens-task", "a backbone in format sapiens-task, expected a whole model.*load_backbone"),
            ("sapiens-pretrain", "a backbone in format sapiens-pretrain, expected a whole model"),
            ("sapiens2", "a backbone in format sapiens2, expected a whole model"),
            ("ml-decoder", "a head in format ml-decoder, expected a whole model.*load_head"),
        ],
    )
    def test_a_part_is_no_model(self, released: Callable, kind: str, said: str) -> None:
        with pytest.raises(CheckpointError, match=said):
            load_model(released(kind, metadata=HEADS).path)

    def test_names_that_nobody_knows(self, tmp_path: Path) -> None:
        for name in ("nanoo", tmp_path / "none.pth"):
            with pytest.raises(
                CheckpointError, match=r"unknown model .*Allowed: nano, the folder of a bundle, a weight file"
            ):
                load_model(name)

    def test_a_folder_that_is_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no bundle, which is a folder with a config.json"):
            load_model(tmp_path)

    @pytest.mark.parametrize("fetched", ["file", "folder"])
    def test_a_name_on_the_hub(
        self, released: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fetched: str
    ) -> None:
        written = released("motivnet", metadata=HEADS)
        asked = []

        def locate(name: str) -> Path:
            asked.append(name)
            return written.path if fetched == "file" else ASSETS / "nano"

        monkeypatch.setattr(bundles, "locate", locate)
        model = load_model("hf:owner/repo")
        assert asked == ["hf:owner/repo"]
        assert same(model, written.net if fetched == "file" else load_model("nano"))


class TestStrangers:
    """Files of other programs, and damaged ones."""

    @pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
    @pytest.mark.parametrize("key", [None, "model", "state_dict"])
    def test_prefixes_and_wrappers(
        self, released: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str, key: str | None
    ) -> None:
        written, path = released("motivnet", metadata=HEADS), tmp_path / "wrapped.pth"
        state = {prefix + name: tensor for name, tensor in load_file(written.path).items()}
        torch.save({key: state, "epoch": 3} if key else state, path)
        assert same(load_model(path, num_heads=3), written.net)
        prefixes = [f"'{one}.'" for one in prefix.split(".")[:-1]]
        taken_off = ", ".join([*([repr(key)] if key else []), *prefixes])
        assert caplog.messages == [f"{path}: taken off its names: {taken_off}"]
        assert ", ".join(inspect_weights(path)["taken_off"]) == taken_off

    def test_a_prefix_in_a_bundle(self, released: Callable, tmp_path: Path) -> None:
        bundle = load.convert(released("motivnet", metadata=HEADS).path, tmp_path / "bundle")
        expected = load_model(bundle.path)
        save_file({f"module.{name}": tensor for name, tensor in load_file(bundle.weights).items()}, bundle.weights)
        assert same(load_model(bundle.path), expected)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_weights_are_finite(self, released: Callable, value: float) -> None:
        def edit(tensors: Tensors) -> None:
            tensors["pose_encoder.ln1.bias"][3] = value

        path = released("motivnet", metadata=HEADS, edit=edit).path
        with pytest.raises(CheckpointError, match=r"damaged: backbone\.net\.norm\.bias has values that are NaN or inf"):
            load_model(path)

    def test_weights_too_large_for_half_precision(self, released: Callable) -> None:
        def edit(tensors: Tensors) -> None:
            tensors["pose_encoder.ln1.bias"][3] = 1e5

        path = released("motivnet", metadata=HEADS, edit=edit).path
        assert load_model(path)
        with pytest.raises(CheckpointError, match=r"NaN or infinite in torch\.float16"):
            load_model(path, dtype=torch.float16)


class TestStrictness:
    """Names, shapes: all or nothing."""

    @pytest.mark.parametrize(
        ("edit", "said"),
        [
            (
                lambda tensors: tensors.pop("pose_encoder.layers.1.ln2.bias"),
                r"\(1 differences\): missing backbone.net.blocks.1.norm2.bias",
            ),
            (
                lambda tensors: tensors.update({"pose_encoder.ln1.running": torch.zeros(2)}),
                r"\(1 differences\): unexpected backbone.net.norm.running",
            ),
            (
                lambda tensors: tensors.update({"pose_encoder.layers.0.attn.proj.bias": torch.zeros(23)}),
                r"blocks.0.attn.proj.bias: found \(23,\), expected \(24,\)",
            ),
            (
                lambda tensors: tensors.update({"decoder.decoder.embed_standart.weight": torch.zeros(32, 25)}),
                r"head.embed.weight: found \(32, 25\), expected \(32, 24\)",
            ),
            (
                lambda tensors: tensors.update({"decoder.decoder.duplicate_pooling_bias": torch.zeros(8)}),
                r"head.group_weight: found \(7, 32, 1\), expected \(7, 32, 2\)",
            ),
            (
                lambda tensors: tensors.update({"pose_encoder.projection.weight": torch.zeros(24, 3, 16, 8)}),
                r"patch_embed.proj.weight: found \(24, 3, 16, 8\), expected \(24, 3, 16, 16\)",
            ),
            (
                lambda tensors: [
                    tensors.update({name.replace("layers.1.", "layers.5.", 1): tensors.pop(name)})
                    for name in list(tensors)
                    if name.startswith("pose_encoder.layers.1.")
                ],
                r"\(24 differences\): missing backbone.net.blocks.1",
            ),
            (
                lambda tensors: tensors.update({"pose_encoder.pos_embed": torch.zeros(2, 12, 24)}),
                r"pos_embed: found \(2, 12, 24\), expected \(1, 12, 24\)",
            ),
        ],
        ids=["missing", "unexpected", "narrow", "head", "classes", "patch", "blocks", "positions"],
    )
    def test_what_does_not_fit_is_named(self, released: Callable, edit: Callable, said: str) -> None:
        written = released("motivnet", metadata=HEADS, edit=edit)
        with pytest.raises(CheckpointError, match=said) as caught:
            load_model(written.path)
        assert str(written.path) in str(caught.value)

    def test_more_queries_than_classes(self, released: Callable) -> None:
        def grow(tensors: Tensors) -> None:
            tensors["decoder.decoder.query_embed.weight"] = torch.zeros(9, 32)

        with pytest.raises(CheckpointError, match="num_queries must be between 1 and num_classes=7"):
            load_model(released("motivnet", metadata=HEADS, edit=grow).path)

    def test_a_decoder_width_that_its_heads_do_not_divide(self, released: Callable) -> None:
        path = released("motivnet", metadata=HEADS | {"decoder_heads": 5}).path
        with pytest.raises(CheckpointError, match="decoder width 32 is not divisible by num_heads=5"):
            load_model(path)

    def test_one_layer_beyond_all_bounds(self, released: Callable) -> None:
        """4 MB of file, whose attention would be 48 TB."""

        def widen(tensors: Tensors) -> None:
            tensors["pose_encoder.projection.weight"] = torch.zeros(4_000_000, 1, 1, 1, dtype=torch.float8_e4m3fn)

        with pytest.raises(CheckpointError, match="embed_dim 4000000: must be at most 8192"):
            load_model(released("motivnet", name="w.pth", edit=widen).path, num_heads=1, image_size=(4, 3))

    def test_half_a_file(self, released: Callable, tmp_path: Path) -> None:
        for name in ("w.safetensors", "w.pth"):
            content = released("motivnet", name=name, metadata=HEADS).path.read_bytes()
            half = tmp_path / f"half-{name}"
            half.write_bytes(content[: len(content) // 2])
            with pytest.raises(CheckpointError, match=rf"half-{name}: "):
                load_model(half)

    @pytest.mark.parametrize("content", [b"", b"\0" * 40, b"<html>Not Found</html>", b"PK\3\4", b"\x80\x02."])
    def test_what_is_no_file_of_weights(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "MotivNet.pth"
        path.write_bytes(content)
        for read in (load_model, load_backbone, load_head):
            with pytest.raises(CheckpointError, match=r"MotivNet\.pth: "):
                read(path)


class TestPositions:
    """Resized bicubically to whatever patches fill."""

    @pytest.mark.parametrize("size", [(512, 384), (256, 192), (128, 96), (1024, 1024), (16, 1008)])
    @pytest.mark.parametrize("kind", ["sapiens-task", "sapiens-pretrain"])
    def test_any_size_equals_torchs_own_interpolation(
        self, released: Callable, kind: str, size: tuple[int, int]
    ) -> None:
        own = (64, 64) if kind == "sapiens-pretrain" else (64, 48)
        written = released(kind, image_size=(own[0] * 16, own[1] * 16), embed_dim=8, depth=1, num_heads=2)
        positions = written.tensors["backbone.pos_embed"][:, -own[0] * own[1] :]
        expected = functional.interpolate(
            positions.reshape(1, *own, 8).permute(0, 3, 1, 2),
            size=(size[0] // 16, size[1] // 16),
            mode="bicubic",
            align_corners=False,
        )
        net = load_backbone(written.path, size, num_heads=2, class_token=False)
        torch.testing.assert_close(
            net.get_parameter("net.pos_embed"), expected.flatten(2).transpose(1, 2), atol=1e-6, rtol=0
        )

    def test_with_the_class_token_only_the_grid_is_resized(self, released: Callable) -> None:
        written = released("sapiens-pretrain", image_size=(64, 64), metadata=HEADS)
        with_token = load_backbone(written.path, (96, 32), class_token=True).get_parameter("net.pos_embed")
        without = load_backbone(written.path, (96, 32), class_token=False).get_parameter("net.pos_embed")
        assert torch.equal(with_token[:, :1], written.tensors["backbone.pos_embed"][:, :1])
        assert torch.equal(with_token[:, 1:], without)

    def test_whole_models_and_bundles_too(self, released: Callable, tmp_path: Path, pixels: Callable) -> None:
        from motivnet.checkpoints.load import convert

        written = released("motivnet", metadata=HEADS)
        bundle = convert(written.path, tmp_path / "bundle")
        models = [load_model(place, image_size=(96, 96)) for place in (written.path, bundle.path)]
        expected = load_backbone(written.path, (96, 96)).get_parameter("net.pos_embed")
        with torch.inference_mode():
            for model in models:
                assert torch.equal(model.backbone.get_parameter("net.pos_embed"), expected)
                assert model.backbone(pixels(96, 96)).shape == (1, 36, 24)

    def test_its_own_size_changes_nothing(self, released: Callable) -> None:
        written = released("motivnet", metadata=HEADS)
        assert same(load_model(written.path, image_size=(64, 48)), written.net)

    @pytest.mark.parametrize("size", [(50, 48), (64, 50), (0, 48), (-16, 48), (1000, 750)])
    @pytest.mark.parametrize("kind", ["motivnet", "sapiens-task", "sapiens-pretrain", "sapiens2"])
    def test_a_size_that_patches_do_not_fill(self, released: Callable, kind: str, size: tuple[int, int]) -> None:
        path = released(kind, metadata=HEADS).path
        reads = [load_backbone, load_model] if kind == "motivnet" else [load_backbone]
        for read in reads:
            with pytest.raises(
                CheckpointError, match=r"weights.safetensors: image_size .*(divisible by patch_size 16|at least 1x1)"
            ):
                read(path, image_size=size)

    @pytest.mark.parametrize("positions", [11, 20, 24, 3072])
    def test_a_bundle_with_the_positions_of_another(self, released: Callable, tmp_path: Path, positions: int) -> None:
        from safetensors.torch import load_file, save_file

        from motivnet.checkpoints.load import convert

        bundle = convert(released("motivnet", metadata=HEADS).path, tmp_path / "bundle")
        tensors = load_file(bundle.weights) | {"backbone.net.pos_embed": torch.zeros(1, positions, 24)}
        save_file(tensors, bundle.weights)
        for size in (None, (128, 96)):
            with pytest.raises(CheckpointError, match=rf"pos_embed: found \(1, {positions}, 24\), expected"):
                load_model(bundle.path, image_size=size)

    def test_a_bundle_at_such_a_size(self, released: Callable, tmp_path: Path) -> None:
        from motivnet.checkpoints.load import convert

        bundle = convert(released("motivnet", metadata=HEADS).path, tmp_path / "bundle")
        with pytest.raises(CheckpointError, match=r"bundle: image_size \(50, 48\).*divisible"):
            load_model(bundle.path, image_size=(50, 48))


class TestBackbones:
    """`load_backbone`."""

    @pytest.mark.parametrize("kind", ["sapiens-task", "sapiens2"])
    def test_an_encoder_as_it_is(self, released: Callable, pixels: Callable, kind: str) -> None:
        written = released(kind, metadata=HEADS)
        net = load_backbone(written.path, (64, 48))
        assert not net.training
        assert same(net, written.net)
        with torch.inference_mode():
            tokens = net(pixels(64, 48, batch=2))
            assert tokens.shape == (2, 12, 24)
            assert torch.equal(tokens, written.net(pixels(64, 48, batch=2)))

    def test_the_default_size(self, released: Callable) -> None:
        net = load_backbone(released("sapiens-task", metadata=HEADS).path)
        assert net.get_parameter("net.pos_embed").shape == (1, 3072, 24)

    def test_the_encoder_of_a_whole_model(self, released: Callable, caplog: pytest.LogCaptureFixture) -> None:
        written = released("motivnet", metadata=HEADS)
        assert same(load_backbone(written.path, (64, 48)), written.net.backbone)

    @pytest.mark.parametrize(
        ("class_token", "size", "kept"),
        [
            (None, (64, 64), True),
            (None, (64, 48), False),
            (True, (64, 64), True),
            (True, (64, 48), True),
            (False, (64, 64), False),
            (False, (64, 48), False),
        ],
    )
    @pytest.mark.parametrize("kind_of_size", [tuple, list])
    def test_class_token(
        self,
        released: Callable,
        pixels: Callable,
        caplog: pytest.LogCaptureFixture,
        class_token: bool | None,
        size: tuple[int, int],
        kept: bool,
        kind_of_size: type,
    ) -> None:
        written = released("sapiens-pretrain", image_size=(64, 64), metadata=HEADS)
        caplog.set_level(logging.INFO, "motivnet")
        net = load_backbone(written.path, kind_of_size(size), class_token=class_token)
        assert ("net.cls_token" in net.state_dict()) == kept
        assert net.num_prefix_tokens == int(kept)
        assert net.get_submodule("net.patch_embed.proj").padding == ((0, 0) if kept else (2, 2))
        assert ("cls_token" in caplog.text) != kept
        with torch.inference_mode():
            assert net(pixels(*size)).shape == (1, size[0] * size[1] // 256, 24)
        if kept and size == (64, 64):
            assert same(net, written.net)

    @pytest.mark.parametrize("kind", ["sapiens-task", "motivnet", "sapiens2"])
    def test_no_class_token_to_keep(self, released: Callable, kind: str) -> None:
        path = released(kind, metadata=HEADS).path
        with pytest.raises(CheckpointError, match=rf"format {kind} has no class token to keep"):
            load_backbone(path, class_token=True)

    def test_what_is_dropped_is_told(self, released: Callable, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "motivnet")
        extra = {"head.a.weight": torch.zeros(2), "decoder_pred.bias": torch.zeros(1)}
        path = released("sapiens-pretrain", metadata=HEADS, edit=lambda tensors: tensors.update(extra)).path
        load_backbone(path, (64, 48), class_token=False)
        (record,) = (record for record in caplog.records if record.name.startswith("motivnet"))
        told = record.getMessage()
        assert str(path) in told
        assert all(name in told for name in ("head.a.weight", "decoder_pred.bias", "cls_token"))

    def test_a_head_is_no_encoder(self, released: Callable) -> None:
        with pytest.raises(
            CheckpointError, match=r"a head in format ml-decoder, expected an encoder. Allowed: load_head"
        ):
            load_backbone(released("ml-decoder").path)

    def test_a_grid_of_other_proportions(self, released: Callable) -> None:
        written = released("sapiens-task", image_size=(32, 64), metadata=HEADS)
        assert same(load_backbone(written.path, (32, 64)), written.net)
        with pytest.raises(CheckpointError, match="8 positions fit neither"):
            load_backbone(written.path, (64, 64))

    def test_one_channel(self, released: Callable, pixels: Callable) -> None:
        net = load_backbone(released("sapiens-task", in_chans=1, metadata=HEADS).path, (64, 48))
        with torch.inference_mode():
            assert net(pixels(64, 48, channels=1)).shape == (1, 12, 24)


class TestSapiens2:
    """Rotary frequencies come with no file: they are computed when the module is built."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("depth", [2, 18])
    def test_rotary_frequencies(self, released: Callable, pixels: Callable, dtype: torch.dtype, depth: int) -> None:
        written = released("sapiens2", embed_dim=32, depth=depth, num_heads=4, num_kv_heads=2)
        net = load_backbone(written.path, (64, 48), dtype=dtype)
        expected = dict(written.net.named_buffers())
        buffers = dict(net.named_buffers())
        assert buffers.keys() == expected.keys()
        assert buffers
        for name, buffer in buffers.items():
            assert buffer.dtype == expected[name].dtype, "it must keep its precision"
            assert torch.equal(buffer, expected[name])
        assert {parameter.dtype for parameter in net.parameters()} == {dtype}
        with torch.inference_mode():
            found, wanted = net(pixels(64, 48).to(dtype)).float(), written.net(pixels(64, 48))
        assert (found - wanted).abs().max() <= (1e-5 if dtype is torch.float32 else 0.05) * wanted.abs().max()

    def test_any_size(self, released: Callable, pixels: Callable) -> None:
        written = released("sapiens2", image_size=(96, 64))
        net = load_backbone(written.path, (96, 64))
        with torch.inference_mode():
            assert torch.equal(net(pixels(96, 64)), written.net(pixels(96, 64)))

    def test_wrong_heads_are_noticed(self, released: Callable) -> None:
        with pytest.raises(CheckpointError, match="not the weights of this model"):
            load_backbone(released("sapiens2").path, num_heads=2)


class TestHeads:
    """`load_head`."""

    @pytest.mark.parametrize("head", [HeadConfig(dim=16, ff_dim=8), HeadConfig(dim=16, ff_dim=8, num_queries=3)])
    def test_ml_decoder(self, released: Callable, head: HeadConfig) -> None:
        written = released("ml-decoder", head=head)
        found = load_head(written.path)
        assert not found.training
        assert same(found, written.net)
        tokens = torch.randn(2, 5, 24)
        with torch.inference_mode():
            assert torch.equal(found(tokens), written.net(tokens))

    @pytest.mark.parametrize("kind", ["motivnet", "sapiens-task"])
    def test_other_formats(self, released: Callable, kind: str) -> None:
        with pytest.raises(CheckpointError, match=rf"format {kind}, expected ml-decoder"):
            load_head(released(kind).path)


class TestMemory:
    """Refused before it is short; owned once it is given."""

    def test_too_little_is_said_before_anything_is_allocated(
        self, released: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = released("motivnet", metadata=HEADS).path
        needed = sum(parameter.numel() for parameter in load_model(path).parameters())
        monkeypatch.setattr(load, "release", lambda tensor: pytest.fail("a tensor was read"))
        for dtype, width in ((torch.float32, 4), (torch.bfloat16, 2)):
            monkeypatch.setattr(load, "free_bytes", lambda device, width=width: needed * width - 1)
            said = (
                rf"weights.safetensors: takes 0.0 GB in {str(dtype)[6:]}, and 0.0 GB are free on cpu. Allowed: bfloat16"
            )
            with pytest.raises(CheckpointError, match=said):
                load_model(path, dtype=dtype)

    @pytest.mark.parametrize("free", [None, "enough"])
    def test_enough_is_enough(self, released: Callable, monkeypatch: pytest.MonkeyPatch, free: str | None) -> None:
        written = released("motivnet", metadata=HEADS)
        needed = sum(parameter.numel() for parameter in written.net.parameters()) * 4
        monkeypatch.setattr(load, "free_bytes", lambda device: needed if free else None)
        assert same(load_model(written.path), written.net)

    def test_free_memory_is_that_of_the_machine(self) -> None:
        free = load.free_bytes(torch.device("cpu"))
        if not Path("/proc/meminfo").exists():
            assert free is None
            return
        assert free is not None
        assert 1e7 < free < 1e14
        assert load.free_bytes(torch.device("mps")) is None

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    def test_the_file_may_change_afterwards(self, released: Callable, pixels: Callable, name: str) -> None:
        written = released("motivnet", name=name)
        model = load_model(written.path, num_heads=3)
        with written.path.open("r+b") as file:
            file.write(b"\xff" * written.path.stat().st_size)
        written.path.unlink()
        with torch.inference_mode():
            assert torch.equal(model(pixels(64, 48)), written.net(pixels(64, 48)))
        assert same(model, written.net)

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    def test_the_model_may_change_afterwards(self, released: Callable, name: str) -> None:
        written = released("motivnet", name=name)
        before = written.path.read_bytes()
        with torch.no_grad():
            for tensor in load_model(written.path, num_heads=3).state_dict().values():
                tensor.zero_()
        assert written.path.read_bytes() == before
        assert same(load_model(written.path, num_heads=3), written.net)


class TestBuiltWithoutMemory:
    """The context in which modules get parameters without storage."""

    def test_parameters_have_no_storage_and_buffers_do(self) -> None:
        with load.built_without_memory():
            inside = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))
        assert all(parameter.is_meta and parameter.requires_grad for parameter in inside.parameters())
        assert [tuple(parameter.shape) for parameter in inside.parameters()] == [(2, 3), (2,), (2,), (2,), (2, 2)]
        assert not any(buffer.is_meta for buffer in inside.buffers())
        assert not any(parameter.is_meta for parameter in nn.Linear(2, 2).parameters())

    def test_frozen_parameters_stay_frozen(self) -> None:
        with load.built_without_memory():
            net = nn.Module()
            net.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        assert net.frozen.is_meta
        assert not net.frozen.requires_grad

    def test_an_error_leaves_nothing_behind(self) -> None:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError), load.built_without_memory():
                _ = 1 / 0
        assert not nn.Linear(2, 2).weight.is_meta
        with load.built_without_memory():
            assert nn.Linear(2, 2).weight.is_meta

    def test_other_threads_are_left_alone(self) -> None:
        elsewhere: list[nn.Linear] = []
        with load.built_without_memory():
            thread = threading.Thread(target=lambda: elsewhere.append(nn.Linear(2, 2)))
            thread.start()
            thread.join()
            assert nn.Linear(2, 2).weight.is_meta
        assert not elsewhere[0].weight.is_meta

    def test_several_threads_load_at_once(self, released: Callable) -> None:
        from concurrent.futures import ThreadPoolExecutor

        written = released("motivnet", metadata=HEADS)
        with ThreadPoolExecutor(4) as pool:
            models = list(pool.map(lambda _: load_model(written.path), range(12)))
        assert all(same(model, written.net) for model in models)

    @pytest.mark.parametrize("kind", ["motivnet", "sapiens-task", "sapiens2", "ml-decoder"])
    def test_nothing_is_without_storage_in_the_end(self, released: Callable, kind: str) -> None:
        read = {"motivnet": load_model, "ml-decoder": load_head}.get(kind, load_backbone)
        net = read(released(kind, metadata={"num_heads": 8 if kind == "ml-decoder" else 3}).path)
        assert not any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers()))


class TestBundles:
    """A bundle's weights."""

    def config(self) -> BundleConfig:
        return BundleConfig(
            name="small",
            summary="",
            licence="none",
            model=ModelConfig(
                backbone="timm:mobilenetv2_035", image_size=(32, 32), in_chans=1, head=HeadConfig(kind="linear")
            ),
            preprocessing=Preprocessing(
                geometry="square", size=(32, 32), channels="grey", filter="bilinear", mean=(127.5,), std=(64.0,)
            ),
        )

    def test_statistics_and_counters_come_back(self, tmp_path: Path, pixels: Callable) -> None:
        bundle = write_config(tmp_path, self.config())
        model = build_model(bundle.config.model)
        model(pixels(32, 32, batch=4, channels=1))  # in training mode: statistics move, batches are counted
        load.write_weights(bundle, model.eval())
        found = load_model(tmp_path)
        assert same(found, model)
        counters = [tensor for name, tensor in found.named_buffers() if name.endswith("num_batches_tracked")]
        assert counters
        assert all(counter.dtype == torch.int64 and counter == 1 for counter in counters)
        halved = load_model(tmp_path, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in halved.parameters()} == {torch.bfloat16}
        assert {buffer.dtype for buffer in halved.buffers()} == {torch.bfloat16, torch.int64}

    def test_without_weights(self, tmp_path: Path) -> None:
        write_config(tmp_path, self.config())
        with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read: no such file"):
            load_model(tmp_path)

    def test_with_the_weights_of_another(self, tmp_path: Path) -> None:
        write_config(tmp_path, self.config())
        shutil.copy(ASSETS / "nano" / "model.safetensors", tmp_path)
        with pytest.raises(CheckpointError, match="not the weights of this model"):
            load_model(tmp_path)
