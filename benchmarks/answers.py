"""The page of questions and answers, `benchmarks/README.md`, made of what was measured; and what its scripts share.

    python benchmarks/answers.py

A question is answered if `results/NAME.json` exists; the row of any other says that it was not run.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from nano import CENTRE
from tables import RESULTS, fill_block, markdown_table, write_results

from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.evaluation.resampling import holm
from motivnet.experiments.ablation import PREDICTIONS_NAME, RESULT_NAME
from motivnet.experiments.comparison import contrast

PAGE = Path(__file__).parent / "README.md"
SCORES = {"war": "WAR", "uar": "UAR"}
REPORTED, DEVELOPMENT = "PrivateTest", "development faces"
# The split that holds both, so that one run is scored on both.
BOTH = "reported"
FER, FACES, ENCODER = "fer2013.parquet", "faces/", "--encoder runs/mae/bundle"
COMPARED = ("nano", "runs/nano-before", "runs/mini/bundle")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its command, and about how long that takes on one idle core; an estimate."""

    text: str
    command: str
    cost: str


QUESTIONS = {
    "head_ablation": Question(
        "Does ML-Decoder read more out of a frozen encoder's tokens than simpler heads do?",
        f"python benchmarks/head_ablation.py {FER} {ENCODER} --part frozen",
        "1.5 hours",
    ),
    "head_trained": Question(
        "Is ML-Decoder better than simpler heads once the encoder is trained?",
        f"python benchmarks/head_ablation.py {FER} {ENCODER} --part trained",
        "1 hour",
    ),
    "adaptation": Question(
        "Does adaptation to faces without labels help, and which method most?",
        f"python benchmarks/adaptation.py --fer2013 {FER} --faces {FACES} --size small --weights faceres.json",
        "1 hour",
    ),
    "affect_pair": Question(
        "Do valence and arousal beside the categories make the categories better?",
        f"python benchmarks/affect.py {FER} --pair {ENCODER}",
        "1 hour",
    ),
    "sampling_bias": Question(
        "Does uniform sampling mitigate bias between groups of faces?",
        f"python benchmarks/sampling_bias.py {FER} --faces {FACES} {ENCODER}",
        "1 hour",
    ),
    "pretraining_tasks": Question(
        "Which pre-training task is best for emotions?",
        f"python benchmarks/pretraining_tasks.py {FER} --faces {FACES}",
        "2 hours",
    ),
    "longer_pair": Question(
        "How far do random weights catch up with pre-trained ones in 15 epochs?",
        f"python benchmarks/cross_dataset.py {FER} --faces {FACES} --pair {ENCODER}",
        "3 hours",
    ),
    "cross_dataset": Question(
        "How do the models that can be run here do on each other's data, beside published results?",
        f"python benchmarks/cross_dataset.py {FER} --faces {FACES} {' '.join(f'--model {name}' for name in COMPARED)}",
        "10 minutes",
    ),
}


def main() -> None:
    """Write the page."""
    rows = []
    for name, question in QUESTIONS.items():
        file = RESULTS / f"{name}.json"
        found = json.loads(file.read_text(encoding="utf-8")).get("answer", {}) if file.is_file() else {}
        minutes = found.get("minutes")
        rows.append(
            {
                "question": question.text,
                "answer": found.get("answer", "**Not run yet.**"),
                "effect, 95 % interval": "<br>".join(found.get("effects", [])) or "",
                "n": found.get("n", ""),
                "seeds": found.get("seeds", ""),
                "wall time on one core": f"about {question.cost}" if minutes is None else f"{minutes:.0f} minutes",
                "command": f"`{found.get('command', question.command)}`",
            }
        )
    fill_block(PAGE, "answers", markdown_table(rows))
    print(f"written: {PAGE}")


def write_answer(
    name: str, answer: str, effects: Sequence[str], *, n: int | str, seeds: int, minutes: float, **rest: Any
) -> None:
    """Write the results of a script with their row of the page, and the page."""
    row = {"answer": answer, "effects": list(effects), "n": n, "seeds": seeds, "minutes": round(minutes, 1)}
    print(f"{answer}\n" + "\n".join(effects))
    print(f"written: {write_results(name, {'answer': row, **rest})}")
    main()


def both_sets(fer2013: Path, faces: Path | None) -> Manifest:
    """Return FER-2013, and with `faces` the development faces in one split with PrivateTest; rows numbered anew."""
    fer = read_fer2013(fer2013)
    columns = {name: fer.table[name].to_pylist() for name in ("image", "label", "split", "votes")}
    columns |= {"box": [None] * len(fer), "subject": [None] * len(fer)}
    if faces is not None:
        table = pq.read_table(faces / "dev.parquet")
        columns["image"] += table["jpeg"].to_pylist()
        columns["label"] += table["label"].to_pylist()
        columns["split"] += [DEVELOPMENT] * len(table)
        columns["votes"] += [None] * len(table)
        columns["box"] += [CENTRE] * len(table)
        columns["subject"] += [f"dev {subject}" for subject in table["subject"].to_pylist()]
    columns["groups"] = [[("set", split)] for split in columns["split"]]
    columns["split"] = [BOTH if split in (REPORTED, DEVELOPMENT) else split for split in columns["split"]]
    return make_manifest(columns)


