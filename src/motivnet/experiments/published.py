"""What others have published, each figure with its protocol, its source, and how far it can be trusted."""

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from motivnet.checkpoints.bundle import ASSETS
from motivnet.errors import DataError
from motivnet.experiments.protocols import Setting

RESULTS = ASSETS / "published_results.csv"

PROTOCOLS = {
    "zero-shot (never sees the target)": Setting.ZERO_SHOT,
    "own test split": Setting.OWN_DOMAIN,
    "domain adaptation (sees unlabelled target images)": Setting.ADAPTED,
}
COLUMNS = ("method", "protocol", "trained_on", "backbone", "target", "metric", "value_percent", "source", "trust")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One published figure.

    Args:
        method: its name.
        setting: what the method had seen of the target.
        trained_on: data sets, as the source names them.
        backbone: as the source names it; empty if it does not.
        target: data set that it was scored on; `mean` for the source's own mean over several.
        war: accuracy, a fraction.
        source: where the figure stands.
        trust: how far it can be relied on, and why.
    """

    method: str
    setting: Setting
    trained_on: str
    backbone: str
    target: str
    war: float
    source: str
    trust: str


def read_published(path: Path = RESULTS) -> list[Published]:
    """Read a table of published results.

    Args:
        path: a CSV file with the columns of `COLUMNS`; the metric is accuracy.

    Raises:
        DataError: naming file and row, at a missing column, an unknown protocol or metric, or a value that is no
            percentage.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path}: columns {missing} are missing")
            return [_parse(row, f"{path}, row {number}") for number, row in enumerate(reader)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def published_on(results: Iterable[Published], data_set: str, num_labels: Iterable[int]) -> list[Published]:
    """Pick what was published on a data set, best first.

    Args:
        results: to pick from.
        data_set: its name, such as `FER-2013`.
        num_labels: how many labels are told apart; `AffectNet` of 7 is `AffectNet-7`, as publications name it.
    """
    names = {data_set.casefold(), *(f"{data_set}-{number}".casefold() for number in num_labels)}
    return sorted((row for row in results if row.target.casefold() in names), key=lambda row: -row.war)


def _parse(row: dict[Any, Any], where: str) -> Published:
    # A line of fewer fields than the header leaves None, one of more fields a list under None.
    cells = {name: (row[name] or "").strip() for name in COLUMNS}
    if None in row:
        raise DataError(f"{where}: more fields than columns")
    if cells["protocol"] not in PROTOCOLS:
        raise DataError(f"{where}: protocol {cells['protocol']!r}. Allowed: {', '.join(PROTOCOLS)}")
    if cells["metric"] != "accuracy":
        raise DataError(f"{where}: metric {cells['metric']!r}. Allowed: accuracy")
    for name in ("method", "target", "source", "trust"):
        if not cells[name]:
            raise DataError(f"{where}: {name} is empty")
    try:
        percent = float(cells["value_percent"])
    except ValueError:
        percent = float("nan")
    if not 0 <= percent <= 100:
        raise DataError(f"{where}: value_percent {cells['value_percent']!r}. Allowed: 0 to 100")
    return Published(
        method=cells["method"],
        setting=PROTOCOLS[cells["protocol"]],
        trained_on=cells["trained_on"],
        backbone=cells["backbone"],
        target=cells["target"],
        war=percent / 100,
        source=cells["source"],
        trust=cells["trust"],
    )
