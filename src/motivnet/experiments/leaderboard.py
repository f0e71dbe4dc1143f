"""Who is best: ranks and means, only among models that had seen as much and were asked the same."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from motivnet.experiments.comparison import METRICS, Cell
from motivnet.experiments.protocols import Setting


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A model over the data sets that all models of a setting were scored on.

    Args:
        model: its name.
        setting: of the cells.
        data: titles of the data sets.
        scores: METRICS, each data set counting the same, and those of the same photographs as one.
        rank: 1 for the highest mean WAR; None without others.
        mean_rank: over the data sets; None where there is none.
    """

    model: str
    setting: Setting
    data: tuple[str, ...]
    scores: dict[str, float]
    rank: int | None
    mean_rank: float | None


def ranks(cells: Sequence[Cell]) -> list[int | None]:
    """Rank cells by WAR among those of the same data set, setting and labels; equal ones share the better rank."""

    def rivals(cell: Cell) -> list[Cell]:
        def key(each: Cell) -> tuple:
            return each.data, each.setting, each.labels

        return [each for each in cells if key(each) == key(cell)]

    return [
        1 + sum(other.scores["war"] > cell.scores["war"] for other in rivals(cell)) if len(rivals(cell)) > 1 else None
        for cell in cells
    ]


def means_of(cells: Sequence[Cell], domains: Mapping[str, str]) -> Iterator[Mean]:
    """Average each setting over the data sets that all its models were scored on, if these are at least two.

    Args:
        cells: with their ranks.
        domains: title of each data set -> photographs that it consists of; those of the same photographs, such as two
            splits, count as one.
    """
    for setting in Setting:
        ours = {(cell.model, cell.data): cell for cell in cells if cell.setting == setting}
        models = list(dict.fromkeys(model for model, _ in ours))
        data = tuple(
            title
            for title in dict.fromkeys(title for _, title in ours)
            if all((model, title) in ours for model in models)
        )
        if len({domains[title] for title in data}) < 2:
            continue
        means = {
            model: {
                name: _mean({title: ours[model, title].scores[name] for title in data}, domains) for name in METRICS
            }
            for model in models
        }
        for model in models:
            places = {title: ours[model, title].rank for title in data}
            known = {title: float(place) for title, place in places.items() if place is not None}
            yield Mean(
                model=model,
                setting=setting,
                data=data,
                scores=means[model],
                rank=1 + sum(other["war"] > means[model]["war"] for other in means.values())
                if len(models) > 1
                else None,
                mean_rank=_mean(known, domains) if len(known) == len(places) else None,
            )


def _mean(values: Mapping[str, float], domains: Mapping[str, str]) -> float:
    by_domain: dict[str, list[float]] = {}
    for title, value in values.items():
        by_domain.setdefault(domains[title], []).append(value)
    return float(np.mean([np.mean(same) for same in by_domain.values()]))
