"""`motivnet quantize`: a bundle's ONNX file in int8 or float16."""

from typing import Annotated

from motivnet.cli.console import echo, print_table, track
from motivnet.cli.evaluate import Data
from motivnet.cli.options import Overwrite, argument, flag, option
from motivnet.config import to_json
from motivnet.errors import needs_extra
from motivnet.export.quantization_config import QuantizationConfig


def quantize(
    *,
    model: Annotated[str, argument("MODEL")],
    data: Data,
    split: str | None = None,
    evaluate: Annotated[str, option("SPLIT")],
    settings: QuantizationConfig,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Write a bundle's ONNX file in int8 or float16 beside its own, and measure what it costs (extra `train`).

    Example: motivnet quantize runs/own/bundle --data fer2013:fer2013.parquet@Training --evaluate PublicTest

    Options:
        model: Folder of a bundle, or nano.
        split: Split whose faces the ranges of int8 are found on, if not in --data: Training.
        evaluate: Split to measure both files on.
        as_json: Print one JSON object.
    """
    with needs_extra("onnx", "train"):
        from motivnet.evaluation import quantization
    bundle = quantization.quantize(
        model, data, settings, split=split, evaluate=evaluate, overwrite=overwrite, track=track
    )
    record = bundle.config.provenance[quantization.RECORD][settings.precision]
    if as_json:
        echo(to_json({"bundle": str(bundle.path), **record}))
    else:
        rows = [
            (name, f"{size / 1e6:.2f} MB", f"{record['war'][name]:.2%}", f"{record['uar'][name]:.2%}")
            for name, size in record["bytes"].items()
        ]
        print_table((f"{evaluate}, n = {record['n']}", "size", "WAR", "UAR"), rows)
        echo(
            f"probabilities differ by {record['mean_difference']:.4f} on average, "
            f"at most {record['largest_difference']:.3f}; "
            f"{record['equal_answers']:.1%} of the answers are equal"
        )
    echo(f"written to {bundle.path}", err=True)
