"""Ranks and means, only of models in the same setting on the same labels, and what others have published."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from motivnet.experiments.comparison import METRICS, Entry
from motivnet.experiments.protocols import Setting
from motivnet.storage import ASSETS, read_csv

PUBLISHED = ASSETS / "published_results.csv"
PROTOCOLS = {
    "zero-shot (never sees the target)": Setting.ZERO_SHOT,
    "own test split": Setting.OWN_DOMAIN,
    "domain adaptation (sees unlabelled target images)": Setting.ADAPTED,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A model over the data sets that all models of a setting were scored on.

    Args:
        model: its name.
        setting: of the entries.
        data: titles of the data sets.
        scores: METRICS, each data set counting the same, and those of the same photographs as one.
        rank: 1 for the highest mean WAR; None without others.
        mean_rank: over the data sets; None if it has no rank on one of them.
    """

    model: str
    setting: Setting
    data: tuple[str, ...]
    scores: dict[str, float]
    rank: int | None
    mean_rank: float | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One published score.

    Args:
        method: its name.
        setting: what the method had seen of the target.
        trained_on: data sets, as the source names them.
        backbone: as the source names it; empty if it does not.
        target: data set that it was scored on; `mean` for the source's own mean over several.
        war: accuracy, a fraction.
        source: where the score was published.
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


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """Rank entries by WAR among those of the same data set, setting and labels; equal ones share the better rank."""

    def rivals(entry: Entry) -> list[float]:
        same = entry.data, entry.setting, entry.labels
        return [each.scores["war"] for each in entries if (each.data, each.setting, each.labels) == same]

    return [dataclasses.replace(entry, rank=_rank(entry.scores["war"], rivals(entry))) for entry in entries]


def means_of(entries: Sequence[Entry], domains: Mapping[str, str]) -> Iterator[Mean]:
    """Average each setting over the data sets that all its models were scored on, if these are at least two.

    Args:
        entries: with their ranks.
        domains: title of each data set -> photographs that it consists of; those of the same photographs, such as two
            splits, count as one.
    """
    for setting in Setting:
        ours = {(entry.model, entry.data): entry for entry in entries if entry.setting == setting}
        models = dict.fromkeys(model for model, _ in ours)
        titles = dict.fromkeys(title for _, title in ours)
        data = tuple(title for title in titles if all((model, title) in ours for model in models))
        if len({domains[title] for title in data}) < 2:
            continue

        def mean(values: Iterable[float], data: tuple[str, ...] = data) -> float:
            by_domain: dict[str, list[float]] = {}
            for title, value in zip(data, values, strict=True):
                by_domain.setdefault(domains[title], []).append(value)
            return float(np.mean([np.mean(same) for same in by_domain.values()]))

        rows = {model: [ours[model, title] for title in data] for model in models}
        scores = {
            model: {name: mean(entry.scores[name] for entry in row) for name in METRICS} for model, row in rows.items()
        }
        for model, row in rows.items():
            ranks = [entry.rank for entry in row if entry.rank is not None]
            yield Mean(
                model=model,
                setting=setting,
                data=data,
                scores=scores[model],
                rank=_rank(scores[model]["war"], [each["war"] for each in scores.values()]),
                mean_rank=mean(ranks) if len(ranks) == len(row) else None,
            )


def read_published(path: Path = PUBLISHED) -> list[Published]:
    """Read the table of published results that comes with the package; their metric is accuracy."""
    columns = [field.name for field in dataclasses.fields(Published)]
    return [
        Published(
            **{name: row[name] for name in columns if name not in ("setting", "war")},
            setting=PROTOCOLS[row["protocol"]],
            war=float(row["value_percent"]) / 100,
        )
        for row in read_csv(path)
    ]


def published_on(results: Iterable[Published], data_set: str, num_labels: Iterable[int]) -> list[Published]:
    """Return what was published on a data set, best first.

    Args:
        results: to choose from.
        data_set: its name, such as `FER-2013`.
        num_labels: numbers of classes; `AffectNet` of 7 is `AffectNet-7`, as publications name it.
    """
    names = {data_set.casefold(), *(f"{data_set}-{number}".casefold() for number in num_labels)}
    return sorted((row for row in results if row.target.casefold() in names), key=lambda row: -row.war)


def _rank(score: float, rivals: Sequence[float]) -> int | None:
    """Return the place of a score among rivals, which include it; None if it is alone."""
    return 1 + sum(rival > score for rival in rivals) if len(rivals) > 1 else None
