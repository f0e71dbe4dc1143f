"""What a training run takes: parameters, FLOPs, and the memory of each device.

One step of the real model runs on fake tensors, which have shapes and no data, with the recipe's own precision,
checkpointing and frozen parts: it takes seconds, allocates nothing, and needs neither data nor weights nor devices.

Shape suffixes: B images, C channels, H height, W width; N patches.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import Any, cast

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision
from lightning.pytorch.plugins.precision import Precision as FullPrecision
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from motivnet import config
from motivnet.errors import require
from motivnet.models.backbone import keep_depthwise_float32, to_channels_last
from motivnet.models.cost import PeakMemory, count_flops, num_parameters, weight_bytes
from motivnet.models.mae import MaskedAutoencoder, build_mae
from motivnet.models.motivnet import MotivNet, build_model
from motivnet.training.freezing import keep_frozen_eval, set_trained
from motivnet.training.mae.pretrain import parameter_groups as pretraining_groups
from motivnet.training.mae.pretrain_recipes import PRETRAIN_RECIPES, PretrainRecipe
from motivnet.training.module import blocks_of, check_precision
from motivnet.training.optimizers import parameter_groups
from motivnet.training.recipes import RECIPES
from motivnet.training.settings import Place, Precision
from motivnet.training.trainer import AnyRecipe

# What a GPU holds besides tensors: its context with the loaded kernels, and the workspaces of its libraries.
RESERVE_BYTES = 1_000_000_000
# Share of a device that its allocator loses to fragmentation.
RESERVE_SHARE = 0.05
# AdamW keeps two moments of each trained parameter, in the parameter's own precision.
ADAMW_STATES = 2


# What takes less memory, the cheapest first.
REMEDIES = (
    "Try --set run.precision=bf16-mixed, backbone.recompute=true (of pre-training: recompute=true), a smaller "
    "run.batch_size with a larger run.accumulate, --strategy fsdp on several devices, backbone.train=lora, or a lower "
    "model.image_size and preprocessing.size."
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on one device at the peak of a step; they add up to `total`.

    Args:
        weights: parameters and buffers.
        gradients: of the trained parameters. Those of the last step are still alive in the next forward pass.
        optimizer: AdamW's moments.
        average: averaged weights (EMA).
        casts: copies of weights in low precision that autocast made for the backward pass.
        activations: everything else, the batch included.
        exchanged: on its way between several devices: with `ddp` a copy of the gradients, with `fsdp` see `sharded`.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    casts: int
    activations: int
    exchanged: int = 0
    total: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Add up."""
        parts = (getattr(self, field.name) for field in dataclasses.fields(self) if field.init)
        object.__setattr__(self, "total", sum(parts))


def estimate(recipe: AnyRecipe, place: Place, *, device_gb: float | None = None) -> dict[str, Any]:
    """Calculate what a recipe takes.

    Args:
        recipe: of training or pre-training.
        place: devices.
        device_gb: memory of one device in GB (10^9 bytes); None if unknown.

    Returns:
        Plain data: the parameters of the model (LoRA included), those that are trained, and their number in each
        group of the optimizer; tokens per image, from the backbone to the head or from the encoder to the decoder;
        images per optimizer step, on all devices; FLOPs of forward pass, backward pass and recomputation, per image
        and per optimizer step on all devices, where a multiply-add counts as two; bytes of each device, as in
        `Memory`; those that it has, and those that must stay free, for context, libraries and fragmentation; and
        whether memory and reserve fit. Of a device whose memory is unknown, both are None.

    Raises:
        ConfigError: if dimensions or settings are inconsistent, or `device_gb` is not positive.
    """
    require(device_gb is None or device_gb > 0, f"--device-gb must be positive, not {device_gb}")
    device_bytes = None if device_gb is None else round(device_gb * 1e9)
    model, images_per_step = meta_model(recipe), recipe.run.batch_size * recipe.run.accumulate * place.world_size
    if isinstance(recipe, PretrainRecipe):
        groups = pretraining_groups(cast(MaskedAutoencoder, model), recipe.optimizer.lr, recipe.optimizer.weight_decay)
    else:
        groups = parameter_groups(cast(MotivNet, model), recipe)
    sizes = {group["name"]: sum(parameter.numel() for parameter in group["params"]) for group in groups}
    tokens, flops_per_image = count(recipe)
    memory = step_memory(recipe, place)
    return {
        "parameters": num_parameters(model),
        "trained_parameters": sum(sizes.values()),
        "groups": sizes,
        "tokens": tokens,
        "images_per_step": images_per_step,
        "flops_per_image": flops_per_image,
        "flops_per_step": flops_per_image * images_per_step,
        "memory": config.to_plain(memory),
        "device_bytes": device_bytes,
        "reserve_bytes": _reserve(device_bytes),
        "fits": fits(memory, device_bytes),
    }


