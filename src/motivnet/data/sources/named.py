"""Data sets by name: `kind:path`, or `kind:path?option=value&option=value`.

The options of a kind, and their types, are the keyword arguments of its reader, and those of every kind: `fold=NAME`
makes that fold the split `test`, and the others `train`; `detect=true` detects the faces.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from motivnet.data.manifest import Manifest, set_columns
from motivnet.data.sources.actors import read_cremad, read_ravdess
from motivnet.data.sources.affectnet import read_affectnet
from motivnet.data.sources.ckplus import read_ckplus
from motivnet.data.sources.clip_lists import read_dfew, read_ferv39k, read_mafw
from motivnet.data.sources.emotionet import read_emotionet
from motivnet.data.sources.expw import read_expw
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.data.sources.folder import read_folder, read_images
from motivnet.data.sources.jaffe import read_jaffe
from motivnet.data.sources.rafdb import read_rafdb
from motivnet.data.sources.records import absolute
from motivnet.data.sources.sfew import read_sfew
from motivnet.data.sources.tables import read_csv, read_manifest, read_motivnet_json, read_parquet
from motivnet.errors import ConfigError, DataError, ImageError, require, reraised, unknown_name
from motivnet.faces import FaceDetector, load_detector
from motivnet.labels import LabelSet

READERS: dict[str, Callable[..., Manifest]] = {
    each.__name__.removeprefix("read_").replace("_", "-"): each
    for each in (
        *(read_affectnet, read_ckplus, read_cremad, read_csv, read_dfew, read_emotionet, read_expw, read_fer2013),
        *(read_ferv39k, read_folder, read_images, read_jaffe, read_mafw, read_manifest, read_motivnet_json),
        *(read_parquet, read_rafdb, read_ravdess, read_sfew),
    )
}
# Options of every kind, and their types.
GENERAL = {"fold": str, "detect": bool}
# Frames of a clip in which its face is searched.
BOX_FRAMES = 5
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_source(text: str) -> Manifest:
    """Read a data set by its name, such as `affectnet:/data/AffectNet?classes=7`.

    Paths in the manifest are absolute, so that it can be used from any folder.

    Raises:
        DataError: if the kind or an option is unknown, or the data differ from the published form.
    """
    kind, colon, rest = text.partition(":")
    path, _, query = rest.partition("?")
    if not colon or not path:
        kinds = ", ".join(READERS)
        raise DataError(f"{text!r} names no data set. Allowed: KIND:PATH or KIND:PATH?OPTION=VALUE, KIND of {kinds}")
    require(kind in READERS, unknown_name("kind of data", kind, READERS), DataError)
    file, options = Path(absolute(Path(path))), _options(kind, query)
    fold, detect = (options.pop(name, None) for name in GENERAL)
    manifest = READERS[kind](file, **options)
    root = options.get("root") or (file if file.is_dir() else file.parent)
    manifest = dataclasses.replace(manifest, root=absolute(root))
    manifest = manifest.hold_out_fold(fold) if fold else manifest
    return with_boxes(manifest, load_detector()) if detect else manifest


def with_boxes(manifest: Manifest, detector: FaceDetector) -> Manifest:
    """Return the rows in which a face is found, with the box of the largest: of a clip, the median over its frames.

    So training and evaluation crop the same face, and a head moves within its box; the camera has to stand still.

    Args:
        manifest: images or clips; boxes that they have are replaced.
        detector: finds the faces.

    Raises:
        DataError: if an image cannot be read.
    """
    boxes: list[Any] = []
    for row in range(len(manifest)):
        with reraised(DataError, manifest.where(row), ImageError):
            found = [faces[0].box for image in manifest.read(row, BOX_FRAMES) if (faces := detector.detect(image))]
        boxes.append(np.median(found, axis=0).tolist() if found else None)
    keep = np.array([box is not None for box in boxes])
    dropped = {**manifest.dropped, "no face found": int((~keep).sum())} if not keep.all() else manifest.dropped
    return dataclasses.replace(manifest, table=set_columns(manifest.table, box=boxes), dropped=dropped).select(keep)


def split_off(text: str, split: str | None = None, *, required: bool = False) -> tuple[str, Any]:
    """Take the split off `KIND:PATH@SPLIT`, unless a file of that name exists.

    Args:
        text: a data set, with or without a split.
        split: that was named elsewhere.
        required: whether there must be one.

    Returns:
        The data set as `read_source` takes it, and the split; None for all of them.

    Raises:
        ConfigError: if the two name different splits, or none is named where one is required.
    """
    source, _, named = text.rpartition("@")
    if not source or re.search(r"[/\\:=]", named) or Path(text.partition(":")[2]).exists():
        source, named = text, ""
    if (split and named and split != named) or (required and not (split or named)):
        raise ConfigError(f"{text}: {'another split than ' + split if split else 'no split'}. Allowed: KIND:PATH@SPLIT")
    return source, named or split


def _options(kind: str, query: str) -> dict[str, Any]:
    hints = typing.get_type_hints(READERS[kind]) | GENERAL
    parameters = inspect.signature(READERS[kind]).parameters.values()
    allowed = [*(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY), *GENERAL]
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        require(name in allowed, unknown_name(f"option of {kind}", name, allowed), DataError)
        require(equals and name not in options, f"option {part!r} of {kind}. Allowed: {name}=VALUE, once", DataError)
        options[name] = _typed(hints[name], value, f"option {name} of {kind}")
    return options


def _typed(hint: Any, text: str, where: str) -> Any:
    """Parse the text of an option by its annotation; of a union with None, by the other member."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(member for member in typing.get_args(hint) if member is not types.NoneType)
    if typing.get_origin(hint) is typing.Literal:
        choices = {str(choice): choice for choice in typing.get_args(hint)}
    elif hint is bool:
        choices = BOOLEANS
    elif hint is LabelSet:
        return LabelSet(tuple(name.strip() for name in text.split(",")))
    else:
        try:
            return hint(text)
        except ValueError:
            raise DataError(f"{where}: expected {hint.__name__}, found {text!r}") from None
    require(text in choices, f"{where}: {unknown_name('value', text, choices)}", DataError)
    return choices[text]
