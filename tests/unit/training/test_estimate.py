"""What a training run takes: against real steps of a small model, formulas written here, and what must add up."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from motivnet import config
from motivnet.data.loader import Batch
from motivnet.errors import ConfigError
from motivnet.models.backbone import keep_depthwise_float32
from motivnet.models.cost import PeakMemory, cost
from motivnet.models.motivnet import build_model
from motivnet.training.estimate import (
    Memory,
    count,
    dry_run,
    dry_run_text,
    estimate,
    profile_step,
    sharded,
    step_memory,
)
from motivnet.training.freezing import set_trained
from motivnet.training.mae.pretrain_recipes import pretrain_recipe
from motivnet.training.module import Classifier
from motivnet.training.optimizers import WarmedAverage
from motivnet.training.recipes import recipe
from motivnet.training.settings import Place, Recipe

DEPTH, DIM, BATCH = 2, 32, 64
HERE = Place()


def profile(chosen: Any) -> Memory:
    return profile_step(chosen)[0]


def small(*settings: str) -> Recipe:
    """A transformer whose activations are most of what a step takes."""
    dimensions = [f"model.vit.embed_dim={DIM}", f"model.vit.depth={DEPTH}", "model.head.dim=32", "model.head.ff_dim=32"]
    return config.override(recipe("mini-fer2013"), [*dimensions, f"run.batch_size={BATCH}", *settings])


def nano(*settings: str) -> Recipe:
    sizes = ["model.image_size=[32,32]", "preprocessing.size=[32,32]", "run.batch_size=32"]
    return config.override(recipe("nano-fer2013"), ["model.backbone=timm:mobilenetv2_035", *sizes, *settings])


def peak_of_training(chosen: Recipe) -> int:
    """Train three steps for real, and give the most bytes that were alive at once."""
    model = build_model(chosen.model)
    set_trained(model, chosen.backbone)
    keep_depthwise_float32(model)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier = Classifier(model, chosen, torch.zeros(7))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=3,
        accumulate_grad_batches=chosen.run.accumulate,
        precision=chosen.run.precision,
        callbacks=[WarmedAverage(chosen.run.ema_decay)] if chosen.run.ema_decay else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    with PeakMemory(classifier) as watch:
        batch = Batch(
            pixels=torch.randn(chosen.run.batch_size, 1, *chosen.model.image_size),
            labels=torch.arange(chosen.run.batch_size) % 7,
            votes=torch.zeros(chosen.run.batch_size, 7),
            affect=torch.full((chosen.run.batch_size, 2), math.nan),
        )
        loader: Any = DataLoader([batch] * 3 * chosen.run.accumulate, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(classifier, loader)
    return weights + watch.peak_bytes


@pytest.mark.filterwarnings("ignore")  # of Lightning: no validation, few workers
@pytest.mark.parametrize(
    "chosen",
    [
        small(),
        small("backbone.recompute=true", "run.accumulate=2"),
        small("run.precision=bf16-mixed"),
        small("run.precision=bf16-mixed", "backbone.recompute=true", "run.ema_decay=0.9"),
        small("backbone.train=none"),
        small("backbone.train=lora", "backbone.lora_rank=2"),
        nano("backbone.recompute=true"),
    ],
    ids=["float32", "recompute", "bf16", "bf16 recompute", "frozen", "lora", "nano"],
)
def test_calculated_as_lightning_trains(chosen: Recipe) -> None:
    assert step_memory(chosen, HERE).total == pytest.approx(peak_of_training(chosen), rel=0.02)


def test_parts_add_up() -> None:
    found = estimate(small("run.ema_decay=0.9"), HERE)
    model = build_model(small().model)
    assert found["parameters"] == found["trained_parameters"] == sum(p.numel() for p in model.parameters())
    assert set(found["groups"]) == {"backbone", "backbone_no_decay", "head", "head_no_decay"}
    assert sum(found["groups"].values()) == found["trained_parameters"]
    memory = found["memory"]
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert memory["gradients"] == 4 * found["parameters"]
    assert memory["optimizer"] == 2 * memory["gradients"]
    assert memory["weights"] == memory["average"] == memory["gradients"] + buffers
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")
    assert (found["device_bytes"], found["fits"]) == (None, None)


def test_optimizer_states_are_those_of_adamw() -> None:
    parameter = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states = sum(state.nbytes for state in optimizer.state[parameter].values() if state.ndim)
    memory = step_memory(small("run.precision=bf16-true"), HERE)
    assert memory.optimizer / memory.gradients == states / parameter.nbytes


def test_arithmetic() -> None:
    """Backward passes take twice the forward's, less the gradient of pixels; recomputing adds one of the blocks."""
    forward = cost(small().model).flops
    tokens, plain = count(small())
    assert tokens == 36
    pixels = 2 * 36 * DIM * 64
    attention = DEPTH * 2 * 37**2 * DIM * 2
    # Fused attention computes its scores again in the backward pass.
    assert plain == 3 * forward - pixels + attention // 2
    # It stops before a block's last product, the answer of which nobody needs.
    blocks = DEPTH * (2 * 8 * 37 * DIM**2) + attention
    assert count(small("backbone.recompute=true"))[1] == plain + blocks


