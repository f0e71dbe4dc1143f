"""An ablation as a table with paired tests: `report.md`, `report.json`, `report.png` and `report.svg`.

Reports are plain data, as `experiments.ablation.summarise` returns them; the same data give the same files.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motivnet.report.page import COLORS, PROSE, Block, new_figure, p_value, points, to_json, to_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("report.md", "report.png", "report.svg", "report.json")
HEADS = {"war": "WAR", "uar": "UAR", "f1_macro": "F1", "minority_recall": "Recall of {rarest}"}
PANELS = ("war", "uar", "minority_recall")


def write_files(report: Mapping[str, Any], folder: Path) -> None:
    """Write the report's files into a folder that exists."""
    text = to_markdown(f"Ablation: {report['ablation']}", list(_blocks(report)))
    (folder / "report.md").write_text(text, encoding="utf-8")
    with new_figure(width=9.0, height=0.9 + 0.3 * len(report["cells"])) as drawn:
        _draw(drawn, report)
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            drawn.savefig(folder / f"report.{kind}", dpi=150, facecolor="white", metadata=metadata)
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")


def headline(report: Mapping[str, Any]) -> str:
    """Return the table of means alone, as Markdown."""
    return to_markdown(f"Ablation: {report['ablation']}", [next(_blocks(report))]).rstrip()


def _blocks(report: Mapping[str, Any]) -> Iterator[Block]:
    cells, run = report["cells"], report["recipe"]["run"]
    missing = report["seeds"] * len(cells) - sum(len(cell["runs"]) for cell in cells)
    yield Block(
        report["question"],
        (
            f"{report['data']}: scores on {report['report_split']} ({report['num_images']:,} images) in percent, mean "
            f"and sample standard deviation over {report['seeds']} seeds. Nothing was selected on this split. The "
            f"rarest class of the training rows is {report['rarest']}.",
            *([f"Not complete: {missing} runs are missing."] if missing else []),
        ),
        [_row(report, cell) for cell in cells],
        tuple(
            f"Failed: {result['cell']}, seed {result['seed']}: {result['reason']}"
            for cell in cells
            for result in cell["runs"]
            if result["status"] == "failed"
        ),
    )
    if report["comparisons"]:
        rows = [_comparison(report, found) for found in report["comparisons"]]
        assumptions = tuple(PROSE["ablation"]["assumptions"])
        yield Block("Pairwise comparisons", ("Percentage points, with 95 % intervals.",), rows, assumptions)
    shares = " and in the share of the labels" if len({cell["label_share"] for cell in cells}) > 1 else ""
    yield Block(
        "Setup",
        (
            f"The cells differ in {', '.join(cells[0]['settings']) or 'no setting'}{shares}; the rest of the recipe is "
            f"in report.json: {report['recipe']['name']}, {run['epochs']} epochs of batches of "
            f"{run['batch_size'] * run['accumulate']}.",
            PROSE["ablation"]["epoch"],
        ),
    )


def _row(report: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, object]:
    finished = [run["rows"]["distinct"] for run in cell["runs"] if run["rows"]]
    counts = " to ".join(f"{count:,}" for count in sorted({min(finished), max(finished)})) if finished else None
    row: dict[str, object] = {"Cell": cell["name"], "Training rows": counts, "Runs": len(finished)}
    for metric, head in HEADS.items():
        over = cell["scores"].get(metric)
        std = "" if over is None or over["std"] is None else f" ± {100 * over['std']:.1f}"
        row[head.format(rarest=report["rarest"])] = over and f"{100 * over['mean']:.1f}{std}"
    chosen = [run["selected"] for run in cell["runs"] if run["selected"]]
    return row | {name: ", ".join(f"{run[name]:g}" for run in chosen) for name in report["sweep"]}


def _comparison(report: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, object]:
    agreeing = np.sum(np.sign(found["per_seed"]) == np.sign(found["value"]))
    return {
        "Cell": found["cell"],
        "Reference": found["reference"],
        "Score": HEADS[found["metric"]].format(rarest=report["rarest"]),
        "Difference": points(found["value"], *found["interval"]),
        "Seeds that agree": f"{agreeing} of {len(found['per_seed'])}",
        "p": p_value(found["p_value"]),
        "p (Holm)": p_value(found["p_holm"]),
    }


def _draw(drawn: "Figure", report: Mapping[str, Any]) -> None:
    """Draw each run as a point and each cell's mean as a bar, one panel per score."""
    panels = drawn.subplots(1, len(PANELS), sharey=True)
    references = {found["reference"] for found in report["comparisons"]}
    names = [cell["name"] for cell in report["cells"]]
    for axes, metric in zip(panels, PANELS, strict=True):
        for place, cell in enumerate(report["cells"]):
            values = [100 * score for score in cell["scores"].get(metric, {"runs": []})["runs"]]
            color = COLORS[1] if cell["name"] in references else COLORS[0]
            if values:
                axes.plot([np.mean(values)] * 2, [place - 0.33, place + 0.33], color=color, linewidth=2.5)
                axes.plot(values, [place] * len(values), "o", color=color, markersize=4, alpha=0.7)
        # At least two points wide, so that small differences look small.
        middle, half = sum(axes.get_xlim()) / 2, max(1.0, np.ptp(axes.get_xlim()) / 2)
        axes.set_xlim(middle - half, middle + half)
        axes.set_xlabel(f"{HEADS[metric].format(rarest=report['rarest'])} in percent")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    drawn.suptitle("points: runs; bars: means; orange: references", fontsize=8, color="#61707f")