def step_memory(recipe: AnyRecipe, place: Place) -> Memory:
    """Calculate the memory of one device at the peak of a step; ConfigError if settings are inconsistent."""
    whole, largest, outside = profile_step(recipe)
    if place.world_size == 1:
        return whole
    if place.strategy == "fsdp":
        return sharded(whole, place.world_size, largest=largest, outside=outside)
    return dataclasses.replace(whole, exchanged=whole.gradients)


def sharded(whole: Memory, world_size: int, *, largest: int, outside: int) -> Memory:
    """Shard weights, gradients and averages over devices, as `fsdp` does; activations and casts remain.

    Each device also holds the weights outside the blocks, those of the current block and, since they are prefetched, of
    the next one, and the gradients of one block that are being reduced.

    Args:
        whole: of a device without sharding.
        world_size: number of devices.
        largest: bytes of the weights of the largest block.
        outside: bytes of the weights outside the blocks.
    """
    shares = {name: -(-getattr(whole, name) // world_size) for name in ("weights", "gradients", "optimizer", "average")}
    return dataclasses.replace(whole, **shares, exchanged=outside + 3 * largest)


def fits(memory: Memory, device_bytes: int | None) -> bool | None:
    """Return whether a device has room for a step and the reserve; None if its memory is unknown."""
    return None if device_bytes is None else memory.total + _reserve(device_bytes) <= device_bytes


def _reserve(device_bytes: int | None) -> int:
    return RESERVE_BYTES + round(RESERVE_SHARE * (device_bytes or 0))


@functools.lru_cache(maxsize=64)
def profile_step(recipe: AnyRecipe) -> tuple[Memory, int, int]:
    """Run one step on one device with fake tensors, and record what is alive; cached, since it takes seconds.

    As on a CPU: the autocast of a GPU keeps a few more tensors in float32. The savings of `run.compile` are unknown.

    Returns:
        The memory of one device without sharding, and the bytes of the weights of the largest block, and outside the
        blocks.

    Raises:
        ConfigError: if dimensions or settings are inconsistent.
    """
    model, run = meta_model(recipe), recipe.run
    check_precision(model, run.precision)
    if run.precision == "bf16-true":
        model = model.to(torch.bfloat16)
    with _fake_tensors(model):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with PeakMemory(model) as watch:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
            batch_BCHW = _batch(recipe, run.batch_size, run.precision)
            loss = _forward(model, batch_BCHW, run.precision)
            # Lightning's order: the gradients of the last step are freed after the forward pass.
            if run.accumulate == 1:
                model.zero_grad()
            loss.backward()
    gradients = sum(cast(int, parameter.nbytes) for parameter in trained)
    weights, blocks = weight_bytes(model), [weight_bytes(block) for block in blocks_of(model)]
    memory = Memory(
        weights=weights,
        gradients=gradients,
        optimizer=ADAMW_STATES * gradients,
        average=weights if run.ema_decay else 0,
        casts=watch.cast_bytes,
        activations=watch.peak_bytes - gradients - watch.cast_bytes,
    )
    return memory, max(blocks, default=0), weights - sum(blocks)


def count(recipe: AnyRecipe) -> tuple[int, int]:
    """Count tokens per image, and FLOPs per image of forward pass, backward pass and recomputation.

    A multiply-add counts as two.

    Raises:
        ConfigError: if dimensions or settings are inconsistent.
    """
    model, num_images = meta_model(recipe), 2  # batch norm needs more than one value per channel
    tokens: list[int] = []
    target = model.embed if isinstance(model, MaskedAutoencoder) else model.head
    target.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].shape[1]))
    # Apart from memory, since counting keeps activations alive; in float32, which is fastest here.
    with _fake_tensors(model), count_flops() as counter:
        _forward(model, _batch(recipe, num_images, "32-true"), "32-true").backward()
    return tokens[0], counter.get_total_flops() // num_images


def meta_model(recipe: AnyRecipe) -> MotivNet | MaskedAutoencoder:
    """Build a recipe's model as training does, on the meta device; ConfigError if dimensions are inconsistent."""
    with torch.device("meta"):
        model = build_model(recipe.model)
        if isinstance(recipe, PretrainRecipe):
            cast(Any, model.backbone.net).set_grad_checkpointing(recipe.recompute)
            return build_mae(model.backbone, recipe.mae).train()
        set_trained(model, recipe.backbone)
        keep_depthwise_float32(model)
        keep_frozen_eval(model.train())
        return to_channels_last(model)


