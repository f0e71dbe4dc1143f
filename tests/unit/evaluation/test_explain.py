"""Where a model looks: the right weights, at the right place of the photograph."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from motivnet.checkpoints.bundle import BundleConfig, Calibration, open_bundle, write_config
from motivnet.checkpoints.load import write_weights
from motivnet.errors import CheckpointError, ImageError
from motivnet.evaluation.explain import (
    MIN_PLACES,
    Explainer,
    Explanation,
    class_attention,
    explain,
    token_grid,
)
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult
from motivnet.labels import EMOTIONS, LabelSet
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.ml_decoder import AttentionTrace, MLDecoder
from motivnet.models.motivnet import build_model
from motivnet.preprocess import Box, Preprocessing

HEAD = HeadConfig(dim=16, num_heads=4, ff_dim=16, num_layers=2)


def tiny(head: HeadConfig = HEAD, num_classes: int = 7, **changes) -> Explainer:
    """A random model of 4 x 3 tokens, 32 x 24 pixels, and sharp attention."""
    torch.manual_seed(0)
    vit = VitConfig(embed_dim=16, depth=1, num_heads=4, patch_size=8, patch_padding=0)
    model = ModelConfig(
        backbone="sapiens", image_size=(32, 24), in_chans=1, num_classes=num_classes, vit=vit, head=head
    )
    settings = {
        "geometry": "pad",
        "size": (32, 24),
        "channels": "grey",
        "filter": "bilinear",
        "mean": (127.5,),
        "std": (64.0,),
    }
    config = BundleConfig(
        name="tiny",
        summary="",
        licence="none",
        model=model,
        preprocessing=Preprocessing(**(settings | changes)),
        labels=EMOTIONS if num_classes == 7 else LabelSet(tuple(f"c{i}" for i in range(num_classes))),
    )
    return Explainer(config, build_model(config.model).eval())


def explanation(map_ij: np.ndarray, *, seen: Box, filled: Box, input_size: tuple[int, int]) -> Explanation:
    return Explanation(
        face=FaceResult(seen, 1.0, "anger", {"anger": 0.8, "fear": 0.2}),
        maps={"anger": map_ij.astype(np.float32), "fear": np.full_like(map_ij, 1 / map_ij.size, np.float32)},
        attention={"anger": np.eye(3, dtype=np.float32) / 3, "fear": np.eye(2, dtype=np.float32) / 2},
        seen=seen,
        filled=filled,
        input_size=input_size,
    )


class TestMaps:
    def test_probabilities_are_the_predictors_and_maps_sum_to_one(self, tmp_path):
        explainer = tiny()
        config = dataclasses.replace(explainer.config, calibration=Calibration(temperature=1.7))
        bundle = write_config(tmp_path / "b", config)
        write_weights(bundle, explainer.model)
        image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
        (found,) = explain(Explainer.load(bundle.path, dtype="fp32"), image, detector="whole")
        (result,) = Predictor.load(bundle.path, detector="whole", backend="torch", dtype="fp32").predict(image)
        assert found.face.emotion == result.faces[0].emotion
        assert found.face.box == result.faces[0].box
        assert list(found.face.probs) == list(EMOTIONS)
        assert list(found.face.probs.values()) == pytest.approx(list(result.faces[0].probs.values()), abs=1e-6)
        for maps in (found.maps, found.attention):
            assert list(maps) == list(EMOTIONS)
            for map_ij in maps.values():
                assert map_ij.shape == (4, 3)
                assert map_ij.min() >= 0
                assert map_ij.sum() == pytest.approx(1, abs=1e-5)
            # The queries are random: no two emotions look at the same places.
            assert len({map_ij.tobytes() for map_ij in maps.values()}) == 7

    def test_at_the_tokens_it_is_gradient_times_token_with_attention_held(self):
        explainer = tiny()
        pixels = np.random.default_rng(0).normal(size=(2, 1, 32, 24)).astype(np.float32)
        found = explainer.attribute(pixels)
        with torch.no_grad():
            tokens = explainer.model.backbone(torch.from_numpy(pixels))

        # By small steps instead of autograd, through an attention of our own whose weights are given.
        looks: list[AttentionTrace] = []
        with torch.no_grad():
            explainer.head(tokens, looks)
        weights = iter([])

        def held(attn):
            def forward(query, tokens_BNE, looks=None):
                *_, weight_v = attn.in_proj.weight.chunk(3)
                *_, bias_v = attn.in_proj.bias.chunk(3)
                values = attn._split(torch.nn.functional.linear(tokens_BNE, weight_v, bias_v))
                return attn.out_proj((next(weights) @ values).transpose(1, 2).flatten(2))

            return forward

        for layer in explainer.head.layers:
            layer.attn.forward = held(layer.attn)
        explainer.head.double()
        looks = [AttentionTrace(look.weights.double(), look.values) for look in looks]
        tokens, step = tokens.double(), 1e-6
        expected = torch.zeros(2, 7, 12)
        with torch.no_grad():
            for n in range(12):
                # Gradient times token is what the logit changes by as the token grows in its own direction.
                logits = []
                for sign in (1, -1):
                    moved = tokens.clone()
                    moved[:, n] *= 1 + sign * step
                    weights = iter([look.weights for look in looks])
                    logits.append(explainer.head(moved))
                expected[:, :, n] = (logits[0] - logits[1]) / (2 * step)
        expected = expected.clamp(min=0)
        expected /= expected.sum(2, keepdim=True)
        np.testing.assert_allclose(found.maps.reshape(2, 7, 12), expected.numpy(), atol=1e-4)

    def test_a_convolutional_network_is_followed_back_to_finer_features(self):
        explainer = Explainer.load("nano")
        pixels = np.random.default_rng(0).normal(size=(2, 1, 96, 96)).astype(np.float32)
        found = explainer.attribute(pixels)
        assert found.maps.shape == (2, 7, MIN_PLACES, MIN_PLACES)
        assert found.attention.shape == (2, 7, 9)
        # What is shown is the gradient of the logit at those features; the model itself stays as it was.
        with torch.inference_mode():
            logits = explainer.model(torch.from_numpy(pixels))
        np.testing.assert_allclose(
            found.probs, explainer.config.calibration.probs(logits.numpy()), rtol=1e-3, atol=1e-6
        )
        assert not any(module._forward_hooks for module in explainer.model.modules())
        assert all(parameter.grad is None for parameter in explainer.model.parameters())
        # A batch is the faces one by one.
        np.testing.assert_allclose(explainer.attribute(pixels[1:]).maps[0], found.maps[1], atol=1e-4)

    def test_an_emotion_that_nothing_speaks_for_has_an_empty_map(self):
        explainer = tiny()
        with torch.no_grad():
            explainer.head.group_weight[3] = 0
        found = explainer.attribute(np.zeros((1, 1, 32, 24), np.float32))
        assert (found.maps[0, 3] == 0).all()
        assert np.isfinite(found.maps).all()

    def test_bare_attention_is_the_last_layers_and_the_mean_of_its_heads(self):
        weights = torch.rand(2, 1, 3, 7, 5).softmax(-1)
        looks = [AttentionTrace(layer, torch.zeros(1)) for layer in weights]
        head = MLDecoder(4, 7, dim=6, num_heads=3, ff_dim=4)
        torch.testing.assert_close(class_attention(looks, head), weights[1].mean(1))

    @pytest.mark.parametrize(("num_classes", "num_queries"), [(7, 3), (8, 3), (7, 1)])
    def test_classes_of_a_group_share_their_querys_attention_but_not_the_map(self, num_classes, num_queries):
        explainer = tiny(dataclasses.replace(HEAD, num_queries=num_queries), num_classes)
        pixels = np.random.default_rng(0).normal(size=(1, 1, 32, 24)).astype(np.float32)
        before = explainer.attribute(pixels)
        size = -(-num_classes // num_queries)
        assert before.attention.shape == (1, num_classes, 12)
        for one in range(num_classes):
            for two in range(num_classes):
                same = np.array_equal(before.attention[0, one], before.attention[0, two])
                assert same == (one // size == two // size)
                assert np.array_equal(before.maps[0, one], before.maps[0, two]) == (one == two)
        # The group whose attention moves with a query is the one whose logits do.
        with torch.no_grad():
            explainer.head.queries[-1] += torch.linspace(-3, 3, HEAD.dim)
        after = explainer.attribute(pixels)
        last = [index // size == num_queries - 1 for index in range(num_classes)]
        moved = [not np.array_equal(after.attention[0, c], before.attention[0, c]) for c in range(num_classes)]
        logs = np.log(after.probs[0]) - np.log(before.probs[0])
        assert moved == last
        if num_queries > 1:
            assert [abs(change - logs[0]) > 1e-4 for change in logs] == last

    def test_the_token_that_stands_out_is_the_one_at_that_place(self):
        """With equal patches but one, and a backbone that passes them through, the map stands out at that one."""
        explainer = tiny(geometry="stretch")

        class Patches(torch.nn.Module):
            def forward(self, pixels_BCHW):
                patches = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
                return patches.flatten(2).transpose(1, 2).repeat(1, 1, 16)

        explainer.model.backbone = Patches()
        image = np.full((32, 24, 3), 128, np.uint8)
        image[16:24, 8:16] = 255
        found = explainer.explain(image)
        # The other patches are next to nothing after normalisation, and so is what they say.
        assert max(map_ij[2, 1] for map_ij in found.maps.values()) > 0.9
        for map_ij in found.attention.values():
            others = np.delete(map_ij.ravel(), 2 * 3 + 1)
            assert np.ptp(others) < 1e-6
            assert abs(map_ij[2, 1] - others[0]) > 1e-4


class TestPlaces:
    def test_a_token_is_drawn_where_its_pixels_came_from(self):
        map_ij = np.zeros((4, 4))
        map_ij[1, 3] = 1.0
        shown = explanation(map_ij, seen=Box(100, 50, 200, 200), filled=Box(0, 0, 32, 32), input_size=(32, 32))
        heat = shown.heat()
        assert heat.shape == (200, 200)
        # Column 3 of 4 is centred at 7/8 of the width, row 1 at 3/8 of the height.
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert heat[75, 175] == pytest.approx(heat.max(), rel=0.05)
        assert 60 < y < 90
        assert x > 160
        assert heat.max() == pytest.approx(16, rel=0.1)
        assert heat[120:, :].max() < 2.0
        assert heat[:, :120].max() == 0.0

    def test_an_even_spread_is_one_everywhere(self):
        shown = explanation(np.eye(3) / 3, seen=Box(0, 0, 31, 57), filled=Box(0, 0, 24, 32), input_size=(32, 24))
        np.testing.assert_allclose(shown.heat("fear"), np.ones((57, 31)), atol=1e-6)

    def test_padding_of_the_input_is_no_part_of_the_photograph(self):
        # Attention on the padding rows alone, a quarter of the input's height at each end.
        map_ij = np.zeros((8, 4))
        map_ij[0] = map_ij[-1] = 0.125
        shown = explanation(map_ij, seen=Box(0, 0, 60, 60), filled=Box(0, 16, 32, 32), input_size=(64, 32))
        assert shown.heat().shape == (60, 60)
        assert shown.heat().max() == 0.0
        map_ij = np.zeros((8, 4))
        map_ij[2] = 0.25
        heat = dataclasses.replace(shown, maps={"anger": map_ij.astype(np.float32)}).heat()
        # The third row of tokens is the first one of the photograph.
        assert heat[0].min() > 4 * heat[20].max()

    @pytest.mark.parametrize("geometry", ["pad", "stretch"])
    def test_the_rectangle_is_the_box_in_the_photograph(self, geometry):
        explainer = tiny(geometry=geometry)
        image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        found = explainer.explain(image, Box(20.2, 30.4, 50, 40), score=0.9)
        assert found.seen == Box(20, 30, 50, 40)
        assert found.face.box == Box(20.2, 30.4, 50, 40)
        assert found.face.face_score == 0.9
        assert found.heat("fear").shape == (40, 50)
        assert found.filled == (Box(0, 4, 24, 24) if geometry == "pad" else Box(0, 0, 24, 32))

    @pytest.mark.parametrize(
        ("size", "tokens", "grid"),
        [
            ((96, 96), 9, (3, 3)),
            ((1024, 768), 3072, (64, 48)),
            ((100, 60), 8, (4, 2)),
            ((100, 60), 3, (3, 1)),
            ((64, 48), 1, (1, 1)),
            ((32, 24), 12, (4, 3)),
        ],
    )
    def test_the_grid_of_tokens(self, size, tokens, grid):
        assert token_grid(size, tokens) == grid

    def test_tokens_that_are_no_grid_are_refused(self):
        with pytest.raises(CheckpointError, match="11 tokens are no grid over an input of 96x96"):
            token_grid((96, 96), 11)


class TestRefusals:
    @pytest.mark.parametrize("kind", ["linear", "mlp", "attention_pool"])
    def test_other_heads_have_no_attention_per_emotion(self, kind):
        with pytest.raises(CheckpointError, match=f"the head '{kind}', .* Allowed: ml_decoder"):
            tiny(HeadConfig(kind=kind, dim=16, num_heads=4))

    def test_a_bundle_without_torch_weights(self, tiny_bundle):
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            explain(tiny_bundle.path, np.zeros((20, 20, 3), np.uint8), detector="whole")

    def test_what_is_no_image(self, tmp_path):
        with pytest.raises(ImageError, match="no such file"):
            explain(tiny(), tmp_path / "missing.jpg")


def test_nano_explains_a_photograph(astronaut: np.ndarray) -> None:
    (found,) = explain("nano", astronaut)
    (result,) = Predictor.load("nano").predict(astronaut)
    assert found.face.emotion == result.faces[0].emotion
    assert list(found.face.probs.values()) == pytest.approx(list(result.faces[0].probs.values()), abs=1e-4)
    assert found.maps["happiness"].shape == (12, 12)
    assert found.attention["happiness"].shape == (3, 3)
    x, y, width, height = result.faces[0].box
    assert abs(found.seen.x + found.seen.width / 2 - (x + width / 2)) <= 1
    assert abs(found.seen.y + found.seen.height / 2 - (y + height / 2)) <= 1
    # A square, whose edges are rounded to whole pixels.
    assert [found.seen.width, found.seen.height] == pytest.approx([max(width, height)] * 2, abs=1.5)
    plain = found.to_dict()
    assert plain["maps"]["fear"] == found.maps["fear"].astype(float).round(6).tolist()
    assert np.shape(plain["attention"]["fear"]) == (3, 3)
    assert plain["seen"] == [round(value) for value in found.seen]


def test_explaining_many_images_loads_the_model_once(astronaut: np.ndarray, tmp_path: Path) -> None:
    explainer = Explainer.load("nano")
    assert explainer.config == open_bundle("nano").config
    one, two = explain(explainer, astronaut), explain(explainer, astronaut)
    assert one[0].face == two[0].face
    assert explain(explainer, np.full((100, 100, 3), 90, np.uint8)) == []
