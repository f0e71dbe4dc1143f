"""Options that several commands have, each with the one wording."""

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(help="Embedded model, folder of a bundle, released file, or name from `motivnet weights list`."),
]
Detector = Annotated[
    str,
    typer.Option(help="libfacedetection, yunet:MODEL.onnx, or whole: each image is the crop of one face."),
]
AbstainBelow = Annotated[
    str | None,
    typer.Option(
        metavar="P|stored",
        help="Mark faces whose best probability is below this as no answer; stored: the model's own threshold.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output that exists already.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Most faces that go through the model at once.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that decode images and look for faces.")]
Device = Annotated[str, typer.Option(help="Of models in torch: auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, typer.Option(help="Of models in torch: fp32, bf16, fp16; auto: bf16 where the hardware has it.")]
Size = Annotated[str | None, typer.Option(metavar="HxW", help="Input size of models in torch, such as 512x384.")]
Geometry = Annotated[
    str | None, typer.Option(help="Of released files: motivnet-pad (the default) or motivnet-stretch.")
]
NumHeads = Annotated[
    int | None, typer.Option(min=1, help="Attention heads of a released file, where its width does not tell.")
]
