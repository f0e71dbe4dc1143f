"""Valence and arousal from an ONNX file to results, tables and files; and nothing new where a model has none."""

import csv
import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.checkpoints.bundle import Bundle, open_bundle, write_config
from motivnet.cli.main import main
from motivnet.errors import CheckpointError
from motivnet.inference.backends import OnnxBackend
from motivnet.inference.predictor import Predictor


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, with tanh(2 * brightness) for valence and tanh(-brightness) for arousal."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("affect") / "moody"
    shutil.copytree(tiny_bundle.path, folder)
    config = dataclasses.replace(
        tiny_bundle.config, name="moody", model=dataclasses.replace(tiny_bundle.config.model, affect=True)
    )
    copy = write_config(folder, config)
    model = onnx.load(copy.onnx)
    model.graph.node.extend(
        [
            onnx.helper.make_node("Mul", ["flat", "slopes"], ["sloped"]),
            onnx.helper.make_node("Tanh", ["sloped"], ["affect"]),
        ]
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([[2, -1]], np.float32), "slopes"))
    floats = onnx.TensorProto.FLOAT
    model.graph.output.append(onnx.helper.make_tensor_value_info("affect", floats, ["batch", 2]))
    onnx.save(model, copy.onnx)
    return copy


def grey(value: int, size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def expected(value: int) -> tuple[float, float]:
    brightness = (value - 127.5) / 127.5
    return math.tanh(2 * brightness), math.tanh(-brightness)


def test_faces_have_them_in_their_order_in_any_batch(bundle: Bundle) -> None:
    values = [0, 255, 90, 160, 200, 30, 127]
    for batch_size in (1, 3, 64):
        predictor = Predictor.load(bundle.path, detector="whole", batch_size=batch_size)
        for value, result in zip(values, predictor.predict([grey(value) for value in values]), strict=True):
            (face,) = result.faces
            assert (face.valence, face.arousal) == pytest.approx(expected(value), abs=1e-5)


def test_they_leave_the_emotions_alone(bundle: Bundle, tiny_bundle: Bundle) -> None:
    results = [Predictor.load(each.path, detector="whole").predict(grey(70))[0] for each in (bundle, tiny_bundle)]
    one, other = (result.faces[0] for result in results)
    assert one.probs == other.probs
    assert (other.valence, other.arousal) == (None, None)
    assert one.to_dict() == other.to_dict() | {
        "valence": one.valence,
        "arousal": one.to_dict()["arousal"],
    }


@pytest.mark.parametrize("affect", [True, False])
def test_a_file_of_another_kind_of_model_is_refused(bundle: Bundle, tiny_bundle: Bundle, affect: bool) -> None:
    file, other = (tiny_bundle, bundle) if affect else (bundle, tiny_bundle)
    with pytest.raises(CheckpointError, match=r"outputs .*'logits'.* do not agree"):
        OnnxBackend(Bundle(file.path, other.config))


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_result_files_have_columns_for_them_if_the_model_predicts_them(
    tmp_path: Path, bundle: Bundle, tiny_bundle: Bundle, name: str
) -> None:
    columns = {}
    for each in (bundle, tiny_bundle):
        predictor = Predictor.load(each.path, detector="whole")
        path = tmp_path / f"{each.config.name}-{name}"
        predictor.predict([grey(200), tmp_path / "absent.png"]).write(path)
        rows = read(path)
        columns[each.config.name] = list(rows[0])
        if each is bundle:
            found = [float(rows[0][column]) for column in ("valence", "arousal")]
            assert found == pytest.approx(expected(200), abs=1e-5)
            assert rows[1]["valence"] in (None, "")
    assert [name for name in columns["moody"] if name not in ("valence", "arousal")] == columns["tiny"]


def read(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class TestCommandLine:
    def run(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["motivnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        streams = capsys.readouterr()
        assert not stopped.value.code, streams.err
        return streams.out

    @pytest.fixture
    def picture(self, tmp_path: Path) -> Path:
        Image.fromarray(grey(200, 40)).save(tmp_path / "a.png")
        return tmp_path / "a.png"

    def test_predict(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        bundle: Bundle,
        tiny_bundle: Bundle,
        picture: Path,
    ) -> None:
        valence, arousal = expected(200)
        command = ("predict", picture, "--detector", "whole", "--model")
        table = self.run(monkeypatch, capsys, *command, bundle.path)
        assert "valence" in table
        assert f"{valence:+.2f}" in table
        assert f"{arousal:+.2f}" in table
        assert "valence" not in self.run(monkeypatch, capsys, *command, tiny_bundle.path)
        (face,) = json.loads(self.run(monkeypatch, capsys, *command, bundle.path, "--json"))["faces"]
        assert face["valence"] == pytest.approx(valence, abs=1e-4)
        (face,) = json.loads(self.run(monkeypatch, capsys, *command, tiny_bundle.path, "--json"))["faces"]
        assert "valence" not in face

    def test_evaluate(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bundle: Bundle, tmp_path: Path
    ) -> None:
        pytest.importorskip("matplotlib")
        parquet = pytest.importorskip("pyarrow.parquet")
        monkeypatch.setattr("motivnet.evaluation.evaluate.NUM_RESAMPLES", 20)
        rows = [("path", "label", "valence", "arousal")]
        for number, value in enumerate((20, 60, 120, 180, 230)):
            Image.fromarray(grey(value)).save(tmp_path / f"{number}.png")
            valence, arousal = expected(value)
            rows.append((f"{number}.png", "happiness" if value > 127 else "sadness", str(valence), str(arousal / 2)))
        rows[-1] = (*rows[-1][:3], "")
        with (tmp_path / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        out = tmp_path / "out"
        command = ("evaluate", "--data", f"csv:{tmp_path / 'list.csv'}", "--model", bundle.path, "--out", out)
        told = self.run(monkeypatch, capsys, *command)
        assert "valence CCC 1.000, RMSE 0.000 on 5 labelled images" in told
        found = json.loads((out / "metrics.json").read_text())["affect"]
        assert found["valence"]["ccc"] == pytest.approx(1, abs=1e-6)
        assert found["arousal"]["n"] == 4
        assert found["arousal"]["ccc"] < 0.9
        assert found["arousal"]["sign_agreement"] == 1
        assert "Valence and arousal" in (out / "report.html").read_text(encoding="utf-8")
        table = parquet.read_table(out / "predictions.parquet")
        assert table["valence"].to_pylist() == pytest.approx([float(row[2]) for row in rows[1:]], abs=1e-5)
        # Read back as answers, they are scored again.
        again = (*command[:3], "--predictions", out / "predictions.parquet", "--out", tmp_path / "b")
        self.run(monkeypatch, capsys, *again)
        assert json.loads((tmp_path / "b" / "metrics.json").read_text())["affect"] == found


def test_the_embedded_model_has_none() -> None:
    assert not open_bundle("nano").config.model.affect
