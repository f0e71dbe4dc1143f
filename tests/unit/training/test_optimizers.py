"""Parameter groups, schedules, and the averaged weights."""

import dataclasses
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from motivnet.errors import ConfigError
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.training.freezing import set_trained
from motivnet.training.optimizers import WarmedAverage, make_optimizer, parameter_groups, rate_factor, warmed_cosine
from motivnet.training.recipes import mini_fer2013
from motivnet.training.settings import BackboneConfig, OptimizerConfig, Precision, Recipe

HEAD = HeadConfig(dim=16, num_heads=4, ff_dim=16)
OWN_BLOCKS = ["backbone_embed", "backbone_00", "backbone_01", "backbone_02", "backbone_norm"]


def tiny_model(backbone: str = "sapiens", **changes: Any) -> MotivNet:
    vit = VitConfig(
        embed_dim=16, depth=3, num_heads=4, patch_size=8, patch_padding=0, class_token=backbone == "sapiens"
    )
    own = None if backbone.startswith("timm:") else vit
    config = ModelConfig(backbone=backbone, image_size=(16, 16), vit=own, head=HEAD)
    return build_model(dataclasses.replace(config, **changes))


def a_recipe(backbone: BackboneConfig | None = None, **optimizer: Any) -> Recipe:
    settings: dict[str, Any] = {"backbone_lr": 1e-3, "head_lr": 2e-3, "weight_decay": 0.1} | optimizer
    return dataclasses.replace(
        mini_fer2013(), optimizer=OptimizerConfig(**settings), backbone=backbone or BackboneConfig()
    )


