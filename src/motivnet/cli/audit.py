"""`motivnet audit`: is a model as good for one group of faces as for the others?"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motivnet.cli.options import BatchSize, Device
from motivnet.inference.tables import check_folder, open_folder

if TYPE_CHECKING:
    from motivnet.data.manifest import Manifest
    from motivnet.evaluation.fairness import Audit
    from motivnet.evaluation.predictions import Predictions

# The data come last: where they are, all is.
FILES = ("audit.md", "audit.html", "audit.json")


def audit(
    data: Annotated[
        str,
        typer.Option(
            metavar="KIND:PATH",
            show_default=False,
            help="Labelled images, such as rafdb:DIR or fer2013:FILE.parquet.",
        ),
    ],
    by: Annotated[
        list[str],
        typer.Option(
            metavar="COLUMN",
            show_default=False,
            help="What parts the images into groups: a group of the data set (such as race), a column of --groups-csv, "
            "or subject, split, agreement (of annotators), duplicate (of a training image) or intensity. May be "
            "repeated.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", show_default=False, help=f"Folder for {', '.join(FILES)}.")],
    model: Annotated[
        str | None,
        typer.Option(
            show_default=False, help="Embedded model, folder of a bundle, released file, or name of `motivnet weights`."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of a model: answers, as for `motivnet evaluate --predictions`."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="The publisher's split; all rows without it.")] = None,
    groups_csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own groups: a column `row` or `path`, and a column for each grouping."),
    ] = None,
    min_size: Annotated[
        int, typer.Option(min=2, help="Images below which a group, or all others, are listed and not tested.")
    ] = 50,
    detect: Annotated[
        bool,
        typer.Option(
            "--detect/--no-detect",
            help="Look for the face first. Otherwise it is the data set's box, and without one the whole image.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of permutations and resamples.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that DIR holds already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what audit.json holds.")] = False,
    batch_size: BatchSize = 64,
    device: Device = "auto",
) -> None:
    """Compare what a model does for groups of faces (needs the extra `evaluate`).

    A gap that is found does not change the exit code.
    """
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import ConfigError

    if (model is None) == (predictions is None):
        raise ConfigError("what to audit is not clear. Allowed: either --model or --predictions")
    if predictions is not None and detect:
        raise ConfigError("--detect looks for faces before a model sees them; --predictions are answers already")
    check_folder(out, FILES, overwrite=overwrite)
    with needs_extra("pyarrow", "evaluate"):
        import jinja2  # noqa: F401 - missed now rather than after the work
        import scipy  # noqa: F401

        from motivnet.data.sources.named import read_source
        from motivnet.evaluation import fairness
        from motivnet.evaluation.groups import group_columns
        from motivnet.evaluation.predictions import read_predictions
        from motivnet.report.audit_report import audit_files

    whole = read_source(data)
    manifest = whole.split(split) if split else whole
    # Before the model is asked: a mistake in a column is found sooner.
    columns = group_columns(manifest, by, whole=whole, table=groups_csv)
    if predictions is not None:
        answers = read_predictions(predictions, manifest, data=data, split=split)
    else:
        answers = _predict(str(model), manifest, data, split, detect=detect, batch_size=batch_size, device=device)
    # The answers are without the images of labels that the model does not know.
    kept = [row for row, label in enumerate(manifest.table["label"].to_pylist()) if label in answers.labels.names]
    columns = {name: [column[row] for row in kept] for name, column in columns.items()}
    found = fairness.audit(answers, columns, min_size=min_size, seed=seed)
    files = audit_files(found)
    with open_folder(out, FILES, overwrite=overwrite) as folder:
        for name in FILES:
            (folder / name).write_text(files[name], encoding="utf-8")
    typer.echo(files["audit.json"] if as_json else _headlines(found), nl=not as_json)
    typer.echo(f"written to {out}: {', '.join(FILES)}", err=True)


def _predict(
    model: str, manifest: "Manifest", data: str, split: str | None, *, detect: bool, batch_size: int, device: str
) -> "Predictions":
    from motivnet.checkpoints.fingerprint import model_fingerprint
    from motivnet.cli.progress import track
    from motivnet.evaluation.evaluate import predict_manifest
    from motivnet.inference.predictor import Predictor

    detector = "libfacedetection" if detect else "whole"
    predictor = Predictor.load(model, detector=detector, batch_size=batch_size, device=device)
    return predict_manifest(
        predictor,
        manifest,
        detect=detect,
        data=data,
        split=split,
        model_fingerprint=model_fingerprint(model),
        track=functools.partial(track, total=len(manifest), what="images"),
    )


def _headlines(found: "Audit") -> str:
    from motivnet.report.audit_report import findings

    return "\n".join(findings(found))
