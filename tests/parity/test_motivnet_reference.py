"""The released formats against what their authors' code computed from them."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from motivnet.checkpoints.keymaps import MOTIVNET_RELEASED, TORCHVISION_MOBILENET_V2, KeyMap
from motivnet.checkpoints.load import load_strict
from motivnet.errors import CheckpointError
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import build_model


@pytest.mark.shared
def test_narrow_motivnet_reproduces_its_golden(shared_dir: Path) -> None:
    file = shared_dir / "parity/motivnet_reference_narrow.safetensors"
    with safe_open(file, "pt") as opened:
        meta = {name: int(value) for name, value in opened.metadata().items()}
    config = ModelConfig(
        backbone="sapiens",
        image_size=(1024, 768),
        num_classes=meta["num_classes"],
        vit=VitConfig(embed_dim=meta["embed_dim"], depth=meta["depth"], num_heads=meta["num_heads"]),
        head=HeadConfig(
            dim=meta["decoder_embedding"], num_heads=meta["decoder_heads"], num_layers=meta["decoder_layers"]
        ),
    )
    model = build_model(config).eval()
    state, dropped = MOTIVNET_RELEASED.apply(load_file(file))
    assert dropped == ()
    load_strict(model, state, str(file))
    expected = load_file(file.with_suffix(".expected.safetensors"))
    image = torch.sin(0.37 * torch.arange(3 * 1024 * 768, dtype=torch.float64)).float().reshape(1, 3, 1024, 768)
    with torch.inference_mode():
        tokens, logits = model.backbone(image), model(image)
    features = tokens.transpose(1, 2).unflatten(2, (64, 48))
    torch.testing.assert_close(features, expected["features_BDHW"], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, expected["logits_BC"], atol=1e-4, rtol=0)


def test_torchvision_mobilenet_answers_as_torchvision_does() -> None:
    from torchvision.models import mobilenet_v2

    theirs = mobilenet_v2(weights=None).eval()
    ours = build_model(
        ModelConfig(backbone="timm:mobilenetv2_100", image_size=(64, 64), head=HeadConfig(kind="linear"))
    ).eval()
    state, dropped = TORCHVISION_MOBILENET_V2.apply(theirs.state_dict())
    assert dropped == ("classifier.1.weight", "classifier.1.bias")
    load_strict(ours.backbone.net, state, "torchvision")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs.features(pixels).flatten(2).transpose(1, 2)
        torch.testing.assert_close(ours.backbone(pixels), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("keymap", [MOTIVNET_RELEASED, TORCHVISION_MOBILENET_V2], ids=lambda keymap: keymap.format)
def test_maps_are_invertible(keymap: KeyMap) -> None:
    names = [pattern.replace("{i}", "3") + ".x" for pattern, ours in keymap.rules.items() if ours is not None]
    there, _ = keymap.apply({name: number for number, name in enumerate(names)})
    back, _ = keymap.inverse().apply(there)
    assert back == {name: number for number, name in enumerate(names)}


def test_an_unknown_tensor_is_never_passed_over() -> None:
    with pytest.raises(CheckpointError, match=r"unexpected tensor 'pose_encoder.layers.0.ln3.weight'"):
        MOTIVNET_RELEASED.apply({"pose_encoder.layers.0.ln3.weight": torch.zeros(1)})
