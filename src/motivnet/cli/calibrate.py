"""`motivnet calibrate`: make a bundle's probabilities mean what they say."""

import functools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motivnet.cli.progress import track

if TYPE_CHECKING:
    from motivnet.checkpoints.bundle import Bundle, BundleConfig


def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False, help="Folder of a bundle, or nano.")],
    data: Annotated[
        str, typer.Option(metavar="KIND:PATH", show_default=False, help="Data, such as fer2013:fer2013.parquet.")
    ],
    split: Annotated[
        str, typer.Option(show_default=False, help="The split to fit on: never the one whose scores are reported.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a calibrated copy; without it, the bundle is changed.")
    ] = None,
    exponent: Annotated[
        bool,
        typer.Option("--exponent", help="Fit an exponent as well: for models trained with label smoothing or mixup."),
    ] = False,
    accuracy: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Also find the threshold below which to abstain to be right so often: 0.9."),
    ] = None,
    detect: Annotated[bool, typer.Option("--detect/--no-detect", help="Look for the faces first.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace DIR; or a calibration; or change a model of the package.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit how a bundle turns logits into probabilities on a validation split (needs the extra `evaluate`)."""
    import json

    from motivnet.checkpoints.bundle import is_bundle, open_bundle
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import CheckpointError

    if not is_bundle(model) and Path(model).exists():
        raise CheckpointError(f"{model}: no bundle, so it has no place for a calibration: motivnet weights convert")
    bundle = open_bundle(model)
    _check_place(bundle, out, overwrite=overwrite)
    with needs_extra("pyarrow", "evaluate"):
        from motivnet.data.sources.named import read_source
        from motivnet.evaluation.calibrate import RECORD
        from motivnet.evaluation.calibrate import calibrate as fit
        from motivnet.evaluation.evaluate import predict_manifest
    from motivnet.inference.predictor import Predictor

    predictor = Predictor.load(bundle.path, detector="libfacedetection" if detect else "whole")
    manifest = read_source(data).split(split)
    bar = functools.partial(track, total=len(manifest), what="images")
    predictions = predict_manifest(predictor, manifest, detect=detect, data=data, split=split, track=bar)
    config = fit(bundle.config, predictions, exponent=exponent, accuracy=accuracy)
    states_it = "calibration" in getattr(predictor.backend, "metadata", {})
    place = _write(bundle, config, out, onnx_too=states_it)
    record = config.provenance[RECORD]
    typer.echo(json.dumps({"bundle": str(place), **record}) if as_json else _for_people(record))
    typer.echo(f"written to {place}", err=True)


def _check_place(bundle: "Bundle", out: Path | None, *, overwrite: bool) -> None:
    """Refuse to replace what was not meant to be replaced, before any work is done."""
    from motivnet.checkpoints.bundle import ASSETS, Calibration, check_place
    from motivnet.errors import OutputError

    if out is not None:
        check_place(out.resolve(), overwrite=overwrite)
    elif overwrite:
        return
    elif bundle.path.resolve().is_relative_to(ASSETS.resolve()):
        raise OutputError(f"{bundle.config.name} is part of the package. Allowed: --out DIR, or --overwrite")
    elif bundle.config.calibration != Calibration():
        raise OutputError(f"{bundle.path}: is calibrated already. Allowed: --out DIR, or --overwrite")


def _write(bundle: "Bundle", config: "BundleConfig", out: Path | None, *, onnx_too: bool) -> Path:
    """Put the calibrated settings into the bundle, or into a copy that appears complete or not at all."""
    from motivnet.checkpoints.bundle import BUNDLE_NAMES
    from motivnet.errors import OutputError

    if out is None:
        place = bundle.path
        try:
            _state(place, config, onnx_too=onnx_too)
        except OSError as error:
            raise OutputError(f"{place}: cannot be written: {error.strerror or error}") from None
        return place
    out = out.resolve()
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        for file in bundle.path.iterdir():
            if file.name.startswith(BUNDLE_NAMES):
                shutil.copyfile(file, unfinished / file.name)
        _state(unfinished, config, onnx_too=onnx_too)
        if out.exists():
            shutil.rmtree(out)
        unfinished.replace(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


def _state(folder: Path, config: "BundleConfig", *, onnx_too: bool) -> None:
    """Write the settings; an ONNX file that states a calibration of its own must not contradict them."""
    from motivnet.checkpoints.bundle import ONNX_NAME, write_config
    from motivnet.cli.extras import needs_extra

    if onnx_too:
        with needs_extra("onnx", "train"):
            from motivnet.export.onnx import state_calibration
        state_calibration(folder / ONNX_NAME, config.calibration)
    write_config(folder, config)


def _for_people(record: dict[str, Any]) -> str:
    lines = [
        f"temperature {record['temperature']:.4f}, exponent {record['exponent']:.4f}, "
        f"fitted on {record['n']} images of {record['split']}",
        *(
            f"{name}: {record[key]['before']:.4f} before, {record[key]['after']:.4f} after"
            for key, name in (("log_loss", "log loss"), ("ece", "ECE"))
        ),
    ]
    lines += [f"left out: {count} {status}" for status, count in record["left_out"].items()]
    abstention = record["abstention"]
    if abstention:
        lines.append(
            f"abstaining below {abstention['abstain_below']:.4f}: {abstention['accuracy']:.1%} right "
            f"on the {abstention['coverage']:.1%} that are answered (wanted {abstention['wanted_accuracy']:.1%})"
        )
    return "\n".join(lines)
