"""Initial weights: of an encoder, or of a whole model.

Shape suffixes: B images, C channels, H height, W width.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motivnet.checkpoints.bundle import CONFIG_NAME, embedded_models, find_weights, is_bundle, open_bundle
from motivnet.checkpoints.encoder_folders import EncoderFolder, read_encoder_folder
from motivnet.checkpoints.files import open_weights, unwrapped
from motivnet.checkpoints.formats import below, identify, is_of_bundle, is_released
from motivnet.checkpoints.load import built_without_memory, check_names, fit_encoder, load_strict
from motivnet.checkpoints.released import HUB_PREFIX, parse_hub_name
from motivnet.checkpoints.timm_weights import FACERES_MODEL, read_faceres, read_timm
from motivnet.errors import CheckpointError, require, reraised
from motivnet.models.config import ModelConfig, VitConfig
from motivnet.models.motivnet import FRAME_EMBED, MotivNet, affect_names, build_model
from motivnet.models.transformers_encoder import convert_transformers
from motivnet.training.settings import Recipe

BACKBONE = "backbone."


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights that are not yet read from disk.

    Args:
        where: their file.
        tensors: under MotivNet's names, those of an encoder too (`backbone.`).
        model: its dimensions; for an encoder, those of the head mean nothing.
        whole: whether they include a head.
        folded: whether the batch norms are folded into the convolutions, so that their statistics are unknown.
    """

    where: Path
    tensors: dict[str, Tensor]
    model: ModelConfig
    whole: bool
    folded: bool = False


def start(model: MotivNet, recipe: Recipe, init: Path | None, faces: Callable[[], Tensor] | None = None) -> None:
    """Load the initial weights in place; nothing, if neither the recipe nor `init` names any.

    Args:
        model: with the recipe's dimensions, before anything in it is frozen or added.
        recipe: its `backbone.weights` are loaded into the encoder. A class token that the model does not have is
            dropped, positions are resized, and a stem of one grey channel gets the sum of three: the same output for a
            grey image.
        init: weights of a whole model, used instead. The outputs for valence and arousal stay random if it has none;
            a model of images starts one of clips.
        faces: returns some normalised training faces (B, C, H, W), for weights whose batch norms are folded.

    Raises:
        CheckpointError: if there are no such weights, or they belong to another model.
    """
    weights = _find(recipe, init)
    if weights is not None:
        part, tensors = _part(model, weights, whole=init is not None)
        load_strict(part, tensors, weights.where)
        if weights.folded and faces is not None:
            rebase_batch_norms(part, faces())


@torch.no_grad()
def rebase_batch_norms(model: nn.Module, pixels_BCHW: Tensor) -> None:
    """Set the statistics of batch norms to those of some images, in place. Outputs stay the same.

    Scale and shift follow the statistics. Otherwise the first training step, which normalises by the statistics of its
    batch, would change the outputs.

    Args:
        model: every batch norm of which sees the images.
        pixels_BCHW: normalised images.
    """

    def rebase(norm: Any, inputs: tuple[Tensor]) -> None:
        x_BCHW = inputs[0].double()
        mean_C, var_C = x_BCHW.mean((0, 2, 3)), x_BCHW.var((0, 2, 3), correction=0)
        scale_C = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.add_(scale_C * (mean_C - norm.running_mean))
        norm.weight.copy_(scale_C * (var_C + norm.eps).sqrt())
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_(var_C)

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(rebase) for norm in norms]
    training = model.training
    model.eval()(pixels_BCHW)
    model.train(training)
    for hook in hooks:
        hook.remove()


def check(recipe: Recipe, init: Path | None) -> None:
    """Refuse what `start` would refuse, without allocating a model.

    Raises:
        CheckpointError: if there are no such weights, or they belong to another model.
        ConfigError: if the recipe's dimensions are inconsistent.
    """
    weights = _find(recipe, init)
    if weights is not None:
        with built_without_memory():
            model = build_model(recipe.model)
        part, tensors = _part(model, weights, whole=init is not None)
        check_names(part, tensors, weights.where)


