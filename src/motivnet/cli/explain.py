"""`motivnet explain`: where a model looks for each emotion."""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motivnet.cli.options import Geometry
from motivnet.inference.predictor_config import parse_size

if TYPE_CHECKING:
    from PIL import Image


def explain(
    photograph: Annotated[Path, typer.Argument(metavar="PHOTOGRAPH", show_default=False, help="An image file.")],
    out: Annotated[Path, typer.Option(metavar="PNG", show_default=False, help="The picture to write.")],
    model: Annotated[
        str, typer.Option(help="Embedded model, folder of a bundle, or released file: with torch weights, ML-Decoder.")
    ] = "nano",
    emotion: Annotated[str | None, typer.Option(help="Show this one alone, larger; else all of them.")] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Draw the bare attention weights on the model's tokens, which may be few.")
    ] = False,
    detector: Annotated[
        str, typer.Option(help="libfacedetection, yunet:MODEL.onnx, or whole: the image is the crop of one face.")
    ] = "libfacedetection",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per face and line, with maps.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a picture that exists.")] = False,
    device: Annotated[str, typer.Option(help="Of torch: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Input size, such as 512x384.")] = None,
    geometry: Geometry = None,
) -> None:
    """Draw ML-Decoder's attention for every emotion over the faces of a photograph (needs the extra `torch`)."""
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import DataError, ImageError
    from motivnet.faces import load_detector
    from motivnet.images import decode_image

    _check_out(out, photograph, overwrite=overwrite)
    with needs_extra("torch", "torch"):
        from motivnet.evaluation.explain import Explainer
    try:
        image_hwc_u8 = decode_image(photograph)
    except ImageError as error:
        raise ImageError(f"{photograph}: {error}") from None
    explainer = Explainer.load(model, device=device, image_size=parse_size(size) if size else None, geometry=geometry)
    labels = explainer.config.labels
    name = labels.names[labels.index(emotion)] if emotion else None
    found = load_detector(detector).detect(image_hwc_u8)
    if not found:
        raise DataError(f"{photograph}: no face found; --detector whole takes the whole image for one")
    explanations = [explainer.explain(image_hwc_u8, face.crop_box, score=face.score) for face in found]
    from motivnet.report.heatmaps import draw_explanations

    head, how = explainer.config.model.head, "what speaks for the emotion, followed through attention to its place"
    if bare:
        how = f"bare attention: last of {head.num_layers} layer(s), mean of {head.num_heads} heads"
    note, fill = f"{explainer.config.name}, {how}", explainer.config.preprocessing.fill
    _save(draw_explanations(image_hwc_u8, explanations, name, fill=fill, note=note, bare=bare), out)
    for explanation in explanations:
        if as_json:
            print(json.dumps({"source": str(photograph), **explanation.to_dict()}))
        else:
            face = explanation.face
            x, y, width, height = face.box
            answers = ", ".join(f"{label} {prob:.0%}" for label, prob in face.top(3))
            print(f"face at {x:.0f}, {y:.0f}, {width:.0f} x {height:.0f}: {answers}")
    typer.echo(f"written to {out}", err=True)


def _check_out(out: Path, photograph: Path, *, overwrite: bool) -> None:
    from motivnet.errors import OutputError

    if out.suffix.lower() != ".png":
        raise OutputError(f"{out}: unknown format {out.suffix!r}. Allowed: .png")
    if out.resolve() == photograph.resolve():
        raise OutputError(f"{out}: is the photograph itself")
    if out.is_dir():
        raise OutputError(f"{out}: is a folder")
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; --overwrite replaces it")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: the folder {out.parent} does not exist")


def _save(picture: "Image.Image", out: Path) -> None:
    """Write a picture, completely or not at all."""
    from motivnet.errors import OutputError

    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        picture.save(unfinished, format="PNG")
        unfinished.replace(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
