"""What a model costs: parameters, FLOPs and memory, without allocating or computing anything.

The model's own code runs on fake tensors, which have shapes and no data: this works for every architecture, and memory
is freed when Python really frees it.

Shape suffixes: B images, N tokens, D token width.
"""

import dataclasses
import weakref
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from motivnet.models.config import ModelConfig
from motivnet.models.motivnet import build_model


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost of one forward pass in inference.

    Args:
        parameters: of backbone and head, without buffers: neither batch-norm statistics nor the frozen queries of
            ML-Decoder, which its authors do count.
        backbone_parameters: of the backbone alone.
        tokens: per image, from the backbone to the head.
        flops: per image, a multiply-add counted as two; only matrix products, convolutions and attention: 99 % of a
            transformer.
        weight_bytes: of parameters and buffers.
        activation_bytes: peak memory beyond the weights, input included, for the whole batch, with fused attention. A
            process holds more, since allocators keep freed blocks: with glibc up to as much again.
    """

    parameters: int
    backbone_parameters: int
    tokens: int
    flops: int
    weight_bytes: int
    activation_bytes: int


def cost(config: ModelConfig, *, dtype: torch.dtype = torch.float32, batch_size: int = 1) -> Cost:
    """Calculate the cost of a model.

    Args:
        config: its dimensions.
        dtype: of weights and activations.
        batch_size: images in one forward pass; `activation_bytes` grows with it.

    Raises:
        ConfigError: if the dimensions are inconsistent.
    """
    # Builders read small tables back while they build, which fake tensors refuse: hence two steps.
    with torch.device("meta"):
        model = build_model(config).eval().requires_grad_(False).to(dtype)
    # On the CPU rather than `meta`, so that attention takes the fused kernel, as in inference.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        with PeakMemory(model) as memory, count_flops() as counter:
            tokens_BND = model.forward_features(
                torch.empty(batch_size, config.input_chans, *config.image_size, dtype=dtype)
            )
            model.head(tokens_BND)
    return Cost(
        parameters=num_parameters(model),
        backbone_parameters=num_parameters(model.backbone),
        tokens=tokens_BND.shape[1],
        flops=counter.get_total_flops() // batch_size,
        weight_bytes=weight_bytes(model),
        activation_bytes=memory.peak_bytes,
    )


class PeakMemory(TorchDispatchMode):
    """A context that measures the peak memory of the tensors allocated in it, real or fake: `peak_bytes`.

    The weights of `model` do not count. `cast_bytes` is the part of the peak that is copies of parameters in another
    precision, as autocast makes them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self.cast_bytes = 0
        self._live_casts = 0
        self._parameters = weakref.WeakSet(parameter.untyped_storage() for parameter in model.parameters())
        self._storages = weakref.WeakSet(tensor.untyped_storage() for tensor in _weights(model))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        cast_of = func is torch.ops.aten._to_copy.default and args[0].untyped_storage() in self._parameters
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._watch(leaf.untyped_storage(), is_cast=cast_of)
        return result

    def _watch(self, storage: torch.UntypedStorage, *, is_cast: bool) -> None:
        if storage in self._storages:  # the tensor is a view, or was changed in place
            return
        self._storages.add(storage)
        self._add(storage.nbytes(), is_cast=is_cast)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.cast_bytes = self.live_bytes, self._live_casts
        weakref.finalize(storage, self._add, -storage.nbytes(), is_cast=is_cast)

    def _add(self, num_bytes: int, *, is_cast: bool) -> None:
        self.live_bytes += num_bytes
        if is_cast:
            self._live_casts += num_bytes


def count_flops() -> FlopCounterMode:
    """Return a context that counts FLOPs, forward and backward; torch has no formula for the CPU's attention."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    formulas = {
        attention: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
        backward: lambda grad, query, key, value, *_, **__: sdpa_backward_flop_count(grad, query, key, value),
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def num_parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers."""
    return sum(cast(int, tensor.nbytes) for tensor in _weights(module))


def _weights(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
