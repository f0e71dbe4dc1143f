"""Know a model again by what it answers with: weights and settings, not name, licence or measured scores."""

import hashlib
import json
from pathlib import Path
from typing import Any

from motivnet.checkpoints.bundle import ONNX_NAME, Bundle, is_bundle, open_bundle
from motivnet.checkpoints.hub import is_hub_name, locate
from motivnet.checkpoints.transfer import sha256_of
from motivnet.config import to_plain
from motivnet.errors import CheckpointError

# What a bundle says of itself that changes no probability: writing its scores down must not make another model of it.
REMARKS = ("name", "summary", "licence", "part", "scores", "abstain_below", "provenance", "format")


def model_fingerprint(model: str | Path) -> str:
    """Return the letter `m` and 12 hex digits that change with any weight or setting that affects the answers.

    Args:
        model: as `Predictor.load` takes it: embedded model, folder of a bundle, file, or released name.

    Raises:
        CheckpointError: if there is no such model, or it cannot be read.
    """
    path = Path(model)
    if not is_bundle(model) and not path.exists() and is_hub_name(str(model)):
        path = locate(str(model))
    try:
        if path.is_file():
            return "m" + sha256_of(path)[:12]
        return _of_bundle(open_bundle(path))
    except OSError as error:
        raise CheckpointError(f"{model}: cannot be read: {error.strerror or error}") from None


def _of_bundle(bundle: Bundle) -> str:
    settings = {name: value for name, value in to_plain(bundle.config).items() if name not in REMARKS}
    model = settings["model"] = _without_later(settings["model"], "affect")
    model["head"] = _without_later(model["head"], "learnable_queries")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    # Tensors of an ONNX model beyond 2 GB stand in a file beside it.
    for file in (bundle.onnx, bundle.path / f"{ONNX_NAME}.data", bundle.weights):
        if file.is_file():
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return "m" + digest.hexdigest()[:12]


def _without_later(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Leave out a setting that there was not always, where it is off: models of before stay the same models."""
    return {key: value for key, value in settings.items() if key != name or value}
