"""Cards of bundles, with scores that were measured."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from motivnet.checkpoints.bundle import Bundle, model_fingerprint, open_bundle
from motivnet.cli.main import app
from motivnet.errors import CheckpointError, OutputError
from motivnet.experiments.card import write_card

hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Eight pictures, of which the model is right about six."""
    for label, values in {"happiness": (240, 241, 242, 20), "sadness": (20, 21, 22, 240)}.items():
        folder = tmp_path / "faces/test" / label
        folder.mkdir(parents=True)
        for value in values:
            Image.fromarray(np.full((16, 16), value, np.uint8)).save(folder / f"{value}.png")
    return f"Mine=folder:{tmp_path / 'faces'}@test"


def test_scores_are_measured_recorded_and_stated(bundle: Path, data: str) -> None:
    before = model_fingerprint(bundle)
    done = CliRunner().invoke(app, ["card", str(bundle), "--data", data])
    assert done.exit_code == 0, done.exception
    scores = open_bundle(bundle).config.scores
    assert set(scores) == {"fer2013/PrivateTest", "Mine test"}
    assert (scores["Mine test"]["images"], scores["Mine test"]["war"]) == (8, 0.75)
    assert model_fingerprint(bundle) == before
    card = hub.ModelCard.load(bundle / "README.md")
    told = {(each.dataset_name, each.metric_type): each.metric_value for each in card.data.eval_results}
    assert told["Mine test", "accuracy"] == 0.75
    assert told["fer2013/PrivateTest", "accuracy"] == 0.25
    assert "Mine test: images 8, war 0.75" in card.text


def test_a_card_is_not_overwritten_unasked(bundle: Path) -> None:
    file = write_card(bundle)
    file.write_text("my own words")
    with pytest.raises(OutputError, match=r"README\.md: exists already\. Allowed: overwrite"):
        write_card(bundle)
    assert "# tiny" in write_card(bundle, overwrite=True).read_text()


def test_only_bundles_of_whole_models_have_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="unknown model"):
        write_card(tmp_path / "absent")
