"""Parameter groups, the schedule, and the averaged weights."""

import pytest
import torch

from motivnet.errors import ConfigError
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.training.ema import WarmedAverage
from motivnet.training.optimizers import make_optimizer, parameter_groups
from motivnet.training.recipes import RECIPES, OptimizerConfig, RunConfig, recipe


def tiny_model() -> MotivNet:
    vit = VitConfig(embed_dim=16, depth=1, num_heads=4, patch_size=8)
    head = HeadConfig(dim=16, num_heads=4, ff_dim=16)
    return build_model(ModelConfig(backbone="sapiens", image_size=(16, 16), vit=vit, head=head))


def test_every_parameter_is_in_one_group_with_its_rate() -> None:
    model = tiny_model()
    groups = {
        group["name"]: group for group in parameter_groups(model, OptimizerConfig(backbone_lr=1e-7, head_lr=1e-5))
    }
    assert set(groups) == {"backbone", "backbone_no_decay", "head", "head_no_decay"}
    assert (groups["backbone"]["lr"], groups["head"]["lr"]) == (1e-7, 1e-5)
    numbers = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert sorted(numbers) == sorted(id(parameter) for parameter in model.parameters())


def test_what_does_not_decay() -> None:
    model = tiny_model()
    groups = parameter_groups(model, OptimizerConfig(backbone_lr=1e-3, head_lr=1e-3))
    without = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in without}
    assert "backbone.net.pos_embed" in names
    assert "head.layers.0.norm_ff.weight" in names
    assert "head.group_bias" in names
    assert not any(name.endswith(("qkv.weight", "group_weight", "embed.weight")) for name in names)


def test_rate_zero_freezes_the_backbone() -> None:
    model = tiny_model()
    groups = parameter_groups(model, OptimizerConfig(backbone_lr=0.0, head_lr=1e-3))
    assert {group["name"] for group in groups} == {"head", "head_no_decay"}
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_warm_up_then_cosine_to_zero() -> None:
    optimizer, schedule = make_optimizer(tiny_model(), OptimizerConfig(backbone_lr=1e-3, head_lr=2e-3, warmup=0.1), 100)
    rates = []
    for _ in range(101):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx([1e-4, 1e-4, 2e-4, 2e-4])
    assert rates[9] == pytest.approx([1e-3, 1e-3, 2e-3, 2e-3])
    assert rates[55][0] == pytest.approx(5e-4)
    assert rates[100] == pytest.approx([0, 0, 0, 0], abs=1e-12)


def test_the_average_is_warm_before_it_is_slow() -> None:
    update = WarmedAverage(0.99)._kwargs["multi_avg_fn"]
    average, current = torch.zeros(1), torch.ones(1)
    update([average], [current], torch.tensor(0))
    torch.testing.assert_close(average, torch.tensor([0.9]))
    update([average], [torch.zeros(1)], torch.tensor(10_000))
    torch.testing.assert_close(average, torch.tensor([0.9 * 0.99]))
    counter = torch.tensor([3])
    update([counter], [torch.tensor([7])], torch.tensor(5))
    assert counter.item() == 7


def test_every_recipe_builds() -> None:
    for name in RECIPES:
        chosen = recipe(name)
        assert chosen.name == name
        assert chosen.split.train != chosen.split.select
        assert chosen.preprocessing.size == chosen.model.image_size


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch_size": 0}, {"ema_decay": 1.0}])
def test_runs_out_of_range(change: dict) -> None:
    with pytest.raises(ConfigError, match="run:"):
        RunConfig(**({"epochs": 1, "batch_size": 1} | change))
