"""An ablation: every run once, whatever happens to the process; its report says what its runs' files say."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from motivnet.checkpoints.keymaps import SAPIENS
from motivnet.data.manifest import Manifest, make_manifest
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError
from motivnet.experiments.ablation import ablate, check_weights, read_plan, summarise
from motivnet.experiments.grids import SAPIENS_TASKS, Cell, Grid, make_grid
from motivnet.labels import EMOTIONS
from motivnet.models.motivnet import build_backbone
from motivnet.report.ablation_report import FILES, headline, write_files
from motivnet.storage import locked

TINY = (
    "model.image_size=[16,16]",
    "preprocessing.size=[16,16]",
    "model.vit.embed_dim=16",
    "model.vit.depth=1",
    "model.vit.num_heads=2",
    "model.head.dim=16",
    "model.head.num_heads=2",
    "model.head.ff_dim=16",
    "run.batch_size=14",
    "run.epochs=1",
)
SPLITS = ("Training", "PublicTest", "PrivateTest")


def draw(label: int, rng: np.random.Generator) -> bytes:
    """Draw a picture whose stripes tell its label, under noise."""
    y, x = np.mgrid[:16, :16]
    stripes = np.sin((x * np.cos(label * np.pi / 7) + y * np.sin(label * np.pi / 7)) / 2)
    pixels = np.clip(128 + 80 * stripes + rng.normal(0, 20, (16, 16)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def drawn(names: tuple[str, ...], counts: tuple[int, ...]) -> Manifest:
    """Every seventh image of the training split is of disgust but the first few, so that it is the rarest class."""
    rng = np.random.default_rng(0)
    labels = [row % 7 for count in counts for row in range(count)]
    splits = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    rare = EMOTIONS.names.index("disgust")
    for row in range(counts[0] // 2):
        labels[row] = (labels[row] + 1) % 7 if labels[row] == rare else labels[row]
    images = [draw(label, rng) for label in labels]
    return make_manifest({"image": images, "label": [EMOTIONS.names[i] for i in labels], "split": splits})


def small_grid(epochs: int = 1) -> Grid:
    """Two heads, and a learning rate that cannot end well."""
    return Grid(
        name="small",
        question="Which head?",
        recipe=make_grid("sampling", (*TINY, f"run.epochs={epochs}")).recipe,
        cells={
            "decoder": Cell(settings=()),
            "linear": Cell(settings=("model.head.kind=linear",), label_share=0.5),
            "too-fast": Cell(settings=("optimizer.head_lr=1e30", "optimizer.warmup=0.0")),
        },
        comparisons=(("linear", "decoder"), ("too-fast", "decoder")),
    )


def run_folder(out: Path, cell: str, seed: int) -> Path:
    return out / "runs" / f"{cell}-{seed}"


def read_result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def scores_in(report: dict[str, Any], cell: str, metric: str) -> list[float]:
    return next(each for each in report["cells"] if each["name"] == cell)["scores"][metric]["runs"]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return drawn(SPLITS, (56, 14, 28))


@pytest.fixture(scope="module")
def done(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablations") / "small"
    assert ablate(small_grid(), manifest, out, data="drawn", seeds=2, say=quiet)
    return out


def quiet(_: str) -> None:
    """Say nothing."""


def times(out: Path) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob("runs/*/result.json")}


def truth(out: Path, cell: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(run_folder(out, cell, seed) / "predictions.parquet")
    return np.array(table["label"].to_pylist()), np.array(table["pred"].to_pylist())


class TestRuns:
    def test_every_run_leaves_its_answers_and_no_model(self, done: Path) -> None:
        for cell in ("decoder", "linear"):
            for seed in (0, 1):
                folder = run_folder(done, cell, seed)
                result = read_result(folder)
                assert (result["cell"], result["seed"], result["status"]) == (cell, seed, "finished")
                left = {path.name for path in folder.iterdir()}
                assert {"result.json", "predictions.parquet", "recipe.json", "metrics.csv", "validation.csv"} <= left
                assert not left & {"checkpoints", "bundle", "tensorboard"}
                assert json.loads((folder / "recipe.json").read_text())["run"]["seed"] == seed

    def test_answers_are_of_the_reported_split(self, done: Path) -> None:
        table = pq.read_table(run_folder(done, "decoder", 0) / "predictions.parquet")
        assert table["split"].to_pylist() == ["PrivateTest"] * 28

    def test_a_run_that_fails_is_a_row_with_its_reason(self, done: Path) -> None:
        result = read_result(run_folder(done, "too-fast", 1))
        assert result["status"] == "failed"
        assert re.search(r"loss is (nan|inf)|weights are not finite", result["reason"])
        assert not result["scores"]

    def test_all_cells_take_equally_many_steps(self, done: Path) -> None:
        steps = {
            cell: [len((run_folder(done, cell, seed) / "metrics.csv").read_text().splitlines()) - 1 for seed in (0, 1)]
            for cell in ("decoder", "linear")
        }
        assert steps == {"decoder": [4, 4], "linear": [4, 4]}
        assert read_result(run_folder(done, "linear", 0))["rows"]["distinct"] == 28

    def test_nothing_is_repeated(self, manifest: Manifest, done: Path) -> None:
        before = times(done)
        assert ablate(small_grid(), manifest, done, data="drawn", seeds=2, resume=True, say=quiet)
        assert times(done) == before

    def test_more_seeds_are_added(self, manifest: Manifest, done: Path, tmp_path: Path) -> None:
        shutil.copytree(done, tmp_path, dirs_exist_ok=True)
        before = times(tmp_path)
        assert ablate(small_grid(), manifest, tmp_path, data="drawn", seeds=3, resume=True, say=quiet)
        assert read_plan(tmp_path).seeds == 3
        assert before.items() < times(tmp_path).items()
        assert len(times(tmp_path)) == 9

    def test_a_run_of_another_process_is_left_to_it(self, manifest: Manifest, done: Path, tmp_path: Path) -> None:
        (tmp_path / "runs").mkdir()
        (tmp_path / "ablation.json").write_bytes((done / "ablation.json").read_bytes())
        said: list[str] = []
        with contextlib.ExitStack() as stack:
            for cell in small_grid().cells:
                for seed in range(2):
                    stack.enter_context(locked(tmp_path / "runs" / f".{cell}-{seed}.lock", cell))
            assert ablate(small_grid(), manifest, tmp_path, data="drawn", seeds=2, resume=True, say=said.append) is None
        assert not times(tmp_path)
        assert sum("another process is working on it" in line for line in said) == 6


class TestRefused:
    def test_a_folder_in_use(self, manifest: Manifest, done: Path, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match=r"holds an ablation already\. Allowed: another folder, or --resume"):
            ablate(small_grid(), manifest, done, data="drawn", seeds=2)
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="is not empty and holds no ablation"):
            ablate(small_grid(), manifest, tmp_path, data="drawn", seeds=2)

    def test_a_changed_grid_with_its_differences(self, manifest: Manifest, done: Path) -> None:
        with pytest.raises(ConfigError, match="holds another ablation") as raised:
            ablate(small_grid(epochs=2), manifest, done, data="drawn", seeds=2, resume=True)
        assert "grid.recipe.run.epochs was 1, is 2" in str(raised.value)

    def test_other_data(self, manifest: Manifest, done: Path) -> None:
        fewer = manifest.select(np.arange(len(manifest)) > 0)
        with pytest.raises(ConfigError, match="data_fingerprint was"):
            ablate(small_grid(), fewer, done, data="drawn", seeds=2, resume=True)

    def test_one_seed(self, manifest: Manifest, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="one run has no spread"):
            ablate(small_grid(), manifest, tmp_path, data="drawn", seeds=1)
        assert not list(tmp_path.iterdir())

    def test_a_damaged_plan_or_result(self, done: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="holds no ablation"):
            summarise(tmp_path)
        (tmp_path / "ablation.json").write_text("{")
        with pytest.raises(ConfigError, match="cannot be read"):
            summarise(tmp_path)
        (tmp_path / "ablation.json").write_bytes((done / "ablation.json").read_bytes())
        with pytest.raises(DataError, match="no run is completed yet"):
            summarise(tmp_path)
        run_folder(tmp_path, "decoder", 0).mkdir(parents=True)
        (run_folder(tmp_path, "decoder", 0) / "result.json").write_text("{")
        with pytest.raises(ConfigError, match="cannot be read"):
            summarise(tmp_path)


class TestReport:
    def test_numbers_by_hand(self, done: Path) -> None:
        report = summarise(done, num_resamples=50)
        for cell in ("decoder", "linear"):
            war, uar, rare = [], [], []
            for seed in (0, 1):
                label, pred = truth(done, cell, seed)
                recalls = {name: float(np.mean(pred[label == name] == name)) for name in EMOTIONS}
                war.append(np.mean(pred == label))
                uar.append(np.mean(list(recalls.values())))
                rare.append(recalls["disgust"])
            assert scores_in(report, cell, "war") == pytest.approx(war)
            assert scores_in(report, cell, "uar") == pytest.approx(uar)
            assert scores_in(report, cell, "minority_recall") == pytest.approx(rare)
            mean, spread = 100 * np.mean(war), 100 * np.std(war, ddof=1)
            assert f"| {cell} " in headline(report)
            assert f"| {mean:.1f} ± {spread:.1f} |" in headline(report)
        # Three tests of one comparison; the other has no finished run.
        found = report["comparisons"]
        assert [(each["cell"], each["reference"]) for each in found] == [("linear", "decoder")] * 3
        by_seed = np.subtract(scores_in(report, "linear", "war"), scores_in(report, "decoder", "war"))
        assert found[0]["per_seed"] == pytest.approx(tuple(by_seed))
        assert min(each["p_holm"] for each in found) == pytest.approx(
            min(1, 3 * min(each["p_value"] for each in found))
        )

    def test_it_says_what_failed_and_what_is_missing(self, done: Path, tmp_path: Path) -> None:
        text = headline(summarise(done, num_resamples=50))
        assert "Failed: too-fast, seed 0:" in text
        assert "| too-fast | \N{EN DASH} | 0 |" in text
        assert "Not complete" not in text
        run = tmp_path / "runs" / "decoder-0"
        run.mkdir(parents=True)
        for name in ("result.json", "predictions.parquet"):
            (run / name).write_bytes((done / "runs" / "decoder-0" / name).read_bytes())
        (tmp_path / "ablation.json").write_bytes((done / "ablation.json").read_bytes())
        assert "Not complete: 5 runs are missing." in headline(summarise(tmp_path))

    def test_the_same_files_give_the_same_report(self, done: Path, tmp_path: Path) -> None:
        written = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            write_files(summarise(done, num_resamples=50), tmp_path / name)
            written.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
        assert written[0] == written[1]
        assert set(written[0]) == set(FILES)
        plain = json.loads(written[0]["report.json"])
        assert plain["rarest"] == "disgust"
        assert [cell["name"] for cell in plain["cells"]] == ["decoder", "linear", "too-fast"]
        assert plain["cells"][1]["settings"]["model.head.kind"] == "linear"
        assert plain["cells"][1]["label_share"] == 0.5
        assert plain["recipe"]["model"]["head"]["kind"] == "ml_decoder"
        text = written[0]["report.md"].decode()
        assert "The cells differ in model.head.kind, optimizer.head\\_lr" in text
        assert "and in the share of the labels" in text

    def test_answers_to_other_images_are_refused(self, done: Path, tmp_path: Path) -> None:
        for seed in (0, 1):
            folder = tmp_path / "runs" / f"decoder-{seed}"
            folder.mkdir(parents=True)
            source = done / "runs" / folder.name
            (folder / "result.json").write_bytes((source / "result.json").read_bytes())
            pq.write_table(pq.read_table(source / "predictions.parquet").slice(seed), folder / "predictions.parquet")
        (tmp_path / "ablation.json").write_bytes((done / "ablation.json").read_bytes())
        with pytest.raises(DataError, match="predictions for different images"):
            summarise(tmp_path)


class TestSapiens:
    """The backbone grid, with files of the released format and next to no weights."""

    SETTINGS = (
        "model.image_size=[64,48]",
        "preprocessing.size=[64,48]",
        "model.vit.embed_dim=16",
        "model.vit.depth=1",
        "model.vit.num_heads=2",
        "model.head.dim=16",
        "model.head.num_heads=2",
        "model.head.ff_dim=16",
        "run.num_workers=0",
        "run.batch_size=7",
        "run.accumulate=1",
        "run.epochs=1",
        "run.precision=32-true",
        "split.hold_out=0.25",
    )

    def test_it_names_all_files_that_are_missing(self, tmp_path: Path) -> None:
        (tmp_path / "pose.safetensors").touch()
        made = make_grid("backbone", weights=[f"pose={tmp_path / 'pose.safetensors'}"])
        with pytest.raises(CheckpointError, match="lacks 4 encoder") as raised:
            ablate(made, drawn(("train", "val"), (28, 7)), tmp_path / "out", data="drawn")
        for task in ("depth", "normal", "seg", "pretrain"):
            assert f"{task}: sapiens-{task}-0.3b is" in str(raised.value)
        assert not (tmp_path / "out").exists()

    def test_encoders_of_another_size_are_refused_first(self, tmp_path: Path) -> None:
        files = self.write(tmp_path)
        made = make_grid("backbone", weights=files)
        with pytest.raises(CheckpointError, match=r"vit\.embed_dim is 16, not 1024"):
            check_weights(made)

    def test_it_runs(self, tmp_path: Path) -> None:
        made = make_grid("backbone", self.SETTINGS, weights=self.write(tmp_path))
        check_weights(made)
        # A file of a task and the plain one stand for all five.
        tasks = ("pose", "pretrain")
        made = dataclasses.replace(
            made,
            cells={task: made.cells[task] for task in tasks},
            comparisons=tuple(pair for pair in made.comparisons if set(pair) <= set(tasks)),
        )
        out = tmp_path / "out"
        report = ablate(made, drawn(("train", "val"), (56, 14)), out, data="drawn", seeds=2, say=quiet)
        assert report is not None
        assert {cell["name"]: len(cell["scores"]["war"]["runs"]) for cell in report["cells"]} == dict.fromkeys(tasks, 2)
        assert report["report_split"] == "val"
        assert {(each["cell"], each["reference"]) for each in report["comparisons"]} == {("pretrain", "pose")}

    def write(self, folder: Path) -> list[str]:
        """Write an encoder of each variant: those of a task for 4:3 images, the plain one square with a class token."""
        base = make_grid("backbone", self.SETTINGS).recipe.model
        assert base.vit
        files = {}
        for number, task in enumerate(SAPIENS_TASKS):
            model = base
            if task == "pretrain":
                vit = dataclasses.replace(base.vit, class_token=True, patch_padding=0)
                model = dataclasses.replace(base, vit=vit, image_size=(64, 64))
            torch.manual_seed(number)
            state, _ = SAPIENS.inverse().apply(build_backbone(model).state_dict())
            files[task] = str(folder / f"{task}.safetensors")
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, files[task])
        return [f"{task}={file}" for task, file in files.items()]
