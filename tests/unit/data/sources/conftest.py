"""Tiny images for miniature data sets: the tests build each in its published layout."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Write an image of 6x4 grey pixels below tmp_path, of the format that its name says."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), len(name)).save(path)
        return path

    return write


@pytest.fixture
def write(tmp_path: Path) -> Draw:
    """Write text below tmp_path."""

    def write_text(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_text