def names_in(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, str]:
    """Parameter -> group; every parameter once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pairs = [(names[id(parameter)], group["name"]) for group in groups for parameter in group["params"]]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


class TestGroups:
    """`parameter_groups`."""

    @pytest.mark.parametrize("backbone", ["sapiens", "sapiens2", "timm:mobilenetv2_035"])
    def test_every_parameter_is_in_one_group_with_its_rate(self, backbone: str) -> None:
        model = tiny_model(backbone, image_size=(32, 32))
        groups = parameter_groups(model, a_recipe())
        assert [group["name"] for group in groups] == ["backbone", "backbone_no_decay", "head", "head_no_decay"]
        assert [group["lr"] for group in groups] == [1e-3, 1e-3, 2e-3, 2e-3]
        assert [group["weight_decay"] for group in groups] == [0.1, 0, 0.1, 0]
        found = names_in(model, groups)
        assert found.keys() == dict(model.named_parameters()).keys()
        assert all(group.startswith(name.partition(".")[0]) for name, group in found.items())

    def test_what_does_not_decay(self) -> None:
        found = names_in(model := tiny_model(), parameter_groups(model, a_recipe()))
        without = {name for name, group in found.items() if group.endswith("_no_decay")}
        assert {"backbone.net.pos_embed", "backbone.net.cls_token", "head.group_bias"} <= without
        assert {"head.layers.0.norm_ff.weight", "backbone.net.blocks.1.attn.qkv.bias"} <= without
        decaying = found.keys() - without
        assert {"backbone.net.blocks.1.attn.qkv.weight", "backbone.net.patch_embed.proj.weight"} <= decaying
        assert {"head.group_weight", "head.embed.weight"} <= decaying

    def test_what_does_not_decay_in_sapiens2(self) -> None:
        found = names_in(model := tiny_model("sapiens2"), parameter_groups(model, a_recipe()))
        assert found["backbone.net.reg_token"] == "backbone_no_decay"
        assert found["backbone.net.blocks.0.gamma_1"] == "backbone_no_decay"
        assert found["backbone.net.blocks.0.attn.k_proj.weight"] == "backbone"

    @pytest.mark.parametrize(
        ("head", "queries"),
        [
            (HeadConfig(kind="attention_pool", num_heads=4), "head.query"),
            (dataclasses.replace(HEAD, learnable_queries=True), "head.queries"),
        ],
    )
    def test_queries_that_are_learnt_do_not_decay(self, head: HeadConfig, queries: str) -> None:
        model = tiny_model(head=head, affect=True)
        found = names_in(model, parameter_groups(model, a_recipe()))
        assert found[queries] == found.get("head.affect_queries", "head_no_decay") == "head_no_decay"

    def test_what_is_frozen_is_in_none(self) -> None:
        model, recipe = tiny_model(), a_recipe(BackboneConfig(train="none"))
        set_trained(model, recipe.backbone)
        assert {group["name"] for group in parameter_groups(model, recipe)} == {"head", "head_no_decay"}

    def test_what_the_loss_learns_has_a_group(self) -> None:
        extra = nn.Parameter(torch.zeros(2))
        groups = parameter_groups(tiny_model(), a_recipe(), loss=[extra])
        assert groups[-1] == {"name": "loss", "params": [extra], "lr": 2e-3, "weight_decay": 0.0}

    def test_rates_fall_towards_the_input(self) -> None:
        model, recipe = tiny_model(), a_recipe(BackboneConfig(layer_decay=0.5))
        groups = {group["name"]: group for group in parameter_groups(model, recipe)}
        pairs = [name for part in OWN_BLOCKS for name in (part, f"{part}_no_decay")]
        pairs.remove("backbone_norm")  # nothing in it decays
        assert list(groups) == [*pairs, "head", "head_no_decay"]
        rates = [groups[f"{part}_no_decay"]["lr"] for part in OWN_BLOCKS]
        assert rates == pytest.approx([1e-3 / 16, 1e-3 / 8, 1e-3 / 4, 1e-3 / 2, 1e-3])
        assert groups["head"]["lr"] == 2e-3
        found = names_in(model, list(groups.values()))
        assert found.keys() == dict(model.named_parameters()).keys()
        assert found["backbone.net.pos_embed"] == found["backbone.net.cls_token"] == "backbone_embed_no_decay"
        assert found["backbone.net.patch_embed.proj.weight"] == "backbone_embed"
        assert found["backbone.net.blocks.2.mlp.fc1.weight"] == "backbone_02"

    def test_rates_fall_over_low_rank_additions_too(self) -> None:
        model, recipe = tiny_model(), a_recipe(BackboneConfig(layer_decay=0.5, train="lora", lora_rank=2))
        set_trained(model, recipe.backbone)
        names = [group["name"] for group in parameter_groups(model, recipe)]
        assert names == ["backbone_00", "backbone_01", "backbone_02", "head", "head_no_decay"]

    def test_rates_cannot_fall_where_there_are_no_blocks(self) -> None:
        model = tiny_model("timm:test_resnet", image_size=(32, 32))
        with pytest.raises(ConfigError, match=r"backbone\.layer_decay: ResNet has no list of blocks"):
            parameter_groups(model, a_recipe(BackboneConfig(layer_decay=0.5)))


def rates_of(config: OptimizerConfig, num_steps: int, steps_per_epoch: float) -> list[float]:
    factor = rate_factor(config, num_steps, steps_per_epoch)
    return [factor(step) for step in range(num_steps)]


class TestSchedule:
    """`make_optimizer` and `rate_factor`."""

    def test_warm_up_then_cosine_to_zero(self) -> None:
        optimizer, schedule = make_optimizer(tiny_model(), a_recipe(warmup=0.1), num_steps=100, steps_per_epoch=10)
        rates = []
        for _ in range(101):
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
        assert rates[0] == pytest.approx([1e-4, 1e-4, 2e-4, 2e-4])
        assert rates[9] == pytest.approx([1e-3, 1e-3, 2e-3, 2e-3])
        assert rates[55][0] == pytest.approx(5e-4)
        assert rates[100] == pytest.approx([0, 0, 0, 0], abs=1e-12)

    def test_adamw_is_fused_and_has_the_recipes_betas(self) -> None:
        recipe = a_recipe(betas=(0.8, 0.95))
        optimizer, _ = make_optimizer(tiny_model(), recipe, num_steps=10, steps_per_epoch=5)
        assert type(optimizer) is torch.optim.AdamW
        assert optimizer.defaults["fused"]
        assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}

    @pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
    def test_adamw_is_not_fused_where_gradients_in_half_precision_are_clipped(self, precision: Precision) -> None:
        recipe = a_recipe(clip_norm=1.0)
        recipe = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, precision=precision))
        optimizer, _ = make_optimizer(tiny_model(), recipe, num_steps=10, steps_per_epoch=5)
        assert not hasattr(optimizer, "_step_supports_amp_scaling")  # else Lightning refuses to clip

    @pytest.mark.parametrize("steps_per_epoch", [7, 3])
    @pytest.mark.parametrize("growth", [1, 2, 3])
    def test_restarts_are_torchs_in_fractional_epochs(self, steps_per_epoch: int, growth: int) -> None:
        """T_0 in epochs, stepped after every step with the fraction of an epoch that has passed."""
        config = OptimizerConfig(
            backbone_lr=1e-3,
            head_lr=1e-3,
            schedule="warm-restarts",
            warmup=0.0,
            restart_epochs=4.0,
            restart_factor=growth,
        )
        num_steps = 30 * steps_per_epoch
        weight = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        theirs = CosineAnnealingWarmRestarts(optimizer, T_0=4, T_mult=growth)
        expected = []
        for step in range(num_steps):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they deprecate the argument that they document
                theirs.step((step + 1) / steps_per_epoch)  # type: ignore[arg-type]
        assert rates_of(config, num_steps, steps_per_epoch) == pytest.approx(expected, abs=1e-9)
        assert max(expected[1:]) == 1.0  # it did restart

    def test_restarts_are_torchs_in_whole_steps(self) -> None:
        config = OptimizerConfig(
            backbone_lr=1e-3, head_lr=1e-3, schedule="warm-restarts", warmup=0.0, restart_epochs=10.0
        )
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        theirs = CosineAnnealingWarmRestarts(optimizer, T_0=50)
        expected = []
        for _ in range(120):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            theirs.step()
        assert rates_of(config, 120, 5) == pytest.approx(expected, abs=1e-9)

    def test_a_run_as_long_as_the_first_cosine_never_restarts(self) -> None:
        config = OptimizerConfig(
            backbone_lr=1e-3, head_lr=1e-3, schedule="warm-restarts", warmup=0.0, restart_epochs=10.0
        )
        rates = rates_of(config, 130, 13)
        assert rates == sorted(rates, reverse=True)
        assert rates == pytest.approx(rates_of(dataclasses.replace(config, schedule="cosine"), 130, 13))

    def test_a_warm_up_comes_before_the_first_cosine(self) -> None:
        config = OptimizerConfig(
            backbone_lr=1e-3, head_lr=1e-3, schedule="warm-restarts", warmup=0.25, restart_epochs=1.0
        )
        rates = rates_of(config, 40, 10)
        assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
        assert rates[10] == rates[20] == rates[30] == 1.0
        assert rates[15] == pytest.approx(0.5)

    def test_constant(self) -> None:
        config = OptimizerConfig(backbone_lr=1e-3, head_lr=1e-3, schedule="constant", warmup=0.5)
        assert rates_of(config, 8, 4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]

    @pytest.mark.parametrize("schedule", ["cosine", "warm-restarts", "constant"])
    def test_resumption_is_exact(self, schedule: Any) -> None:
        recipe = a_recipe(schedule=schedule, warmup=0.2, restart_epochs=1.5)

        def make() -> tuple[torch.optim.Optimizer, Any]:
            return make_optimizer(tiny_model(), recipe, num_steps=20, steps_per_epoch=5)

        def run(optimizer: torch.optim.Optimizer, theirs: Any, steps: int) -> list[float]:
            rates = []
            for _ in range(steps):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                theirs.step()
            return rates

        whole = run(*make(), 20)
        optimizer, theirs = make()
        first = run(optimizer, theirs, 8)
        states = optimizer.state_dict(), theirs.state_dict()
        optimizer, theirs = make()
        optimizer.load_state_dict(states[0])
        theirs.load_state_dict(states[1])
        assert first + run(optimizer, theirs, 12) == whole


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


def test_the_rate_rises_for_the_warmup_and_falls_to_zero() -> None:
    rates = list(map(warmed_cosine(10, 50), range(50)))
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * step / 40) for step in range(40)])