def follow_folder(recipe: Recipe, *, fetch: bool = True) -> Recipe:
    """Return a recipe with the encoder, three channels and the normalisation of the folder `backbone.weights`.

    Args:
        recipe: returned as it is unless its weights are a folder of timm or transformers.
        fetch: fetch a repository of the hub, `hf:OWNER/NAME`; otherwise the recipe is returned as it is.

    Raises:
        CheckpointError: if the folder is damaged, or its encoder is not supported.
        ConfigError: if the recipe's settings do not fit it.
    """
    name, model = recipe.backbone.weights, recipe.model
    if name is None or name in embedded_models():
        return recipe
    on_hub = fetch and name.startswith(HUB_PREFIX) and parse_hub_name(name)[1] is None
    if not on_hub and not Path(name).is_dir():
        return recipe
    folder = read_encoder_folder(find_weights(name))
    if folder is None:
        return recipe
    model = dataclasses.replace(model, backbone=folder.backbone, transformers=folder.transformers, vit=None, in_chans=3)
    own = recipe.preprocessing
    mean, std = folder.normalisation or (own.mean * (3 // len(own.mean)), own.std * (3 // len(own.std)))
    preprocessing = dataclasses.replace(own, channels="rgb", mean=mean, std=std)
    return dataclasses.replace(recipe, model=model, preprocessing=preprocessing)


def lineage(recipe: Recipe, init: Path | None) -> Any:
    """Return the provenance of the initial weights: a file name, or a bundle's name and provenance; None if random."""
    name = init or recipe.backbone.weights
    if name is None:
        return None
    if not is_bundle(name) or read_encoder_folder(Path(name)):
        return Path(name).name if Path(name).exists() else str(name)
    bundle = open_bundle(name)
    return {"bundle": bundle.config.name, "provenance": bundle.config.provenance}


def _find(recipe: Recipe, init: Path | None) -> Weights | None:
    """Open the initial weights, and fit them to the recipe's model."""
    name = init or recipe.backbone.weights
    if name is None:
        return None
    weights = _open(name, recipe)
    if init is not None and not weights.whole:
        raise CheckpointError(
            f"{weights.where}: only an encoder, but a whole model is needed. Allowed: --set backbone.weights={init}"
        )
    found = _differences(weights.model, recipe.model, whole=init is not None)
    require(not found, f"{weights.where}: not the weights of this model: {'; '.join(found)}", CheckpointError)
    tensors = fit_encoder(weights.tensors, weights.model, recipe.model, prefix=BACKBONE)
    if (weights.model.in_chans, recipe.model.in_chans) == (3, 1):
        for stem in _colour_stems(tensors):
            tensors[stem] = tensors[stem].float().sum(1, keepdim=True)
    return dataclasses.replace(weights, tensors=tensors)


def _open(name: str | Path, recipe: Recipe) -> Weights:
    path, wanted = Path(name) if is_bundle(name) else find_weights(name), recipe.model
    if path.suffix == ".json":
        tensors = read_faceres(path, recipe.preprocessing)
        return Weights(path, _prefixed(tensors, "net."), FACERES_MODEL, whole=False, folded=True)
    folder = read_encoder_folder(path) if path.is_dir() else None
    if folder is not None:
        return _of_folder(folder, recipe)
    if is_bundle(name) or path.is_dir():
        bundle = open_bundle(name if is_bundle(name) else path)
        tensors = unwrapped(open_weights(bundle.weights), is_of_bundle).tensors
        whole = any(tensor.startswith(BACKBONE) for tensor in tensors)
        return Weights(bundle.path, tensors if whole else _prefixed(tensors), bundle.config.model, whole)
    file = open_weights(path)
    kind, _, name = wanted.backbone.partition(":")
    if kind == "timm" and not (is_released(file) or is_of_bundle(file)):
        in_chans = 3 if _colour_stems(file.tensors) else wanted.in_chans
        own = dataclasses.replace(wanted, in_chans=in_chans)
        with built_without_memory():
            net = build_model(own).backbone.net
        return Weights(path, _prefixed(read_timm(file, net, name, recipe.preprocessing), "net."), own, whole=False)
    contents = identify(file, image_size=wanted.image_size)
    if contents.part == "head":
        raise CheckpointError(f"{path}: a head in format {contents.format}, but an encoder is needed")
    assert contents.vit
    if not contents.vit.num_heads:
        # Shapes do not show the number of heads; then the recipe's is taken, unless its model is another anyway.
        heads = wanted.vit.num_heads if wanted.vit else 1
        heads = heads if contents.vit.embed_dim % heads == 0 else 1
        contents = identify(file, num_heads=heads, image_size=wanted.image_size)
    whole = contents.part == "model"
    tensors = contents.tensors if whole else _prefixed(contents.tensors)
    return Weights(path, tensors, contents.model_config(), whole)


def _of_folder(folder: EncoderFolder, recipe: Recipe) -> Weights:
    """Read the encoder of a folder for a recipe that follows it."""
    parts = {"backbone": folder.backbone, "transformers": folder.transformers, "vit": None, "in_chans": 3}
    own, file = dataclasses.replace(recipe.model, **parts), folder.weights()
    with reraised(CheckpointError, f"{folder.path}: not the weights of its {CONFIG_NAME}", ValueError):
        if folder.transformers is not None:
            tensors = convert_transformers(file.tensors, folder.transformers)
        else:
            with built_without_memory():
                net, name = build_model(own).backbone.net, folder.backbone.removeprefix("timm:")
            tensors = read_timm(file, net, name, recipe.preprocessing, folder.normalisation)
    return Weights(folder.path, _prefixed(tensors, "net."), own, whole=False)


def _colour_stems(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of the kernels that see red, green and blue."""
    return [name for name, tensor in tensors.items() if tensor.ndim == 4 and tensor.shape[1] == 3]


def _prefixed(tensors: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {BACKBONE + prefix + name: tensor for name, tensor in tensors.items()}


def _part(model: MotivNet, weights: Weights, *, whole: bool) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the model or its encoder, and the weights for it; missing ones of affect and of frames are its own."""
    if whole:
        own = set() if weights.model.affect else affect_names(model)
        own |= {FRAME_EMBED} & model.state_dict().keys() - weights.tensors.keys()
        return model, weights.tensors | {name: tensor for name, tensor in model.state_dict().items() if name in own}
    return model.backbone, below(weights.tensors, BACKBONE)


def _differences(own: ModelConfig, wanted: ModelConfig, *, whole: bool) -> list[str]:
    """Name the dimensions that differ, other than those that weights can be fitted to."""
    # Without the tag of published weights.
    names = [config.backbone.partition(".")[0] for config in (own, wanted)]
    pairs: dict[str, tuple[Any, Any]] = {"backbone": (names[0], names[1])}
    here, there = own.transformers or {}, wanted.transformers or {}
    if own.backbone == wanted.backbone:
        pairs |= {f"transformers.{key}": (here.get(key), there.get(key)) for key in sorted(here.keys() | there.keys())}
    if own.in_chans != 3 or wanted.in_chans != 1:
        pairs["in_chans"] = (own.in_chans, wanted.in_chans)
    if own.vit and wanted.vit and own.backbone == wanted.backbone:
        here, there = _dimensions(own.vit), _dimensions(wanted.vit)
        pairs |= {f"vit.{name}": (here[name], there[name]) for name in here}
        if wanted.vit.class_token:  # otherwise it is dropped
            pairs["vit.class_token"] = (own.vit.class_token, True)
    if whole:
        pairs |= {
            "num_classes": (own.num_classes, wanted.num_classes),
            "affect": (own.affect, own.affect and wanted.affect),  # missing outputs are added
            "head.kind": (own.head.kind, wanted.head.kind),
            "head.num_heads": (own.head.num_heads, wanted.head.num_heads),
        }
    return [f"{name} is {here}, not {there}" for name, (here, there) in pairs.items() if here != there]


def _dimensions(vit: VitConfig) -> dict[str, Any]:
    names = ("embed_dim", "depth", "num_heads", "patch_size", "mlp_ratio")
    return {name: getattr(vit, name) for name in names} | {"num_kv_heads": vit.num_kv_heads or vit.num_heads}
