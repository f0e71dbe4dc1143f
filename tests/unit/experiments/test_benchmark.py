import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from motivnet.errors import ConfigError, OutputError
from motivnet.experiments import benchmark
from motivnet.experiments.benchmark import run_benchmark
from motivnet.experiments.protocols import BenchmarkSettings, Setting
from motivnet.inference.predictor import Predictor
from motivnet.report.benchmark_report import benchmark_files

# What the tiny bundle answers by brightness.
BRIGHTNESS = {"happiness": 230, "sadness": 20, "neutral": 128, "contempt": 128}
QUICK = BenchmarkSettings(num_resamples=20)


@pytest.fixture
def pictures(tmp_path):
    """Write a folder of pictures, (label, what they look like) each; give the text that names it."""

    def write(name, *pairs):
        for number, (label, looks) in enumerate(pairs):
            folder = tmp_path / name / label
            folder.mkdir(parents=True, exist_ok=True)
            # Each picture differs a little, so that none is a copy.
            pixels = np.full((16, 16), BRIGHTNESS[looks], np.uint8)
            pixels.flat[number] -= 1
            Image.fromarray(pixels).save(folder / f"{number}.png")
        return f"folder:{tmp_path / name}"

    return write


@pytest.fixture
def model(tmp_path, tiny_bundle):
    """Copy the tiny bundle under another name; `dim` makes it see darkness for brightness."""

    def make(name, *, dim=False, temperature=1.0, **provenance):
        onnx = pytest.importorskip("onnx")
        folder = tmp_path / "models" / name
        shutil.copytree(tiny_bundle.path, folder)
        settings = json.loads((folder / "config.json").read_text())
        settings |= {"name": name, "calibration": {"temperature": temperature}, "provenance": provenance}
        (folder / "config.json").write_text(json.dumps(settings))
        if dim:
            graph = onnx.load(folder / "model.onnx")
            (weight,) = [item for item in graph.graph.initializer if item.name == "weight"]
            weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), "weight"))
            onnx.save(graph, folder / "model.onnx")
        return str(folder)

    return make


EASY = [("happiness", "happiness"), ("sadness", "sadness"), ("neutral", "neutral")] * 4
HALF = [("happiness", "happiness"), ("happiness", "sadness"), ("sadness", "sadness"), ("sadness", "happiness")] * 3


@pytest.fixture
def asked(monkeypatch):
    """Count the cells that a model was asked for."""
    titles = []
    real = benchmark.predict_manifest

    def counting(predictor, manifest, **options):
        titles.append((predictor.config.name, options["data"].rpartition("/")[2]))
        return real(predictor, manifest, **options)

    monkeypatch.setattr(benchmark, "predict_manifest", counting)
    return titles


def test_many_models_on_many_data_sets(tmp_path, pictures, model):
    bright, dim = model("bright", trained_on=["RAF-DB"]), model("dim", dim=True, trained_on=["RAF-DB"])
    sets = [pictures("easy", *EASY), pictures("half", *HALF)]
    found = run_benchmark([bright, dim], sets, tmp_path / "out", QUICK)
    scores = {(cell.model, cell.data): (cell.scores["war"], cell.rank) for cell in found.cells}
    assert scores == {
        ("bright", "easy"): (1, 1),
        ("dim", "easy"): (pytest.approx(1 / 3), 2),
        ("bright", "half"): (0.5, 1),
        ("dim", "half"): (0.5, 1),
    }
    assert [(mean.model, mean.scores["war"], mean.rank) for mean in found.means] == [
        ("bright", 0.75, 1),
        ("dim", pytest.approx(5 / 12), 2),
    ]
    (easy, half) = found.comparisons
    assert (easy.only_a, easy.only_b) == (8, 0)
    assert easy.p_value < 0.01
    # Holm: the smaller of two is doubled.
    assert easy.p_holm == pytest.approx(2 * easy.p_value)
    assert half.p_value == pytest.approx(1)
    assert found.skipped == ()


