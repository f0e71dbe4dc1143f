"""How the recipe `mini-fer2013` learns: the loss of 20 steps on drawn faces, on one thread."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet import EMOTIONS

NUM_TRAIN, NUM_SELECT = 80, 14
# Ten steps per epoch. The recipe's own learning rates, meant for longer runs, amplify the rounding errors of another
# kind of CPU a thousandfold in so few steps; with these, losses agree to 1e-6. All other settings are the recipe's.
SETTINGS = ["run.batch_size=8", "run.epochs=2", "optimizer.backbone_lr=1e-4", "optimizer.head_lr=3e-4"]


def draw_face(label: int, rng: np.random.Generator) -> bytes:
    """Draw 48 x 48 grey pixels: a head, eyes, and a mouth and brows by the label; in integers, alike on any machine."""
    y, x = np.mgrid[:48, :48] - 24 - rng.integers(-2, 3, (2, 1, 1))
    image = rng.integers(30, 60, (48, 48))
    image[x * x * 16 + y * y * 9 < 4800] += 120
    for side in (-7, 7):
        image[(x - side) ** 2 + (y + 5) ** 2 < 4 + 2 * (label % 3)] = 20
        image[(abs(x - side) < 5) & (abs((y + 11) * 4 - (x - side) * side * (label - 3) // 7) < 4)] = 40
    bend = (0, 3, -3, 1, -1, 2, -2)[label]
    image[(abs(x) < 9) & (abs((y - 9) * 16 + bend * (x * x - 40) // 2) < 16 + 8 * (label // 4))] = 25
    buffer = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def tolerance(value: float) -> float:
    """1e-5 for losses and scores; as much of what is smaller than 1, such as learning rates."""
    return 1e-5 * min(1, abs(value))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run on one thread; without the command, whose export to ONNX takes longer than all the rest."""
    pytest.importorskip("lightning", reason="the extra `train` is not installed")
    import torch

    from motivnet import config
    from motivnet.data.manifest import make_manifest
    from motivnet.training.fit import fit
    from motivnet.training.recipes import recipe
    from motivnet.training.settings import Place

    rng = np.random.default_rng(0)
    labels = [number % 7 for number in range(NUM_TRAIN + NUM_SELECT)]
    faces = make_manifest(
        {
            "image": [draw_face(label, rng) for label in labels],
            "label": [EMOTIONS.names[label] for label in labels],
            "split": ["Training"] * NUM_TRAIN + ["PublicTest"] * NUM_SELECT,
        }
    )
    out = tmp_path_factory.mktemp("training") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fit(config.override(recipe("mini-fer2013"), SETTINGS), faces, out, place=Place(accelerator="cpu"), progress=False)
    yield out
    torch.set_num_threads(threads)


def test_loss_of_20_steps(golden, trained):
    golden.check("mini_loss.csv", (trained / "metrics.csv").read_text(encoding="utf-8"), tolerance)


def test_validation(golden, trained):
    golden.check("mini_validation.csv", (trained / "validation.csv").read_text(encoding="utf-8"), tolerance)


def test_recipe(golden, trained):
    golden.check("mini_recipe.json", (trained / "recipe.json").read_text(encoding="utf-8"), tolerance)


def test_files_of_a_run(trained):
    names = {path.name for path in trained.iterdir() if not path.name.startswith(".")}
    files = {"metrics.csv", "validation.csv", "recipe.json", "run.json"}
    assert names == files | {"bundle", "checkpoints", "tensorboard"}
