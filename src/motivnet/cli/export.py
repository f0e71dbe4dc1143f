"""`motivnet export`: a bundle's weights as ONNX, checked against torch."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.", metavar="BUNDLE")],
    out: Annotated[Path | None, typer.Option(help="Another place for the ONNX file than the bundle.")] = None,
    dtype: Annotated[
        Literal["fp32", "fp16", "bf16"],
        typer.Option(help="Precision to store matrices in: half of it halves the file. Arithmetic stays in fp32."),
    ] = "fp32",
    external_data: Annotated[
        bool,
        typer.Option(
            "--external-data", help="Weights in a file beside it, OUT.data, as they are in any case over 2 GB."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an ONNX file that exists.")] = False,
) -> None:
    """Write a bundle's weights as ONNX and verify that onnxruntime answers as torch does (needs the extra `train`)."""
    from motivnet.checkpoints.bundle import open_bundle
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import OutputError

    with needs_extra("torch", "train"):
        from motivnet.export.onnx import data_path, export_onnx
        from motivnet.export.verify import verify_onnx
        from motivnet.inference.torch_backend import DTYPES

    found = open_bundle(bundle)
    target = out or found.onnx
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists. Allowed: another --out, or --overwrite")
    export_onnx(found, target, dtype=DTYPES[dtype], external_data=external_data)
    agreement = verify_onnx(found, onnx=target, dtype=DTYPES[dtype])
    files = [file for file in (target, data_path(target)) if file.exists()]
    size = f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB in {len(files)} file(s)"
    typer.echo(f"{target}: {size}; probabilities differ from torch by at most {agreement.largest:.1e}")