@contextlib.contextmanager
def _fake_tensors(model: torch.nn.Module) -> Iterator[None]:
    """Give a model of the meta device fake tensors during a block."""
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's advice about kernels, none of which runs
        # On the CPU rather than `meta`, so that attention takes the fused kernel, as in training.
        model.to_empty(device="cpu")
        yield


def _batch(recipe: AnyRecipe, num_images: int, precision: Precision) -> Tensor:
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    return torch.empty(num_images, recipe.model.input_chans, *recipe.model.image_size, dtype=dtype)


def _forward(model: MotivNet | MaskedAutoencoder, batch_BCHW: Tensor, precision: Precision) -> Tensor:
    """Run the forward pass and return something to differentiate; the loss itself is negligible."""
    augmented_BCHW = torch.empty_like(batch_BCHW, memory_format=torch.channels_last)
    if precision == "32-true":
        plugin = FullPrecision()
    else:
        plugin = HalfPrecision(precision) if precision == "bf16-true" else MixedPrecision(precision, "cpu")
    with plugin.forward_context():
        if isinstance(model, MaskedAutoencoder):
            order_BN = torch.empty(len(batch_BCHW), model.num_patches, dtype=torch.int64)
            return model.loss(model(augmented_BCHW, order_BN), augmented_BCHW, order_BN)
        outputs = model.outputs(augmented_BCHW)
        return sum((part.float().sum() for part in outputs if part is not None), torch.zeros(()))


def dry_run(recipe: AnyRecipe, place: Place, *, device_gb: float | None = None) -> dict[str, Any]:
    """Return what `--dry-run --json` prints: the recipe, the settings that differ from it, the place, and the estimate.

    Args:
        recipe: with changed settings.
        place: devices.
        device_gb: memory of one device in GB (10^9 bytes); None takes that of the first GPU, if there is one.
    """
    if device_gb is None and place.accelerator != "cpu" and torch.cuda.is_available():
        device_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    now, make = config.flatten(config.to_plain(recipe)), (RECIPES | PRETRAIN_RECIPES).get(recipe.name)
    named = config.flatten(config.to_plain(make())) if make else now
    # Settings inside one that is null have no names of their own.
    changed = {name: named.get(name) for name in now if name not in named or now[name] != named[name]}
    found = estimate(recipe, place, device_gb=device_gb)
    plain = {"recipe": config.to_plain(recipe), "changed": changed, "place": config.to_plain(place)}
    return plain | {"estimate": found}


def dry_run_text(found: dict[str, Any]) -> str:
    """Format the result of `dry_run` for reading."""
    what, changed = found["estimate"], found["changed"]
    lines = [f"{'setting':30}{'value':26}in the recipe"]
    for name, value in config.flatten(found["recipe"]).items():
        before = config.to_json(changed[name]) if name in changed else ""
        lines.append(f"{name:30}{config.to_json(value):26}{before}".rstrip())
    numbers = {"parameters": what["parameters"], "trained parameters": what["trained_parameters"]}
    numbers |= {f"  {name}": number for name, number in what["groups"].items()}
    numbers |= {"tokens per image": what["tokens"], "images per optimizer step": what["images_per_step"]}
    rows = {name: f"{number:,}" for name, number in numbers.items()}
    for name, flops in (("image, forward and backward", what["flops_per_image"]), ("step", what["flops_per_step"])):
        rows[f"TFLOPs per {name}"] = f"{flops / 1e12:.3g}" if flops < 999e12 else f"{flops / 1e12:,.0f}"
    rows |= {f"memory per device, {name}": f"{size / 1e9:.3g} GB" for name, size in what["memory"].items() if size}
    lines += ["", *(f"{name:40}{value:>20}" for name, value in rows.items()), ""]
    needed = f"{what['memory']['total'] / 1e9:.1f} GB and {what['reserve_bytes'] / 1e9:.1f} GB of reserve"
    if what["fits"] is None:
        return "\n".join([*lines, f"A device needs {needed}. --device-gb says if it fits."])
    verdict = "FITS" if what["fits"] else "DOES NOT FIT"
    lines.append(f"{verdict}: {needed}, on a device of {what['device_bytes'] / 1e9:g} GB.")
    return "\n".join(lines if what["fits"] else [*lines, REMEDIES])
