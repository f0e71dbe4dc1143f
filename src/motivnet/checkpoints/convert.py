"""Released weights as a bundle."""

import dataclasses
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from motivnet.checkpoints.bundle import Bundle, BundleConfig, check_place, write_config
from motivnet.checkpoints.files import open_weights
from motivnet.checkpoints.formats import Contents, identify
from motivnet.checkpoints.load import find_weights, load_contents, require_model, write_weights
from motivnet.errors import CheckpointError, OutputError, unknown_name
from motivnet.labels import EMOTIONS
from motivnet.preprocess import PREPROCESSINGS, Preprocessing

DEFAULT_GEOMETRY = "motivnet-pad"
RELEASED_LICENCE = "unknown: ask the authors; the encoder comes from Sapiens, CC BY-NC 4.0: no commercial use"


def preprocessing_for(geometry: str, image_size: tuple[int, int] | None = None) -> Preprocessing:
    """Give one of MotivNet's two geometries at any input size.

    Args:
        geometry: `motivnet-pad`, what its authors' inference does, or `motivnet-stretch`, what their training does.
        image_size: (height, width), in pixels; None takes 1024x768.

    Raises:
        CheckpointError: if there is no such geometry.
    """
    allowed = [name for name in PREPROCESSINGS if name.startswith("motivnet-")]
    if geometry not in allowed:
        raise CheckpointError(unknown_name("geometry", geometry, allowed))
    chosen = PREPROCESSINGS[geometry]
    return dataclasses.replace(chosen, size=tuple(image_size)) if image_size else chosen


def released_config(
    contents: Contents, preprocessing: Preprocessing, *, name: str | None = None, licence: str | None = None
) -> BundleConfig:
    """Describe a released model as a bundle would.

    Args:
        contents: of its file, a whole model.
        preprocessing: of its input; decides the model's size.
        name: of the model; None takes the file's.
        licence: of the weights; None takes what is known of the released file.

    Raises:
        CheckpointError: if its number of classes is not that of our labels.
    """
    config = contents.model_config(preprocessing.size)
    if config.num_classes != len(EMOTIONS):
        raise CheckpointError(
            f"{contents.path}: found a head of {config.num_classes} classes, expected {len(EMOTIONS)}: "
            f"{', '.join(EMOTIONS)}"
        )
    return BundleConfig(
        name=name or contents.path.stem,
        summary=f"MotivNet: Sapiens {config.vit and config.vit.embed_dim} wide, ML-Decoder, as released",
        licence=licence or RELEASED_LICENCE,
        model=config,
        preprocessing=preprocessing,
        provenance={"converted_from": contents.path.name, "format": contents.format},
    )


def convert(
    file: str | Path,
    out: Path,
    *,
    dtype: torch.dtype = torch.float32,
    image_size: tuple[int, int] | None = None,
    geometry: str = DEFAULT_GEOMETRY,
    num_heads: int | None = None,
    name: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Turn a released model into a bundle, which appears complete or not at all.

    Args:
        file: in a released format, or a name that `motivnet weights list` knows.
        out: folder to be made.
        dtype: of the weights.
        image_size: (height, width) of the input, in pixels; None takes the file's own.
        geometry: as for `preprocessing_for`.
        num_heads: attention heads of the encoder, where neither its width nor its metadata tells.
        name: of the model; None takes the folder's.
        licence: of the weights; None takes what the format's files are under.
        overwrite: replace a bundle that exists; nothing else is ever replaced.

    Raises:
        CheckpointError: if the file is damaged, or no whole model.
        OutputError: if `out` exists, or cannot be written.
    """
    out = out.resolve()
    check_place(out, overwrite=overwrite)
    opened = open_weights(find_weights(file))
    contents = require_model(identify(opened, num_heads=num_heads, image_size=image_size))
    own = contents.model_config().image_size
    config = released_config(
        contents, preprocessing_for(geometry, image_size or own), name=name or out.name, licence=licence
    )
    model = load_contents(contents, image_size=config.model.image_size, dtype=dtype)
    return _write(out, config, model)


def _write(out: Path, config: BundleConfig, model: torch.nn.Module) -> Bundle:
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        bundle = write_config(unfinished, config)
        write_weights(bundle, model)
        if out.exists():
            shutil.rmtree(out)
        unfinished.replace(out)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{out}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Bundle(out, config)
