"""Soft labels of teachers, none of which labels what it was fitted on."""

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from motivnet.checkpoints.bundle import Bundle, Calibration, write_config
from motivnet.cli.main import app
from motivnet.config import to_plain
from motivnet.data.clean import picture_keys
from motivnet.data.manifest import Manifest, make_manifest, read_manifest, write_manifest
from motivnet.data.sampling import fold_of
from motivnet.data.sources.named import read_source
from motivnet.errors import ConfigError, DataError, OutputError
from motivnet.experiments import distillation
from motivnet.experiments.distillation import Mirrored, distil, unfitted
from motivnet.inference.backends import Outputs
from motivnet.inference.predictor import Predictor
from motivnet.labels import EMOTIONS, WITH_CONTEMPT, LabelSet
from motivnet.training.data_module import choose_rows
from motivnet.training.losses import blend_targets
from motivnet.training.recipes import mini_fer2013
from motivnet.training.settings import SplitConfig

ROWS = 70


def picture(seed: int, *, high: int = 256) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, high, (16, 16), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def labelled(first: int = 0, **columns: Any) -> Manifest:
    """Seventy rows to train on, every second one with votes, and seven to select on."""
    names = [EMOTIONS.names[row % 7] for row in range(ROWS + 7)]
    own = {
        "image": [picture(first + row, high=20 + 200 * (row % 2)) for row in range(ROWS + 7)],
        "label": names,
        "split": ["Training"] * ROWS + ["PublicTest"] * 7,
        "votes": [[3.0, 1, 0, 0, 0, 0, 0] if row % 2 else None for row in range(ROWS + 7)],
    }
    return make_manifest(own | columns)


def pool(tmp_path: Path, images: list[bytes]) -> str:
    file = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"image_id": [str(row) for row in range(len(images))], "jpeg": images}), file)
    return f"parquet:{file}?unlabelled=true&image=jpeg"


def changed(bundle: Bundle, folder: Path, **settings: Any) -> Bundle:
    """A copy of a bundle with other settings."""
    shutil.copytree(bundle.path, folder)
    return write_config(folder, dataclasses.replace(bundle.config, **settings))


