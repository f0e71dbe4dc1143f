"""A benchmark as tables: `benchmark.md`, `benchmark.html` and `benchmark.json`."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from motivnet.evaluation.resampling import Difference
from motivnet.experiments.benchmark import Benchmark, ModelInfo
from motivnet.experiments.comparison import METRICS, Cell, Comparison
from motivnet.experiments.protocols import NAMES, Setting, Spread, domain
from motivnet.experiments.published import Published
from motivnet.report import page as report
from motivnet.report.tables import Block, Row, p_value, points, to_html, to_json, to_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Benchmark"
HEADS = {"war": "WAR", "uar": "UAR", "top2": "Top-2", "f1_macro": "F1"}
SETTINGS = {
    Setting.ZERO_SHOT: "Zero-shot",
    Setting.OWN_DOMAIN: "Own domain",
    Setting.UNSTATED: "Training data not stated",
    Setting.ADAPTED: "Domain adaptation",
}
MEANING = {
    Setting.ZERO_SHOT: "The model was trained on other data sets, and has seen nothing of this one.",
    Setting.OWN_DOMAIN: "The model was trained on other images of the same data set. Never ranked with zero-shot.",
    Setting.UNSTATED: "What the model was trained on is not known, so it may have seen this data set. Not ranked with "
    "zero-shot.",
    Setting.ADAPTED: "Published only. These methods see the target's images, without labels, while they learn: an "
    "easier task than zero-shot, and not comparable with it.",
}
ABSENT = {
    "keep": "answering with one of these is an error",
    "renormalise": "struck out beforehand, and the probabilities of the others renormalised",
}
PUBLISHED_NOTE = (
    "Published rows were not measured here: their split, crops and preprocessing may differ. Trust and source are the "
    "compiler's; the rows stand as they were found."
)


def benchmark_files(benchmark: Benchmark) -> dict[str, str]:
    """Write a benchmark three times: file name -> contents, the data last."""
    blocks = list(_blocks(benchmark))
    plots = [report.Section("WAR at a glance", _plot(benchmark.cells))] if benchmark.cells else []
    return {
        "benchmark.md": to_markdown(TITLE, blocks),
        "benchmark.html": to_html(TITLE, blocks, more=plots),
        "benchmark.json": to_json(benchmark.to_dict()),
    }


def _blocks(benchmark: Benchmark) -> Iterator[Block]:
    yield _models(benchmark)
    yield _data(benchmark)
    for setting, heading in SETTINGS.items():
        for title in benchmark.data:
            cells = [cell for cell in benchmark.cells if (cell.data, cell.setting) == (title, setting)]
            published = [row for row in benchmark.published[title] if row.setting == setting]
            if cells or published:
                yield _scores(f"{heading}: {title}", MEANING[setting], benchmark, cells, published)
        means = [mean for mean in benchmark.means if mean.setting == setting]
        if means:
            yield Block(
                f"{heading}: mean over data sets",
                (
                    f"Over the data sets that all these models were scored on: {', '.join(means[0].data)}. Splits and "
                    "other labels of the same photographs count as one data set.",
                ),
                [
                    {
                        "model": mean.model,
                        **{head: report.percent(mean.scores[name]) for name, head in HEADS.items()},
                        "mean rank": None if mean.mean_rank is None else f"{mean.mean_rank:.2f}",
                        "rank": mean.rank,
                    }
                    for mean in sorted(means, key=lambda mean: -mean.scores["war"])
                ],
            )
    if benchmark.comparisons:
        yield _comparisons(benchmark.comparisons)
    if any(cell.folds for cell in benchmark.cells):
        yield _folds(benchmark.cells)
    if benchmark.plan:
        yield _plan(benchmark)
    yield Block(
        "Skipped",
        () if benchmark.skipped else ("Nothing: every model was scored on every data set.",),
        [
            {"model": each.model or "every model", "data set": each.data or "every data set", "why": each.reason}
            for each in benchmark.skipped
        ],
    )


def _models(benchmark: Benchmark) -> Block:
    settings = benchmark.settings
    return Block(
        "Models",
        (
            f"motivnet {settings['version']}; intervals: 95 %, percentiles of {settings['num_resamples']:,} resamples "
            f"of images, or of whole subjects where there are any, seed {settings['seed']}; scores are in percent, and "
            "over the labels that model and data set share.",
        ),
        [
            {
                "model": model.name,
                "trained on": _trained_on(model),
                "labels": len(model.labels),
                "fingerprint": model.fingerprint,
            }
            for model in benchmark.models
        ],
    )


def _data(benchmark: Benchmark) -> Block:
    return Block(
        "Data sets",
        (),
        [
            {
                "data set": title,
                "images": about["n"],
                "subjects": about["subjects"],
                "labels": ", ".join(f"{label} {number:,}" for label, number in about["labels"].items()),
                "left out by the reader": _counted(about["dropped"]),
                "faces": "looked for" if about["detect"] else "as they are, or boxes of the data set",
                "fingerprint": about["fingerprint"],
            }
            for title, about in benchmark.data.items()
        ],
    )


def _scores(
    title: str, meaning: str, benchmark: Benchmark, cells: Sequence[Cell], published: Sequence[Published]
) -> Block:
    trained_on = {model.name: _trained_on(model) for model in benchmark.models}
    rows: list[tuple[float, Row]] = []
    for cell in cells:
        scores = {
            head: report.percent(cell.scores[name], cell.intervals.get(name)).replace(" %", "")
            for name, head in HEADS.items()
        }
        row = _row(cell.model, "measured here", trained_on[cell.model], scores, cell.rank, cell.caution)
        rows.append((cell.scores["war"], row))
    for each in published:
        method = f"{each.method} ({each.backbone})" if each.backbone else each.method
        scores = {"WAR": report.percent(each.war).replace(" %", "")}
        row = _row(method, f"published: {each.source}", each.trained_on, scores, None, each.trust)
        rows.append((each.war, row))
    rows.sort(key=lambda pair: -pair[0])
    notes = [_labels_note(cell) for cell in cells]
    return Block(title, (meaning,), [row for _, row in rows], (*notes, *([PUBLISHED_NOTE] if published else [])))


def _row(model: str, origin: str, trained_on: str, scores: dict[str, str], rank: int | None, trust: str | None) -> Row:
    return {
        "model": model,
        "trained on": trained_on,
        **{head: scores.get(head) for head in HEADS.values()},
        "rank": rank,
        "trust": trust,
        "origin": origin,
    }


def _trained_on(model: ModelInfo) -> str:
    if model.trained_on is None:
        return "not stated"
    return ", ".join(NAMES.get(name, name) for name in model.trained_on) or "none of the data sets"


def _labels_note(cell: Cell) -> str:
    parts = [f"{cell.model}: {cell.n:,} images, {len(cell.labels)} labels ({', '.join(cell.labels)})"]
    if cell.absent:
        parts.append(f"no image of {', '.join(cell.absent)}: {ABSENT[cell.restrict]}")
    if cell.protocol.dropped:
        parts.append(f"left out {_counted(cell.protocol.dropped)}")
    if cell.unanswered:
        parts.append(f"{cell.unanswered:,} without an answer, which count as errors")
    parts.append(f"face detection: {cell.protocol.detection}")
    return "; ".join(parts) + "."


def _comparisons(comparisons: Sequence[Comparison]) -> Block:
    return Block(
        "Models compared",
        (
            "Pairs of models in one setting, on the same images. The p-value is of both being right equally often: "
            "McNemar's test (mid-p), or, where images share subjects, the paired bootstrap of whole subjects. It is "
            "corrected for all pairs on all data sets (Holm).",
        ),
        [
            {
                "data set": each.data,
                "setting": str(each.setting),
                "models": f"{each.models[0]} less {each.models[1]}",
                "images": each.n,
                "right alone": f"{each.only_a:,} against {each.only_b:,}",
                "WAR, points": _difference(each.war),
                "UAR, points": _difference(each.uar),
                "test": each.test,
                "p": p_value(each.p_value),
                "p, corrected": p_value(each.p_holm),
            }
            for each in comparisons
        ],
    )


def _folds(cells: Sequence[Cell]) -> Block:
    def shown(found: Spread) -> str:
        return f"{100 * found.mean:.1f} \N{PLUS-MINUS SIGN} {100 * found.std:.1f}"

    return Block(
        "Folds by subject",
        (
            "Mean and sample standard deviation over folds that share no subject, in percent. The models were not "
            "trained on these folds: the spread is that of the subjects.",
        ),
        [
            {
                "data set": cell.data,
                "model": cell.model,
                "folds": cell.folds.num_folds,
                "subjects": cell.folds.num_subjects,
                **{HEADS[name]: shown(cell.folds.scores[name]) for name in METRICS},
            }
            for cell in cells
            if cell.folds
        ],
    )


def _plan(benchmark: Benchmark) -> Block:
    rows = []
    for train, test in benchmark.plan:
        wanted = {domain(name) for name in train}
        fitting = [model.name for model in benchmark.models if set(model.trained_on or ()) == wanted]
        rows.append({"train on": ", ".join(train), "test on": test, "models trained so": ", ".join(fitting) or "none"})
    return Block(
        "Leave one data set out",
        ("What a model has to be trained on for a zero-shot score on each data set that uses all the others.",),
        rows,
    )


def _plot(cells: Sequence[Cell]) -> str:
    """Draw the WAR of every cell with its interval."""
    with report.new_figure(height=max(1.6, 0.28 * len(cells) + 0.9)) as drawn:
        _draw(drawn, cells)
        alt = "; ".join(f"{cell.model} on {cell.data}: {report.percent(cell.scores['war'])}" for cell in cells)
        return report.figure(drawn, f"WAR with 95 % intervals. {alt}")


def _draw(drawn: "Figure", cells: Sequence[Cell]) -> None:
    axes = drawn.subplots()
    colors: dict[Setting, str] = dict(
        zip((Setting.ZERO_SHOT, Setting.OWN_DOMAIN, Setting.UNSTATED), report.COLORS, strict=True)
    )
    for place, cell in enumerate(cells):
        value, (low, high) = cell.scores["war"], cell.intervals["war"]
        color = colors[cell.setting]
        if not math.isnan(low):
            axes.plot([100 * low, 100 * high], [place, place], color=color, linewidth=2)
        axes.plot(100 * value, place, "o", color=color)
    for setting, color in colors.items():
        if any(cell.setting == setting for cell in cells):
            axes.plot([], [], "o", color=color, label=str(setting))
    axes.set_yticks(range(len(cells)), [f"{cell.data}: {cell.model}" for cell in cells])
    axes.invert_yaxis()
    axes.set_xlabel("WAR in percent")
    axes.legend(loc="best")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} ({reason})" for reason, number in counts.items()) or "nothing"


def _difference(found: Difference) -> str:
    return points(found.value, found.interval.low, found.interval.high)
