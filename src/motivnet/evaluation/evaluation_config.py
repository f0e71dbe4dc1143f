"""The options of an evaluation and of an audit. Imports nothing heavy: `--help` reads it."""

import dataclasses
from pathlib import Path

from motivnet.config import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """What is evaluated, and on which images."""

    predictions: Path | None = setting(
        None,
        "Predictions of another tool instead of a model: .parquet or .csv with columns row or path, and pred or a "
        "probability per label.",
        metavar="FILE",
    )
    split: str | None = setting(None, "The publisher's split; all rows without it.")
    detect: bool = setting(
        False,
        "Detect faces. Otherwise the face is the data set's box, and without one the whole image, as for crops.",
        flag="detect/--no-detect",
    )
    seed: int = setting(0, "Of resamples and permutations.", min=0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig(SourceConfig):
    """The options of `motivnet.evaluate`."""

    unseen_in: str | None = setting(
        None, "Leave out images whose exact pixels also occur in this split: Training.", metavar="SPLIT"
    )
    unanswered: str = setting(
        "error",
        "Images that cannot be read or show no face: count them as errors, or leave them out.",
        metavar="error|leave-out",
    )
    degrade: bool = setting(False, "Also measure what blur, low resolution, JPEG and light cost.")
    thumbnails: bool = setting(True, "Show the worst mistakes in the report, or only name them.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig(SourceConfig):
    """The options of an audit."""

    groups_csv: Path | None = setting(
        None, "Your own groups: a column `row` or `path`, and a column per grouping.", metavar="FILE"
    )
    min_size: int = setting(50, "Images below which a group, or all others, are listed and not tested.", min=2)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AgreementConfig(Settings):
    """How agreement with human coders is measured; each field states its meaning. Times are in seconds."""

    tolerance_s: float = setting(
        0.0,
        "Count what another coder has coded up to this much earlier or later as agreement.",
        flag="tolerance",
        metavar="SECONDS",
        min=0,
    )
    uncoded: str | None = setting(
        None,
        "What coders mean where they coded nothing: neutral. Without it such times are left out.",
        metavar="EMOTION",
    )
    seed: int = setting(0, "Of resamples.", min=0)
