"""`motivnet export`: the weights of a bundle as ONNX, or in a format for phones, verified against torch."""

from pathlib import Path
from typing import Annotated, Literal

from motivnet.cli.console import echo
from motivnet.cli.options import argument, flag


def export(
    bundle: Annotated[Path, argument("BUNDLE")],
    form: Annotated[Literal["onnx", "tflite", "executorch"], flag("--format")] = "onnx",
    out: Path | None = None,
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32",
    external_data: Annotated[bool, flag("--external-data")] = False,
    overwrite: Annotated[bool, flag("--overwrite")] = False,
) -> None:
    """Export the weights of a bundle and compare the file's answers with torch (needs the extra `train`).

    Example: motivnet export runs/own/bundle --format onnx

    Options:
        bundle: Folder of a bundle.
        form: Each but onnx needs the extra of its name, takes one face, and is in fp32.
        out: Path of the file; else inside the bundle.
        dtype: Storage precision of matrices: half precision halves the file. Arithmetic stays in fp32.
        external_data: Weights in a separate file OUT.data, which is always used over 1 GB.
        overwrite: Replace an existing file.
    """
    from motivnet.checkpoints.bundle import open_bundle
    from motivnet.errors import ConfigError, OutputError, needs_extra

    with needs_extra("torch", "train"):
        from motivnet.export.mobile import SUFFIXES, export_mobile
        from motivnet.export.onnx import data_path, export_onnx, verify_onnx
        from motivnet.inference.torch_backend import DTYPES

    if form != "onnx" and (dtype != "fp32" or external_data):
        raise ConfigError(f"--dtype and --external-data with --format {form}. Allowed: with onnx")
    found = open_bundle(bundle)
    target = out or (found.onnx if form == "onnx" else found.path / f"model{SUFFIXES[form]}")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists. Allowed: another --out, or --overwrite")
    if form == "onnx":
        export_onnx(found, target, dtype=DTYPES[dtype], external_data=external_data)
        largest = verify_onnx(found, onnx=target, dtype=DTYPES[dtype])
    else:
        largest = export_mobile(found, form, target)
    files = [file for file in (target, data_path(target)) if file.is_file()]
    size = f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB in {len(files)} file(s)"
    echo(f"{target}: {size}; probabilities differ from torch by at most {largest:.1e}")