def test_images_and_arithmetic_of_a_step() -> None:
    found = estimate(small("run.accumulate=3"), Place(devices=2, nodes=2))
    assert found["images_per_step"] == BATCH * 3 * 4
    assert found["flops_per_step"] == found["images_per_step"] * found["flops_per_image"]
    assert found["memory"]["exchanged"] == found["memory"]["gradients"]


def test_recomputing_keeps_a_fraction_of_the_activations() -> None:
    plain, again = (
        profile(small("model.vit.depth=8")),
        profile(small("model.vit.depth=8", "backbone.recompute=true")),
    )
    assert again.activations < 0.25 * plain.activations
    assert (again.weights, again.gradients) == (plain.weights, plain.gradients)


def test_autocast_keeps_copies_of_matrices_until_the_backward_pass() -> None:
    single, mixed = profile(small()), profile(small("run.precision=bf16-mixed"))
    assert single.casts == 0
    assert 0.8 * single.weights / 2 < mixed.casts <= single.weights / 2
    assert mixed.activations < 0.75 * single.activations
    assert profile(small("run.precision=bf16-mixed", "backbone.recompute=true")).casts < 0.3 * mixed.casts


def test_half_precision_halves_everything() -> None:
    single, half = step_memory(small(), HERE), step_memory(small("run.precision=bf16-true"), HERE)
    assert half.gradients == single.gradients / 2
    assert half.optimizer == single.optimizer / 2
    assert 0.5 * single.activations <= half.activations < 0.65 * single.activations


def test_a_frozen_encoder_has_neither_gradients_nor_activations() -> None:
    found = estimate(small("backbone.train=none"), HERE)
    head = sum(p.numel() for p in build_model(small().model).head.parameters())
    assert found["trained_parameters"] == head
    assert set(found["groups"]) == {"head", "head_no_decay"}
    assert found["memory"]["gradients"] == 4 * head
    assert found["memory"]["activations"] < 0.5 * profile(small()).activations


def test_last_blocks_and_additions() -> None:
    whole, last = profile(small()), profile(small("backbone.train=last", "backbone.last_blocks=1"))
    head = profile(small("backbone.train=none")).gradients
    block = 4 * (12 * DIM**2 + 13 * DIM)
    assert last.gradients == head + block + 4 * 2 * DIM
    assert last.activations < whole.activations
    rank = 2
    lora = profile(small("backbone.train=lora", f"backbone.lora_rank={rank}"))
    additions = 4 * DEPTH * rank * DIM * (1 + 3 + 1 + 1 + 1 + 4 + 4 + 1)
    assert lora.gradients == head + additions
    assert lora.weights == whole.weights + additions


def test_shared_out_among_devices() -> None:
    whole = Memory(weights=800, gradients=400, optimizer=801, average=0, casts=70, activations=50)
    shared = sharded(whole, 4, largest=20, outside=30)
    assert (shared.weights, shared.gradients, shared.optimizer) == (200, 100, 201)
    assert (shared.casts, shared.activations) == (70, 50)
    assert shared.exchanged == 30 + 3 * 20
    assert shared.total == 200 + 100 + 201 + 70 + 50 + 90


def test_fsdp_takes_less_the_more_devices_there_are() -> None:
    totals = [step_memory(small(), Place(devices=number, strategy="fsdp")).total for number in (1, 2, 8)]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] == step_memory(small(), HERE).total
    found, largest, outside = profile_step(small())
    block = 4 * (12 * DIM**2 + 13 * DIM)
    assert largest == block
    decoder_layer = found.weights - outside - DEPTH * block
    assert 0 < decoder_layer < block


def test_depthwise_convolutions_are_not_for_bfloat16() -> None:
    with pytest.raises(ConfigError, match="bf16-true: this model has depthwise convolutions"):
        profile(nano("run.precision=bf16-true"))


def test_the_reserve_counts() -> None:
    total = step_memory(small(), HERE).total
    enough = (total + 1e9) / 0.95 / 1e9
    assert estimate(small(), HERE, device_gb=enough * 1.001)["fits"] is True
    assert estimate(small(), HERE, device_gb=enough * 0.999)["fits"] is False


