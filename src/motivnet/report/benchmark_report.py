"""A benchmark as tables: `benchmark.md`, `benchmark.html` and `benchmark.json`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from motivnet.report import page

if TYPE_CHECKING:
    from motivnet.experiments.benchmark import Benchmark
    from motivnet.experiments.comparison import Comparison, Entry
    from motivnet.experiments.leaderboard import Mean, Published

# The data come last: where they are, the rest is.
FILES = ("benchmark.md", "benchmark.html", "benchmark.json")
HEADS = {"war": "WAR", "uar": "UAR", "top2": "Top-2", "f1_macro": "F1"}
PROSE = page.PROSE["benchmark"]
# By setting: what its scores mean.
SETTINGS: Mapping[str, str] = PROSE["settings"]
COLORS = dict(zip(SETTINGS, page.COLORS, strict=False))


def benchmark_files(benchmark: "Benchmark") -> dict[str, str]:
    """Return the contents of FILES by name."""
    return page.block_files("benchmark", "Benchmark", list(_blocks(benchmark)), benchmark.to_dict())


def headlines(benchmark: "Benchmark") -> str:
    """Return the scores measured here as aligned text."""
    rows = [("data set", "model", "setting", *HEADS.values())]
    rows += [
        (entry.data, entry.model, str(entry.setting), *(page.percent(entry.scores[name]) for name in HEADS))
        for entry in benchmark.cells
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _blocks(benchmark: "Benchmark") -> Iterator[page.Block]:
    yield _models(benchmark)
    yield _data_sets(benchmark.data)
    for setting in SETTINGS:
        for title, published in benchmark.published.items():
            entries = [entry for entry in benchmark.cells if (entry.data, entry.setting) == (title, setting)]
            published = [row for row in published if row.setting == setting]
            if entries or published:
                yield _leaderboard(benchmark, setting, title, entries, published)
        means = [mean for mean in benchmark.means if mean.setting == setting]
        if means:
            yield _means(setting, means)
    if benchmark.comparisons:
        yield _comparisons(benchmark.comparisons)
    if any(entry.folds for entry in benchmark.cells):
        yield _folds(benchmark.cells)
    if benchmark.plan:
        about = "What a model has to be trained on for a zero-shot score on each data set that uses all the others."
        lines = [
            (", ".join(train), test, ", ".join(benchmark.trained_on(train)) or "none") for train, test in benchmark.plan
        ]
        rows = page.rows_of(("train on", "test on", "models trained so"), lines)
        yield page.Block("Leave one data set out", (about,), rows)
    nothing = () if benchmark.skipped else ("Nothing: every model was scored on every data set.",)
    lines = [(each.model or "every model", each.data or "every data set", each.reason) for each in benchmark.skipped]
    yield page.Block("Skipped", nothing, page.rows_of(("model", "data set", "why"), lines))
    if benchmark.cells:
        yield page.Block("WAR with 95 % intervals", html=_plot(benchmark.cells))


def _models(benchmark: "Benchmark") -> page.Block:
    lines = [(each.name, each.training_data, len(each.labels), each.fingerprint) for each in benchmark.models]
    rows = page.rows_of(("model", "trained on", "labels", "fingerprint"), lines)
    return page.Block("Models", (PROSE["models"].format(**benchmark.settings),), rows)


def _data_sets(data: Mapping[str, Mapping]) -> page.Block:
    rows = [
        {
            "data set": title,
            "images": about["n"],
            "subjects": about["subjects"],
            "labels": ", ".join(f"{label} {number:,}" for label, number in about["labels"].items()),
            "left out by the reader": page.counted(about["dropped"]),
            "faces": "detected" if about["detect"] else "as they are, or boxes of the data set",
            "fingerprint": about["fingerprint"],
        }
        for title, about in data.items()
    ]
    return page.Block("Data sets", (), rows)


def _leaderboard(
    benchmark: "Benchmark", setting: str, title: str, entries: "Sequence[Entry]", published: "Sequence[Published]"
) -> page.Block:
    trained_on = {model.name: model.training_data for model in benchmark.models}
    lines: list[tuple[Any, ...]] = []
    for entry in entries:
        scores = [page.percent(entry.scores[name], entry.intervals.get(name)).replace(" %", "") for name in HEADS]
        model = entry.model, trained_on[entry.model]
        lines.append((entry.scores["war"], *model, *scores, entry.rank, entry.caution, "measured here"))
    for each in published:
        scores = [page.percent(each.war).replace(" %", ""), *[None] * (len(HEADS) - 1)]
        model = f"{each.method} ({each.backbone})" if each.backbone else each.method, each.trained_on
        lines.append((each.war, *model, *scores, None, each.trust, f"published: {each.source}"))
    lines.sort(key=lambda line: -line[0])
    rows = page.rows_of(
        ("model", "trained on", *HEADS.values(), "rank", "trust", "origin"), (cells for _, *cells in lines)
    )
    notes = [_labels_note(entry) for entry in entries] + ([PROSE["published"]] if published else [])
    return page.Block(f"Leaderboard, {setting}: {title}", (SETTINGS[setting],), rows, tuple(notes))


def _labels_note(entry: "Entry") -> str:
    parts = [f"{entry.model}: {entry.n:,} images, {len(entry.labels)} labels ({', '.join(entry.labels)})"]
    if entry.absent:
        parts.append(f"no image of {', '.join(entry.absent)}: {PROSE['absent'][entry.restrict]}")
    if entry.protocol.dropped:
        parts.append(f"left out {page.counted(entry.protocol.dropped)}")
    if entry.unanswered:
        parts.append(f"{entry.unanswered:,} without a prediction, which count as errors")
    return "; ".join([*parts, f"face detection: {entry.protocol.detection}."])


def _means(setting: str, means: "Sequence[Mean]") -> page.Block:
    lines = []
    for mean in sorted(means, key=lambda mean: -mean.scores["war"]):
        mean_rank = None if mean.mean_rank is None else f"{mean.mean_rank:.2f}"
        lines.append((mean.model, *(page.percent(mean.scores[name]) for name in HEADS), mean_rank, mean.rank))
    rows = page.rows_of(("model", *HEADS.values(), "mean rank", "rank"), lines)
    line = PROSE["means"].format(data=", ".join(means[0].data))
    return page.Block(f"Leaderboard, {setting}: mean over data sets", (line,), rows)


def _comparisons(comparisons: "Sequence[Comparison]") -> page.Block:
    return page.Block(
        "Pairwise comparisons",
        (PROSE["comparisons"],),
        [
            {
                "data set": each.data,
                "setting": str(each.setting),
                "models": f"{each.models[0]} less {each.models[1]}",
                "images": each.n,
                "only one correct": f"{each.only_a:,} against {each.only_b:,}",
                "WAR, points": page.points(each.war.value, *each.war.interval),
                "UAR, points": page.points(each.uar.value, *each.uar.interval),
                "test": each.test,
                "p": page.p_value(each.p_value),
                "p (Holm)": page.p_value(each.p_holm),
            }
            for each in comparisons
        ],
    )


def _folds(entries: "Sequence[Entry]") -> page.Block:
    lines = []
    for entry in entries:
        if folds := entry.folds:
            over = [f"{100 * each.mean:.1f} \N{PLUS-MINUS SIGN} {100 * each.std:.1f}" for each in folds.scores.values()]
            lines.append((entry.data, entry.model, folds.num_folds, folds.num_subjects, *over))
    rows = page.rows_of(("data set", "model", "folds", "subjects", *HEADS.values()), lines)
    return page.Block("Folds by subject", (PROSE["folds"],), rows)


def _plot(entries: "Sequence[Entry]") -> str:
    """Draw the WAR of every entry with its interval."""
    with page.new_figure(height=max(1.6, 0.28 * len(entries) + 0.9)) as drawn:
        axes = drawn.subplots()
        for setting, color in COLORS.items():
            places = [place for place, entry in enumerate(entries) if entry.setting == setting]
            if places:
                ends_N2 = 100 * np.array([entries[place].intervals["war"] for place in places])
                axes.hlines(places, *ends_N2.T, color=color, linewidth=2)
                scores = [100 * entries[place].scores["war"] for place in places]
                axes.plot(scores, places, "o", color=color, label=setting)
        axes.set_yticks(range(len(entries)), [f"{entry.data}: {entry.model}" for entry in entries])
        axes.invert_yaxis()
        axes.set_xlabel("WAR in percent")
        axes.legend(loc="best")
        alt = "; ".join(f"{entry.model} on {entry.data}: {page.percent(entry.scores['war'])}" for entry in entries)
        return page.figure(drawn, f"WAR with 95 % intervals. {alt}")
