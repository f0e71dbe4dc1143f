"""Other labels than the seven emotions: from a folder of images to the answer for one."""

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.data.sources.named import read_source
from motivnet.errors import ConfigError, DataError
from motivnet.evaluation.evaluate import evaluate
from motivnet.export.onnx import export_onnx, verify_onnx
from motivnet.inference.predictor import Predictor
from motivnet.labels import EMOTIONS, WITH_CONTEMPT, LabelSet
from motivnet.training.fit import fit
from motivnet.training.settings import Recipe

OWN = ("Tense", "calm", "bored")
SETS = {"with contempt": (WITH_CONTEMPT.names, None, ""), "own": (OWN, OWN, "?labels=Tense,calm,bored")}


def shade(label: int) -> np.ndarray:
    pixels = np.full((32, 32), 20 + 25 * label, np.uint8)
    pixels[::2] += np.random.default_rng(label).integers(0, 20, (16, 32)).astype(np.uint8)
    return pixels


def with_labels(recipe: Recipe, names: tuple[str, ...] | None, number: int) -> Recipe:
    return dataclasses.replace(recipe, labels=names, model=dataclasses.replace(recipe.model, num_classes=number))


@pytest.mark.parametrize("name", SETS)
def test_a_set_trains_exports_predicts_and_is_evaluated(name: str, tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    names, given, option = SETS[name]
    rng = np.random.default_rng(1)
    for split in ("Training", "PublicTest"):
        for label, each in enumerate(names):
            folder = tmp_path / "images" / split / each
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = np.clip(shade(label) + rng.normal(0, 2, (32, 32)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    data = f"folder:{tmp_path / 'images'}{option}"
    recipe = with_labels(tiny(epochs=1, batch_size=3), given, len(names))
    bundle = fit(recipe, data, tmp_path / "run", progress=False)
    assert bundle.config.labels.names == names
    with (tmp_path / "run" / "validation.csv").open() as file:
        assert {f"recall_{each}" for each in names} <= set(next(csv.reader(file)))
    export_onnx(bundle)
    assert verify_onnx(bundle) < 1e-3
    predictor = Predictor.load(bundle.path, detector="whole")
    (face,) = predictor.predict(Image.fromarray(shade(1)).convert("RGB"))[0].faces
    assert tuple(face.probs) == names
    found = evaluate(bundle.path, data, split="PublicTest", out=tmp_path / "scores")
    assert found.predictions.labels.names == names
    assert len(found.predictions.target_B) == 3 * len(names)


def test_columns_of_a_table(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(shade(0)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    (tmp_path / "t.csv").write_text("path,label\na.png,Calm\n")
    found = read_source(f"csv:{tmp_path / 't.csv'}?labels=Tense,calm,bored")
    assert (found.labels.names, found.table["label"].to_pylist()) == (OWN, ["calm"])
    with pytest.raises(DataError, match=r"row 0: unknown label 'Calm'.*Allowed: calmer, tense"):
        read_source(f"csv:{tmp_path / 't.csv'}?labels=calmer,tense")


@pytest.mark.parametrize(
    ("names", "number", "expected"), [(None, 7, EMOTIONS), (None, 8, WITH_CONTEMPT), (OWN, 3, LabelSet(OWN))]
)
def test_labels_of_a_recipe(
    names: tuple[str, ...] | None, number: int, expected: LabelSet, tiny: Callable[..., Recipe]
) -> None:
    assert with_labels(tiny(), names, number).label_set == expected


@pytest.mark.parametrize(("names", "number"), [(None, 5), (OWN, 7)])
def test_other_numbers_are_refused(names: tuple[str, ...] | None, number: int, tiny: Callable[..., Recipe]) -> None:
    with pytest.raises(ConfigError, match=rf"num_classes {number} for . labels. Allowed: 7, 8, or the number"):
        _ = with_labels(tiny(), names, number).label_set
