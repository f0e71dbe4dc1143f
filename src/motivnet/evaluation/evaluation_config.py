"""The options of an evaluation and of an audit. Imports nothing heavy: `--help` reads it."""

import dataclasses
from pathlib import Path

from motivnet.config import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """What is evaluated, and on which images.

    Args:
        predictions: Predictions of another tool instead of a model: .parquet or .csv with columns row or path, and pred
            or a probability per label.
        split: The publisher's split; all rows without it.
        detect: Detect faces. Otherwise the face is the data set's box, and without one the whole image, as for crops.
        seed: Of resamples and permutations.
    """

    predictions: Path | None = setting(None, metavar="FILE")
    split: str | None = setting(None)
    detect: bool = setting(False, flag="detect/--no-detect")
    seed: int = setting(0, min=0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig(SourceConfig):
    """The options of `motivnet.evaluate`.

    Args:
        unseen_in: Leave out images whose exact pixels also occur in this split: Training.
        unanswered: Images that cannot be read or show no face: count them as errors, or leave them out.
        degrade: Also measure what blur, low resolution, JPEG and light cost.
        thumbnails: Show the worst mistakes in the report, or only name them.
    """

    unseen_in: str | None = setting(None, metavar="SPLIT")
    unanswered: str = setting("error", metavar="error|leave-out")
    degrade: bool = setting(False)
    thumbnails: bool = setting(True)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig(SourceConfig):
    """The options of an audit.

    Args:
        groups_csv: Your own groups: a column `row` or `path`, and a column per grouping.
        min_size: Images below which a group, or all others, are listed and not tested.
    """

    groups_csv: Path | None = setting(None, metavar="FILE")
    min_size: int = setting(50, min=2)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AgreementConfig(Settings):
    """How agreement with human coders is measured. Times are in seconds.

    Args:
        tolerance_s: Count what another coder has coded up to this much earlier or later as agreement.
        uncoded: What coders mean where they coded nothing: neutral. Without it such times are left out.
        seed: Of resamples.
    """

    tolerance_s: float = setting(0.0, flag="tolerance", metavar="SECONDS", min=0)
    uncoded: str | None = setting(None, metavar="EMOTION")
    seed: int = setting(0, min=0)
