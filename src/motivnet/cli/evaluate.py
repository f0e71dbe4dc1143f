"""`motivnet evaluate`: score a model, or the predictions of another tool, on a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motivnet.cli.console import echo, track
from motivnet.cli.options import DETECTION, MODEL_HELP, Fields, Overwrite, flag, option
from motivnet.config import to_json
from motivnet.errors import needs_extra
from motivnet.evaluation.evaluation_config import EvaluationConfig
from motivnet.inference.predictor_config import PredictorConfig

if TYPE_CHECKING:
    from motivnet.evaluation.evaluate import Evaluation
    from motivnet.evaluation.predictions import Predictions

HEADLINES = {"war": "WAR", "uar": "UAR", "top2": "Top-2", "f1_macro": "F1", "auroc_macro": "AUROC", "ece": "ECE"}
NUM_REASONS = 3

# Shared with `motivnet audit`.
Data = Annotated[str, option("KIND:PATH[@SPLIT]", help="Labelled images: folder:DIR, fer2013:FILE.")]
Model = Annotated[str | None, typer.Option(help=MODEL_HELP)]


def evaluate(
    *,
    data: Data,
    out: Annotated[Path, option("DIR")],
    model: Model = None,
    settings: Annotated[
        EvaluationConfig,
        Fields(only=("predictions", "split", "unseen_in", "detect", "unanswered", "degrade", "thumbnails", "seed")),
    ],
    overwrite: Overwrite = False,
    as_json: Annotated[bool, flag("--json")] = False,
    config: Annotated[
        PredictorConfig,
        Fields(
            only=(*DETECTION, "batch_size", "workers", "precision", "device", "image_size", "geometry"),
            change={"detector": {"help": "With --detect: yunet, or yunet:MODEL.onnx."}},
        ),
    ],
) -> None:
    """Measure how well a model recognises the emotions of a labelled data set (needs the extra `evaluate`).

    Example: motivnet evaluate --model nano --data fer2013:fer2013.parquet@PrivateTest --out evaluation

    Options:
        out: Folder for predictions.parquet, report.html and metrics.json.
        as_json: Print the contents of metrics.json.
    """
    with needs_extra("pyarrow", "evaluate"):
        import matplotlib  # noqa: F401 - an error now rather than when figures are drawn

        from motivnet.evaluation import evaluate as evaluation
    found = evaluation.evaluate(model, data, settings, out=out, overwrite=overwrite, config=config, track=track)
    _print_protocol(found.predictions)
    echo(to_json(found.to_dict(), indent=2) if as_json else _headlines(found))
    echo(f"written to {out}: {', '.join(evaluation.FILES)}", err=True)


def _print_protocol(answers: "Predictions") -> None:
    """Print what is not scored as expected: nothing is left out silently."""
    protocol = answers.protocol
    lines = [f"{protocol.n:,} images; face detection: {protocol.detection}"]
    lines += [f"left out: {number:,} ({reason})" for reason, number in protocol.dropped.items()]
    for status, words in (("no_face", "show no face"), ("unreadable", "cannot be read")):
        count = answers.status.count(status)
        if count:
            lines.append(f"{count:,} {words}: {protocol.unanswered}")
    # Blank images, which have an answer, come last.
    for row in sorted(answers.errors, key=lambda row: (answers.status[row] == "ok", row))[:NUM_REASONS]:
        lines.append(f"  {answers.manifest.where(row)}: {answers.errors[row]}")
    if len(answers.errors) > NUM_REASONS:
        lines.append(f"  and {len(answers.errors) - NUM_REASONS:,} more, all in predictions.parquet")
    echo("\n".join(lines), err=True)


def _headlines(found: "Evaluation") -> str:
    from motivnet.report.page import percent, points

    lines = [f"{'n':6} {found.metrics['n']:,}"]
    lines += [
        f"{title:6} {percent(found.metrics[name], found.intervals.get(name))}" for name, title in HEADLINES.items()
    ]
    for name, scores in found.affect.items():
        lines.append(f"{name:7} CCC {scores['ccc']:.3f}, RMSE {scores['rmse']:.3f} on {scores['n']:,} labelled images")
    for name, scores in found.robustness.items():
        war, uar = (points(scores[loss], *scores["intervals"][loss]) for loss in ("war_loss", "uar_loss"))
        lines.append(f"{name}: WAR {percent(scores['war'])}, loss {war}; UAR {percent(scores['uar'])}, loss {uar}")
    return "\n".join(lines)
