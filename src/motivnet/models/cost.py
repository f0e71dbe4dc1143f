"""What a model costs, by calculation: parameters, arithmetic, memory. Nothing is allocated and nothing is computed.

The model's own code runs on fake tensors, which have shapes and no data: so every architecture is counted, and memory
is freed where Python really frees it.

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
    """The price of one forward pass in inference.

    Args:
        parameters: of backbone and head. Buffers are no parameters: neither the statistics of batch norms nor the
            frozen queries of ML-Decoder, which its authors do count.
        backbone_parameters: of the backbone alone.
        tokens: what the backbone hands to the head for one image.
        flops: of one image, a multiplication and an addition counted as two; only matrix products, convolutions and
            attention, which are all but a hundredth of a transformer.
        weight_bytes: of parameters and buffers.
        activation_bytes: the most that is alive at once beyond the weights, the input included, for the whole batch.
            Attention is taken as fused, without its (N, N) matrix. A process holds more than this, since an allocator
            keeps freed blocks: with glibc up to as much again.
    """

    parameters: int
    backbone_parameters: int
    tokens: int
    flops: int
    weight_bytes: int
    activation_bytes: int


def cost(config: ModelConfig, *, dtype: torch.dtype = torch.float32, batch_size: int = 1) -> Cost:
    """Calculate what a model costs.

    Args:
        config: its dimensions.
        dtype: of weights and activations.
        batch_size: images in one forward pass; `activation_bytes` grows with it.

    Raises:
        ConfigError: if the dimensions do not fit together.
    """
    # Builders read small tables back while they build, which fake tensors refuse: hence two steps.
    with torch.device("meta"):
        model = build_model(config).eval().requires_grad_(False).to(dtype)
    # As fake tensors of the CPU, not of `meta`, attention takes the fused kernel that it takes in earnest.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        with PeakMemory(model) as memory, count_flops() as counter:
            tokens_BND = model.backbone(torch.empty(batch_size, config.in_chans, *config.image_size, dtype=dtype))
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
    """Inside this context, watch the storages that operations allocate; `peak_bytes` is the most alive at once.

    Works on real and on fake tensors. What `model` holds already does not count. `cast_bytes` is the part of the peak
    that is copies of parameters in another precision, as autocast makes them.
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
    """Give a context that counts arithmetic, forward and backward; torch has no formula for the CPU's attention."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(
        display=False, custom_mapping={attention: _attention_flops, backward: _attention_backward_flops}
    )


def num_parameters(module: nn.Module) -> int:
    """Count a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def weight_bytes(module: nn.Module) -> int:
    """Give the bytes of a module's parameters and buffers."""
    return sum(cast(int, tensor.nbytes) for tensor in _weights(module))


def _attention_flops(query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)


def _attention_backward_flops(
    grad_shape: Any, query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad_shape, query_shape, key_shape, value_shape)


def _weights(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
