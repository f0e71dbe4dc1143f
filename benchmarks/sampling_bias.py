"""Does uniform sampling mitigate bias? Natural against uniform sampling, audited by groups of faces.

    python benchmarks/sampling_bias.py fer2013.parquet [--faces faces/] --encoder runs/mae/bundle [--seeds 3]
        [--epochs 4] [--groups-csv mine.csv] [--out runs/bias] [--report]

`mini` with the pre-trained encoder, trained on FER-2013 by `motivnet ablate`, with all rows or with as many of each
class as the rarest has, repeated to the same number of steps. Scored on PrivateTest and on the development faces.

What is asked of a group: how often its **neutral** faces are called sad, afraid, disgusted or angry, less how often
those of all others are; and how uniform sampling changes that gap. Groups:

- light: the darkest, the middle and the brightest third of the faces of a set, by the mean of the grey values in the
  central half. It is how the picture was taken and developed as much as how light a skin is;
- contrast: thirds by their standard deviation, a proxy of presentation (hard or soft light, film, focus);
- skin tone, where faces are in **colour**: the individual typology angle, ITA = atan((L - 50) / b) of the median L
  and b of the central half (Chardon et al. 1991), light above 28 degrees, dark below. Illumination, white balance and
  make-up move it by as much as the difference between neighbouring classes, so it is no measurement of a person's
  skin. Both sets here are grey: **it cannot be had**, and nothing is said of skin tone;
- what a table of yours says, `--groups-csv` with a column `row` (see `motivnet audit`): age or sex as annotated.

The gap of a run is averaged over seeds. Intervals: a bootstrap over images (of one set), joined with the variance of
the seeds as in `motivnet ablate`, whole people where they are known; p-values with Holm's correction over all groups
and sets. Beside it, `motivnet audit --by data` of nano on the two sets together: FER-2013 was found by search terms,
the development faces are film stills and photographs of the press.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from answers import BOTH, Runs, both_sets, members, minutes_since, resumable, write_answer
from scipy.stats import t
from tables import markdown_table, use_cores

from motivnet.config import override, to_json
from motivnet.data.manifest import Manifest, write_manifest
from motivnet.evaluation.fairness import NEGATIVE, audit
from motivnet.evaluation.groups import Column, group_columns
from motivnet.evaluation.resampling import holm, resample
from motivnet.experiments.ablation import PLAN_NAME, RESULT_NAME, ablate
from motivnet.experiments.grids import BASE_RECIPE, Cell, Grid
from motivnet.report.audit_report import findings
from motivnet.training.recipes import recipe

KINDS = ("natural", "uniform")
THIRDS = {"light": ("dark", "middle", "bright"), "contrast": ("soft", "middle", "hard")}
# Of the neutral faces in a group, and in the rest: fewer are not tested.
MIN_FACES = 50
# Degrees; between `intermediate` and `tan` of Chardon et al.
LIGHT_ITA = 28.0


def main() -> None:
    """Run what is not finished, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--faces", type=Path, help="folder of dev.parquet")
    parser.add_argument("--encoder", type=Path, required=True, help="bundle of `motivnet pretrain`")
    parser.add_argument("--groups-csv", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/bias"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    torch.set_num_threads(use_cores(1))
    began, manifest = time.process_time(), both_sets(options.data, options.faces)
    if not options.report:
        shared = {"data": "fer2013 and development faces", "seeds": options.seeds}
        resumable(ablate, sampling_grid(options), manifest, out=options.out, plan=PLAN_NAME, **shared)
    print(f"this call: {minutes_since(began):.0f} core-minutes")
    report(options, manifest)


def sampling_grid(options: argparse.Namespace) -> Grid:
    settings = [f"backbone.weights={to_json(str(options.encoder))}", f"run.epochs={options.epochs}"]
    return Grid(
        name="bias",
        question="Does uniform sampling mitigate bias?",
        recipe=override(recipe(BASE_RECIPE), [*settings, "loss.prior_weight=0", "run.precision=bf16-mixed"]),
        cells={kind: Cell(settings=(f"sampling.kind={kind}",)) for kind in KINDS},
        comparisons=(("uniform", "natural"),),
        report_split=BOTH,
    )


def report(options: argparse.Namespace, manifest: Manifest) -> None:
    """Compare the gaps of every group under both samplings."""
    folders = {kind: [options.out / "runs" / f"{kind}-{seed}" for seed in range(options.seeds)] for kind in KINDS}
    if not all((folder / RESULT_NAME).exists() for each in folders.values() for folder in each):
        print("the runs are not finished")
        return
    found, sizes, seconds = [], {}, 0.0
    for title, rows in members(manifest).items():
        runs = {kind: Runs(each, rows) for kind, each in folders.items()}
        reported = manifest.select(np.isin(manifest.table["row"].to_numpy(), runs["natural"].rows))
        seconds += sum(each.seconds for each in runs.values()) / len(members(manifest))
        sizes[title] = len(reported)
        for column, values in columns_of(reported, options.groups_csv).items():
            found += gaps(title, column, np.array(values, dtype=object), runs, reported.table["subject"].to_pylist())
    p_values = [each["p_value"] for each in found]
    for each, p_holm in zip(found, holm(p_values), strict=True):
        each["p_holm"] = float(p_holm)
    print(markdown_table([shown(each) for each in found]))
    better = [each for each in found if each["p_holm"] < 0.05 and abs(each["uniform"]) < abs(each["natural"])]
    worse = [each for each in found if each["p_holm"] < 0.05 and abs(each["uniform"]) > abs(each["natural"])]
    answer = (
        f"Of {len(found)} gaps between groups in false negative emotions on neutral faces, uniform sampling narrowed "
        f"{len(better)} and widened {len(worse)}; the other {len(found) - len(better) - len(worse)} changes could not "
        f"be told from none. Skin tone: {skin_tone(found)}."
    )
    effects = [
        f"{each['set']}, {each['column']} {each['group']}: {points(each['natural'])} natural, "
        f"{points(each['uniform'])} uniform; change {points(each['change'])} "
        f"[{points(each['interval'][0])}, {points(each['interval'][1])}], p {each['p_holm']:.3f}"
        for each in better + worse or sorted(found, key=lambda each: each["p_value"])[:1]
    ]
    n = ", ".join(f"{size:,} of {title}" for title, size in sizes.items())
    write_answer(
        "sampling_bias",
        answer,
        effects,
        n=n,
        seeds=options.seeds,
        minutes=seconds / 60,
        groups=found,
        sizes=sizes,
        two_sets=audit_of_both(options, manifest),
    )


def audit_of_both(options: argparse.Namespace, manifest: Manifest) -> list[str]:
    """Audit nano on both sets together; return what was found, in words."""
    names = []
    for title, rows in members(manifest).items():
        file = options.out / f"{title.replace(' ', '-')}.parquet"
        write_manifest(manifest.select(np.isin(manifest.table["row"].to_numpy(), rows)), file)
        names.append(f"manifest:{file}")
    if len(names) < 2:
        return []
    lines = list(findings(audit("nano", names, by=["data"])))
    print("\n".join(lines))
    return [line.replace(f"manifest:{options.out}/", "") for line in lines]


def skin_tone(found: list[dict[str, Any]]) -> str:
    if any(each["column"] == "ita" for each in found):
        return "by the individual typology angle, which light and white balance move"
    return "cannot be had from grey faces"


def columns_of(reported: Manifest, table: Path | None) -> dict[str, Column]:
    """Return the groups of each face by column."""
    faces = [centre(reported.read(row)[0]) for row in range(len(reported))]
    grey = [cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in faces]
    measures = {"light": [face.mean() for face in grey], "contrast": [face.std() for face in grey]}
    columns: dict[str, Column] = {}
    for name, values in measures.items():
        place_B = np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values)
        columns[name] = [THIRDS[name][place] for place in place_B]
    angles = [ita(face) for face in faces]
    if any(angle is not None for angle in angles):
        columns["ita"] = [None if angle is None else "light" if angle > LIGHT_ITA else "dark" for angle in angles]
    if table is not None:
        names = table.read_text(encoding="utf-8").splitlines()[0].split(",")
        columns |= group_columns(reported, [name for name in names if name not in ("row", "path")], table=table)
    return columns