def members(manifest: Manifest) -> dict[str, np.ndarray]:
    """Return the row numbers of each reported set."""
    sets = np.array([dict(groups)["set"] for groups in manifest.table["groups"].to_pylist()])
    rows = manifest.table["row"].to_numpy()
    return {name: rows[sets == name] for name in (REPORTED, DEVELOPMENT) if (sets == name).any()}


class Runs:
    """The finished runs of one configuration, one folder for each seed, on the same images in the same order."""

    def __init__(self, folders: Sequence[Path], rows: np.ndarray | None = None) -> None:
        """Read predictions.

        Args:
            folders: of an ablation's runs, in the order of seeds.
            rows: numbers of the rows that count; None: all.
        """
        tables = [pq.read_table(folder / PREDICTIONS_NAME) for folder in folders]
        keep = np.ones(len(tables[0]), bool) if rows is None else np.isin(tables[0]["row"].to_numpy(), rows)
        self.labels = np.array(tables[0]["label"].to_pylist())[keep]
        self.rows = tables[0]["row"].to_numpy()[keep]
        self.preds = np.stack([np.array(table["pred"].to_pylist())[keep] for table in tables])
        self.correct = self.preds == self.labels
        self.seconds = sum(read(folder / RESULT_NAME)["seconds"] for folder in folders)

    def scores(self) -> dict[str, list[float]]:
        """Return WAR and UAR of each seed."""
        recalls = [self.correct[:, self.labels == name].mean(1) for name in np.unique(self.labels)]
        return {"war": self.correct.mean(1).tolist(), "uar": np.mean(recalls, 0).tolist()}


def finished(folders: Sequence[Path]) -> bool:
    """Tell whether all these runs are finished: another process may still have some."""
    return all((folder / RESULT_NAME).exists() for folder in folders)


def differences(pairs: Mapping[tuple[str, str], tuple[Runs, Runs]]) -> list[dict[str, Any]]:
    """Compare pairs of configurations in WAR and UAR, with Holm's correction over all of them."""
    found = []
    for (name, reference), (one, other) in pairs.items():
        _, target_B, counts = np.unique(one.labels, return_inverse=True, return_counts=True)
        compared = contrast(one.correct, other.correct, target_B, rarest=int(counts.argmin()))
        found += [{"cell": name, "reference": reference, "score": key, **compared[key]._asdict()} for key in SCORES]
    return corrected(found)


def corrected(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Set Holm's correction of each p-value over all that are given: those of one script, over sets and uses, too."""
    for each, p_holm in zip(found, holm([each["p_value"] for each in found]), strict=True):
        each["p_holm"] = float(p_holm)
    return found


def told(each: Mapping[str, Any]) -> str:
    """Say a difference in points, with its interval."""
    low, high = (100 * end for end in each["interval"])
    text = f"{each['cell']} less {each['reference']}: {100 * each['value']:+.1f} [{low:+.1f}, {high:+.1f}]"
    p_value = "< 0.001" if each["p_holm"] < 0.001 else f"{each['p_holm']:.3f}"
    return f"{text} {SCORES[each['score']]}, p {p_value}"


def verdict(each: Mapping[str, Any]) -> str:
    """Say in words what a difference shows."""
    if each["p_holm"] >= 0.05:
        return f"{each['cell']} and {each['reference']} could not be told apart"
    size = f"{abs(100 * each['value']):.1f} points of {SCORES[each['score']]}"
    return f"{each['cell']} is {size} {'above' if each['value'] > 0 else 'below'} {each['reference']}"


def score_rows(named: Mapping[str, Runs]) -> list[dict[str, object]]:
    """Lay out mean and standard deviation of each configuration, in percent."""
    rows = []
    for name, runs in named.items():
        cells = {SCORES[key]: 100 * np.array(values) for key, values in runs.scores().items()}
        shown = {key: f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for key, values in cells.items()}
        rows.append({"cell": name, "runs": len(runs.correct), **shown})
    return rows


def resumable(run: Callable[..., Any], *arguments: Any, out: Path, plan: str, **settings: Any) -> Any:
    """Start something that writes to `out`, or go on with it."""
    return run(*arguments, out, resume=(out / plan).exists(), **settings)


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def minutes_since(began: float) -> float:
    return (time.process_time() - began) / 60


if __name__ == "__main__":
    main()
