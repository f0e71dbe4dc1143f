"""Quantisation of a bundle: a smaller ONNX file beside its own, and what that costs, measured and stated.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from motivnet.checkpoints import bundle as bundles
from motivnet.checkpoints.bundle import Bundle
from motivnet.config import replace, to_plain
from motivnet.data.loader import FaceDataset
from motivnet.data.manifest import Manifest
from motivnet.data.sources.named import read_source, split_off
from motivnet.errors import DataError, OutputError, require
from motivnet.evaluation import metrics
from motivnet.evaluation.predictions import Predictions, Track, no_progress, predict_manifest
from motivnet.export.quantization_config import MIN_FACES, QuantizationConfig
from motivnet.export.quantize import quantize_onnx, require_quantizable
from motivnet.faces import load_detector
from motivnet.inference.backends import Backend, OnnxBackend
from motivnet.inference.predictor import Predictor
from motivnet.storage import atomic_folder, write_json
from motivnet.version import __version__

# Key of the measurements in a bundle's provenance: precision -> record.
RECORD = "quantized"


def quantize(
    model: str | Path,
    data: str,
    settings: QuantizationConfig | None = None,
    *,
    split: str | None = None,
    evaluate: str,
    overwrite: bool = False,
    track: Track = no_progress,
    **options: Any,
) -> Bundle:
    """Write a bundle's ONNX file in int8 or float16 beside its own, and measure both; what `motivnet quantize` does.

    Args:
        model: an embedded model, or folder of a bundle.
        data: `KIND:PATH` or `KIND:PATH@SPLIT`, such as `fer2013:fer2013.parquet@Training`.
        settings: how; None takes the defaults.
        split: whose faces the ranges of int8 are found on, one that the model was trained on; if `data` names none.
        evaluate: split to measure both files on, without face detection.
        overwrite: replace a file that exists, or change a model of the package.
        track: shows progress.
        options: fields of `QuantizationConfig`, in place of those of `settings`.

    Returns:
        The bundle, whose `config.provenance["quantized"]` has a record for this precision: settings, data, sizes in
        bytes, WAR and UAR of both files, largest and mean difference of a probability, and the share of equal answers.

    Raises:
        CheckpointError: if there is no such bundle, or it has no ONNX file, or a damaged one.
        ConfigError: if an option is unknown or out of range.
        DataError: if the data cannot be read, a split is unknown or too small, or no label is one of the model's.
        ExportError: if the model cannot be quantised.
        OutputError: if something would be replaced without `overwrite`, or cannot be written.
    """
    settings = replace(settings or QuantizationConfig(), options)
    bundle = bundles.open_bundle(model)
    name = bundles.ONNX_NAMES[settings.precision]
    if not overwrite and bundle.path.resolve().is_relative_to(bundles.ASSETS.resolve()):
        raise OutputError(f"{bundle.config.name} is part of the package. Allowed: a copy of its folder, or overwrite")
    if not overwrite and (bundle.path / name).exists():
        raise OutputError(f"{bundle.path / name}: exists already. Allowed: overwrite")
    backend = require_quantizable(bundle)
    data, split = split_off(data, split, required=True)
    source = read_source(data).restrict(bundle.config.labels)
    drawn, measured = _draw(source.split(str(split)), settings), source.split(evaluate)
    faces = FaceDataset(drawn, bundle.config.preprocessing, num_frames=bundle.config.model.num_frames)
    pixels_BCHW = faces.__getitems__(list(range(len(drawn)))).pixels.numpy()

    def predict(backend: Backend, what: str) -> Predictions:
        predictor = Predictor(bundle.config, backend, load_detector("whole"))
        return predict_manifest(
            predictor, measured, detect=False, data=data, split=evaluate, track=track, what=f"images in {what}"
        )

    with atomic_folder(bundle.path, merge=True, last=bundles.CONFIG_NAME) as folder:
        for _ in track((name,), total=1, what="quantising"):  # it counts nothing itself
            quantize_onnx(bundle, folder / name, settings, pixels_BCHW)
        before = predict(backend, "fp32")
        after = predict(OnnxBackend(bundle, path=folder / name), settings.precision)
        record = {
            **to_plain(settings),
            "faces": len(drawn),
            "data": data,
            "split": split,
            "data_fingerprint": drawn.fingerprint(),
            "evaluated_on": evaluate,
            "evaluated_fingerprint": measured.fingerprint(),
            "bytes": {"fp32": bundle.onnx.stat().st_size, settings.precision: (folder / name).stat().st_size},
            **_compare(before, after, settings.precision),
            "version": __version__,
        }
        records = {**bundle.config.provenance.get(RECORD, {}), settings.precision: record}
        provenance = {**bundle.config.provenance, RECORD: records}
        config = dataclasses.replace(bundle.config, provenance=provenance)
        write_json(folder / bundles.CONFIG_NAME, to_plain(config), ensure_ascii=False)
    return Bundle(bundle.path, config)


def _draw(manifest: Manifest, settings: QuantizationConfig) -> Manifest:
    if len(manifest) < MIN_FACES:
        raise DataError(f"{len(manifest)} faces to find the ranges of int8 on. Allowed: at least {MIN_FACES}")
    # In whole batches, since the calibrators that count values take no smaller one.
    number = min(settings.faces, len(manifest)) // MIN_FACES * MIN_FACES
    rows = np.random.default_rng(settings.seed).permutation(len(manifest))[:number]
    return manifest.select(np.sort(rows))


def _compare(before: Predictions, after: Predictions, precision: str) -> dict[str, Any]:
    """Compare the answers of two files; images that cannot be read count as errors of both."""
    answered_B = before.answered_B
    require(answered_B.any(), f"{before.protocol.data}: none of {len(answered_B)} images can be read", DataError)
    both = {"fp32": before, precision: after}
    difference_BC = np.abs(before.probs_BC - after.probs_BC)[answered_B]
    return {
        "n": len(answered_B),
        "war": {name: metrics.war(*found.classes) for name, found in both.items()},
        "uar": {name: metrics.uar(*found.classes) for name, found in both.items()},
        "largest_difference": float(difference_BC.max()),
        "mean_difference": float(difference_BC.mean()),
        "equal_answers": float((before.preds_B == after.preds_B).mean()),
    }
