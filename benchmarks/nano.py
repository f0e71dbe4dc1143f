"""Make the embedded model: teachers, their labels, a student, and what both score. One command, which can be resumed.

    python benchmarks/nano.py --faceres faceres.json --fer2013 fer2013.parquet --faces faces/ [--out runs/nano]

`faces/` has `dev.parquet` (labelled, to choose with) and `pool.parquet` (no labels, to distil with): grey JPEGs of
128 x 128 pixels whose central 96 x 96 are the face.

**The rule of choice, written before the first run.** Every model is scored by four numbers: WAR and UAR on FER-2013's
PublicTest, labelled by the majority of FERPlus' votes, and WAR and UAR on the development faces. Their mean decides
between models, and how much of the log prior is taken off the logits. Within a run, the epoch is chosen by the mean of
WAR and UAR on both sets pooled. PrivateTest is not looked at before the choice; it is reported.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from motivnet.data.manifest import Manifest, make_manifest, write_manifest
from motivnet.data.sources.fer2013 import read_fer2013

# The central part of the development faces, in pixels: x, y, width, height.
CENTRE = (16.0, 16.0, 96.0, 96.0)
# Half of the rows each, so that each labels the rows that the other one was trained on.
TEACHERS: dict[str, list[str]] = {
    "faceres-0": ["split.fold=0"],
    "faceres-1": ["split.fold=1", "model.head.kind=linear"],
}
TEACHER = ["split.select=Selection", "split.folds=2", "run.epochs=8", "run.mixup_epochs=6"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faceres", type=Path, required=True)
    parser.add_argument("--fer2013", type=Path, required=True)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/nano"))
    parser.add_argument("--only", nargs="+", help="steps to run: data, teacher-NAME, labels, student, scores")
    arguments = parser.parse_args()
    chain = Chain(arguments.faceres, arguments.fer2013, arguments.faces, arguments.out)
    for name, step in chain.steps().items():
        if arguments.only is None or name in arguments.only:
            step()


class Chain:
    """The steps; each is left out if its result is there."""

    def __init__(self, faceres: Path, fer2013: Path, faces: Path, out: Path) -> None:
        self.faceres, self.fer2013, self.faces, self.out = faceres, fer2013, faces, out
        self.data = out / "data.parquet"

    def steps(self) -> dict[str, Any]:
        """Return the steps by name, in order."""
        return {
            "data": self.make_data,
            **{f"teacher-{name}": lambda name=name: self.teach(name) for name in TEACHERS},
        }

    def make_data(self) -> None:
        """Write the rows to train on and to select by."""
        if self.data.exists():
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_manifest(training_data(self.fer2013, self.faces / "dev.parquet"), self.data)

    def teach(self, name: str) -> None:
        """Train a teacher."""
        self.train(f"teacher-{name}", self.data, [*TEACHER, f"backbone.weights={self.faceres}", *TEACHERS[name]])

    def train(self, name: str, data: Path, settings: list[str]) -> None:
        """Train, or go on with training."""
        folder = self.out / name
        command = ["train", "nano-fer2013", "--data", f"manifest:{data}", "--out", str(folder), *precision()]
        for setting in settings:
            command += ["--set", setting]
        motivnet(*command, *(["--resume"] if (folder / "run.json").exists() else []))


def training_data(fer2013: Path, dev: Path) -> Manifest:
    """Pool FER-2013's Training rows with those that select; the rest is there so that its copies are not trained on."""
    plain, majority = read_fer2013(fer2013), read_fer2013(fer2013, labels="majority")
    public = majority.split("PublicTest")
    selection = pa.concat_tables([public.table, development_faces(dev).table])
    taken = np.isin(plain.table["row"].to_numpy(), public.table["row"].to_numpy())
    tables = [plain.select(~taken).table, _in_split(selection, "Selection")]
    return Manifest(pa.concat_tables(tables), plain.labels)


def development_faces(path: Path) -> Manifest:
    table = pq.read_table(path)
    columns = {name: table[name].to_pylist() for name in ("label", "jpeg", "subject")}
    return make_manifest(
        {
            "image": columns["jpeg"],
            "label": columns["label"],
            "split": ["dev"] * len(table),
            "box": [CENTRE] * len(table),
            "subject": [f"dev {subject}" for subject in columns["subject"]],
        }
    )


def _in_split(table: pa.Table, name: str) -> pa.Table:
    place = table.schema.get_field_index("split")
    return table.set_column(place, "split", pa.array([name] * len(table), pa.string()))


def precision() -> list[str]:
    """bfloat16 where the hardware has it: emulated, it is ten times slower than float32."""
    fast = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return [] if fast else ["--set", "run.precision=32-true"]


def motivnet(*command: str) -> None:
    print("motivnet", *command, flush=True)
    subprocess.run([sys.executable, "-m", "motivnet", *command], check=True)


if __name__ == "__main__":
    main()