class TestSettings:
    def test_own_domain_is_never_ranked_among_zero_shot(self, tmp_path, pictures, model):
        own, other = model("own", trained_on=["FER-2013"]), model("other", dim=True, trained_on="AffectNet")
        # Another temperature makes another model of the same answers.
        third, silent = model("third", temperature=2.0, trained_on=["RAF-DB"]), model("silent", temperature=3.0)
        data = [f"FERPlus={pictures('a', *EASY)}", f"JAFFE={pictures('b', *EASY)}"]
        found = run_benchmark([own, other, third, silent], data, tmp_path / "out", QUICK)
        on_fer = {cell.model: (cell.setting, cell.rank) for cell in found.cells if cell.data == "FERPlus"}
        assert on_fer == {
            "own": (Setting.OWN_DOMAIN, None),
            "other": (Setting.ZERO_SHOT, 2),
            "third": (Setting.ZERO_SHOT, 1),
            "silent": (Setting.UNSTATED, None),
        }
        pairs = {each.models for each in found.comparisons if each.data == "FERPlus"}
        assert pairs == {("other", "third")}
        # Own is zero-shot on JAFFE, so all three share that alone: no mean.
        assert [mean for mean in found.means if mean.setting == Setting.ZERO_SHOT] == []

    def test_the_user_may_say_what_a_model_was_trained_on(self, tmp_path, pictures, model):
        silent = model("silent")
        options = BenchmarkSettings(num_resamples=5, trained_on={silent: ["fer2013"]})
        data = [f"FER-2013={pictures('a', *EASY)}", f"JAFFE={pictures('b', *EASY)}"]
        found = run_benchmark([silent], data, tmp_path / "out", options)
        assert [cell.setting for cell in found.cells] == [Setting.OWN_DOMAIN, Setting.ZERO_SHOT]

    def test_published_rows_stand_beside_and_domain_adaptation_apart(self, tmp_path, pictures, model):
        data = f"FER-2013={pictures('a', *EASY)}"
        found = run_benchmark([model("own", trained_on=["FER-2013"])], [data], tmp_path / "out", QUICK)
        markdown = benchmark_files(found)["benchmark.md"]
        sections = {part.partition("\n")[0]: part for part in markdown.split("\n## ")}
        assert "| own | FER-2013 | 100.0 [100.0, 100.0]" in sections["Leaderboard, own domain: FER-2013"]
        assert "EmoNeXt" in sections["Leaderboard, own domain: FER-2013"]
        assert "optimistic: selected on the split it reports" in sections["Leaderboard, own domain: FER-2013"]
        assert "MotivNet" in sections["Leaderboard, zero-shot: FER-2013"]
        assert "AGRA" in sections["Leaderboard, domain adaptation: FER-2013"]
        for heading, part in sections.items():
            assert heading.startswith("Leaderboard, domain adaptation") or "AGRA" not in part


class TestLabels:
    def test_absent_and_left_out_labels_are_printed(self, tmp_path, pictures, model):
        # Contempt is unknown to the model, neutral absent, and one happy face looks neutral.
        data = pictures(
            "ck",
            ("happiness", "happiness"),
            ("happiness", "neutral"),
            ("sadness", "sadness"),
            ("contempt", "contempt"),
        )
        bright = model("bright", trained_on=[])
        found = {}
        for restrict in ("keep", "renormalise"):
            settings = BenchmarkSettings(num_resamples=5, restrict=restrict)
            result = run_benchmark([bright], [f"CK+={data}"], tmp_path / "out", settings, overwrite=True)
            (found[restrict],) = result.cells
            markdown = benchmark_files(result)["benchmark.md"]
            assert "2 labels (happiness, sadness); no image of neutral, surprise, fear, disgust, anger" in markdown
            assert "left out 1 (label contempt)" in markdown
        assert found["keep"].scores["war"] == pytest.approx(2 / 3)
        assert found["renormalise"].scores["war"] == 1
        assert found["keep"].n == 3


