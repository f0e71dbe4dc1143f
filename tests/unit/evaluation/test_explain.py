"""Where a model looks: the right weights, at the right place of the photograph."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

from motivnet.checkpoints.bundle import BundleConfig, open_bundle, write_config  # noqa: E402
from motivnet.checkpoints.load import write_weights  # noqa: E402
from motivnet.errors import CheckpointError, ImageError  # noqa: E402
from motivnet.evaluation.explain import Explainer, Explanation, class_maps, explain, token_grid  # noqa: E402
from motivnet.inference.predictor import Predictor  # noqa: E402
from motivnet.inference.results import FaceResult  # noqa: E402
from motivnet.labels import EMOTIONS, LabelSet  # noqa: E402
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig  # noqa: E402
from motivnet.models.ml_decoder import Look, MLDecoder  # noqa: E402
from motivnet.models.motivnet import build_model  # noqa: E402
from motivnet.preprocess import Box, Preprocessing  # noqa: E402

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
        seen=seen,
        filled=filled,
        input_size=input_size,
    )


class TestMaps:
    def test_probabilities_are_the_predictors_and_maps_sum_to_one(self, tmp_path):
        explainer = tiny()
        config = dataclasses.replace(explainer.config, temperature=1.7)
        bundle = write_config(tmp_path / "b", config)
        write_weights(bundle, explainer.model)
        image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
        (found,) = explain(bundle.path, image, detector="whole")
        (result,) = Predictor.load(bundle.path, detector="whole", backend="torch").predict(image)
        assert found.face.emotion == result.faces[0].emotion
        assert found.face.box == result.faces[0].box
        assert list(found.face.probs) == list(EMOTIONS)
        assert list(found.face.probs.values()) == pytest.approx(list(result.faces[0].probs.values()), abs=1e-6)
        assert list(found.maps) == list(EMOTIONS)
        for map_ij in found.maps.values():
            assert map_ij.shape == (4, 3)
            assert map_ij.min() >= 0
            assert map_ij.sum() == pytest.approx(1, abs=1e-5)
        # The queries are random: no two emotions look at the same places.
        assert len({map_ij.tobytes() for map_ij in found.maps.values()}) == 7

    def test_they_are_of_the_last_layer_and_the_mean_of_its_heads(self):
        weights = torch.rand(2, 1, 3, 7, 5).softmax(-1)
        looks = [Look(layer, torch.zeros(1), torch.zeros(1)) for layer in weights]
        head = MLDecoder(4, 7, dim=6, num_heads=3, ff_dim=4)
        torch.testing.assert_close(class_maps(looks, head), weights[1].mean(1))

    @pytest.mark.parametrize(("num_classes", "num_queries"), [(7, 3), (8, 3), (7, 1)])
    def test_classes_of_a_group_share_the_map_of_their_query(self, num_classes, num_queries):
        explainer = tiny(dataclasses.replace(HEAD, num_queries=num_queries), num_classes)
        image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        found = explainer.explain(image)
        maps = list(found.maps.values())
        size = -(-num_classes // num_queries)
        assert len(maps) == num_classes
        for one in range(num_classes):
            for two in range(num_classes):
                assert np.array_equal(maps[one], maps[two]) == (one // size == two // size)
        # The class that a query answers is the one that its group's weights lead to: shown by moving one query.
        with torch.no_grad():
            explainer.head.queries[-1] += 3.0
        moved = explainer.explain(image)
        changed = [
            moved.face.probs[label] / moved.face.probs[found_label]
            != pytest.approx(found.face.probs[label] / found.face.probs[found_label], rel=1e-5)
            for label, found_label in zip(found.maps, [next(iter(found.maps))] * num_classes, strict=True)
        ]
        last_group = [index // size == num_queries - 1 for index in range(num_classes)]
        assert [not np.array_equal(moved.maps[label], found.maps[label]) for label in found.maps] == last_group
        if num_queries > 1:
            assert changed == last_group

    def test_the_token_that_is_attended_to_is_the_one_at_that_place(self):
        """With equal patches but one, and a backbone that passes them through, the map stands out at that one."""
        explainer = tiny()

        class Patches(torch.nn.Module):
            embed_dim = 16

            def forward(self, pixels_BCHW):
                patches = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
                return patches.flatten(2).transpose(1, 2).repeat(1, 1, 16)

        explainer.model.backbone = Patches()
        image = np.full((32, 24, 3), 128, np.uint8)
        image[16:24, 8:16] = 255
        explainer.config = dataclasses.replace(
            explainer.config, preprocessing=dataclasses.replace(explainer.config.preprocessing, geometry="stretch")
        )
        for map_ij in explainer.explain(image).maps.values():
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
        assert heat.max() == pytest.approx(16, rel=0.05)
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
        assert found.face.score == 0.9
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
    assert found.maps["happiness"].shape == (3, 3)
    x, y, width, height = result.faces[0].box
    assert abs(found.seen.x + found.seen.width / 2 - (x + width / 2)) <= 1
    assert abs(found.seen.y + found.seen.height / 2 - (y + height / 2)) <= 1
    assert found.seen.width == found.seen.height == pytest.approx(max(width, height), abs=1.5)
    plain = found.to_dict()
    assert plain["maps"]["fear"] == found.maps["fear"].astype(float).round(6).tolist()
    assert plain["seen"] == [round(value) for value in found.seen]


def test_explaining_many_images_loads_the_model_once(astronaut: np.ndarray, tmp_path: Path) -> None:
    explainer = Explainer.load("nano")
    assert explainer.config == open_bundle("nano").config
    one, two = explain(explainer, astronaut), explain(explainer, astronaut)
    assert one[0].face == two[0].face
    assert explain(explainer, np.full((100, 100, 3), 90, np.uint8)) == []
