"""The wheel with the oldest versions that `pyproject.toml` allows, and with the newest on the newest Python at hand.

Of the extras, those without torch: its oldest version alone would take gigabytes. Packages come from the index.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXTRAS = ("parquet", "evaluate", "video", "serve", "notebook")
ASTRONAUT = Path(data.data_dir) / "astronaut.png"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=cwd, env=ENVIRONMENT, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def newer_python() -> str | None:
    """Find the newest Python after this one, on the path or under pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(14, sys.version_info.minor, -1):
        found = [shutil.which(f"python3.{minor}"), *sorted(pyenv.glob(f"3.{minor}.*/bin/python"))]
        for python in filter(None, found):
            # What pyenv puts on the path runs only where its version is chosen.
            if subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
                return str(python)
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Callable[..., Path]:
    """Install the wheel and what it needs, resolved as uv's options say; gives the environment's `bin`."""

    def make(python: str, *options: str) -> Path:
        run(python, "-m", "venv", tmp_path / "environment", cwd=tmp_path)
        folder = tmp_path / "environment" / "bin"
        run(folder / "python", "-m", "pip", "install", "--quiet", "uv", cwd=tmp_path)
        command = (folder / "uv", "pip", "install", "--python", folder / "python")
        extras = [word for extra in EXTRAS for word in ("--extra", extra)]
        run(*command, *options, *extras, "-r", ROOT / "pyproject.toml", cwd=tmp_path)
        run(*command, "--no-deps", wheel, cwd=tmp_path)
        print(run(folder / "uv", "pip", "list", "--python", folder / "python", cwd=tmp_path))
        return folder

    return make


def draw_clip(path: Path) -> None:
    """Write ten frames of the photograph."""
    import av

    pixels = np.ascontiguousarray(np.asarray(Image.open(ASTRONAUT).convert("RGB"))[:256, :400])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def serve_one(motivnet: Path, folder: Path) -> dict:
    """Start the server and send it the photograph."""
    command = [motivnet, "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=ENVIRONMENT) as server:
        try:
            assert server.stderr
            logged = ""
            while not (found := re.search(r"listening on (http://[\w.:]+)", logged)):
                line = server.stderr.readline()
                assert line, logged
                logged += line
            body = {"images": [{"data": base64.b64encode(ASTRONAUT.read_bytes()).decode()}]}
            request = urllib.request.Request(f"{found[1]}/v1/predict/base64", json.dumps(body).encode())
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        finally:
            server.kill()


def check(bin_folder: Path, folder: Path) -> None:
    """Predict, write tables, evaluate, label a video, serve, and show in a notebook."""
    motivnet = bin_folder / "motivnet"
    (found,) = map(json.loads, run(motivnet, "predict", ASTRONAUT, "--json", cwd=folder).splitlines())
    assert found["faces"][0]["emotion"] == "happiness"

    photographs = folder / "photographs"
    for label in ("happiness", "neutral"):
        (photographs / label).mkdir(parents=True)
        shutil.copy(ASTRONAUT, photographs / label)
    run(motivnet, "predict", photographs, "--out", "rows.parquet", cwd=folder)
    assert pq.read_table(folder / "rows.parquet")["emotion"].to_pylist() == ["happiness", "happiness"]

    run(motivnet, "evaluate", "--model", "nano", "--data", f"folder:{photographs}", "--detect", "--out=e", cwd=folder)
    assert json.loads((folder / "e" / "metrics.json").read_text())["war"] == 0.5
    assert (folder / "e" / "report.html").stat().st_size > 10_000

    draw_clip(folder / "clip.mp4")
    run(motivnet, "video", "clip.mp4", "--out", "v.parquet", "--report", "v.html", "--annotate", "v.mp4", cwd=folder)
    assert pq.read_table(folder / "v.parquet")["emotion"].to_pylist() == ["happiness"] * 10

    assert "happiness" in json.dumps(serve_one(motivnet, folder))

    code = "import sys, motivnet; found = motivnet.Predictor.load('nano').predict(sys.argv[1]); found.plot()"
    assert "happiness" in run(
        bin_folder / "python", "-c", f"{code}; print(found.to_pandas().emotion[0])", ASTRONAUT, cwd=folder
    )


def test_oldest_versions(install: Callable[..., Path], tmp_path: Path) -> None:
    check(install(sys.executable, "--resolution", "lowest-direct"), tmp_path)


def test_newest_versions(install: Callable[..., Path], tmp_path: Path) -> None:
    python = newer_python()
    if python is None:
        pytest.skip("no Python after this one is installed")
    check(install(python), tmp_path)
