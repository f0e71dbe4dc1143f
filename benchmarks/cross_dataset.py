"""How do models trained here do on each other's data, beside published results? And: the longer pair.

    python benchmarks/cross_dataset.py fer2013.parquet [--faces faces/] --model nano [--model runs/nano-before]
        [--model runs/mini/bundle] [--target jaffe:/data/jaffe] [--target ckplus:/data/CK+]
        [--target rafdb:/data/RAF-DB@test] [--out runs/cross]
    python benchmarks/cross_dataset.py fer2013.parquet [--faces faces/] --pair --encoder runs/mae/bundle [--seeds 3]
        [--epochs 15] [--out runs/cross]

The table is that of `motivnet benchmark`, with what others published, and with the adaptation rivals of
`results/adaptation.json` where these were run (with the epoch chosen on held-out source faces). Models are bundles,
released files and `nano`; predictions are kept, so that a model or data set more costs itself alone.

`--pair` trains `mini` from random and from pre-trained weights for 15 epochs, and scores PrivateTest and the
development faces: how far do random weights catch up? Finished runs are kept.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from answers import (
    BOTH,
    DEVELOPMENT,
    Runs,
    both_sets,
    corrected,
    differences,
    finished,
    members,
    minutes_since,
    read,
    resumable,
    score_rows,
    told,
    verdict,
    write_answer,
)
from nano import development_faces
from tables import RESULTS, fill_block, markdown_table, use_cores

from motivnet.config import override, to_json
from motivnet.data.manifest import write_manifest
from motivnet.experiments.ablation import PLAN_NAME, ablate
from motivnet.experiments.benchmark import Benchmark, run_benchmark
from motivnet.experiments.grids import BASE_RECIPE, Cell, Grid
from motivnet.training.recipes import recipe

PAGE = Path(__file__).parent / "cross_dataset" / "README.md"

# What a setting does not tell: training has not seen these faces, the choice between models has.
CHOSEN_ON = "nano was chosen and calibrated on the development faces: its score there is too good for zero-shot."


def main() -> None:
    """Make the table, or train the pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--faces", type=Path, help="folder of dev.parquet")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--target", action="append", default=[], metavar="[NAME=]KIND:PATH[@SPLIT]")
    parser.add_argument("--pair", action="store_true", help="train random against pre-trained weights")
    parser.add_argument("--encoder", type=Path, help="of --pair: bundle of `motivnet pretrain`")
    parser.add_argument("--seeds", type=int, default=3, help="of --pair")
    parser.add_argument("--epochs", type=int, default=15, help="of --pair")
    parser.add_argument("--out", type=Path, default=Path("runs/cross"))
    options = parser.parse_args()
    torch.set_num_threads(use_cores(1))
    if options.pair:
        longer_pair(options)
    else:
        cross(options)


def cross(options: argparse.Namespace) -> None:
    """Score every model on every data set, and write the page."""
    began, data = time.process_time(), [f"fer2013:{options.data}@PrivateTest", *options.target]
    if options.faces:
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / "development.parquet"
        write_manifest(development_faces(options.faces / "dev.parquet"), file)
        data.append(f"{DEVELOPMENT}=manifest:{file}")
    found = run_benchmark(options.model or ["nano"], data, options.out / "table", overwrite=True, say=print)
    text = (options.out / "table" / "benchmark.md").read_text(encoding="utf-8").partition("\n")[2]
    for place in sorted(
        {str(options.out), str(options.data.parent), *map(str, filter(None, [options.faces]))}, key=len
    ):
        text = text.replace(f"{place}/", "")
    fill_block(PAGE, "cross", f"{text.strip()}\n\n## Adaptation\n\n{rivals()}")
    write_answer(
        "cross_dataset",
        sentence(found),
        [
            f"{each.model} on {each.data} ({each.setting}): WAR {shown(each, 'war')}, UAR {shown(each, 'uar')}"
            for each in found.cells
        ],
        n=", ".join(f"{cell.n:,} of {cell.data}" for cell in {cell.data: cell for cell in found.cells}.values()),
        seeds=1,
        minutes=minutes_since(began),
    )


def sentence(found: Benchmark) -> str:
    """Say which model is best on each data set."""
    best = {}
    for cell in found.cells:
        if cell.data not in best or cell.scores["war"] > best[cell.data].scores["war"]:
            best[cell.data] = cell
    parts = [
        f"on {name}, {cell.model} ({100 * cell.scores['war']:.1f} % WAR, {cell.setting})" for name, cell in best.items()
    ]
    return f"Best of {len(found.models)} model(s): {'; '.join(parts)}. {CHOSEN_ON} Published rows are on its page."


def shown(cell: Any, score: str) -> str:
    low, high = cell.intervals[score]
    return f"{100 * cell.scores[score]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def rivals() -> str:
    """Return the table of the adaptation methods, as far as they were run."""
    file = RESULTS / "adaptation.json"
    if not file.is_file():
        return "Not run yet."
    rows = []
    for target, found in read(file)["targets"].items():
        for method in found["methods"]:
            scores = {
                name.upper(): f"{100 * sum(values) / len(values):.1f}"
                for name, values in method["source"].items()
                if name in ("war", "uar")
            }
            rows.append({"target": target, "method": method["method"], "runs": len(method["source"]["war"]), **scores})
    return markdown_table(rows) if rows else "Not run yet."


def longer_pair(options: argparse.Namespace) -> None:
    """Train from random and from pre-trained weights, and compare."""
    manifest = both_sets(options.data, options.faces)
    starts = {"random": "null", "pre-trained": to_json(str(options.encoder))}
    settings = [f"run.epochs={options.epochs}", "run.precision=bf16-mixed"]
    grid = Grid(
        name="longer-pair",
        question=f"How far do random weights catch up with pre-trained ones in {options.epochs} epochs?",
        recipe=override(recipe(BASE_RECIPE), settings),
        cells={name: Cell(settings=(f"backbone.weights={weights}",)) for name, weights in starts.items()},
        comparisons=(("pre-trained", "random"),),
        report_split=BOTH,
    )
    out, shared = options.out / "pair", {"data": "fer2013 and development faces", "seeds": options.seeds}
    resumable(ablate, grid, manifest, out=out, plan=PLAN_NAME, **shared)
    found, sizes, seconds = [], {}, 0.0
    folders = {name: [out / "runs" / f"{name}-{seed}" for seed in range(options.seeds)] for name in starts}
    if not all(map(finished, folders.values())):
        print("not everything is finished")
        return
    for title, rows in members(manifest).items():
        runs = {name: Runs(each, rows) for name, each in folders.items()}
        print(f"\n{title}\n\n{markdown_table(score_rows(runs))}")
        pairs = {("pre-trained", "random"): (runs["pre-trained"], runs["random"])}
        found += [{"set": title, **each} for each in differences(pairs)]
        sizes[title], seconds = runs["random"].labels.size, sum(each.seconds for each in runs.values())
    war = [each for each in corrected(found) if each["score"] == "war"]
    answer = f"After {options.epochs} epochs: " + "; ".join(f"{verdict(each)} on {each['set']}" for each in war) + "."
    n = ", ".join(f"{size:,} of {title}" for title, size in sizes.items())
    effects = [f"{each['set']}: {told(each)}" for each in found]
    write_answer("longer_pair", answer, effects, n=n, seeds=options.seeds, minutes=seconds / 60, differences=found)


if __name__ == "__main__":
    main()
