"""Gather the evidence about a model on FER-2013, by the commands that anybody would run, into `benchmarks/evidence/`.

Only figures are kept: metrics, the audit, the benchmark; neither images nor answers to single images.

    python benchmarks/evidence.py path/to/fer2013.parquet [--faces faces/] [--model nano]

`faces/` has `dev.parquet`, the development faces of `benchmarks/nano.py`.
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

from motivnet.data.manifest import write_manifest
from motivnet.report.page import points

EVIDENCE = Path(__file__).parent / "evidence"
FACES = "dev.parquet"
FACES_NOTE = (
    f"`{FACES}` is the manifest that `development_faces` of `benchmarks/nano.py` makes of the file of that name."
)
RUN_CLI = "from motivnet.cli.main import main; main()"
FER2013, FERPLUS, MAJORITY = "fer2013:{data}", "fer2013:{data}?labels=ferplus", "fer2013:{data}?labels=majority"
# Name -> the arguments of `motivnet evaluate`.
EVALUATIONS = {
    "PrivateTest": ("--data", FER2013, "--split", "PrivateTest"),
    "PrivateTest, unseen in Training": ("--data", FER2013, "--split", "PrivateTest", "--unseen-in", "Training"),
    "PublicTest (the epoch and the calibration were chosen on it)": ("--data", FER2013, "--split", "PublicTest"),
    "PublicTest, unseen in Training": ("--data", FER2013, "--split", "PublicTest", "--unseen-in", "Training"),
    "PrivateTest, FERPlus labels": ("--data", FERPLUS, "--split", "PrivateTest"),
    "PublicTest, FERPlus labels": ("--data", FERPLUS, "--split", "PublicTest"),
    "PrivateTest, FERPlus majority": ("--data", MAJORITY, "--split", "PrivateTest"),
    "PublicTest, FERPlus majority (the model was chosen on it)": (
        "--data",
        MAJORITY,
        "--split",
        "PublicTest",
        "--degrade",
    ),
    "PrivateTest, faces looked for": ("--data", FER2013, "--split", "PrivateTest", "--detect"),
}
DEVELOPMENT = {"development faces (the model was chosen on them)": ("--data", "manifest:{data}", "--degrade")}
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
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--model", default="nano")
    options = parser.parse_args()
    EVIDENCE.mkdir(exist_ok=True)
    rows, lost, commands = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        evaluations = [(name, options.data, arguments) for name, arguments in EVALUATIONS.items()]
        if options.faces:
            faces = development_manifest(options.faces, Path(folder))
            evaluations += [(name, faces, arguments) for name, arguments in DEVELOPMENT.items()]
        for name, data, arguments in evaluations:
            out = Path(folder) / str(len(rows))
            commands.append(run("evaluate", options.model, data, arguments, out))
            metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
            rows.append({"measured on": name, "images": metrics["n"], **cells(metrics)})
            lost += losses(name.partition(" (")[0], metrics)
            file = name.partition(" (")[0].replace(", ", "-").replace(" ", "-").lower()
            shutil.copyfile(out / "metrics.json", EVIDENCE / f"{file}.json")
        for verb, arguments in (("audit", AUDIT), ("benchmark", BENCHMARK)):
            out = Path(folder) / verb
            commands.append(run(verb, options.model, options.data, arguments, out))
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
            "What degradations of the same faces cost, in points, with paired intervals:",
            "",
            markdown_table(lost),
            "",
            *([FACES_NOTE, ""] if options.faces else []),
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


def development_manifest(faces: Path, folder: Path) -> Path:
    """Write the development faces as a manifest, which `motivnet evaluate` reads."""
    from nano import development_faces  # needs torch

    write_manifest(development_faces(faces / FACES), folder / FACES)
    return folder / FACES


def run(verb: str, model: str, data: Path, arguments: tuple[str, ...], out: Path) -> str:
    """Run a verb from the data's folder, so that reports name the file alone; give the command as one would type it."""
    filled = [argument.format(data=data.name) for argument in arguments]
    command = [verb, "--model", model, *filled, "--out"]
    extra = ["--no-thumbnails"] if verb == "evaluate" else []
    subprocess.run([sys.executable, "-c", RUN_CLI, *command, str(out), *extra], check=True, cwd=data.resolve().parent)
    return f"motivnet {shlex.join(command)} DIR"


def cells(metrics: dict[str, Any]) -> dict[str, str]:
    """Lay out an evaluation's headlines, in percent."""
    row = {}
    for name, title in COLUMNS.items():
        interval = metrics["intervals"].get(name)
        spread = " [{:.1f}, {:.1f}]".format(*(100 * value for value in interval)) if interval else ""
        row[title] = f"{100 * metrics[name]:.1f}{spread}"
    return row


def losses(name: str, metrics: dict[str, Any]) -> list[dict[str, str]]:
    """Lay out what each degradation costs, in points; nothing where none was measured."""
    rows = []
    for degradation, found in metrics.get("robustness", {}).items():
        row = {"measured on": name, "degradation": degradation}
        for score in ("war", "uar"):
            loss = f"{score}_loss"
            row[COLUMNS[score]] = f"{100 * found[score]:.1f}"
            row[f"{score.upper()} loss"] = points(found[loss], *found["intervals"][loss])
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
