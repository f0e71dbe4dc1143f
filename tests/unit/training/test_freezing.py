"""How much of a model is trained, and that nothing else moves."""

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from motivnet.errors import ConfigError
from motivnet.models.backbone import keep_depthwise_float32
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.training.freezing import keep_frozen_eval, plain_state, set_trained
from motivnet.training.module import Classifier
from motivnet.training.recipes import mini_fer2013
from motivnet.training.settings import BackboneConfig

VIT = VitConfig(embed_dim=16, depth=4, num_heads=4, patch_size=8, patch_padding=0)
HEAD = HeadConfig(dim=16, num_heads=4, ff_dim=16, dropout=0.0)
LORA = BackboneConfig(train="lora", lora_rank=2)


def config_of(backbone: str) -> ModelConfig:
    vit = None if backbone.startswith("timm:") else VIT
    return ModelConfig(backbone=backbone, image_size=(32, 32), vit=vit, head=HEAD)


def build(backbone: str = "sapiens") -> MotivNet:
    torch.manual_seed(0)
    return build_model(config_of(backbone))


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def train_a_little(model: MotivNet, steps: int = 2) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    model.train()
    keep_frozen_eval(model)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels()), torch.tensor([0, 1])).backward()
        optimizer.step()


def moved(model: MotivNet, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the state under MotivNet's own names that changed."""
    after = plain_state(model)
    assert after.keys() == before.keys()
    return {name for name in after if not torch.equal(after[name], before[name])}


def snapshot(model: MotivNet) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("backbone", ["sapiens", "timm:mobilenetv2_035", "timm:test_resnet"])
def test_a_frozen_encoder_does_not_move_nor_do_its_statistics(backbone: str) -> None:
    model = build(backbone)
    set_trained(model, BackboneConfig(train="none"))
    before = snapshot(model)
    train_a_little(model)
    assert {name.partition(".")[0] for name in moved(model, before)} == {"head"}
    assert not any(module.training for module in model.backbone.modules())
    assert model.head.training


def test_without_the_call_statistics_would_move() -> None:
    """So the test above tests something."""
    model = build("timm:test_resnet")
    set_trained(model, BackboneConfig(train="none"))
    before = snapshot(model)
    model.train()
    model(pixels())
    assert any("running_mean" in name for name in moved(model, before))


@pytest.mark.parametrize("backbone", ["sapiens", "sapiens2"])
def test_the_last_blocks_and_the_final_norm(backbone: str) -> None:
    model = build(backbone)
    set_trained(model, BackboneConfig(train="last", last_blocks=2))
    before = snapshot(model)
    train_a_little(model)
    places = {".".join(name.split(".")[1:4]) for name in moved(model, before) if name.startswith("backbone.")}
    expected = {"net.blocks.2", "net.blocks.3", "net.norm.weight"}
    assert places == expected | ({"net.norm.bias"} if backbone == "sapiens" else set())
    assert model.backbone.net.get_submodule("blocks.3").training
    assert not model.backbone.net.get_submodule("blocks.1").training


def test_the_last_stages_of_a_mobilenet() -> None:
    """Its blocks are stages, and batch norm counts in those that are trained."""
    model = build("timm:mobilenetv2_035")
    set_trained(model, BackboneConfig(train="last", last_blocks=1))
    before = snapshot(model)
    train_a_little(model)
    places = {name.split(".")[2] for name in moved(model, before) if name.startswith("backbone.")}
    assert places == {"blocks", "conv_head", "bn2"}
    assert not any(name.startswith("backbone.net.blocks.5") for name in moved(model, before))


def test_all_is_left_as_it_is() -> None:
    model = build()
    set_trained(model, BackboneConfig())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    before = snapshot(model)
    train_a_little(model)
    assert moved(model, before) == before.keys() - {"head.queries"}


def test_the_module_in_training_leaves_what_is_frozen_in_evaluation() -> None:
    model = build("timm:test_resnet")
    recipe = dataclasses.replace(mini_fer2013(), model=config_of("timm:test_resnet"))
    module = Classifier(model, recipe, torch.zeros(7))
    set_trained(model, BackboneConfig(train="none"))
    module.eval()
    module.train()
    assert module.training
    assert model.head.training
    assert not any(part.training for part in model.backbone.modules())


@pytest.mark.parametrize("backbone", ["sapiens", "sapiens2"])
class TestLora:
    """Low-rank additions."""

    def test_they_change_nothing_at_first(self, backbone: str) -> None:
        model = build(backbone).eval()
        before = snapshot(model)
        with torch.inference_mode():
            expected = model(pixels())
            set_trained(model, LORA)
            model.eval()
            torch.testing.assert_close(model(pixels()), expected, atol=0, rtol=0)
        assert moved(model, before) == set()

    def test_only_they_and_the_head_are_trained(self, backbone: str) -> None:
        model = build(backbone)
        set_trained(model, LORA)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert {name.partition(".")[0] for name in trained} == {"backbone", "head"}
        assert all(".lora_" in name for name in trained if name.startswith("backbone."))
        assert {name for name, _ in model.head.named_parameters(prefix="head")} <= trained
        before = plain_state(model)
        before = {name: tensor.clone() for name, tensor in before.items()}
        train_a_little(model)
        changed = {name for name in moved(model, before) if name.startswith("backbone.")}
        assert changed
        assert all(".blocks." in name and name.endswith("weight") for name in changed)
        assert not any("norm" in name for name in changed)

    def test_merged_they_answer_alike_under_the_models_own_names(self, backbone: str) -> None:
        model = build(backbone)
        own = list(model.state_dict())
        set_trained(model, LORA)
        train_a_little(model, steps=4)
        names = list(model.state_dict())
        state = plain_state(model)
        assert sorted(state) == sorted(own)
        assert list(model.state_dict()) == names  # the model is as it was
        plain = build_model(config_of(backbone))
        plain.load_state_dict(state, strict=True)
        with torch.inference_mode():
            torch.testing.assert_close(plain.eval()(pixels()), model.eval()(pixels()), atol=1e-5, rtol=1e-4)

    def test_every_matrix_of_the_blocks_has_one(self, backbone: str) -> None:
        model = build(backbone)
        matrices = [name for name, module in model.backbone.net.named_modules() if isinstance(module, nn.Linear)]
        set_trained(model, LORA)
        added = {name.partition(".lora_A")[0] for name in model.backbone.net.state_dict() if ".lora_A" in name}
        assert added == {name for name in matrices if name.startswith("blocks.")}
        kinds = {name.split(".", 2)[2] for name in added}
        queries = {"attn.qkv"} if backbone == "sapiens" else {"attn.q_proj", "attn.k_proj", "attn.v_proj"}
        assert kinds == queries | {"attn.proj", "mlp.fc1", "mlp.fc2"}


@pytest.mark.parametrize(
    ("backbone", "config", "message"),
    [
        ("timm:test_resnet", BackboneConfig(train="last"), r"backbone\.train=last: ResNet has no list of blocks"),
        ("timm:test_resnet", LORA, r"backbone\.train=lora: ResNet has no list of blocks"),
        ("timm:mobilenetv2_035", LORA, "the blocks of EfficientNet have no linear layers"),
        ("sapiens", BackboneConfig(train="last", last_blocks=5), "last_blocks 5: the backbone has 4"),
    ],
)
def test_what_a_backbone_cannot(backbone: str, config: BackboneConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_trained(build(backbone), config)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # torch's, of speed
@pytest.mark.parametrize("train", ["all", "none", "last", "lora"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backbone", ["sapiens", "sapiens2"])
def test_recomputing_gives_the_same_gradients(backbone: str, train: str, autocast: bool) -> None:
    gradients = []
    for recompute in (False, True):
        model = build(backbone)
        torch.manual_seed(3)
        set_trained(model, BackboneConfig(train=train, last_blocks=2, lora_rank=2, recompute=recompute))  # type: ignore[arg-type]
        keep_depthwise_float32(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(pixels()).float().square().sum()
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, expected in gradients[0].items():
        found = gradients[1][name]
        assert (found is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of one, for DDP."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("train", ["all", "none", "last", "lora"])
@pytest.mark.parametrize("backbone", ["sapiens", "sapiens2"])
def test_recomputing_under_ddp(backbone: str, train: str) -> None:
    """No parameter is left without a gradient, which DDP would wait for, and none gets two."""
    config = BackboneConfig(train=train, last_blocks=2, lora_rank=2, recompute=True)  # type: ignore[arg-type]
    gradients = []
    for wrap in (nn.Identity(), DistributedDataParallel):
        model = build(backbone)
        torch.manual_seed(3)
        set_trained(model, config)
        wrapped = wrap(model)
        for _ in range(2):  # DDP complains at the second step of what the first left out
            with torch.autocast("cpu", torch.bfloat16):
                loss = wrapped(pixels()).float().square().sum()
            loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(gradient is not None for gradient in gradients[1].values())
    torch.testing.assert_close(gradients[1], gradients[0], atol=0, rtol=0)


def test_recomputing_really_recomputes() -> None:
    calls = []
    model = build()
    set_trained(model, BackboneConfig(recompute=True))
    model.backbone.net.get_submodule("blocks.0").register_forward_pre_hook(lambda *_: calls.append(1))
    model(pixels()).sum().backward()
    assert len(calls) == 2


def test_recomputing_of_a_mobilenet() -> None:
    model = build("timm:mobilenetv2_035")
    set_trained(model, dataclasses.replace(BackboneConfig(), recompute=True))
    model(pixels()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
