"""`motivnet distil`: soft labels of teachers, for a student to be trained on."""

from pathlib import Path
from typing import Annotated

from motivnet.cli.console import echo, track
from motivnet.cli.evaluate import Data
from motivnet.cli.options import Fields, Overwrite, option
from motivnet.errors import needs_extra
from motivnet.experiments.distillation_config import DistillationConfig
from motivnet.inference.predictor_config import PredictorConfig


def distil(
    *,
    teachers: Annotated[list[str], option("MODEL", "--teacher")],
    data: Data,
    unlabelled: Annotated[list[str] | None, option("KIND:PATH")] = None,
    out: Annotated[Path, option("FILE")],
    settings: DistillationConfig,
    config: Annotated[PredictorConfig, Fields(only=("device", "batch_size", "workers"))],
    overwrite: Overwrite = False,
) -> None:
    """Label faces with teachers that were not trained on them (needs the extra `train`).

    Train the student with `--data manifest:FILE --set loss.vote_weight=1 --set loss.label_smoothing=0`.

    Example: motivnet distil --teacher runs/a/bundle --data fer2013:fer2013.parquet@Training --out soft.parquet

    Options:
        teachers: A model; or a .parquet or .csv file of predictions for the labelled faces; repeatable.
        unlabelled: images:FOLDER, or parquet:FILE?unlabelled=true; repeatable.
        out: The manifest, a .parquet file.
    """
    with needs_extra("torch", "train"):
        from motivnet.experiments import distillation
    found = distillation.distil(
        teachers,
        data,
        settings,
        out=out,
        unlabelled=unlabelled or (),
        config=config,
        overwrite=overwrite,
        track=track,
        say=lambda line: echo(line, err=True),
    )
    echo(f"{len(found):,} rows written to {out}", err=True)
