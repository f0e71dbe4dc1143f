"""Valence and arousal beside the classes: two outputs more, and not one logit changed."""

import pytest
import torch

from motivnet.checkpoints.bundle import BundleConfig
from motivnet.checkpoints.load import load_strict
from motivnet.errors import CheckpointError
from motivnet.evaluation.explain import Explainer
from motivnet.labels import AFFECT
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.ml_decoder import AttentionTrace, MLDecoder
from motivnet.models.motivnet import AllOutputs, MotivNet, affect_names, build_model
from motivnet.preprocess import Preprocessing

TINY_VIT = VitConfig(embed_dim=24, depth=1, num_heads=3, patch_size=8, patch_padding=0)
HEADS = {
    "ml_decoder": HeadConfig(dim=16, num_heads=4, ff_dim=32),
    "groups": HeadConfig(dim=16, num_heads=4, ff_dim=32, num_queries=3, num_layers=2),
    "learnable": HeadConfig(dim=16, num_heads=4, ff_dim=32, learnable_queries=True),
    "linear": HeadConfig(kind="linear"),
    "mlp": HeadConfig(kind="mlp", dim=16),
    "attention_pool": HeadConfig(kind="attention_pool", num_heads=4),
}
PREPROCESSING = Preprocessing(
    geometry="pad", size=(32, 24), channels="grey", filter="bilinear", mean=(127.5,), std=(64.0,)
)
each_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def config_of(head: HeadConfig, *, affect: bool = True) -> ModelConfig:
    return ModelConfig(backbone="sapiens", image_size=(32, 24), in_chans=1, vit=TINY_VIT, head=head, affect=affect)


def build(head: HeadConfig, *, affect: bool = True) -> MotivNet:
    torch.manual_seed(0)
    return build_model(config_of(head, affect=affect)).eval()


def extended(plain: MotivNet, head: HeadConfig) -> MotivNet:
    """A model with valence and arousal, the rest of whose weights are a plain one's."""
    torch.manual_seed(1)
    model = build_model(config_of(head)).eval()
    own = model.state_dict()
    load_strict(model, plain.state_dict() | {name: own[name] for name in affect_names(model)}, "plain")
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 1, 32, 24, generator=torch.Generator().manual_seed(2))


@each_head
def test_what_comes_out(head: HeadConfig, images: torch.Tensor) -> None:
    model = build(head)
    assert not AllOutputs(model).training
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(20)  # beyond where tanh is nearly a line
        logits, affect = model.outputs(images)
        assert logits.shape == (3, 7)
        assert affect is not None
        assert affect.shape == (3, len(AFFECT))
        assert affect.abs().max() <= 1
        assert affect.std() > 0
        torch.testing.assert_close(model(images), logits)
        for one, other in zip(AllOutputs(model)(images), (logits, affect), strict=True):
            torch.testing.assert_close(one, other)


@each_head
def test_every_parameter_learns_from_its_own(head: HeadConfig, images: torch.Tensor) -> None:
    model = build(head).train()
    logits, affect = model.outputs(images)
    assert affect is not None
    (logits.square().sum() + affect.square().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    model.zero_grad()
    model(images).square().sum().backward()
    named = dict(model.named_parameters())
    for name in affect_names(model) & named.keys():
        # Logits know nothing of what serves valence and arousal alone.
        assert not named[name].grad.any(), name
    model.zero_grad()
    model.outputs(images).affect.square().sum().backward()
    for name, parameter in named.items():
        learns = parameter.grad is not None and bool(parameter.grad.any())
        assert learns != name.startswith(("head.out.", "head.group_", "head.queries")), name


@each_head
def test_a_plain_model_is_what_it_was_and_can_be_extended(head: HeadConfig, images: torch.Tensor) -> None:
    plain, model = build(head, affect=False), build(head)
    assert affect_names(plain) == set()
    assert model.state_dict().keys() - plain.state_dict().keys() == affect_names(model)
    assert plain.state_dict().keys() <= model.state_dict().keys()
    with torch.no_grad():
        expected = plain(images)
        assert plain.outputs(images).affect is None
        # With the same seed, all that both have starts alike.
        for found in (model, extended(plain, head)):
            torch.testing.assert_close(found(images), expected)
    with pytest.raises(CheckpointError, match=r"missing head\.affect"):
        load_strict(model, plain.state_dict(), "plain")


def test_valence_and_arousal_have_queries_of_their_own(images: torch.Tensor) -> None:
    model = build(HEADS["groups"])
    decoder = model.head
    assert isinstance(decoder, MLDecoder)
    assert decoder.queries.shape == (3, 16)
    assert decoder.affect_queries.shape == (2, 16)
    with torch.no_grad():
        before = model.outputs(images)
        decoder.affect_queries[1] *= -1
        after = model.outputs(images)
    assert before.affect is not None
    assert after.affect is not None
    torch.testing.assert_close(after.logits, before.logits)
    torch.testing.assert_close(after.affect[:, 0], before.affect[:, 0])
    assert (after.affect[:, 1] - before.affect[:, 1]).abs().min() > 1e-4


def test_affect_is_float32_in_half_precision(images: torch.Tensor) -> None:
    model = build(HEADS["ml_decoder"]).bfloat16()
    with torch.no_grad():
        logits, affect = model.outputs(images.bfloat16())
    assert logits.dtype == torch.bfloat16
    assert affect is not None
    assert affect.dtype == torch.float32


@pytest.mark.parametrize("name", ["ml_decoder", "groups"])
def test_explanations_are_of_the_classes_and_the_same_as_without(name: str, images: torch.Tensor) -> None:
    plain = build(HEADS[name], affect=False)
    model = extended(plain, HEADS[name])
    traces: list[AttentionTrace] = []
    model.head(model.backbone(images), traces)
    assert traces[-1].weights.shape[2] == plain.head.queries.shape[0] + 2  # type: ignore[union-attr]
    found, expected = (
        Explainer(
            BundleConfig(name="tiny", summary="", licence="none", model=settings, preprocessing=PREPROCESSING), net
        ).attribute(images.numpy())
        for settings, net in ((config_of(HEADS[name]), model), (config_of(HEADS[name], affect=False), plain))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-4, atol=1e-5)
