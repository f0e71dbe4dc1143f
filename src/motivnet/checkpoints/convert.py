"""Released weights as a bundle."""

import dataclasses
import os
import shutil
from pathlib import Path

import torch

from motivnet.checkpoints.bundle import Bundle, BundleConfig, write_config
from motivnet.checkpoints.files import open_weights
from motivnet.checkpoints.formats import identify, released_config
from motivnet.checkpoints.load import find_weights, load_contents, require_model, write_weights
from motivnet.errors import CheckpointError, OutputError, unknown_name
from motivnet.preprocess import PREPROCESSINGS, Preprocessing

DEFAULT_GEOMETRY = "motivnet-pad"


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
        overwrite: replace a bundle that exists.

    Raises:
        CheckpointError: if the file is damaged, or no whole model.
        OutputError: if `out` exists, or cannot be written.
    """
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already. Allowed: another folder, or overwrite")
    contents = require_model(identify(open_weights(find_weights(file)), num_heads=num_heads))
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
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Bundle(out, config)
