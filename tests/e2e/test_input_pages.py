"""What the pages on inputs and notebooks show, runs."""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import motivnet
from motivnet.inference import predictor

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def folder(tmp_path: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the examples are run in, with a web and a camera of its own."""
    photo = tmp_path / "photo.jpg"
    Image.fromarray(astronaut).save(photo)
    Image.fromarray(np.concatenate([astronaut, astronaut], axis=1)).save(tmp_path / "group.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (512, 512))
    for _ in range(4):
        writer.write(astronaut[:, :, ::-1])
    writer.release()

    def read_camera(_: int) -> Iterator[np.ndarray]:
        while True:
            yield astronaut

    fetch = predictor.fetch
    local = lambda url, limits: photo.read_bytes() if "example.org" in url else fetch(url, limits)  # noqa: E731
    monkeypatch.setattr(predictor, "fetch", local)
    monkeypatch.setattr(motivnet, "read_camera", read_camera)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_inputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    known: dict = {}
    for block in blocks("inputs.md"):
        exec(block, known)
    said = capsys.readouterr().out
    assert "clip.avi@0.500s ok ['happiness']" in said
    assert "169.254.169.254 is not on the public internet" in said
    assert [result.status for result in known["results"]] == ["ok"] * 3
    assert known["result"].source == "participant 7"


def test_notebook(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("pandas", "pyarrow"):
        pytest.importorskip(package)
    pytest.importorskip("matplotlib").use("agg")
    known: dict = {}
    shown = []
    for block in blocks("notebook.md"):
        *_, last = block.splitlines()
        exec(block, known)
        if last.isidentifier() or last == "results[1]":
            shown.append(eval(last, known)._repr_html_())
    assert [page.count("<img") for page in shown] == [2, 1, 2]
    assert (folder / "results.png").stat().st_size > 10_000
    assert (folder / "results.parquet").is_file()
    said = capsys.readouterr().out
    assert "happiness" in said
    assert "unreadable" in said
    assert "group.jpg (512, 1024, 3) 2" in said
