"""Write the scores that the embedded model's bundle states into the README, between its two markers.

With `--check` nothing is written, and the exit code is 1 if the README says something else.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from motivnet.checkpoints.bundle import open_bundle

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(?<=<!-- scores:begin -->\n).*?(?=<!-- scores:end -->)", re.DOTALL)
# Metrics that the bundle keeps as shares from 0 to 1, and how people call them.
SHARES = {"war": "WAR %", "uar": "UAR %", "top2": "Top-2 %", "f1_macro": "F1 % (macro)", "ece": "ECE %"}


def main() -> int:
    readme = README.read_text(encoding="utf-8")
    if not BLOCK.search(readme):
        raise SystemExit(f"{README}: no block between <!-- scores:begin --> and <!-- scores:end -->")
    rendered = render_readme(readme, open_bundle("nano").config.scores)
    if "--check" in sys.argv[1:]:
        return int(rendered != readme)
    README.write_text(rendered, encoding="utf-8")
    return 0


def render_readme(readme: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    """Replace the block between the markers."""
    return BLOCK.sub(lambda _: score_table(scores) + "\n", readme)


def score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Lay out data set and split -> metric -> value as a Markdown table, one row a split."""
    if not scores:
        return "Not measured yet."
    metrics = list(dict.fromkeys(metric for row in scores.values() for metric in row))
    lines = ["| measured on | " + " | ".join(SHARES.get(metric, metric) for metric in metrics) + " |"]
    lines.append("|---" * (len(metrics) + 1) + "|")
    for split, row in scores.items():
        cells = (_cell(metric, row[metric]) if metric in row else "" for metric in metrics)
        lines.append(f"| {split} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(metric: str, value: float) -> str:
    if metric not in SHARES:
        return f"{value:g}"
    if not 0 <= value <= 1:
        raise SystemExit(f"{metric} is {value}: expected a share from 0 to 1")
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