def centre(image: np.ndarray) -> np.ndarray:
    """Return the central half of each side."""
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[height // 4 : height - height // 4, width // 4 : width - width // 4])


def ita(face: np.ndarray) -> float | None:
    """Return the individual typology angle of a crop in degrees; None of a grey one."""
    if not np.ptp(face, axis=2).any():
        return None
    lightness, _, blue = np.median(cv2.cvtColor(face.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), axis=(0, 1))
    return float(np.degrees(np.arctan2(lightness - 50, max(float(blue), 1e-6))))


def gaps(
    title: str, column: str, values: np.ndarray, runs: Mapping[str, Runs], subjects: list[str | None]
) -> list[dict[str, Any]]:
    """Return the gap of each group under both samplings, and its change with an interval and a p-value."""
    neutral = runs["natural"].labels == "neutral"
    negative = {kind: np.isin(each.preds[:, neutral], [str(name) for name in NEGATIVE]) for kind, each in runs.items()}
    units = [subjects[row] for row in np.flatnonzero(neutral)] if any(subjects) else int(neutral.sum())
    num_units = len(set(units)) if isinstance(units, list) else units
    known, groups = values[neutral], [value for value in dict.fromkeys(values) if value is not None]
    found = []
    for group in sorted(groups) if len(groups) > 2 else sorted(groups)[:1]:
        member = known == group
        rest = ~member & (known != None)  # noqa: E711 - an array
        if min(member.sum(), rest.sum()) < MIN_FACES:
            continue

        def gap(kind: str, weights_B: np.ndarray, member: Any = member, rest: Any = rest) -> np.ndarray:
            hits_SB = negative[kind] * weights_B
            return hits_SB[:, member].sum(1) / weights_B[member].sum() - hits_SB[:, rest].sum(1) / weights_B[rest].sum()

        def change(weights_B: np.ndarray, gap: Any = gap) -> dict[str, float]:
            return {"change": float((gap("uniform", weights_B) - gap("natural", weights_B)).mean())}

        ones = np.ones(len(known))
        _, drawn = resample(change, units, num_resamples=1000)
        of_seed_S = gap("uniform", ones) - gap("natural", ones)
        by_images, by_seeds = float(np.var(drawn["change"], ddof=1)), float(np.var(of_seed_S, ddof=1)) / len(of_seed_S)
        variance, value = by_images + by_seeds, float(of_seed_S.mean())
        freedom = variance**2 / (by_images**2 / (num_units - 1) + by_seeds**2 / (len(of_seed_S) - 1))
        half = float(t.ppf(0.975, freedom)) * variance**0.5
        found.append(
            {
                "set": title,
                "column": column,
                "group": str(group),
                "neutral faces": int(member.sum()),
                **{kind: float(gap(kind, ones).mean()) for kind in KINDS},
                "change": value,
                "interval": [value - half, value + half],
                "p_value": float(2 * t.sf(abs(value) / variance**0.5, freedom)),
            }
        )
    return found


def shown(each: Mapping[str, Any]) -> dict[str, object]:
    low, high = each["interval"]
    row: dict[str, object] = {name: each[name] for name in ("set", "column", "group", "neutral faces")}
    row |= {f"gap, {kind}": points(each[kind]) for kind in KINDS}
    row |= {"change": f"{points(each['change'])} [{points(low)}, {points(high)}]", "p": f"{each['p_holm']:.3f}"}
    return row


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


if __name__ == "__main__":
    main()
