"""What tests of training share: seven kinds of drawn stripes, and a recipe of seconds."""

import dataclasses
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    import lightning

    from motivnet.data.manifest import Manifest
    from motivnet.training.settings import Recipe


def draw(label: int, rng: np.random.Generator) -> bytes:
    """Draw a picture whose stripes tell its label, under noise."""
    y, x = np.mgrid[:32, :32]
    stripes = np.sin((x * np.cos(label * np.pi / 7) + y * np.sin(label * np.pi / 7)) / 2)
    pixels = np.clip(128 + 80 * stripes + rng.normal(0, 20, (32, 32)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def faces() -> "Manifest":
    """56 rows to learn from, 14 to select on."""
    from motivnet.data.manifest import make_manifest
    from motivnet.labels import EMOTIONS

    rng = np.random.default_rng(0)
    labels = np.arange(70) % 7
    return make_manifest(
        {
            "image": [draw(int(label), rng) for label in labels],
            "label": [EMOTIONS.names[label] for label in labels],
            "split": ["Training"] * 56 + ["PublicTest"] * 14,
        }
    )


@pytest.fixture
def tiny() -> "Callable[..., Recipe]":
    """Make a recipe of a tiny transformer, 8 steps an epoch: `tiny(epochs=3)` changes settings of its run."""
    from motivnet.models.config import HeadConfig, VitConfig
    from motivnet.training.recipes import nano_fer2013

    def make(**run: Any) -> "Recipe":
        recipe = nano_fer2013()
        model = dataclasses.replace(
            recipe.model,
            backbone="sapiens",
            image_size=(32, 32),
            vit=VitConfig(embed_dim=24, depth=2, num_heads=3, patch_size=8, patch_padding=0),
            head=HeadConfig(dim=16, num_heads=2, ff_dim=16),
        )
        settings: dict[str, Any] = {"epochs": 2, "batch_size": 7, "precision": "32-true", "ema_decay": 0.9} | run
        return dataclasses.replace(
            recipe,
            model=model,
            preprocessing=dataclasses.replace(recipe.preprocessing, size=(32, 32)),
            run=dataclasses.replace(recipe.run, **settings),
        )

    return make


@pytest.fixture
def silent_trainer(tmp_path: "Path") -> "Callable[..., lightning.Trainer]":
    """Make a trainer that neither logs nor saves."""
    import lightning

    def make(**settings: Any) -> "lightning.Trainer":
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return lightning.Trainer(
            accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **quiet | settings
        )

    return make
