"""The price of a model, against published figures, formulas written here, and real memory."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from motivnet.config import to_plain
from motivnet.errors import ConfigError
from motivnet.models.config import MOTIVNET_HEAD, PRESETS, HeadConfig, ModelConfig, VitConfig
from motivnet.models.cost import PeakMemory, cost, count_flops
from motivnet.models.motivnet import build_model

LINEAR = HeadConfig(kind="linear")
SMALL_VIT = ModelConfig(
    backbone="sapiens",
    image_size=(128, 96),
    vit=VitConfig(embed_dim=96, depth=3, num_heads=4),
    head=HeadConfig(dim=64, num_heads=4, ff_dim=80, num_layers=2),
)
SMALL = {
    "sapiens": SMALL_VIT,
    "nano": PRESETS["nano"],
    "sapiens2": ModelConfig(
        backbone="sapiens2",
        image_size=(64, 48),
        vit=VitConfig(embed_dim=48, depth=18, num_heads=4, num_kv_heads=2, patch_padding=0),
        head=LINEAR,
    ),
    "class and register tokens": ModelConfig(
        backbone="timm:vit_small_patch14_reg4_dinov2", image_size=(56, 42), head=LINEAR
    ),
    "windows": ModelConfig(backbone="timm:swin_tiny_patch4_window7_224", image_size=(224, 224), head=LINEAR),
    "parameters as inputs": ModelConfig(backbone="timm:cait_xxs24_224", image_size=(224, 224), head=LINEAR),
}


def test_motivnet_1b_costs_what_its_authors_say() -> None:
    found = cost(PRESETS["motivnet-1b"])
    assert found.backbone_parameters == 1_139_163_648
    # The authors count the frozen queries (7 x 1152) among the head's.
    assert found.parameters - found.backbone_parameters + 7 * 1152 == 21_870_215
    assert found.flops / 2 == pytest.approx(4.64e12, rel=0.01)
    assert found.tokens == 64 * 48


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V1),
        ("mobilenetv2_100", torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1),
        ("vit_base_patch16_224", torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1),
    ],
)
def test_known_models_cost_what_torchvision_says(name: str, published: torchvision.models.WeightsEnum) -> None:
    """Its `GFLOPS` are billions of multiply-accumulates."""
    found = cost(ModelConfig(backbone=f"timm:{name}", image_size=(224, 224), num_classes=1000, head=LINEAR))
    assert found.parameters == published.meta["num_params"]
    assert found.flops / 2e9 == pytest.approx(published.meta["_ops"], rel=0.005)


# billions of parameters and trillions of "FLOPs" in the authors' table
@pytest.mark.parametrize(("size", "parameters", "published"), [("0.1b", 0.114, 0.342), ("5b", 5.071, 15.722)])
def test_sapiens2_is_published_in_multiply_accumulates_without_attention(
    size: str, parameters: float, published: float
) -> None:
    config = dataclasses.replace(PRESETS[f"motivnet-sapiens2-{size}"], head=LINEAR)
    assert config.vit is not None
    found = cost(config)
    assert found.backbone_parameters / 1e9 == pytest.approx(parameters, rel=0.01)
    num_tokens = 64 * 48 + 9  # class token and registers
    attention = 2 * config.vit.depth * num_tokens**2 * config.vit.embed_dim
    assert (found.flops / 2 - attention) / 1e12 == pytest.approx(published, rel=0.03)
    assert found.flops / 2 / 1e12 > 1.1 * published


@pytest.mark.parametrize("size", [(128, 96), (64, 64)])
@pytest.mark.parametrize("depth", [1, 3])
def test_vision_transformer_by_formula(size: tuple[int, int], depth: int) -> None:
    dim, inner, ff, classes = 96, 64, 80, 7
    vit = VitConfig(embed_dim=dim, depth=depth, num_heads=4)
    found = cost(ModelConfig(backbone="sapiens", image_size=size, vit=vit, head=SMALL_VIT.head))
    tokens = size[0] // 16 * size[1] // 16
    assert found.tokens == tokens
    patches = tokens * dim * 3 * 16 * 16
    block = 12 * tokens * dim**2 + 2 * tokens**2 * dim
    layer = 2 * tokens * inner**2 + 2 * classes * inner**2 + 2 * classes * tokens * inner + 2 * classes * inner * ff
    head = tokens * dim * inner + 2 * layer + classes * inner
    assert found.flops == 2 * (patches + depth * block + head)
    block_weights = 12 * dim**2 + 9 * dim + 4 * dim
    assert found.backbone_parameters == dim * (768 + 1) + tokens * dim + depth * block_weights + 2 * dim


def test_convolutions_by_what_each_module_does() -> None:
    config = ModelConfig(backbone="timm:mobilenetv2_035", image_size=(64, 96), head=LINEAR)
    model = build_model(config).eval()
    macs = []

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        weight = next(module.parameters())  # (out, in / groups, height, width): a product a weight and output pixel
        macs.append(weight[0].numel() * output.numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.randn(1, 3, 64, 96))
    assert len(macs) == 53
    assert cost(config).flops == 2 * sum(macs)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
def test_calculated_as_if_built(config: ModelConfig, dtype: torch.dtype) -> None:
    found = cost(config, dtype=dtype)
    model = build_model(config).eval().to(dtype)
    weights = [*model.parameters(), *model.buffers()]
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.backbone_parameters == sum(parameter.numel() for parameter in model.backbone.parameters())
    assert found.weight_bytes == sum(tensor.numel() * tensor.element_size() for tensor in weights)


def test_activations_are_those_of_a_real_run() -> None:
    model = build_model(SMALL_VIT).eval()
    with torch.inference_mode(), PeakMemory(model) as memory:
        model(torch.empty(2, 3, 128, 96))
    assert cost(SMALL_VIT, batch_size=2).activation_bytes == memory.peak_bytes


def test_activations_follow_batch_and_dtype() -> None:
    one = cost(SMALL_VIT)
    four = cost(SMALL_VIT, batch_size=4)
    assert four.flops == one.flops
    assert four.activation_bytes == 4 * one.activation_bytes
    half = cost(SMALL_VIT, dtype=torch.bfloat16)
    assert half.activation_bytes == one.activation_bytes / 2
    assert half.weight_bytes == one.weight_bytes / 2


def test_attention_is_counted_alike_but_stored_only_when_not_fused() -> None:
    config = ModelConfig(
        backbone="sapiens", image_size=(512, 384), vit=VitConfig(embed_dim=64, depth=1, num_heads=8), head=LINEAR
    )
    matrix_bytes = 4 * 8 * (32 * 24) ** 2
    fused = cost(config)
    with sdpa_kernel(SDPBackend.MATH):
        plain = cost(config)
    assert plain.flops == fused.flops
    assert fused.activation_bytes < matrix_bytes < plain.activation_bytes


def test_peak_memory_sees_what_is_alive() -> None:
    weights = nn.Linear(10, 10)
    with PeakMemory(weights) as memory:
        first = torch.zeros(100)
        assert memory.peak_bytes == 400
        second = first + 1
        assert memory.peak_bytes == memory.live_bytes == 800
        second.view(10, 10).t().add_(1)
        weights.weight.detach().view(100)
        assert memory.peak_bytes == 800
        del first, second
        assert memory.live_bytes == 0
        torch.zeros(50)
    assert memory.peak_bytes == 800


def test_casts_of_parameters_are_told_apart() -> None:
    layer = nn.Linear(10, 20)
    with PeakMemory(layer) as memory, torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        out = layer(torch.zeros(5, 10))
    casts, pixels = 2 * (200 + 20), 5 * 10 * (4 + 2)
    assert memory.cast_bytes == casts
    assert memory.peak_bytes == casts + pixels + out.nbytes


def test_backward_pass_is_counted_with_fused_attention() -> None:
    query, key, value = (torch.randn(2, 4, 64, 16, requires_grad=True) for _ in range(3))
    counted = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with count_flops() as counter, sdpa_kernel(backend):
            nn.functional.scaled_dot_product_attention(query, key, value).sum().backward()
        counted.append(counter.get_total_flops())
    product = 2 * (2 * 4 * 64 * 64 * 16)
    # Two products forward, four backward; the fused kernel also computes its scores again.
    assert counted == [7 * product, 6 * product]


def test_the_largest_preset_takes_no_memory() -> None:
    resource = pytest.importorskip("resource", reason="not on Windows")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert cost(PRESETS["motivnet-2b"]).weight_bytes > 8e9
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 300e6


def test_dimensions_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="not divisible by num_heads=4"):
        cost(ModelConfig(backbone="timm:resnet10t", image_size=(64, 64), head=HeadConfig(dim=10, num_heads=4)))


MEASURE = """
import json, sys
from pathlib import Path
import torch
from motivnet.config import from_plain
from motivnet.models.config import ModelConfig
from motivnet.models.motivnet import build_model

def status(name):
    return 1024 * int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

config, dtype = from_plain(ModelConfig, json.loads(sys.argv[1])), getattr(torch, sys.argv[2])
model = build_model(config).eval().to(dtype)
with torch.inference_mode():
    for _ in range(2):  # the first time, the kernels themselves are loaded
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest
        before = status("VmRSS")
        model(torch.ones(1, config.in_chans, *config.image_size, dtype=dtype))
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the highest memory can only be reset on Linux")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_as_the_system_sees_them(dtype: str) -> None:
    """glibc is told to give back what is freed at once; by itself it keeps blocks that nobody uses."""
    vit = VitConfig(embed_dim=768, depth=4, num_heads=12)
    config = ModelConfig(backbone="sapiens", image_size=(1024, 768), vit=vit, head=MOTIVNET_HEAD)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(to_plain(config)), dtype],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"},
        check=True,
        capture_output=True,
        text=True,
    )
    calculated = cost(config, dtype=getattr(torch, dtype)).activation_bytes
    assert int(done.stdout) == pytest.approx(calculated, rel=0.15)
