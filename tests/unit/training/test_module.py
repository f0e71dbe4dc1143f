"""Faster attention and compiled blocks give the same results."""

import functools
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning", reason="the extra `train` is not installed")

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from motivnet.models.backbone import SHORT, write_out_short_attention
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.training.callbacks.stopping import handle_exits
from motivnet.training.module import compile_parts
from motivnet.training.trainer import FastAttention


def make_model(backbone: str = "sapiens", side: int = 32, **vit: Any) -> MotivNet:
    torch.manual_seed(0)
    dimensions = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "patch_padding": 0} | vit
    return build_model(
        ModelConfig(
            backbone=backbone,
            image_size=(side, side),
            in_chans=1,
            vit=VitConfig(**dimensions),
            head=HeadConfig(dim=16, num_heads=2, ff_dim=16, dropout=0.0),
        )
    )


def fused(model: nn.Module) -> set[bool]:
    return {module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")}  # type: ignore[misc]


@pytest.mark.parametrize("backbone", ["sapiens", "sapiens2"])
def test_written_out_attention_gives_the_same(backbone: str) -> None:
    model, pixels_BCHW = make_model(backbone), torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = model.eval()(pixels_BCHW)
        write_out_short_attention(model)
        assert fused(model) == {False}
        torch.testing.assert_close(model(pixels_BCHW), expected, atol=1e-5, rtol=1e-5)


def test_many_patches_keep_the_fused_kernel() -> None:
    model = make_model(side=8 * (int(SHORT**0.5) + 1))
    write_out_short_attention(model)
    assert fused(model) == {True}


class Step(lightning.LightningModule):
    """One step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.model(batch).float().square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("precision", "kept"), [("bf16-mixed", False), ("32-true", True)])
def test_the_kernel_is_chosen_by_precision(precision: Any, kept: bool, tmp_path: Path) -> None:
    module = Step()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        precision=precision,
        callbacks=[FastAttention()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches: Any = [torch.randn(2, 1, 32, 32)]
    with handle_exits(trainer, tmp_path):
        trainer.fit(module, DataLoader(batches, batch_size=None))
    assert fused(module) == {kept}


def compiled(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if module._compiled_call_impl is not None]


def test_blocks_are_compiled_and_a_network_without_them_whole() -> None:
    model = make_model()
    names = list(model.state_dict())
    compile_parts(model)
    assert compiled(model) == ["backbone.net.blocks.0", "backbone.net.blocks.1", "head.layers.0"]
    assert list(model.state_dict()) == names
    head = HeadConfig(dim=16, num_heads=2, ff_dim=16)
    model = build_model(ModelConfig(backbone="timm:mobilenetv2_035", image_size=(32, 32), in_chans=1, head=head))
    compile_parts(model)
    assert compiled(model) == ["backbone", "head.layers.0"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch, of itself
def test_compiled_blocks_give_the_same_by_one_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    # In place of the real compiler, which takes a minute.
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend=count))
    model, pixels_BCHW = make_model(depth=6), torch.randn(2, 1, 32, 32)
    expected = model(pixels_BCHW)
    compile_parts(model)
    torch.testing.assert_close(model(pixels_BCHW), expected)
    assert len(graphs) == 2
