"""`motivnet audit`: compare a model's accuracy between groups of faces."""

from pathlib import Path
from typing import Annotated

from motivnet.cli.console import echo, track
from motivnet.cli.evaluate import Model
from motivnet.cli.options import Fields, Overwrite, flag, option
from motivnet.config import to_json
from motivnet.errors import needs_extra
from motivnet.evaluation.evaluation_config import AuditConfig
from motivnet.inference.predictor_config import PredictorConfig


def audit(
    *,
    data: Annotated[list[str], option("KIND:PATH[@SPLIT]")],
    by: Annotated[list[str], option("COLUMN")],
    out: Annotated[Path, option("DIR")],
    model: Model = None,
    settings: Annotated[AuditConfig, Fields(only=("predictions", "split", "groups_csv", "min_size", "detect", "seed"))],
    overwrite: Overwrite = False,
    as_json: Annotated[bool, flag("--json")] = False,
    config: Annotated[PredictorConfig, Fields(only=("batch_size", "device"))],
) -> None:
    """Compare the scores of groups of faces (needs the extra `evaluate`).

    A gap that is found does not change the exit code.

    Example: motivnet audit --model nano --data fer2013:fer2013.parquet@PrivateTest --by agreement --out audit

    Options:
        data: Labelled; repeatable.
        by: Column that divides the images into groups: of the data set (such as race), of --groups-csv, or subject,
            split, agreement (of annotators), duplicate (of a training image), intensity, or data (the set, if --data is
            given several times); repeatable.
        out: Folder for audit.md, audit.html and audit.json.
        as_json: Print the contents of audit.json.
    """
    with needs_extra("pyarrow", "evaluate"):
        import scipy  # noqa: F401 - an error now rather than after the work

        from motivnet.evaluation import fairness
        from motivnet.report.audit_report import findings
    found = fairness.audit(model, data, settings, by=by, out=out, overwrite=overwrite, config=config, track=track)
    echo(to_json(found.to_dict(), indent=2) if as_json else "\n".join(findings(found)))
    echo(f"written to {out}: {', '.join(fairness.FILES)}", err=True)
