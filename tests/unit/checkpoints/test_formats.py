"""What a file holds is read off names and shapes, or refused with what was found."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from motivnet.checkpoints.files import WeightsFile, open_weights
from motivnet.checkpoints.formats import FORMATS, identify, inspect_weights
from motivnet.errors import CheckpointError
from motivnet.labels import EMOTIONS
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig

Tensors = dict[str, torch.Tensor]


def shapes(tensors: Tensors, **metadata: str) -> WeightsFile:
    """A file of tensors without storage."""
    return WeightsFile(Path("shapes.safetensors"), "safetensors", tensors, metadata)


def sapiens_shapes(width: int, *, depth: int = 1, patches: int = 3072, hidden: int | None = None) -> Tensors:
    """A Sapiens encoder of any width, without storage."""
    hidden = hidden or 4 * width
    sizes = {"patch_embed.projection.weight": (width, 3, 16, 16), "pos_embed": (1, patches, width)}
    for block in range(depth):
        sizes |= {
            f"layers.{block}.attn.qkv.weight": (3 * width, width),
            f"layers.{block}.ffn.layers.0.0.weight": (hidden, width),
        }
    return {name: torch.empty(size, device="meta") for name, size in sizes.items()}


def config_of(file: WeightsFile, **arguments) -> ModelConfig:
    return identify(file, **arguments).model_config()


class TestDimensions:
    """Read off shapes."""

    @pytest.mark.parametrize(
        "vit",
        [
            {"embed_dim": 40, "depth": 1, "num_heads": 5},
            {"embed_dim": 48, "depth": 11, "num_heads": 3, "mlp_ratio": 2.0},
            {"embed_dim": 52, "depth": 1, "num_heads": 2, "mlp_ratio": 107.5 / 52},
        ],
    )
    @pytest.mark.parametrize("kind", ["motivnet", "sapiens-task", "sapiens-pretrain", "sapiens2"])
    def test_any_encoder(self, released: Callable, kind: str, vit: dict) -> None:
        if kind == "sapiens2" and vit["embed_dim"] == 40:
            vit = vit | {"embed_dim": 80}  # rotary positions take a fourth of a head
        written = released(kind, metadata={"num_heads": vit["num_heads"]}, **vit)
        contents = identify(open_weights(written.path))
        assert contents.format == kind
        assert contents.vit is not None
        config = contents.model_config((64, 48))
        found = {name: getattr(config.vit, name) for name in ("embed_dim", "depth", "num_heads")}
        assert found == {name: vit[name] for name in found}
        hidden = int(vit["embed_dim"] * vit.get("mlp_ratio", 4.0))
        assert int(vit["embed_dim"] * contents.vit.mlp_ratio) == hidden
        assert contents.vit.class_token == (kind == "sapiens-pretrain")
        assert contents.vit.patch_padding == (2 if kind in ("motivnet", "sapiens-task") else 0)

    def test_every_ratio_of_widths_gives_back_what_is_hidden(self) -> None:
        """Divided and multiplied again, 107 / 52 * 52 is a hair below 107."""
        for width in (28, 44, 52, 56, 60, 768, 1280):
            for hidden in range(width, 5 * width, 1 if width < 100 else 97):
                vit = identify(shapes(sapiens_shapes(width, hidden=hidden))).vit
                assert vit is not None
                assert int(width * vit.mlp_ratio) == hidden

    @pytest.mark.parametrize(
        ("head", "classes"),
        [
            (HeadConfig(dim=16, num_layers=1, ff_dim=8, num_heads=4), 7),
            (HeadConfig(dim=24, num_layers=3, ff_dim=40, num_heads=4, num_queries=3), 8),
            (HeadConfig(dim=24, num_layers=2, ff_dim=16, num_heads=2, num_queries=1), 2),
        ],
    )
    def test_any_head(self, released: Callable, head: HeadConfig, classes: int) -> None:
        metadata = {"num_heads": 3, "decoder_heads": head.num_heads}
        written = released("motivnet", head=head, num_classes=classes, metadata=metadata)
        contents = identify(open_weights(written.path))
        assert contents.num_classes == classes
        assert contents.head == head
        written = released("ml-decoder", head=head, num_classes=classes, metadata={"num_heads": head.num_heads})
        contents = identify(open_weights(written.path))
        assert (contents.format, contents.part) == ("ml-decoder", "head")
        assert (contents.num_classes, contents.head) == (classes, head)

    def test_ml_decoder_has_eight_heads_unless_the_file_says_otherwise(self, released: Callable) -> None:
        contents = identify(open_weights(released("ml-decoder").path))
        assert contents.head is not None
        assert contents.head.num_heads == 8

    def test_sapiens2_tells_its_heads_and_shared_heads(self, released: Callable) -> None:
        written = released("sapiens2", embed_dim=32, depth=18, num_heads=4, num_kv_heads=2)
        vit = identify(open_weights(written.path)).vit
        assert vit == VitConfig(embed_dim=32, depth=18, num_heads=4, num_kv_heads=2, patch_padding=0)

    def test_channels_of_the_input(self, released: Callable) -> None:
        for kind in ("motivnet", "sapiens-task", "sapiens2"):
            assert identify(open_weights(released(kind, in_chans=1).path)).in_chans == 1


class TestAttentionHeads:
    """The one number that no shape tells."""

    @pytest.mark.parametrize(("width", "heads"), [(1024, 16), (1280, 16), (1536, 24), (1920, 32)])
    def test_released_widths_are_known(self, width: int, heads: int) -> None:
        vit = config_of(shapes(sapiens_shapes(width))).vit
        assert vit is not None
        assert (vit.embed_dim, vit.num_heads) == (width, heads)

    def test_metadata_counts_more_than_the_table_and_the_argument_most(self) -> None:
        file = shapes(sapiens_shapes(1024), num_heads="32")
        for argument, heads in ((None, 32), (8, 8)):
            vit = config_of(file, num_heads=argument).vit
            assert vit is not None
            assert vit.num_heads == heads

    def test_another_width_says_what_is_needed(self) -> None:
        file = shapes(sapiens_shapes(1000))
        with pytest.raises(
            CheckpointError, match=r"heads of an encoder of width 1000 .*num_heads=.*metadata.*1536: 24"
        ):
            config_of(file)
        vit = config_of(file, num_heads=10).vit
        assert vit is not None
        assert vit.num_heads == 10

    def test_heads_that_do_not_divide_the_width(self) -> None:
        with pytest.raises(CheckpointError, match=r"shapes.safetensors: .*1024 is not divisible by num_heads 7"):
            config_of(shapes(sapiens_shapes(1024)), num_heads=7)

    @pytest.mark.parametrize("said", ["", "0", "-3", "3.0", "three", " 3", "9" * 5000, "\N{ARABIC-INDIC DIGIT THREE}"])
    def test_metadata_that_is_no_number(self, said: str) -> None:
        with pytest.raises(
            CheckpointError, match=r"metadata 'num_heads': found .* expected a number above 0"
        ) as caught:
            identify(shapes(sapiens_shapes(1000), num_heads=said))
        assert len(str(caught.value)) < 200


class TestGrid:
    """Number of positions to input size."""

    @pytest.mark.parametrize(
        ("patches", "size"),
        [
            (3072, (1024, 768)),
            (4096, (1024, 1024)),
            (768, (512, 384)),
            (12, (64, 48)),
            (1, (16, 16)),
            (36, (96, 96)),
        ],
    )
    def test_squares_and_the_proportions_of_task_checkpoints(self, patches: int, size: tuple[int, int]) -> None:
        assert identify(shapes(sapiens_shapes(1024, patches=patches))).image_size == size

    def test_a_class_token_is_not_of_the_grid(self) -> None:
        tensors = sapiens_shapes(1024, patches=4097) | {"cls_token": torch.empty(1, 1, 1024, device="meta")}
        contents = identify(shapes(tensors))
        assert (contents.format, contents.image_size) == ("sapiens-pretrain", (1024, 1024))

    @pytest.mark.parametrize("patches", [2, 128, 3000, 4097])
    def test_others_need_the_size(self, patches: int) -> None:
        file = shapes(sapiens_shapes(1024, patches=patches))
        for hint in (None, (1024, 768)):
            with pytest.raises(CheckpointError, match=rf"{patches} positions fit neither .* Allowed: the image_size"):
                identify(file, image_size=hint)
        assert identify(file, image_size=(16 * patches, 16)).image_size == (16 * patches, 16)

    def test_only_a_class_token(self) -> None:
        tensors = sapiens_shapes(1024, patches=1) | {"cls_token": torch.empty(1, 1, 1024, device="meta")}
        with pytest.raises(CheckpointError, match=r"image_size \(0, 0\)"):
            config_of(shapes(tensors))

    def test_sapiens2_leaves_no_trace_of_its_size(self, released: Callable) -> None:
        file = open_weights(released("sapiens2").path)
        assert identify(file).image_size == (1024, 768)
        assert identify(file, image_size=(64, 48)).image_size == (64, 48)


class TestRecognition:
    """By names of tensors alone."""

    @pytest.mark.parametrize("kind", ["motivnet", "sapiens-task", "sapiens-pretrain", "sapiens2", "ml-decoder"])
    @pytest.mark.parametrize("name", ["MotivNet.pth", "sapiens2_1b.safetensors", "notes.txt"])
    def test_the_name_of_the_file_says_nothing(self, released: Callable, kind: str, name: str) -> None:
        written = released(kind, name=name)
        contents = identify(open_weights(written.path))
        assert contents.format == kind
        assert contents.dropped == ()
        expected = {
            "motivnet": "model",
            "ml-decoder": "head",
        }.get(kind, "backbone")
        assert contents.part == expected
        assert contents.tensors.keys() == written.net.state_dict().keys()

    @pytest.mark.parametrize("kind", ["sapiens-task", "sapiens-pretrain", "sapiens2"])
    def test_with_and_without_the_prefix(self, released: Callable, kind: str) -> None:
        def bare(tensors: Tensors) -> None:
            for name in list(tensors):
                tensors[name.removeprefix("backbone.")] = tensors.pop(name)

        with_prefix = identify(open_weights(released(kind).path))
        without = identify(open_weights(released(kind, name="bare.safetensors", edit=bare).path))
        assert without.tensors.keys() == with_prefix.tensors.keys()
        assert without.vit == with_prefix.vit

    def test_mmengine_wraps(self, released: Callable, tmp_path: Path) -> None:
        written = released("motivnet")
        torch.save({"meta": {"epoch": 3}, "state_dict": written.tensors}, tmp_path / "w.pth")
        assert identify(open_weights(tmp_path / "w.pth")).format == "motivnet"

    def test_a_head_inside_a_classifier(self, released: Callable) -> None:
        def wrap(tensors: Tensors) -> None:
            for name in list(tensors):
                tensors[f"head.{name}"] = tensors.pop(name)
            tensors["body.conv1.weight"] = torch.zeros(2)
            tensors["cls_token"] = torch.zeros(2)

        written = released("ml-decoder", edit=wrap)
        found = inspect_weights(written.path)
        assert (found["format"], found["embed_dim"], found["num_classes"]) == ("ml-decoder", 24, 7)
        assert sorted(found["dropped"]) == ["body.conv1.weight", "cls_token"]

    def test_an_unknown_architecture(self, tmp_path: Path) -> None:
        torch.save({f"resnet.{number}": torch.zeros(1) for number in range(9)}, tmp_path / "w.pth")
        with pytest.raises(
            CheckpointError, match=r"w.pth: tensors of no known format, such as resnet.0, resnet.1, r"
        ) as e:
            inspect_weights(tmp_path / "w.pth")
        assert all(name in str(e.value) for name in FORMATS)
        assert "resnet.3" not in str(e.value)

    def test_no_tensors_at_all(self) -> None:
        with pytest.raises(CheckpointError, match="tensors of no known format"):
            identify(shapes({}))

    def test_the_weights_of_a_bundle_without_the_bundle(self, tmp_path: Path) -> None:
        from motivnet.checkpoints.bundle import ASSETS

        shutil.copy(ASSETS / "nano" / "model.safetensors", tmp_path / "MotivNet.safetensors")
        with pytest.raises(CheckpointError, match=r"weights of a bundle.*in its config.json. Allowed: the bundle's"):
            inspect_weights(tmp_path / "MotivNet.safetensors")


class TestStrictness:
    """Anything odd is refused, and named."""

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            ("motivnet", "pose_encoder.layers.0.ln3.weight"),
            ("motivnet", "decoder.head.weight"),
            ("motivnet", "optimizer.step"),
            ("sapiens-task", "backbone.layers.0.gamma"),
            ("sapiens2", "backbone.blocks.0.attn.wx.weight"),
            ("ml-decoder", "decoder.layers.0.linear3.weight"),
        ],
    )
    def test_an_unknown_tensor(self, released: Callable, kind: str, name: str) -> None:
        written = released(kind, edit=lambda tensors: tensors.update({name: torch.zeros(2)}))
        with pytest.raises(CheckpointError, match=rf"weights.safetensors: .*unexpected tensor '{name}'"):
            inspect_weights(written.path)

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            ("motivnet", "pose_encoder.projection.weight"),
            ("motivnet", "pose_encoder.pos_embed"),
            ("motivnet", "decoder.decoder.query_embed.weight"),
            ("motivnet", "decoder.decoder.duplicate_pooling_bias"),
            ("motivnet", "decoder.decoder.layers.0.linear1.weight"),
            ("sapiens-task", "backbone.layers.0.ffn.layers.0.0.weight"),
            ("sapiens2", "backbone.blocks.0.attn.q_norm.weight"),
            ("sapiens2", "backbone.blocks.1.attn.wk.weight"),
            ("ml-decoder", "decoder.query_embed.weight"),
        ],
    )
    def test_a_tensor_that_dimensions_are_read_off_is_missing(self, released: Callable, kind: str, name: str) -> None:
        written = released(kind, edit=lambda tensors: tensors.pop(name))
        with pytest.raises(CheckpointError, match=r"weights.safetensors: incomplete: there is no tensor for '"):
            inspect_weights(written.path)

    def test_an_encoder_that_lost_its_head(self, released: Callable) -> None:
        def lose(tensors: Tensors) -> None:
            for name in [name for name in tensors if name.startswith("decoder.")]:
                del tensors[name]

        with pytest.raises(CheckpointError, match="incomplete: there is no tensor for 'queries'"):
            inspect_weights(released("motivnet", edit=lose).path)

    @pytest.mark.parametrize("shape", [(), (24,), (1, 12, 24, 1), (1, 0, 24)])
    def test_a_tensor_of_other_dimensions(self, released: Callable, shape: tuple[int, ...]) -> None:
        written = released(
            "sapiens-task", edit=lambda tensors: tensors.update({"backbone.pos_embed": torch.zeros(shape)})
        )
        with pytest.raises(CheckpointError, match=r"net.pos_embed: found shape \(.*\), expected 3 dimensions"):
            inspect_weights(written.path)

    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
    def test_integer_tensors_are_refused(self, released: Callable, dtype: torch.dtype) -> None:
        written = released("motivnet", dtype=dtype, name="w.pth")
        with pytest.raises(CheckpointError, match=rf"w.pth: \S+: found {dtype}. Allowed: floating point"):
            inspect_weights(written.path)

    def test_one_integer_among_floats(self, released: Callable) -> None:
        name = "backbone.layers.0.attn.qkv.weight"
        written = released("sapiens-task", edit=lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
        with pytest.raises(CheckpointError, match=r"net.blocks.0.attn.qkv.weight: found torch.int8"):
            inspect_weights(written.path)

    def test_integers_among_what_is_dropped_do_no_harm(self, released: Callable) -> None:
        written = released(
            "sapiens-task", edit=lambda tensors: tensors.update({"head.step": torch.zeros(1, dtype=torch.int64)})
        )
        assert inspect_weights(written.path)["dropped"] == ("head.step",)

    def test_a_shape_that_the_file_does_not_fill(self, released: Callable) -> None:
        """Stride 0: a few bytes that claim to be megabytes."""
        name = "pose_encoder.projection.weight"
        written = released(
            "motivnet",
            name="w.pth",
            edit=lambda tensors: tensors.update({name: torch.zeros(1).expand(8000, 3, 16, 16)}),
        )
        with pytest.raises(CheckpointError, match=r"found shape \(8000, 3, 16, 16\), more values than the file holds"):
            inspect_weights(written.path)


class TestInspection:
    """What people are told."""

    def test_a_whole_model(self, released: Callable) -> None:
        written = released("motivnet", metadata={"num_heads": 3}, dtype=torch.bfloat16)
        number = sum(tensor.numel() for tensor in written.tensors.values())
        assert inspect_weights(written.path) == {
            "format": "motivnet",
            "container": "safetensors",
            "embed_dim": 24,
            "depth": 2,
            "num_heads": 3,
            "image_size": (64, 48),
            "num_classes": 7,
            "labels": EMOTIONS.names,
            "dtype": "bfloat16",
            "parameters": number,
            "size_bytes": written.path.stat().st_size,
            "dropped": (),
            "taken_off": (),
        }

    def test_heads_that_nobody_knows_do_not_hinder(self, released: Callable) -> None:
        path = released("motivnet").path
        assert inspect_weights(path)["num_heads"] is None
        assert inspect_weights(path, num_heads=3)["num_heads"] == 3

    def test_an_encoder(self, released: Callable) -> None:
        extra = {"head.final.weight": torch.zeros(2), "backbone.mask_token": torch.zeros(1)}
        found = inspect_weights(released("sapiens-pretrain", edit=lambda tensors: tensors.update(extra)).path)
        assert (found["format"], found["num_classes"], found["labels"]) == ("sapiens-pretrain", None, None)
        assert sorted(found["dropped"]) == ["backbone.cls_token", "backbone.mask_token", "head.final.weight"]

    def test_sapiens2_keeps_its_class_token(self, released: Callable) -> None:
        extra = {"backbone.rope_embed.periods": torch.zeros(2)}
        found = inspect_weights(released("sapiens2", edit=lambda tensors: tensors.update(extra)).path)
        assert found["dropped"] == ("backbone.rope_embed.periods",)
        assert found["num_heads"] == 3

    def test_six_classes_have_no_names(self, released: Callable) -> None:
        found = inspect_weights(released("motivnet", num_classes=6).path)
        assert (found["num_classes"], found["labels"]) == (6, None)

    def test_several_dtypes(self, released: Callable) -> None:
        name = "backbone.pos_embed"
        written = released("sapiens-task", edit=lambda tensors: tensors.update({name: tensors[name].half()}))
        assert inspect_weights(written.path)["dtype"] == "float16+float32"

    def test_nothing_is_read_but_names_and_shapes(self, released: Callable) -> None:
        """A file whose numbers are all NaN is inspected as any other: that is for `verify` to find."""
        path = released("motivnet", edit=lambda tensors: [tensor.fill_(torch.nan) for tensor in tensors.values()]).path
        assert inspect_weights(path)["format"] == "motivnet"
