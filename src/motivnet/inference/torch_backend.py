"""The torch backend: any device, half precision if the hardware supports it, batch sizes limited by memory.

Shape suffixes: B images, C channels (pixels) or classes (logits), H height, W width.
"""

import contextlib
from typing import Any

import numpy as np
import torch
from torch import nn

from motivnet.checkpoints.load import free_bytes
from motivnet.errors import ConfigError, require
from motivnet.inference.backends import Outputs
from motivnet.models.backbone import has_depthwise
from motivnet.models.config import ModelConfig
from motivnet.models.cost import cost
from motivnet.models.cpu_attention import BlockedAttention
from motivnet.models.motivnet import AllOutputs, MotivNet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("auto", "cpu", "cuda", "mps", "cuda:N")

# Fraction of the free memory for a batch: the rest is for the kernels' workspaces and other programs.
MEMORY_SHARE = 0.5
# This takes a CPU seconds: a larger batch is not faster, and delays the first result.
CPU_BATCH_FLOPS = 1e12


class TorchBackend:
    """A model in torch."""

    def __init__(self, model: MotivNet, config: ModelConfig, *, compiled: bool = False) -> None:
        """Wrap a model, on its device and in its precision.

        Args:
            model: in eval mode.
            config: its dimensions.
            compiled: whether to use torch.compile; the first batch is then slow.

        Raises:
            ConfigError: if the device does not support this precision for the model.
        """
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        if self.device.type == "cpu" and self.dtype != torch.float32 and has_depthwise(model):
            found = str(self.dtype).removeprefix("torch.")
            raise ConfigError(f"dtype {found}: this model has depthwise convolutions. Allowed on a CPU: fp32")
        self.max_batch = max_batch(config, self.device, self.dtype)
        self.model = model
        self._run: nn.Module = AllOutputs(model)
        self._attention: type[Any] = contextlib.nullcontext
        if self.device.type == "cpu" and self.dtype == torch.bfloat16 and not _cpu_has("amx_bf16"):
            self._attention = BlockedAttention
        if compiled:
            # On the CPU, freezing converts the weights to the kernels' layout once.
            options = {"freezing": True} if self.device.type == "cpu" else None
            self._run = torch.compile(self._run, options=options)  # type: ignore[assignment]

    def logits(self, pixels_BCHW: np.ndarray) -> np.ndarray:
        """Return only the logits of `outputs`, float32 (B, C)."""
        return self.outputs(pixels_BCHW).logits

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        """Run the model on normalised pixels, float32 (B, C, H, W), in batches of at most `max_batch`."""
        parts: list[Outputs] = []
        start = 0
        while start < len(pixels_BCHW):
            part = pixels_BCHW[start : start + self.max_batch]
            try:
                parts.append(self._outputs(part))
            except torch.OutOfMemoryError:
                if self.max_batch == 1:
                    raise
                self.max_batch = max(1, len(part) // 2)
                continue
            start += len(part)
        affect = [part.affect for part in parts if part.affect is not None]
        return Outputs(np.concatenate([part.logits for part in parts]), np.concatenate(affect) if affect else None)

    def _outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        with torch.inference_mode(), self._attention():
            # Contiguous and copied: torch accepts neither read-only arrays nor negative strides.
            pixels = torch.tensor(np.ascontiguousarray(pixels_BCHW)).to(self.device, self.dtype)
            logits, affect = self._run(pixels)
            return Outputs(logits.float().cpu().numpy(), None if affect is None else affect.cpu().numpy())


def choose_device(name: str) -> torch.device:
    """Return a device by name; `auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: if this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}. Allowed: {', '.join(DEVICES)}") from None
    num_here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= num_here.get(device.type, 0):
        allowed = ", ".join(kind for kind, number in num_here.items() if number)
        raise ConfigError(f"device {name!r} is not on this machine. Allowed: auto, {allowed}")
    return device


def choose_dtype(name: str, device: torch.device, config: ModelConfig) -> torch.dtype:
    """Return a precision by name; `auto` is bfloat16 for Sapiens if the hardware supports it, else float32.

    Raises:
        ConfigError: if the name is unknown.
    """
    if name != "auto":
        require(name in DTYPES, f"unknown dtype {name!r}. Allowed: auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    return torch.bfloat16 if config.vit is not None and _has_bfloat16(device) else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _cpu_has("avx512_bf16", "amx_bf16", "bf16")


def _cpu_has(*features: str) -> bool:
    """Return whether the CPU has one of these features, by torch's names."""
    has = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    return any(has.get(name, False) for name in features)


def max_batch(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> int:
    """Return the maximum batch size for the currently free memory; at least one."""
    free, image = free_bytes(device), cost(config, dtype=dtype)
    if free is None:
        return 1
    fits = int(MEMORY_SHARE * free) // image.activation_bytes
    if device.type == "cpu":
        fits = min(fits, int(CPU_BATCH_FLOPS) // image.flops)
    return max(1, fits)
