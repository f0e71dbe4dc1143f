"""Write a full-size checkpoint of random weights, under the names and in the container of a released file.

python scripts/make_full_size.py scratch/MotivNet.pth [--size 1b] [--format motivnet]

It stands in for files that cannot be had everywhere: loading, converting and running it takes the time and memory that
the released one would take. Its answers mean nothing.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from motivnet.checkpoints.keymaps import MOTIVNET_RELEASED, SAPIENS, SAPIENS2
from motivnet.checkpoints.load import built_without_memory
from motivnet.models.config import ModelConfig, preset
from motivnet.models.motivnet import build_backbone, build_model

# Format -> its key map, the presets' prefix, and changes to the dimensions.
FORMATS = {
    "motivnet": (MOTIVNET_RELEASED, "motivnet-", {}),
    "sapiens-task": (SAPIENS, "motivnet-", {}),
    "sapiens-pretrain": (SAPIENS, "motivnet-", {"class_token": True, "patch_padding": 0}),
    "sapiens2": (SAPIENS2, "motivnet-sapiens2-", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help=".pth, or .safetensors for sapiens2")
    parser.add_argument("--size", default="1b", help="0.3b, 0.6b, 1b, 2b; of sapiens2 0.1b, 0.4b, 0.8b, 1b, 5b")
    parser.add_argument("--format", default="motivnet", choices=FORMATS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    num_values = make(options.out, options.format, options.size, options.seed)
    print(f"{options.out}: {num_values:,} values, {options.out.stat().st_size / 1e9:.2f} GB")


def make(out: Path, format_name: str, size: str, seed: int = 0) -> int:
    """Write a checkpoint; give the number of values in it."""
    keymap, prefix, changes = FORMATS[format_name]
    config = preset(prefix + size)
    if changes and config.vit:
        vit = dataclasses.replace(config.vit, **changes)
        config = dataclasses.replace(config, vit=vit, image_size=(1024, 1024))
    with built_without_memory():
        empty: nn.Module = build_model(config) if format_name == "motivnet" else build_backbone(config)
    state, _ = keymap.inverse().apply(random_weights(empty, config, seed))
    if out.suffix == ".safetensors":
        save_file(state, out)
    else:
        torch.save(state, out)
    return sum(tensor.numel() for tensor in state.values())


def random_weights(empty: nn.Module, config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Draw weights as initialisation would: matrices of deviation 0.02, norms and scales near 1, biases near 0."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in empty.state_dict().items():
        values = torch.empty(tensor.shape).normal_(0, 0.02, generator=generator)
        if tensor.ndim == 1 and not name.endswith("bias"):
            values += 1
        elif name.endswith("group_weight"):  # wide enough that probabilities differ
            values *= 10 * (768 / config.head.dim)
        elif name.endswith("queries"):
            values *= 50
        state[name] = values
    return state


if __name__ == "__main__":
    main()
