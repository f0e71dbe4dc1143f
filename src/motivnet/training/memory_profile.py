"""One step of training on fake tensors, which have shapes and no data: nothing is allocated, nothing computed.

The real model runs with the recipe's own settings, so that autocast, recomputation and frozen parts count as they are.

Shape suffixes: B images, C channels, H height, W width; N patches or tokens.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from motivnet.models.backbone import keep_depthwise_float32
from motivnet.models.cost import PeakMemory, count_flops, weight_bytes
from motivnet.models.mae import MaskedAutoencoder, build_mae
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.training.freezing import keep_frozen_eval, set_trained
from motivnet.training.mae.pretrain_recipes import PretrainRecipe
from motivnet.training.settings import Precision, Recipe
from motivnet.training.sharding import rows_of_blocks
from motivnet.training.speed import check_precision


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """Bytes that a device holds beside the optimizer's, at the moment of a step when it holds most.

    Args:
        weights: parameters and buffers.
        gradients: of what is trained. Those of the last step are still there in the forward pass of the next.
        casts: copies of weights in low precision that autocast made and the backward pass needs.
        activations: all else that is alive, the batch included.
        largest_block: weights of the largest block that `fsdp` shares out by itself.
        outside_blocks: weights that are in none.
    """

    weights: int
    gradients: int
    casts: int
    activations: int
    largest_block: int
    outside_blocks: int


@functools.lru_cache(maxsize=64)
def rehearse(recipe: Recipe | PretrainRecipe) -> Rehearsal:
    """Run one step of one device and watch what it holds; remembered, since it takes seconds.

    As on a CPU: the autocast of a GPU keeps a few more tensors in float32. What `run.compile` saves is not known.

    Raises:
        ConfigError: if dimensions or settings do not fit together.
    """
    model, run = meta_model(recipe), recipe.run
    check_precision(model, run.precision)
    if run.precision == "bf16-true":
        model = model.to(torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True), _without_advice():
        # As fake tensors of the CPU, not of `meta`, attention takes the fused kernel that it takes in earnest.
        model.to_empty(device="cpu")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with PeakMemory(model) as watch:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
            batch_BCHW = _pixels(recipe, run.batch_size, run.precision)
            loss = _forward(model, batch_BCHW, run.precision)
            # Lightning's order: the gradients of the last step go when the forward pass is over.
            if run.accumulate == 1:
                model.zero_grad()
            loss.backward()
    gradients = sum(cast(int, parameter.nbytes) for parameter in trained)
    weights, blocks = weight_bytes(model), [weight_bytes(block) for row in rows_of_blocks(model) for block in row]
    return Rehearsal(
        weights=weights,
        gradients=gradients,
        casts=watch.cast_bytes,
        activations=watch.peak_bytes - gradients - watch.cast_bytes,
        largest_block=max(blocks, default=0),
        outside_blocks=weights - sum(blocks),
    )


def count(recipe: Recipe | PretrainRecipe) -> tuple[int, int]:
    """Count the tokens of one image, and the arithmetic of its share in a step.

    Returns:
        Tokens that the backbone hands on; operations of forward pass, backward pass and recomputation, of which a
        multiplication and an addition are two.

    Raises:
        ConfigError: if dimensions or settings do not fit together.
    """
    model, num_images = meta_model(recipe), 2  # batch norm takes no single value a channel
    tokens: list[int] = []
    target = model.embed if isinstance(model, MaskedAutoencoder) else model.head
    target.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].shape[1]))
    with FakeTensorMode(allow_non_fake_inputs=True), _without_advice():
        model.to_empty(device="cpu")
        # Apart from memory, since counting keeps activations alive; in float32, which is fastest here.
        with count_flops() as counter:
            _forward(model, _pixels(recipe, num_images, "32-true"), "32-true").backward()
    return tokens[0], counter.get_total_flops() // num_images


def meta_model(recipe: Recipe | PretrainRecipe) -> MotivNet | MaskedAutoencoder:
    """Build a recipe's model as training does, without memory.

    Raises:
        ConfigError: if dimensions or settings do not fit together.
    """
    with torch.device("meta"):
        model = build_model(recipe.model)
        if isinstance(recipe, PretrainRecipe):
            cast(Any, model.backbone.net).set_grad_checkpointing(recipe.recompute)
            return build_mae(model.backbone, recipe.mae).train()
        set_trained(model, recipe.backbone)
        keep_depthwise_float32(model)
        keep_frozen_eval(model.train())
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _pixels(recipe: Recipe | PretrainRecipe, num_images: int, precision: Precision) -> Tensor:
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    return torch.empty(num_images, recipe.model.in_chans, *recipe.model.image_size, dtype=dtype)


def _forward(model: MotivNet | MaskedAutoencoder, batch_BCHW: Tensor, precision: Precision) -> Tensor:
    """Run the forward pass and give something to differentiate; the loss itself is nothing beside it."""
    changed_BCHW = torch.empty_like(batch_BCHW, memory_format=torch.channels_last)  # augmented
    with _precision(precision):
        if isinstance(model, MaskedAutoencoder):
            order_BN = torch.empty(len(batch_BCHW), model.num_patches, dtype=torch.int64)
            return model.loss(model(changed_BCHW, order_BN), changed_BCHW, order_BN)
        outputs = model.outputs(changed_BCHW)
        return sum((part.float().sum() for part in outputs if part is not None), torch.zeros(()))


def _precision(precision: Precision) -> AbstractContextManager[Any]:
    """Give the very context that Lightning runs a step in."""
    if precision == "32-true":
        return contextlib.nullcontext()
    if precision == "bf16-true":
        return HalfPrecision(precision).forward_context()
    return MixedPrecision(precision, "cpu").forward_context()


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keep to oneself what torch says about kernels: none is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