@pytest.mark.parametrize("device_gb", [0, -1.0])
def test_a_device_without_memory(device_gb: float) -> None:
    with pytest.raises(ConfigError, match="--device-gb must be positive"):
        estimate(small(), HERE, device_gb=device_gb)


def test_pretraining() -> None:
    plain = config.override(pretrain_recipe("mae"), ["model.vit.depth=1", "mae.decoder_depth=1"])
    found = estimate(plain, HERE)
    assert found["tokens"] == 9 + 1  # a quarter of 36 patches, and the class token
    assert set(found["groups"]) == {"backbone", "backbone_no_decay", "decoder", "decoder_no_decay"}
    assert sum(found["groups"].values()) == found["trained_parameters"] < found["parameters"]  # positions are fixed
    again = profile(dataclasses.replace(plain, recompute=True))
    assert again.activations < found["memory"]["activations"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts the most memory anew")
def test_nothing_is_allocated() -> None:
    def most_bytes() -> int:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

    Path("/proc/self/clear_refs").write_text("5")
    before = most_bytes()
    memory = step_memory(config.override(recipe("motivnet-2b"), ["model.vit.depth=4"]), HERE)
    assert memory.total > 3e9
    assert most_bytes() - before < 300e6


def test_it_can_be_written_as_json() -> None:
    plain = json.loads(json.dumps(estimate(small(), HERE, device_gb=8)))
    assert plain["memory"]["total"] == sum(value for name, value in plain["memory"].items() if name != "total")
    assert plain["fits"] is True


@pytest.fixture
def chosen() -> Recipe:
    return config.override(recipe("mini-fer2013"), ["run.batch_size=8", "model.vit.depth=1", "backbone.weights=here"])


def cells(printed: str, start: str) -> list[str]:
    """Give the words of the first line that begins so."""
    return next(line for line in printed.splitlines() if line.strip().startswith(start)).split()


def test_text(chosen: Recipe) -> None:
    printed = dry_run_text(dry_run(chosen, Place(accelerator="cpu")))
    found = estimate(chosen, Place())
    # What was changed stands beside what it was.
    assert cells(printed, "run.batch_size") == ["run.batch_size", "8", "64"]
    assert cells(printed, "backbone.weights") == ["backbone.weights", '"here"', "null"]
    assert cells(printed, "run.epochs") == ["run.epochs", str(chosen.run.epochs)]
    assert cells(printed, "trained")[-1] == f"{found['trained_parameters']:,}"
    assert cells(printed, "head_no_decay")[-1] == f"{found['groups']['head_no_decay']:,}"
    assert cells(printed, "images per optimizer step")[-1] == "8"
    assert cells(printed, "memory per device, total")[-2:] == [f"{found['memory']['total'] / 1e9:.3g}", "GB"]
    assert "average" not in printed
    assert "--device-gb says if it fits" in printed


def test_fits(chosen: Recipe) -> None:
    printed = dry_run_text(dry_run(chosen, Place(), device_gb=24))
    assert "FITS: " in printed
    assert "NOT FIT" not in printed
    assert "2.2 GB of reserve, on a device of 24 GB" in printed


def test_does_not_fit_and_is_no_failure(chosen: Recipe) -> None:
    printed = dry_run_text(dry_run(chosen, Place(), device_gb=1))
    assert "DOES NOT FIT: " in printed
    assert "Try --set run.precision=bf16-mixed" in printed


def test_json(chosen: Recipe) -> None:
    place = Place(devices=2, strategy="fsdp")
    printed = json.loads(json.dumps(dry_run(chosen, place, device_gb=24)))
    assert config.from_plain(Recipe, printed["recipe"]) == chosen
    assert config.from_plain(Place, printed["place"]) == place
    assert printed["changed"] == {"run.batch_size": 64, "model.vit.depth": 4, "backbone.weights": None}
    assert printed["estimate"] == estimate(chosen, place, device_gb=24)


def test_a_recipe_that_nobody_knows_has_no_changes(chosen: Recipe) -> None:
    assert dry_run(config.override(chosen, ["name=mine"]), Place())["changed"] == {}


def test_text_of_pretraining() -> None:
    plain = config.override(pretrain_recipe("mae"), ["model.vit.depth=1", "mae.decoder_depth=1"])
    printed = dry_run_text(dry_run(plain, Place(), device_gb=24))
    assert cells(printed, "mae.mask_ratio") == ["mae.mask_ratio", "0.75"]
    assert "decoder_no_decay" in printed
