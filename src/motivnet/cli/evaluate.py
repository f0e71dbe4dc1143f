"""`motivnet evaluate`: score a model, or the answers of another tool, on a data set."""

import contextlib
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from motivnet.cli.options import BatchSize, Device, Geometry, Size, Workers
from motivnet.cli.progress import track
from motivnet.inference.predictor_config import parse_size
from motivnet.inference.rows import printable
from motivnet.inference.tables import check_folder, open_folder

if TYPE_CHECKING:
    from motivnet.evaluation.evaluate import Evaluation
    from motivnet.evaluation.predictions import Predictions

# The metrics come last: where they are, all is.
FILES = ("predictions.parquet", "report.html", "metrics.json")
HEADLINES = {"war": "WAR", "uar": "UAR", "top2": "Top-2", "f1_macro": "F1", "auroc_macro": "AUROC", "ece": "ECE"}
NUM_REASONS = 3


def evaluate(
    data: Annotated[
        str,
        typer.Option(
            metavar="KIND:PATH",
            show_default=False,
            help="Labelled images: fer2013:fer2013.parquet, folder:DIR ...",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", show_default=False, help=f"Folder for {', '.join(FILES)}."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            show_default=False, help="Embedded model, folder of a bundle, released file, or name of `motivnet weights`."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of a model: .parquet or .csv of another tool's answers, with columns row or path, and pred "
            "or a probability per label.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="The publisher's split; all rows without it.")] = None,
    unseen_in: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="Leave out images whose exact pixels also occur in this split: Training."),
    ] = None,
    detect: Annotated[
        bool,
        typer.Option(
            "--detect/--no-detect",
            help="Look for the face first. Otherwise it is the data set's box, and without one the whole image, as is "
            "right for crops.",
        ),
    ] = False,
    detector: Annotated[
        str, typer.Option(help="With --detect: libfacedetection, or yunet:MODEL.onnx.")
    ] = "libfacedetection",
    unanswered: Annotated[
        Literal["error", "leave-out"],
        typer.Option(help="Images that cannot be read or show no face: count them as errors, or not at all."),
    ] = "error",
    thumbnails: Annotated[
        bool,
        typer.Option("--thumbnails/--no-thumbnails", help="Show the worst mistakes in the report, or only name them."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples that give the intervals.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that DIR holds already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what metrics.json holds.")] = False,
    batch_size: BatchSize = 64,
    workers: Workers = 2,
    device: Device = "auto",
    size: Size = None,
    geometry: Geometry = None,
) -> None:
    """Measure how well a model tells the emotions of a labelled data set (needs the extra `evaluate`)."""
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import ConfigError

    if (model is None) == (predictions is None):
        raise ConfigError("what to evaluate is not clear. Allowed: either --model or --predictions")
    if unseen_in and not split:
        raise ConfigError("--unseen-in leaves images out of a split. Allowed: with --split")
    if predictions is not None and detect:
        raise ConfigError("--detect looks for faces before a model sees them; --predictions are answers already")
    check_folder(out, FILES, overwrite=overwrite)
    with needs_extra("pyarrow", "evaluate"):
        import matplotlib  # noqa: F401 - so that it is missed now, not when figures are drawn

        from motivnet.data.clean import leave_out_repeated
        from motivnet.data.sources.named import read_source
        from motivnet.evaluation import evaluate as evaluation
        from motivnet.evaluation.predictions import UNANSWERED, read_predictions
        from motivnet.inference.predictor import Predictor
        from motivnet.report.evaluation_report import evaluation_report

    # Before the data: a mistake in the model's name is found sooner.
    predictor = None
    if model is not None:
        predictor = Predictor.load(
            model,
            detector=detector if detect else "whole",
            batch_size=batch_size,
            workers=workers,
            device=device,
            image_size=parse_size(size) if size else None,
            geometry=geometry,
        )
    manifest = read_source(data)
    if split:
        manifest = leave_out_repeated(manifest, split, unseen_in) if unseen_in else manifest.split(split)
    if predictor is None or model is None:
        path = predictions or Path()
        answers = read_predictions(path, manifest, data=data, split=split, unanswered=UNANSWERED[unanswered])
    else:
        from motivnet.checkpoints.fingerprint import model_fingerprint

        answers = evaluation.predict_manifest(
            predictor,
            manifest,
            detect=detect,
            data=data,
            split=split,
            model_fingerprint=model_fingerprint(model),
            unanswered=UNANSWERED[unanswered],
            track=functools.partial(track, total=len(manifest), what="images"),
        )
    _say_protocol(answers)
    with _waiting("intervals by resampling"):
        found = evaluation.evaluate(answers, seed=seed)
    text = json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n"
    with open_folder(out, FILES, overwrite=overwrite) as folder:
        answers.write(folder / FILES[0])
        page = evaluation_report(found, answers, with_thumbnails=thumbnails)
        (folder / FILES[1]).write_text(page, encoding="utf-8")
        (folder / FILES[2]).write_text(text, encoding="utf-8")
    typer.echo(text if as_json else _headlines(found), nl=not as_json)
    typer.echo(f"written to {out}: {', '.join(FILES)}", err=True)


def _say_protocol(answers: "Predictions") -> None:
    """Say what is not scored as one might expect; nothing is left out silently."""
    protocol = answers.protocol
    lines = [f"{protocol.n:,} images; face detection: {protocol.detection}"]
    lines += [f"left out: {number:,} ({reason})" for reason, number in protocol.dropped.items()]
    for status, words in (("no_face", "show no face"), ("unreadable", "cannot be read")):
        count = answers.status.count(status)
        if count:
            lines.append(f"{count:,} {words}: {protocol.unanswered}")
    for row in sorted(answers.errors)[:NUM_REASONS]:
        name = answers.manifest.table["path"][row].as_py() or f"row {answers.manifest.table['row'][row].as_py()}"
        lines.append(f"  {printable(name)}: {answers.errors[row]}")
    if len(answers.errors) > NUM_REASONS:
        lines.append(f"  and {len(answers.errors) - NUM_REASONS:,} more, all in {FILES[0]}")
    typer.echo("\n".join(lines), err=True)


def _headlines(found: "Evaluation") -> str:
    from motivnet.report.page import percent

    lines = [
        f"{title:6} {percent(found.metrics[name], found.intervals.get(name))}" for name, title in HEADLINES.items()
    ]
    for name, scores in found.affect.items():
        lines.append(f"{name:7} CCC {scores['ccc']:.3f}, RMSE {scores['rmse']:.3f} on {scores['n']:,} labelled images")
    return "\n".join([f"{'n':6} {found.metrics['n']:,}", *lines])


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Show on a terminal that work goes on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
