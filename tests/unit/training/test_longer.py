"""Runs that go on for more epochs, that are logged elsewhere, that skip broken images, and of labels of one's own."""

import csv
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.checkpoints.bundle import open_bundle
from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sources.named import read_source
from motivnet.errors import ConfigError, DataError
from motivnet.training import trainer as trainer_module
from motivnet.training.data_module import choose_rows
from motivnet.training.fit import adopt_labels, fit
from motivnet.training.recipes import recipe as recipe_named
from motivnet.training.settings import Place, Recipe
from motivnet.training.trainer import check_place, make_trainer


def rates(out: Path) -> list[float]:
    with (out / "metrics.csv").open() as file:
        return [float(row["lr_head"]) for row in csv.DictReader(file)]


def test_a_finished_run_goes_on_for_more_epochs(faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    fit(tiny(epochs=1), faces, tmp_path / "run", progress=False)
    first = open_bundle(tmp_path / "run/bundle").config.provenance
    fit(tiny(epochs=3), faces, tmp_path / "run", resume=True, progress=False)
    fit(tiny(epochs=3), faces, tmp_path / "whole", progress=False)
    assert open_bundle(tmp_path / "run/bundle-1-epochs").config.provenance == first
    assert open_bundle(tmp_path / "run/bundle").config.provenance["recipe"]["run"]["epochs"] == 3
    # From its second step on, it has the rates of a run that was planned for three epochs.
    steps = len(rates(tmp_path / "whole")) // 3
    assert rates(tmp_path / "run")[:steps] != rates(tmp_path / "whole")[:steps]
    assert rates(tmp_path / "run")[steps + 1 :] == rates(tmp_path / "whole")[steps + 1 :]
    # Asked again, it is finished; and it cannot be shorter.
    before = (tmp_path / "run/bundle/model.safetensors").stat().st_mtime_ns
    fit(tiny(epochs=3), faces, tmp_path / "run", resume=True, progress=False)
    assert (tmp_path / "run/bundle/model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"run\.epochs was 3, is 2.*the same recipe, but for more run\.epochs"):
        fit(tiny(epochs=2), faces, tmp_path / "run", resume=True, progress=False)


class TestLoggers:
    @pytest.mark.parametrize("name", ["mlflow", "wandb"])
    def test_a_missing_package_is_one_line(
        self, name: str, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trainer_module, "find_spec", lambda package: None)
        with pytest.raises(ConfigError, match=f"run.logger={name}: not installed. Allowed: pip install {name}, or"):
            check_place(Place(), tiny(logger=name))
        check_place(Place(), tiny(logger="none"))

    @pytest.mark.parametrize(
        ("name", "kind", "expected"),
        [
            ("mlflow", "MLFlowLogger", {"experiment_name": "motivnet", "run_name": "mine"}),
            ("wandb", "WandbLogger", {"name": "mine", "project": "motivnet"}),
        ],
    )
    def test_lightnings_logger_is_named_for_the_run(
        self, name, kind, expected, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lightning.pytorch.loggers import CSVLogger

        made = []

        def stand_in(**settings: object) -> CSVLogger:
            made.append(settings)
            return CSVLogger(tmp_path)

        monkeypatch.delenv("WANDB_PROJECT", raising=False)
        monkeypatch.setattr(trainer_module, kind, stand_in)
        trainer, _ = make_trainer(tiny(logger=name), tmp_path / "mine", Place(accelerator="cpu"), progress=False)
        assert isinstance(trainer.logger, CSVLogger)
        assert expected.items() <= made[0].items()

    @pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
    def test_mlflow_gets_the_curves(self, faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path) -> None:
        fit(tiny(epochs=1, logger="mlflow"), faces, tmp_path / "run", progress=False)
        assert [*(tmp_path / "run/mlflow").rglob("metrics/val/score")]

    def test_without_a_logger_there_are_still_curves(
        self, faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path
    ) -> None:
        fit(tiny(epochs=1, logger="none"), faces, tmp_path, progress=False)
        assert not (tmp_path / "tensorboard").exists()
        assert rates(tmp_path)
        # It may change when the run is resumed.
        fit(tiny(epochs=1), faces, tmp_path, resume=True, progress=False)


class TestBrokenImages:
    @pytest.fixture
    def broken(self, faces: Manifest, tmp_path: Path) -> Manifest:
        """Five images that cannot be read, one of them missing and one large."""
        columns = {name: faces.table[name].to_pylist() for name in ("image", "label", "split")} | {"path": [None] * 70}
        (tmp_path / "large.png").write_bytes(b"\x89PNG" + bytes(50_000))
        columns["path"][9], columns["path"][16] = str(tmp_path / "absent.png"), str(tmp_path / "large.png")
        for row in (0, 7, 63):
            columns["image"][row] = b"no image"
        return make_manifest(columns)

    def test_all_are_named_before_anything_is_written(
        self, broken: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(DataError, match=r"5 of 70 images cannot be read, see above\. .*run\.skip_unreadable=true"):
            fit(tiny(), broken, tmp_path / "run", progress=False)
        said = capsys.readouterr().err
        assert all(f"{name}: " in said for name in ("row 0", "absent.png", "row 7", "large.png", "row 63"))
        assert not (tmp_path / "run").exists()

    def test_they_may_be_left_out_and_are_counted(
        self, broken: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle = fit(tiny(epochs=1, skip_unreadable=True), broken, tmp_path / "run", progress=False)
        rows = bundle.config.provenance["training_rows"]
        assert rows["left_out"] == {"unreadable": 5}
        assert rows["rows"] + rows["selection"] == 65
        said = capsys.readouterr().err
        assert "5 unreadable" in said
        assert said.index("checking 70 images") < said.index("the first epoch is slower") < len(said)


class TestOwnFaces:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        rng = np.random.default_rng(0)
        for label, mean in {"calm": 60, "tense": 190}.items():
            (tmp_path / "faces" / label).mkdir(parents=True)
            for number in range(12):
                pixels = np.clip(rng.normal(mean, 30, (24, 24)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "faces" / label / f"{number}.png")
        return f"folder:{tmp_path / 'faces'}"

    def test_classes_are_those_of_the_folder(self, folder: str, faces: Manifest) -> None:
        own = recipe_named("own-faces")
        adopted = adopt_labels(own, folder)
        assert (adopted.labels, adopted.model.num_classes) == (("calm", "tense"), 2)
        some = faces.select(np.isin(faces.table["label"].to_pylist(), ["anger", "neutral", "fear"]))
        assert adopt_labels(own, some).labels == ("neutral", "fear", "anger")
        assert adopt_labels(recipe_named("mini-fer2013"), folder) == recipe_named("mini-fer2013")

    def test_one_command_trains_on_them(self, folder: str, tmp_path: Path) -> None:
        changes = {"run.epochs": 1, "run.batch_size": 4, "backbone.train": "none"}
        bundle = fit("own-faces", folder, tmp_path / "run", overrides=changes, progress=False)
        assert bundle.config.labels.names == ("calm", "tense")
        rows = bundle.config.provenance["training_rows"]
        assert (rows["rows"], rows["selection"]) == (24, 4)
        assert bundle.config.provenance["init"]["bundle"] == "nano"
        adopted, data = adopt_labels(recipe_named("own-faces"), folder), read_source(folder)
        first, second = (choose_rows(adopted, data) for _ in range(2))
        assert (len(first.train), len(first.select)) == (20, 4)
        assert first.select.fingerprint() == second.select.fingerprint()