class TestFailures:
    def test_what_cannot_be_measured_is_listed_and_the_rest_goes_on(self, tmp_path, pictures, model):
        good = model("good", trained_on=["RAF-DB"])
        data = [
            pictures("easy", *EASY),
            pictures("happy", *[("happiness", "happiness")] * 3),
            "folder:/nowhere",
            "nonsense",
            f"{pictures('split', *EASY)}@test",
        ]
        said = []
        found = run_benchmark([good, "/no/such/model"], data, tmp_path / "out", QUICK, say=said.append)
        assert [(cell.model, cell.data) for cell in found.cells] == [("good", "easy")]
        reasons = {(each.model, each.data): each.reason for each in found.skipped}
        assert reasons.keys() == {
            (None, "nowhere"),
            (None, "nonsense"),
            (None, "split test"),
            ("good", "happy"),
            ("/no/such/model", None),
        }
        assert "no such folder" in reasons[None, "nowhere"]
        assert "no rows in split 'test'" in reasons[None, "split test"]
        assert "1 label in common" in reasons["good", "happy"]
        assert "skipped every model on nowhere" in "\n".join(said)
        markdown = benchmark_files(found)["benchmark.md"]
        assert all(reason in markdown.replace("\\", "") for reason in reasons.values())

    def test_a_cell_that_breaks_does_not_take_the_others_along(self, tmp_path, pictures, model, monkeypatch):
        class Broken:
            max_batch = None

            def outputs(self, pixels_BCHW):
                raise RuntimeError("out of memory")

        real = Predictor.load

        def load(name, *args, **options):
            predictor = real(name, *args, **options)
            if name.endswith("bad"):
                predictor.backend = Broken()
            return predictor

        monkeypatch.setattr(Predictor, "load", load)
        models = [model("bad"), model("good", dim=True)]
        found = run_benchmark(models, [pictures("easy", *EASY)], tmp_path / "out", QUICK)
        assert [cell.model for cell in found.cells] == ["good"]
        assert [(each.model, each.reason) for each in found.skipped] == [("bad", "out of memory")]

    def test_the_same_weights_twice_are_one_model(self, tmp_path, pictures, model):
        found = run_benchmark([model("one"), model("two")], [pictures("easy", *EASY)], tmp_path / "out", QUICK)
        assert [each.name for each in found.models] == ["one"]
        assert "the same weights and settings as" in found.skipped[0].reason

    def test_two_models_of_one_name_are_told_apart(self, tmp_path, pictures, model, tiny_bundle):
        other = model("tiny", dim=True)
        found = run_benchmark([str(tiny_bundle.path), other], [pictures("easy", *EASY)], tmp_path / "out", QUICK)
        names = [cell.model for cell in found.cells]
        assert names == ["tiny", f"tiny ({found.models[1].fingerprint})"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (BenchmarkSettings(detect=["CK"]), "unknown data set 'CK'"),
            (BenchmarkSettings(trained_on={"nanu": ["JAFFE"]}), "unknown model 'nanu'; did you mean 'nano'"),
        ],
    )
    def test_options_that_mean_nothing_are_refused_before_any_work(self, tmp_path, options, message):
        with pytest.raises(ConfigError, match=message):
            run_benchmark(["nano"], ["folder:x"], tmp_path, options)

    def test_one_title_twice_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="'FER-2013 test' is named twice"):
            run_benchmark(["nano"], ["fer2013:a@test", "fer2013:b@test"], tmp_path)

    def test_predictions_that_cannot_be_kept_end_it(self, tmp_path, pictures, model):
        (tmp_path / "out").write_text("a file")
        with pytest.raises(OutputError, match="is a file, expected a folder"):
            run_benchmark([model("one")], [pictures("easy", *EASY)], tmp_path / "out", QUICK)


