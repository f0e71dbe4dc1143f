"""`motivnet calibrate`: fit the temperature of a bundle's probabilities."""

from pathlib import Path
from typing import Annotated, Any

from motivnet.cli.console import echo, track
from motivnet.cli.evaluate import Data
from motivnet.cli.options import Fields, argument, flag, option
from motivnet.config import to_json
from motivnet.errors import needs_extra
from motivnet.evaluation.evaluation_config import SourceConfig


def calibrate(
    *,
    model: Annotated[str, argument("MODEL")],
    data: Data,
    split: str | None = None,
    out: Annotated[Path | None, option("DIR")] = None,
    exponent: Annotated[bool, flag("--exponent")] = False,
    accuracy: Annotated[float | None, option("SHARE")] = None,
    source: Annotated[SourceConfig, Fields(only=("detect",))],
    overwrite: Annotated[bool, flag("--overwrite")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Fit the calibration of a bundle on a validation split (needs the extra `evaluate`).

    Example: motivnet calibrate runs/own/bundle --data fer2013:fer2013.parquet@PublicTest --accuracy 0.9

    Options:
        model: Folder of a bundle, or nano.
        split: Split to fit on, if not in --data: never the one whose scores are reported.
        out: Write a calibrated copy; without it, the bundle is changed.
        exponent: Fit an exponent as well: for models trained with label smoothing or mixup.
        accuracy: Also find the threshold of abstention that reaches this accuracy: 0.9.
        overwrite: Replace DIR; or a calibration; or change a model of the package.
        as_json: Print one JSON object.
    """
    with needs_extra("pyarrow", "evaluate"):
        from motivnet.evaluation import calibration
    bundle = calibration.calibrate(
        model,
        data,
        split=split,
        out=out,
        exponent=exponent,
        accuracy=accuracy,
        detect=source.detect,
        overwrite=overwrite,
        track=track,
    )
    record = bundle.config.provenance[calibration.RECORD]
    echo(to_json({"bundle": str(bundle.path), **record}) if as_json else _summary(record))
    echo(f"written to {bundle.path}", err=True)


def _summary(record: dict[str, Any]) -> str:
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
            f"abstaining below {abstention['abstain_below']:.4f}: {abstention['accuracy']:.1%} correct "
            f"on the {abstention['coverage']:.1%} that are answered (wanted {abstention['wanted_accuracy']:.1%})"
        )
    return "\n".join(lines)
