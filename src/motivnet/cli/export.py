"""`motivnet export`: a bundle's weights as ONNX, checked against torch."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.", metavar="BUNDLE")],
    out: Annotated[Path | None, typer.Option(help="Another place for the ONNX file than the bundle.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an ONNX file that exists.")] = False,
) -> None:
    """Write a bundle's weights as ONNX and verify that onnxruntime answers as torch does (needs the extra `train`)."""
    from motivnet.checkpoints.bundle import open_bundle
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import OutputError

    with needs_extra("torch", "train"):
        from motivnet.export.onnx import export_onnx
        from motivnet.export.verify import verify_onnx

    found = open_bundle(bundle)
    target = out or found.onnx
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists. Allowed: another --out, or --overwrite")
    export_onnx(found, target)
    agreement = verify_onnx(found, onnx=target)
    size = f"{target.stat().st_size / 1e6:.1f} MB"
    typer.echo(f"{target}: {size}; probabilities differ from torch by at most {agreement.largest:.1e}")
