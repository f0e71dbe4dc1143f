"""What a training run takes, by calculation: parameters, arithmetic, and the memory of each device."""

import dataclasses
from collections.abc import Iterator
from typing import Literal, cast

from motivnet.errors import ConfigError
from motivnet.models.cost import num_parameters
from motivnet.models.mae import MaskedAutoencoder
from motivnet.models.motivnet import MotivNet
from motivnet.training.mae.masked_training import parameter_groups as pretraining_groups
from motivnet.training.mae.pretrain_recipes import PretrainRecipe
from motivnet.training.memory_profile import Rehearsal, count, meta_model, rehearse
from motivnet.training.optimizers import parameter_groups
from motivnet.training.settings import Place, Precision, Recipe
from motivnet.training.trainer import sharding_problem

# What a GPU holds beside tensors: its context with the loaded kernels, and the workspaces of its libraries.
RESERVE_BYTES = 1_000_000_000
# The share of a device that its allocator loses between blocks of unequal size.
RESERVE_SHARE = 0.05
# AdamW keeps two averages of each trained parameter, in the parameter's own precision.
ADAMW_STATES = 2
# What the alternatives go through.
PRECISIONS: tuple[Precision, ...] = ("32-true", "bf16-mixed", "bf16-true")
Strategy = Literal["ddp", "fsdp"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes that one device holds at the moment of a step when it holds most; they add up to `total`.

    Args:
        weights: parameters and buffers.
        gradients: of what is trained. Those of the last step are still there in the forward pass of the next.
        optimizer: AdamW's averages.
        average: the averaged weights, where the recipe keeps them.
        casts: copies of weights in low precision that autocast made and the backward pass needs.
        activations: all else that is alive, the batch included.
        exchanged: of several devices, what is on its way between them: of `ddp` a copy of the gradients, of `fsdp` see
            `shared_out`.
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """The same step with settings that change its result by no more than rounding.

    Args:
        precision: as in a recipe.
        recompute: as in a recipe.
        strategy: as of a place.
        world_size: devices in all.
        memory: of each device.
        fits: as of Estimate.
    """

    precision: Precision
    recompute: bool
    strategy: Strategy
    world_size: int
    memory: Memory
    fits: bool | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run takes.

    Args:
        recipe: its name.
        parameters: of the model, the additions of LoRA included.
        trained_parameters: those that have a gradient.
        groups: trained parameters of each group of the optimizer.
        tokens: what the backbone hands to the head, or the encoder to the decoder, for one image.
        images_per_step: that one optimizer step learns from, on all devices.
        flops_per_image: forward pass, backward pass and recomputation; a multiplication and an addition count as two.
        flops_per_step: of one optimizer step, on all devices.
        memory: of each device.
        alternatives: the same with other precision, recomputation and strategy.
        device_bytes: memory of a device; None if it is not known.
        reserve_bytes: what must stay free of it: context, libraries, fragmentation.
        fits: whether memory and reserve are no more than the device has; None if that is not known.
        suggestion: options of `motivnet train` with which it fits, and what it then takes; None if it fits already.
    """

    recipe: str
    parameters: int
    trained_parameters: int
    groups: dict[str, int]
    tokens: int
    images_per_step: int
    flops_per_image: int
    flops_per_step: int
    memory: Memory
    alternatives: tuple[Alternative, ...]
    device_bytes: int | None
    reserve_bytes: int
    fits: bool | None
    suggestion: str | None


def estimate(recipe: Recipe | PretrainRecipe, place: Place, *, device_gb: float | None = None) -> Estimate:
    """Calculate what a recipe takes at a place. It takes seconds, and no memory to speak of.

    Args:
        recipe: of training or of pre-training.
        place: where.
        device_gb: memory of one device in GB (10^9 bytes); None if it is not known.

    Raises:
        ConfigError: if dimensions or settings do not fit together, or the device has no memory.
    """
    if device_gb is not None and device_gb <= 0:
        raise ConfigError(f"--device-gb must be positive, not {device_gb}")
    device_bytes = None if device_gb is None else round(device_gb * 1e9)
    run, model = recipe.run, meta_model(recipe)
    tokens, flops_per_image = count(recipe)
    images_per_step = run.batch_size * run.accumulate * place.world_size
    memory = step_memory(recipe, place)
    enough = fits(memory, device_bytes)
    return Estimate(
        recipe=recipe.name,
        parameters=num_parameters(model),
        trained_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        groups=_groups(model, recipe),
        tokens=tokens,
        images_per_step=images_per_step,
        flops_per_image=flops_per_image,
        flops_per_step=flops_per_image * images_per_step,
        memory=memory,
        alternatives=tuple(_alternatives(recipe, place, device_bytes)),
        device_bytes=device_bytes,
        reserve_bytes=_reserve(device_bytes),
        fits=enough,
        suggestion=_suggestion(recipe, place, device_bytes) if enough is False else None,
    )


def step_memory(recipe: Recipe | PretrainRecipe, place: Place) -> Memory:
    """Calculate what one device holds at the worst moment of a step.

    Raises:
        ConfigError: if dimensions or settings do not fit together.
    """
    return _on_device(rehearse(recipe), recipe, place.strategy, place.world_size)


def _on_device(found: Rehearsal, recipe: Recipe | PretrainRecipe, strategy: Strategy, world_size: int) -> Memory:
    whole = Memory(
        weights=found.weights,
        gradients=found.gradients,
        optimizer=ADAMW_STATES * found.gradients,
        average=found.weights if recipe.run.ema_decay else 0,
        casts=found.casts,
        activations=found.activations,
    )
    if world_size == 1:
        return whole
    if strategy == "fsdp":
        return shared_out(whole, world_size, largest=found.largest_block, outside=found.outside_blocks)
    return dataclasses.replace(whole, exchanged=found.gradients)


def shared_out(whole: Memory, world_size: int, *, largest: int, outside: int) -> Memory:
    """Share weights, gradients and averages out among devices, as `fsdp` does; activations and casts remain.

    Each device also holds the weights outside the blocks, those of the block that it is at and, since they travel
    while it computes, of the next one, and the gradients of one block on their way out.

    Args:
        whole: of a device that has all to itself.
        world_size: devices in all.
        largest: bytes of the largest block's weights.
        outside: bytes of the weights that are in no block.
    """
    shares = {name: -(-getattr(whole, name) // world_size) for name in ("weights", "gradients", "optimizer", "average")}
    return dataclasses.replace(whole, **shares, exchanged=outside + 3 * largest)


def with_settings(
    recipe: Recipe | PretrainRecipe, *, precision: Precision | None = None, recompute: bool | None = None
) -> Recipe | PretrainRecipe:
    """Give a recipe with another precision or recomputation."""
    if precision is not None:
        recipe = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, precision=precision))
    if recompute is None:
        return recipe
    if isinstance(recipe, PretrainRecipe):
        return dataclasses.replace(recipe, recompute=recompute)
    return dataclasses.replace(recipe, backbone=dataclasses.replace(recipe.backbone, recompute=recompute))


def _groups(model: MotivNet | MaskedAutoencoder, recipe: Recipe | PretrainRecipe) -> dict[str, int]:
    if isinstance(recipe, PretrainRecipe):
        groups = pretraining_groups(cast(MaskedAutoencoder, model), recipe.optimizer.weight_decay)
    else:
        groups = parameter_groups(cast(MotivNet, model), recipe)
    return {group["name"]: sum(parameter.numel() for parameter in group["params"]) for group in groups}


def _alternatives(recipe: Recipe | PretrainRecipe, place: Place, device_bytes: int | None) -> Iterator[Alternative]:
    """Go through precisions, recomputation and strategies, leaving out what the model cannot do."""
    places: list[tuple[Strategy, int]] = [("ddp", place.world_size), ("fsdp", max(2, place.world_size))]
    for precision in dict.fromkeys((recipe.run.precision, *PRECISIONS)):
        for recompute in (False, True):
            other = with_settings(recipe, precision=precision, recompute=recompute)
            try:
                found = rehearse(other)
            except ConfigError:  # this model cannot do that
                continue
            for strategy, world_size in places:
                if strategy == "fsdp" and sharding_problem(other):
                    continue
                memory = _on_device(found, other, strategy, world_size)
                yield Alternative(
                    precision=precision,
                    recompute=recompute,
                    strategy=strategy,
                    world_size=world_size,
                    memory=memory,
                    fits=fits(memory, device_bytes),
                )


def _suggestion(recipe: Recipe | PretrainRecipe, place: Place, device_bytes: int | None) -> str:
    """Give the first change that is enough, the harmless ones first."""
    least = None
    for options, other, elsewhere in _changes(recipe, place):
        try:
            memory = step_memory(other, elsewhere)
        except ConfigError:  # this model cannot do that
            continue
        found = f"{' '.join(options)}: {memory.total / 1e9:.1f} GB"
        if fits(memory, device_bytes):
            return found
        least = found
    more = "a lower model.image_size and preprocessing.size, a smaller model, or fsdp on more devices"
    return f"none of the settings is enough{f' ({least})' if least else ''}. Left: {more}"


def _changes(
    recipe: Recipe | PretrainRecipe, place: Place
) -> Iterator[tuple[list[str], Recipe | PretrainRecipe, Place]]:
    """Go through changes, each on top of those before: options of the command, the recipe and the place they give."""
    options: list[str] = []
    part = "recompute" if isinstance(recipe, PretrainRecipe) else "backbone.recompute"
    if recipe.run.precision == "32-true":
        recipe = with_settings(recipe, precision="bf16-mixed")
        options = [*options, "--set run.precision=bf16-mixed"]
        yield options, recipe, place
    recomputing = with_settings(recipe, recompute=True)
    if recomputing != recipe:
        recipe, options = recomputing, [*options, f"--set {part}=true"]
        yield options, recipe, place
    run = recipe.run
    if run.batch_size > 1:
        run = dataclasses.replace(run, batch_size=1, accumulate=run.accumulate * run.batch_size)
        recipe = dataclasses.replace(recipe, run=run)
        options = [*options, f"--set run.batch_size=1 --set run.accumulate={run.accumulate}"]
        yield options, recipe, place
    if place.world_size > 1 and place.strategy == "ddp" and not sharding_problem(recipe):
        place, options = dataclasses.replace(place, strategy="fsdp"), [*options, "--strategy fsdp"]
        yield options, recipe, place
    if isinstance(recipe, Recipe) and recipe.backbone.train == "all":
        for part in ("lora", "none"):
            backbone = dataclasses.replace(recipe.backbone, train=part)
            yield [*options, f"--set backbone.train={part}"], dataclasses.replace(recipe, backbone=backbone), place


def _reserve(device_bytes: int | None) -> int:
    return RESERVE_BYTES + round(RESERVE_SHARE * (device_bytes or 0))


def fits(memory: Memory, device_bytes: int | None) -> bool | None:
    """Say whether a device has room for a step and the reserve; None if its memory is not known."""
    return None if device_bytes is None else memory.total + _reserve(device_bytes) <= device_bytes