@pytest.fixture(scope="module")
def bundles(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The tiny model as if trained on all rows, without each of two folds, elsewhere, and by nobody known."""
    folder, manifest = tmp_path_factory.mktemp("teachers"), labelled()
    splits = {
        "all": SplitConfig(train="Training", select="PublicTest"),
        "first": SplitConfig(train="Training", select="PublicTest", folds=2, fold=0),
        "second": SplitConfig(train="Training", select="PublicTest", folds=2, fold=1),
    }
    made = {"unknown": changed(tiny_bundle, folder / "unknown")}
    for name, split in {**splits, "elsewhere": splits["first"]}.items():
        recipe = dataclasses.replace(mini_fer2013(), split=split)
        rows = choose_rows(recipe, labelled(5000) if name == "elsewhere" else manifest)
        provenance = {"recipe": to_plain(recipe), "training_rows": rows.report}
        made[name] = changed(tiny_bundle, folder / name, provenance=provenance)
    return made


def logits_of(bundle: Bundle, manifest: Manifest) -> np.ndarray:
    """Raw logits of the bundle's own ONNX file."""
    predictor = Predictor.load(bundle.path, detector="whole")
    pixels = [
        predictor.config.preprocessing(np.asarray(Image.open(io.BytesIO(image)).convert("RGB")))
        for image in manifest.table["image"].to_pylist()
    ]
    return predictor.backend.outputs(np.stack(pixels)).logits.astype(np.float64)


def softmax(logits_BC: np.ndarray) -> np.ndarray:
    exp_BC = np.exp(logits_BC - logits_BC.max(1, keepdims=True))
    return exp_BC / exp_BC.sum(1, keepdims=True)


def run(teachers: list[Bundle | Path], tmp_path: Path, data: Manifest | None = None, **settings: Any) -> Manifest:
    names = [teacher.path if isinstance(teacher, Bundle) else teacher for teacher in teachers]
    return distil(names, data or labelled(), out=tmp_path / "soft.parquet", say=lambda _: None, **settings)


class TestTargets:
    """Votes of labelled and unlabelled faces."""

    def test_they_are_those_of_a_direct_computation(self, bundles, tmp_path):
        teachers, manifest = [bundles["unknown"], bundles["elsewhere"]], labelled()
        faces = [picture(900 + row, high=10 + 60 * row) for row in range(4)]
        settings = {"temperature": 2.0, "weight": 0.25, "vote_weight": 0.5, "flip": False}
        found = run(teachers, tmp_path, unlabelled=[pool(tmp_path, faces)], **settings)
        assert found.counts()["PublicTest"] == manifest.counts()["PublicTest"]
        train = manifest.split("Training")
        mean_BC = (logits_of(teachers[0], train) + logits_of(teachers[1], train)) / 2
        label_BC = np.eye(7)[train.targets]
        votes_BC = np.where(train.votes.any(1, keepdims=True), train.votes / 4, label_BC)
        expected_BC = 0.75 * (label_BC + votes_BC) / 2 + 0.25 * softmax(mean_BC / 2)
        np.testing.assert_allclose(found.votes[:ROWS], expected_BC, atol=1e-5)
        added = found.select(np.arange(ROWS, ROWS + 4))
        assert added.table["image"].to_pylist() == faces
        assert set(added.table["split"].to_pylist()) == {"Training"}
        seen_BC = softmax(logits_of(teachers[0], added) / 2)
        np.testing.assert_allclose(added.votes, seen_BC, atol=1e-5)
        assert added.targets.tolist() == seen_BC.argmax(1).tolist()
        assert len(set(added.targets.tolist())) > 1

    def test_training_reads_the_file_and_its_target_is_the_votes(self, bundles, tmp_path):
        found = run([bundles["unknown"]], tmp_path, unlabelled=[pool(tmp_path, [picture(900)])])
        read = read_source(f"manifest:{tmp_path}/soft.parquet")
        assert read.table.equals(found.table)
        recipe = dataclasses.replace(mini_fer2013(), split=SplitConfig(train="Training", select="PublicTest"))
        rows = choose_rows(recipe, read)
        assert len(rows.train) == ROWS + 1
        votes_BC = torch.from_numpy(rows.train.votes)
        labels_B = torch.from_numpy(rows.train.targets)
        target_BC = blend_targets(labels_B, votes_BC, vote_weight=1.0, label_smoothing=0.0)
        torch.testing.assert_close(target_BC, votes_BC, rtol=0, atol=1e-6)
        assert read.split("PublicTest").table.equals(labelled().split("PublicTest").table)

    def test_calibration_of_a_teacher_changes_nothing(self, bundles, tmp_path):
        plain = run([bundles["unknown"]], tmp_path)
        calibration = Calibration(temperature=3.0, exponent=1.2)
        teacher = changed(bundles["unknown"], tmp_path / "calibrated", calibration=calibration)
        calibrated = run([teacher], tmp_path, overwrite=True)
        np.testing.assert_allclose(calibrated.votes, plain.votes, atol=1e-6)

    def test_mirror_images(self):
        class Left:
            max_batch = 5

            def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
                return Outputs(pixels_BCHW[:, 0, :, 0], None)

        pixels_BCHW = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
        found = Mirrored(Left()).outputs(pixels_BCHW)
        np.testing.assert_array_equal(found.logits, (pixels_BCHW[:, 0, :, 0] + pixels_BCHW[:, 0, :, -1]) / 2)

    def test_predictions_of_another_tool_for_the_labelled_faces(self, bundles, tmp_path):
        train = labelled().split("Training")
        probs_BC = np.random.default_rng(0).dirichlet(np.ones(7), ROWS)
        columns = {name: probs_BC[:, place] for place, name in enumerate(EMOTIONS)}
        file = tmp_path / "answers.parquet"
        pq.write_table(pa.table({"row": train.table["row"], **columns}), file)
        faces = pool(tmp_path, [picture(900)])
        found = run([file, bundles["all"]], tmp_path, unlabelled=[faces], weight=1.0)
        np.testing.assert_allclose(found.votes[:ROWS], probs_BC, atol=1e-6)
        with pytest.raises(
            DataError,
            match=r"1 of 71 faces have no teacher. Not .*answers.parquet: trained on them, or files of predictions",
        ):
            run([file], tmp_path, unlabelled=[faces], overwrite=True)
        pq.write_table(pa.table({"row": train.table["row"], "pred": train.table["label"]}), file)
        with pytest.raises(DataError, match="Allowed: a column of probabilities for each of neutral, "):
            run([file], tmp_path, overwrite=True)


class TestCrossFitting:
    """No teacher labels what it was fitted on."""

    @pytest.fixture
    def asked(self, monkeypatch) -> dict[str, list[bytes]]:
        """The images that each teacher predicts."""
        seen: dict[str, list[bytes]] = {}

        def record(predictor, manifest, *, what, **options):
            seen[Path(what).name] = manifest.table["image"].to_pylist()
            return real(predictor, manifest, what=what, **options)

        real = distillation.predict_manifest
        monkeypatch.setattr(distillation, "predict_manifest", record)
        return seen

    def test_each_teacher_labels_the_fold_that_it_was_not_trained_on(self, bundles, tmp_path, asked):
        face = picture(900)
        run([bundles["first"], bundles["second"]], tmp_path, unlabelled=[pool(tmp_path, [face])])
        train = labelled().split("Training").table["image"].to_pylist()
        for fold, name in enumerate(("first", "second")):
            recipe = dataclasses.replace(mini_fer2013(), split=SplitConfig(train="Training", folds=2, fold=fold))
            recipe = dataclasses.replace(recipe, split=dataclasses.replace(recipe.split, select="PublicTest"))
            fitted = choose_rows(recipe, labelled()).train.table["image"].to_pylist()
            assert face in asked[name]
            assert not set(asked[name]) & set(fitted)
        assert sorted(asked["first"] + asked["second"]) == sorted([*train, face, face])

    def test_it_holds_for_other_files_of_the_same_pictures(self, bundles, tmp_path, asked):
        some = labelled().select(np.r_[0:ROWS:2, ROWS : ROWS + 7])
        run([bundles["first"], bundles["second"]], tmp_path, some)
        keys, _ = picture_keys(some.split("Training"))
        own = fold_of([None] * len(keys), keys.tolist(), 2)
        assert [len(asked[name]) for name in ("first", "second")] == np.bincount(own).tolist()

    def test_one_trained_on_all_of_them_labels_the_others_alone(self, bundles, tmp_path, asked):
        faces = pool(tmp_path, [picture(900)])
        with pytest.raises(DataError, match=r"70 of 71 faces have no teacher. Not .*all: trained on them"):
            run([bundles["all"]], tmp_path, unlabelled=[faces])
        with pytest.raises(DataError, match=r"of 71 faces have no teacher.*split.folds"):
            run([bundles["first"]], tmp_path, unlabelled=[faces])
        assert not asked  # before anything is predicted
        found = run([bundles["all"]], tmp_path, unlabelled=[faces], weight=0.0, vote_weight=0.0)
        assert asked == {"all": [picture(900)]}
        np.testing.assert_array_equal(found.votes[:ROWS], np.eye(7)[labelled().split("Training").targets])
        run([bundles["all"], bundles["elsewhere"]], tmp_path, unlabelled=[faces], overwrite=True)
        assert [len(asked[name]) for name in ("all", "elsewhere")] == [1, ROWS + 1]

    def test_what_a_teacher_started_from_counts(self, bundles):
        keys, _ = picture_keys(labelled().split("Training"))
        subjects = [None] * len(keys)
        fold = bundles["first"].config.provenance
        started = {**fold, "init": {"bundle": "all", "provenance": bundles["all"].config.provenance}}
        assert 0 < unfitted(fold, subjects, keys).sum() < ROWS
        assert not unfitted(started, subjects, keys).any()
        assert unfitted({**bundles["elsewhere"].config.provenance, "init": "file.pth"}, subjects, keys).all()
        pretrained = {"recipe": {"images": {"train": "Training"}}, "training_rows": {}}
        assert unfitted(
            {**bundles["elsewhere"].config.provenance, "init": {"provenance": pretrained}}, subjects, keys
        ).all()

    def test_one_from_before_pictures_were_recorded_is_refused(self, bundles, tmp_path):
        with pytest.raises(DataError, match="Not nano: trained on them"):
            run([Path("nano")], tmp_path)


class TestUnlabelled:
    """Faces without labels."""

    def test_unreadable_ones_and_copies_are_left_out_and_said(self, bundles, tmp_path, capsys):
        said: list[str] = []
        images = [
            picture(900),
            b"broken",
            labelled().table["image"][0].as_py(),
            labelled().table["image"][ROWS].as_py(),
        ]
        found = distil(
            [bundles["unknown"].path],
            labelled(),
            out=tmp_path / "soft.parquet",
            unlabelled=[pool(tmp_path, [*images, *[b"no image"] * 4])],
            say=said.append,
        )
        assert found.counts() == read_source(f"manifest:{tmp_path}/soft.parquet").counts()
        assert len(found) == ROWS + 7 + 1
        first, *named = capsys.readouterr().err.partition("5 of 8 images")[2].splitlines()
        assert first == " cannot be read and are left out:"
        assert [line.partition(":")[0] for line in named] == [f"row {row}" for row in (1, 4, 5, 6, 7)]
        assert "left out as blank or copies: 0 labelled faces, 2 without labels" in said
        assert any("unknown: labels 70 labelled faces, 1 without labels" in line for line in said)

    def test_a_folder(self, bundles, tmp_path):
        (tmp_path / "faces").mkdir()
        (tmp_path / "faces" / "a.png").write_bytes(picture(900))
        found = run([bundles["unknown"]], tmp_path, unlabelled=[f"images:{tmp_path}/faces"])
        assert found.table["path"].to_pylist()[ROWS] == str(tmp_path / "faces" / "a.png")


def test_the_command(bundles, tmp_path):
    write_manifest(labelled(), tmp_path / "faces.parquet")
    teachers = [word for name in ("first", "second") for word in ("--teacher", str(bundles[name].path))]
    words = ["--data", f"manifest:{tmp_path}/faces.parquet", "--unlabelled", pool(tmp_path, [picture(900)])]
    out = ["--out", str(tmp_path / "soft.parquet"), "--weight", "1", "--no-flip"]
    result = CliRunner().invoke(app, ["distil", *teachers, *words, *out])
    assert result.exit_code == 0, result.output
    assert f"78 rows written to {tmp_path}/soft.parquet" in result.output
    assert read_manifest(tmp_path / "soft.parquet").counts()["Training"].keys() == set(EMOTIONS)


def test_mistakes_are_found_before_anything_is_read(bundles, tmp_path):
    names = LabelSet((*reversed(EMOTIONS.names),))
    other = changed(bundles["unknown"], tmp_path / "other", labels=names)
    model = onnx.load(other.onnx)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | {"labels": json.dumps(names.names)})
    onnx.save(model, other.onnx)
    with pytest.raises(ConfigError, match=r"other: its labels are anger, .*Allowed: neutral, "):
        run([other], tmp_path)
    with pytest.raises(ConfigError, match="at least one teacher"):
        run([], tmp_path)
    with pytest.raises(ConfigError, match="nothing to distil"):
        run([bundles["unknown"]], tmp_path, weight=0.0)
    with pytest.raises(ConfigError, match=r"temperature 0.0: must be at least"):
        run([bundles["unknown"]], tmp_path, temperature=0.0)
    with pytest.raises(DataError, match=r"answers.csv: cannot be read"):
        run([tmp_path / "answers.csv"], tmp_path)
    with pytest.raises(DataError, match="no rows in split 'train'"):
        run([bundles["unknown"]], tmp_path, split="train")
    (tmp_path / "soft.parquet").write_bytes(b"")
    with pytest.raises(OutputError, match="exists already"):
        run([bundles["unknown"]], tmp_path)


def test_rows_of_labels_that_teachers_do_not_know_are_left_out(bundles, tmp_path):
    columns = {"image": [picture(1), picture(2)], "label": ["contempt", "fear"], "split": ["Training"] * 2}
    found = run([bundles["unknown"]], tmp_path, make_manifest(columns, WITH_CONTEMPT))
    assert found.table["label"].to_pylist() == ["fear"]
    assert found.dropped == {"label contempt": 1}
