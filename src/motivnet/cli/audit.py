"""`motivnet audit`: compare a model's accuracy between groups of faces."""

import json
from pathlib import Path
from typing import Annotated

import typer

from motivnet.cli.console import track
from motivnet.cli.evaluate import Data, Detect, Model, Predictions, Seed, Split
from motivnet.cli.options import Fields, Overwrite, derive_options
from motivnet.errors import needs_extra
from motivnet.inference.predictor_config import PredictorConfig


@derive_options
def audit(
    data: Data,
    by: Annotated[
        list[str],
        typer.Option(
            metavar="COLUMN",
            show_default=False,
            help="Column that divides the images into groups: of the data set (such as race), of --groups-csv, or "
            "subject, split, agreement (of annotators), duplicate (of a training image) or intensity; repeatable.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", show_default=False, help="Folder for audit.md, audit.html and audit.json.")
    ],
    model: Model = None,
    predictions: Predictions = None,
    split: Split = None,
    groups_csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own groups: a column `row` or `path`, and a column per grouping."),
    ] = None,
    min_size: Annotated[
        int, typer.Option(min=2, help="Images below which a group, or all others, are listed and not tested.")
    ] = 50,
    detect: Detect = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the contents of audit.json.")] = False,
    *,
    config: Annotated[PredictorConfig, Fields(only=("batch_size", "device"))],
) -> None:
    """Compare the scores of groups of faces (needs the extra `evaluate`).

    A gap that is found does not change the exit code.
    """
    with needs_extra("pyarrow", "evaluate"):
        import scipy  # noqa: F401 - an error now rather than after the work

        from motivnet.evaluation import fairness
        from motivnet.report.audit_report import findings
    found = fairness.audit(
        model,
        data,
        by=by,
        out=out,
        predictions=predictions,
        split=split,
        groups_csv=groups_csv,
        min_size=min_size,
        detect=detect,
        seed=seed,
        overwrite=overwrite,
        config=config,
        track=track,
    )
    typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if as_json else "\n".join(findings(found)))
    typer.echo(f"written to {out}: {', '.join(fairness.FILES)}", err=True)
