"""`motivnet explain`: draw the evidence for each emotion."""

from pathlib import Path
from typing import Annotated

from motivnet.cli.console import echo
from motivnet.cli.options import DETECTION, Fields, Overwrite, argument, flag, option
from motivnet.config import to_json
from motivnet.errors import ImageError, needs_extra
from motivnet.inference.predictor_config import PredictorConfig


def explain(
    photograph: Annotated[Path, argument("PHOTOGRAPH")],
    out: Annotated[Path, option("PNG")],
    model: str = "nano",
    emotion: str | None = None,
    as_json: Annotated[bool, flag("--json")] = False,
    overwrite: Overwrite = False,
    *,
    config: Annotated[PredictorConfig, Fields(only=(*DETECTION, "device", "image_size", "geometry"))],
) -> None:
    """Draw ML-Decoder's attention for every emotion over the faces of a photograph (needs the extra `torch`).

    Example: motivnet explain family.jpg --out evidence.png

    Options:
        photograph: An image file.
        out: The picture to write.
        model: Embedded model, folder of a bundle, or released file: with torch weights, ML-Decoder.
        emotion: Draw this one alone, larger; else all of them.
        as_json: Print one JSON object per face and line, with maps.
    """
    with needs_extra("torch", "torch"):
        from motivnet.evaluation import explain as explaining
    try:
        found = explaining.explain(model, photograph, out=out, emotion=emotion, overwrite=overwrite, config=config)
    except ImageError as error:
        raise ImageError(f"{photograph}: {error}") from None
    for explanation in found:
        if as_json:
            echo(to_json({"source": str(photograph), **explanation.to_dict()}))
        else:
            face = explanation.face
            x, y, width, height = face.box
            answers = ", ".join(f"{label} {prob:.0%}" for label, prob in face.top(3))
            echo(f"face at {x:.0f}, {y:.0f}, {width:.0f} x {height:.0f}: {answers}")
    echo(f"written to {out}", err=True)
