"""An ablation as a table with tests: `report.md`, `report.json`, `report.png` and `report.svg`.

It is made of the runs' result files alone, and the same files give the same report.

Shape suffixes: B images, S seeds.
"""

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from motivnet import config
from motivnet.errors import DataError
from motivnet.evaluation.resampling import holm
from motivnet.experiments.ablation import PREDICTIONS_NAME, Plan, Result, read_plan, read_result, run_folder, runs_of
from motivnet.experiments.ablation import RESULT_NAME as DONE
from motivnet.experiments.contrasts import METRICS, Contrast, contrast
from motivnet.experiments.protocols import spread
from motivnet.labels import EMOTIONS
from motivnet.report import page as report
from motivnet.report.tables import Block, Row, p_value, points, to_json, to_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("report.md", "report.png", "report.svg", "report.json")
HEADS = {"war": "WAR", "uar": "UAR", "f1_macro": "F1", "minority_recall": "Recall of {rarest}"}
ASSUMES = (
    "Cell and reference are compared seed by seed (the same subset of labels, order and augmentation) on the same "
    "images. The interval and the p-value of the mean difference take both sources of chance together: which images "
    "are tested (a bootstrap over images) and which seeds are drawn (the variance of the seeds' differences), by "
    "Student's t with Satterthwaite's degrees of freedom. Assumed: images are independent of each other, seeds are, "
    "and a seed's difference is about normally distributed, which so few seeds cannot show. Nothing is said of other "
    "data, other models, or longer training.",
    "p (Holm) is corrected for all tests of this table together: of all rows with a p below 0.05, the chance that any "
    "is a false alarm is at most 5 %. A p above it does not show that two cells are equal.",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What an ablation found.

    Args:
        plan: what was run.
        results: cell -> its runs that are done, by seed.
        contrasts: (cell, reference) -> score -> what was found; only those with two seeds in common.
        corrected: (cell, reference, score) -> p-value after Holm's correction.
        num_images: of the reported split.
    """

    plan: Plan
    results: Mapping[str, tuple[Result, ...]]
    contrasts: Mapping[tuple[str, str], Mapping[str, Contrast]]
    corrected: Mapping[tuple[str, str, str], float]
    num_images: int

    def finished(self, cell: str) -> list[Result]:
        """Give the runs of a cell that left a model."""
        return [result for result in self.results[cell] if result.status == "finished"]

    def scores(self, cell: str, metric: str) -> list[float]:
        """Give a score of each finished run of a cell."""
        return [result.scores[metric] for result in self.finished(cell)]

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain data."""
        plain = config.to_plain(self.plan)
        grid = plain.pop("grid")
        recipes = {cell["name"]: cell for cell in grid["cells"]}
        varied = self.plan.grid.varied()
        return {
            "ablation": grid["name"],
            "question": grid["question"],
            **plain,
            "num_images": self.num_images,
            "cells": [
                {
                    "name": cell,
                    "label_share": recipes[cell]["label_share"],
                    "settings": {name: _at(recipes[cell]["recipe"], name) for name in varied},
                    "runs": [config.to_plain(result) for result in results],
                    "scores": {metric: _spread(self.scores(cell, metric)) for metric in HEADS if self.finished(cell)},
                }
                for cell, results in self.results.items()
            ],
            "comparisons": [
                {
                    "cell": cell,
                    "reference": reference,
                    "metric": metric,
                    **found._asdict(),
                    "p_holm": self.corrected[cell, reference, metric],
                }
                for (cell, reference), by_metric in self.contrasts.items()
                for metric, found in by_metric.items()
            ],
            "recipe": _without(recipes[next(iter(recipes))]["recipe"], varied),
        }


def summarise(out: Path, *, num_resamples: int = 2000) -> Summary:
    """Read the results of an ablation, complete or not, and test its comparisons.

    Raises:
        ConfigError: if `out` holds no ablation, or a file of it is damaged.
        DataError: if no run is done yet, or two runs were tested on different images.
    """
    plan = read_plan(out)
    folders = [run_folder(out, cell.name, seed) for cell, seed in runs_of(plan)]
    results: dict[str, list[Result]] = {cell.name: [] for cell in plan.grid.cells}
    for folder in folders:
        if (folder / DONE).is_file():
            result = read_result(folder)
            results[result.cell].append(result)
    if not any(results.values()):
        raise DataError(f"{out}: no run is done yet")
    answers = _Answers(out)
    correct = {
        (cell, result.seed): answers.correct(cell, result.seed)
        for cell, found in results.items()
        for result in found
        if result.status == "finished"
    }
    contrasts: dict[tuple[str, str], dict[str, Contrast]] = {}
    for cell, reference in plan.grid.comparisons:
        seeds = [seed for seed in range(plan.seeds) if (cell, seed) in correct and (reference, seed) in correct]
        if len(seeds) >= 2:
            contrasts[cell, reference] = contrast(
                np.stack([correct[cell, seed] for seed in seeds]),
                np.stack([correct[reference, seed] for seed in seeds]),
                answers.target_B,
                rarest=EMOTIONS.names.index(plan.rarest),
                num_resamples=num_resamples,
            )
    keys = [(*pair, metric) for pair, found in contrasts.items() for metric in found]
    adjusted = holm([contrasts[cell, reference][metric].p_value for cell, reference, metric in keys])
    return Summary(
        plan=plan,
        results={cell: tuple(found) for cell, found in results.items()},
        contrasts=contrasts,
        corrected=dict(zip(keys, adjusted.tolist(), strict=True)),
        num_images=len(answers.target_B),
    )


def write_report(summary: Summary, folder: Path) -> None:
    """Write the report's files into a folder that exists."""
    (folder / "report.md").write_text(to_markdown(_title(summary), list(_blocks(summary))), encoding="utf-8")
    with report.new_figure(width=9.0, height=0.9 + 0.3 * len(summary.results)) as drawn:
        _draw(drawn, summary)
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
            drawn.savefig(buffer, format=kind, dpi=150, facecolor="white", metadata=metadata)
            (folder / f"report.{kind}").write_bytes(buffer.getvalue())
    (folder / "report.json").write_text(to_json(summary.to_dict()), encoding="utf-8")


def headline(summary: Summary) -> str:
    """Give the table of means alone, as Markdown."""
    return to_markdown(_title(summary), [next(_blocks(summary))]).rstrip()


class _Answers:
    """The answers of all runs to one set of images."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._rows: pa.Table | None = None
        self.target_B = np.zeros(0, np.int64)

    def correct(self, cell: str, seed: int) -> np.ndarray:
        """Read whether each image was classified rightly, bool (B,)."""
        file = run_folder(self._out, cell, seed) / PREDICTIONS_NAME
        try:
            table = pq.read_table(file, columns=["row", "label", "pred"])
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{file}: cannot be read as Parquet: {error}") from None
        rows = table.select(["row", "label"]).replace_schema_metadata(None)
        if self._rows is None:
            self._rows = rows
            self.target_B = np.array([EMOTIONS.names.index(label) for label in rows["label"].to_pylist()])
        elif not rows.equals(self._rows):
            raise DataError(f"{file}: answers to other images than those of the runs before")
        return np.array(table["label"].to_pylist()) == np.array(table["pred"].to_pylist(), dtype=object)


def _title(summary: Summary) -> str:
    return f"Ablation: {summary.plan.grid.name}"


def _blocks(summary: Summary) -> Iterator[Block]:
    plan = summary.plan
    missing = plan.seeds * len(plan.grid.cells) - sum(map(len, summary.results.values()))
    unfinished = (f"Not complete: {missing} runs are not done.",) if missing else ()
    yield Block(
        plan.grid.question,
        (
            f"{plan.data}: scores on {plan.report_split} ({summary.num_images:,} images) in percent, mean and sample "
            f"standard deviation over {plan.seeds} seeds. Nothing was selected on this split. The rarest class of the "
            f"training rows is {plan.rarest}.",
            *unfinished,
        ),
        [_row(summary, cell) for cell in summary.results],
        tuple(_failures(summary)),
    )
    if summary.contrasts:
        yield Block("Comparisons", ("Percentage points, with 95 % intervals.",), list(_comparisons(summary)), ASSUMES)
    first = plan.grid.cells[0].recipe
    yield Block(
        "What was run",
        (
            f"All cells differ from each other in {', '.join(plan.grid.varied()) or 'no setting'}"
            f"{' and in the share of the labels' if len({cell.label_share for cell in plan.grid.cells}) > 1 else ''}; "
            f"all else is the recipe in report.json: {first.name}, {first.run.epochs} epochs of batches of "
            f"{first.run.batch_size * first.run.accumulate}.",
            "An epoch is as many images as the cell with the largest share of the labels may learn from, in every "
            "cell: fewer rows are gone through more often, so that all cells take equally many optimizer steps.",
        ),
    )


def _row(summary: Summary, cell: str) -> Row:
    finished = summary.finished(cell)
    rows = sorted({result.rows["distinct"] for result in finished})
    columns: dict[str, object] = {
        "Cell": cell,
        "Training rows": " to ".join(f"{count:,}" for count in dict.fromkeys((rows[0], rows[-1]))) if rows else None,
        "Runs": len(finished),
    }
    for metric, head in HEADS.items():
        values = [100 * score for score in summary.scores(cell, metric)]
        shown = None
        if len(values) == 1:
            shown = f"{values[0]:.1f}"
        elif values:
            over = spread(values)
            shown = f"{over.mean:.1f} ± {over.std:.1f}"
        columns[head.format(rarest=summary.plan.rarest)] = shown
    return columns


def _failures(summary: Summary) -> Iterator[str]:
    for results in summary.results.values():
        for result in results:
            if result.status == "failed":
                yield f"Failed: {result.cell}, seed {result.seed}: {result.reason}"


def _comparisons(summary: Summary) -> Iterator[Row]:
    for (cell, reference), by_metric in summary.contrasts.items():
        for metric, found in by_metric.items():
            same = sum(np.sign(value) == np.sign(found.value) for value in found.per_seed)
            yield {
                "Cell": cell,
                "Reference": reference,
                "Score": HEADS[metric].format(rarest=summary.plan.rarest),
                "Difference": points(found.value, *found.interval),
                "Seeds that agree": f"{same} of {len(found.per_seed)}",
                "p": p_value(found.p_value),
                "p (Holm)": p_value(summary.corrected[cell, reference, metric]),
            }


def _draw(drawn: "Figure", summary: Summary) -> None:
    """Draw each run as a point and each cell's mean as a bar, one panel a score."""
    panels = drawn.subplots(1, len(METRICS), sharey=True)
    references = {reference for _, reference in summary.plan.grid.comparisons}
    for axes, metric in zip(panels, METRICS, strict=True):
        for place, cell in enumerate(summary.results):
            values = [100 * score for score in summary.scores(cell, metric)]
            color = report.COLORS[1] if cell in references else report.COLORS[0]
            if values:
                mean = float(np.mean(values))
                axes.plot([mean, mean], [place - 0.33, place + 0.33], color=color, linewidth=2.5)
                axes.plot(values, [place] * len(values), "o", color=color, markersize=4, alpha=0.7)
        # At least two points wide: what hardly differs should look like it.
        middle, half = sum(axes.get_xlim()) / 2, max(1.0, np.ptp(axes.get_xlim()) / 2)
        axes.set_xlim(middle - half, middle + half)
        axes.set_xlabel(f"{HEADS[metric].format(rarest=summary.plan.rarest)} in percent")
    panels[0].set_yticks(range(len(summary.results)), list(summary.results))
    panels[0].set_ylim(len(summary.results) - 0.5, -0.5)
    drawn.suptitle("points: runs; bars: means; orange: references", fontsize=8, color="#61707f")


def _spread(values: Sequence[float]) -> dict[str, Any]:
    over = spread(values) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": over.std if over else None, "runs": list(values)}


def _at(plain: Any, name: str) -> Any:
    for key in name.split("."):
        plain = plain.get(key) if isinstance(plain, dict) else None
    return plain


def _without(plain: dict[str, Any], names: Sequence[str], where: str = "") -> dict[str, Any]:
    """Leave out the settings that are named with dots."""
    return {
        key: _without(item, names, f"{where}{key}.") if isinstance(item, dict) else item
        for key, item in plain.items()
        if f"{where}{key}" not in names
    }
