"""Gather the evidence about a model on FER-2013, by the commands that anybody would run, into `benchmarks/evidence/`.

Only figures are kept: metrics, the audit, the benchmark; neither images nor answers to single images.

    python benchmarks/evidence.py path/to/fer2013.parquet [--model nano]
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tables import markdown_table

EVIDENCE = Path(__file__).parent / "evidence"
RUN_CLI = "from motivnet.cli.main import main; main()"
FER2013, FERPLUS = "fer2013:{data}", "fer2013:{data}?labels=ferplus"
# Name -> the arguments of `motivnet evaluate`.
EVALUATIONS = {
    "PrivateTest": ("--data", FER2013, "--split", "PrivateTest"),
    "PrivateTest, unseen in Training": ("--data", FER2013, "--split", "PrivateTest", "--unseen-in", "Training"),
    "PublicTest (the epoch and the calibration were chosen on it)": ("--data", FER2013, "--split", "PublicTest"),
    "PublicTest, unseen in Training": ("--data", FER2013, "--split", "PublicTest", "--unseen-in", "Training"),
    "PrivateTest, FERPlus labels": ("--data", FERPLUS, "--split", "PrivateTest"),
    "PublicTest, FERPlus labels": ("--data", FERPLUS, "--split", "PublicTest"),
    "PrivateTest, faces looked for": ("--data", FER2013, "--split", "PrivateTest", "--detect"),
}
AUDIT = ("--data", FER2013, "--split", "PrivateTest", "--by", "duplicate", "--by", "agreement")
BENCHMARK = ("--data", f"{FER2013}@PrivateTest", "--data", f"{FER2013}@PublicTest")
COLUMNS = {
    "war": "WAR %",
    "uar": "UAR %",
    "top2": "Top-2 %",
    "f1_macro": "F1 %",
    "auroc_macro": "AUROC %",
    "ece": "ECE %",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nano")
    options = parser.parse_args()
    EVIDENCE.mkdir(exist_ok=True)
    rows, commands = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in EVALUATIONS.items():
            out = Path(folder) / str(len(rows))
            commands.append(run("evaluate", options, arguments, out))
            metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
            rows.append({"measured on": name, "images": metrics["n"], **cells(metrics)})
            file = name.partition(" (")[0].replace(", ", "-").replace(" ", "-").lower()
            shutil.copyfile(out / "metrics.json", EVIDENCE / f"{file}.json")
        for verb, arguments in (("audit", AUDIT), ("benchmark", BENCHMARK)):
            out = Path(folder) / verb
            commands.append(run(verb, options, arguments, out))
            for suffix in ("md", "json"):
                shutil.copyfile(out / f"{verb}.{suffix}", EVIDENCE / f"{verb}.{suffix}")
    page = "\n".join(
        [
            f"# What is known of {options.model}",
            "",
            "Written by `python benchmarks/evidence.py`; do not edit. With 95 % intervals of 1,000 resamples.",
            "",
            markdown_table(rows),
            "",
            "By these commands, and nothing else:",
            "",
            "```sh",
            *commands,
            "```",
            "",
            "See also [audit.md](audit.md) and [benchmark.md](benchmark.md).",
            "",
        ]
    )
    (EVIDENCE / "README.md").write_text(page, encoding="utf-8")
    print(page)


def run(verb: str, options: argparse.Namespace, arguments: tuple[str, ...], out: Path) -> str:
    """Run a verb from the data's folder, so that reports name the file alone; give the command as one would type it."""
    filled = [argument.format(data=options.data.name) for argument in arguments]
    command = [verb, "--model", options.model, *filled, "--out"]
    extra = ["--no-thumbnails"] if verb == "evaluate" else []
    subprocess.run(
        [sys.executable, "-c", RUN_CLI, *command, str(out), *extra], check=True, cwd=options.data.resolve().parent
    )
    return f"motivnet {shlex.join(command)} DIR"


def cells(metrics: dict[str, Any]) -> dict[str, str]:
    """Lay out an evaluation's headlines, in percent."""
    row = {}
    for name, title in COLUMNS.items():
        interval = metrics["intervals"].get(name)
        spread = " [{:.1f}, {:.1f}]".format(*(100 * value for value in interval)) if interval else ""
        row[title] = f"{100 * metrics[name]:.1f}{spread}"
    return row


if __name__ == "__main__":
    main()