class TestResuming:
    def test_it_goes_on_where_it_was_killed(self, tmp_path, pictures, model, asked, monkeypatch):
        models = [model("bright"), model("dim", dim=True)]
        data = [pictures("easy", *EASY), pictures("half", *HALF)]
        whole = run_benchmark(models, data, tmp_path / "whole", QUICK).to_dict()
        assert len(asked) == 4
        asked.clear()

        def killed(items, *, total, what):
            if len(asked) == 4:
                raise KeyboardInterrupt
            return items

        with pytest.raises(KeyboardInterrupt):
            run_benchmark(models, data, tmp_path / "out", QUICK, track=killed)
        done = len(list((tmp_path / "out" / "predictions").iterdir()))
        assert not (tmp_path / "out" / "benchmark.json").exists()
        asked.clear()
        assert run_benchmark(models, data, tmp_path / "out", QUICK).to_dict() == whole
        assert len(asked) == 4 - done
        assert done == 3

    def test_only_what_changed_is_asked_again(self, tmp_path, pictures, model, asked):
        bright, data = model("bright"), pictures("easy", *EASY)

        def run(name=data, settings=QUICK):
            run_benchmark([bright], [name], tmp_path / "out", settings, overwrite=True)

        run()
        run(f"Renamed={data}", BenchmarkSettings(num_resamples=7, restrict="renormalise"))
        assert len(asked) == 1
        pictures("easy", *EASY, ("happiness", "sadness"))
        run()
        assert len(asked) == 2
        path = tmp_path / "models" / "bright" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": {"temperature": 1.5}}))
        run()
        assert len(asked) == 3

    def test_damaged_predictions_are_made_anew(self, tmp_path, pictures, model, asked):
        bright, data = model("bright"), pictures("easy", *EASY)
        first = run_benchmark([bright], [data], tmp_path / "out", QUICK).to_dict()
        (file,) = (tmp_path / "out" / "predictions").iterdir()
        file.write_bytes(b"PAR1 and nothing more")
        said = []
        again = run_benchmark([bright], [data], tmp_path / "out", QUICK, say=said.append, overwrite=True)
        assert again.to_dict() == first
        assert len(asked) == 2
        assert "predicted again" in "\n".join(said)


def test_folds_by_subject_where_there_are_subjects(tmp_path, pictures, model):
    pictures("jaffe", *EASY)
    files = sorted((tmp_path / "jaffe").rglob("*.png"))
    table = tmp_path / "jaffe.csv"
    with table.open("w", newline="") as file:
        rows = [(path.relative_to(tmp_path), path.parent.name, f"S{number % 4}") for number, path in enumerate(files)]
        csv.writer(file).writerows([("path", "label", "subject"), *rows])
    found = run_benchmark([model("bright")], [f"JAFFE=csv:{table}"], tmp_path / "out", QUICK)
    (cell,) = found.cells
    assert cell.by_subject
    assert cell.folds is not None
    assert (cell.folds.num_folds, cell.folds.num_subjects) == (4, 4)
    assert "| JAFFE | bright | 4 | 4 | 100.0 \N{PLUS-MINUS SIGN} 0.0" in benchmark_files(found)["benchmark.md"]


def test_the_report_says_all_of_it_three_times(tmp_path, pictures, model):
    models = [model("bright", trained_on=["half"]), model("dim", dim=True, trained_on=["half"])]
    data = [pictures("easy", *EASY), pictures("half", *HALF), "folder:/nowhere"]
    found = run_benchmark(models, data, tmp_path / "out", QUICK)
    files = benchmark_files(found)
    assert {name: (tmp_path / "out" / name).read_text(encoding="utf-8") for name in files} == files
    assert list(files) == ["benchmark.md", "benchmark.html", "benchmark.json"]
    told = json.loads(files["benchmark.json"])
    assert told == found.to_dict()
    assert told["cells"][0]["intervals"].keys() == {"war", "uar", "top2", "f1_macro"}
    assert told["data"]["easy"]["labels"] == {"neutral": 4, "happiness": 4, "sadness": 4}
    # Leave one data set out: both models are what testing on `easy` asks for.
    assert "| half | easy | bright, dim |" in files["benchmark.md"]
    for text in ("bright less dim", "Skipped", "no such folder", "WAR with 95 % intervals"):
        assert text in files["benchmark.html"]
    assert "<svg" in files["benchmark.html"]
