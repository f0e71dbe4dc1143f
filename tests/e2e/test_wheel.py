"""The built wheel, installed where nothing but its declared dependencies exists, must predict.

The empty environment is filled without a network: what the wheel's metadata asks for, and what that asks for in turn,
is linked into it from the environment of the tests, so that torch and everything else of the tests stay out of sight.
"""

import json
import os
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from skimage import data

ROOT = Path(__file__).parents[2]
MAX_WHEEL_BYTES = 25_000_000
NEEDED = {
    "motivnet/__init__.pyi",
    "motivnet/py.typed",
    "motivnet/assets/nano/config.json",
    "motivnet/assets/nano/model.onnx",
    "motivnet/assets/nano/README.md",
    "motivnet/assets/yunet/yunet.onnx",
    "motivnet/assets/yunet/LICENSE",
    "motivnet/assets/onnxruntime-web/LICENSE",
    "motivnet/assets/onnxruntime-web/ort-wasm-simd-threaded.wasm.gz",
    "motivnet/server/page/boot.html",
}


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def required_packages(wheel: Path) -> set[str]:
    """Name everything that installing the wheel without extras brings along."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        declared = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    found: set[str] = set()
    while declared:
        requirement = Requirement(declared.pop())
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in found:
            found.add(name)
            declared += metadata.requires(name) or []
    return found


def link_package(name: str, site_packages: Path) -> None:
    """Link every top-level file and folder that pip wrote for a package."""
    files = metadata.files(name)
    assert files, f"{name}: pip's record of its files is missing"
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        target = site_packages / top
        if not target.exists():
            target.symlink_to(Path(str(metadata.distribution(name).locate_file(top))))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A virtual environment with the wheel and the core packages; gives its `bin`."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    for name in required_packages(wheel):
        link_package(name, Path(purelib))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=folder)
    # Versions, too, must be ones that each package allows.
    run(*pip, "check", cwd=folder)
    return folder / "bin"


def test_wheel_is_small_and_complete(wheel: Path) -> None:
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert set(names) >= NEEDED
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "scripts"))]


def test_lock_file_of_the_core_is_what_the_wheel_needs(wheel: Path) -> None:
    lines = (ROOT / "requirements" / "core.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line.rstrip("\\")) for line in lines if line and not line.startswith((" ", "#"))]
    assert {pin.name for pin in pins if pin.marker is None or pin.marker.evaluate()} == required_packages(wheel)


def test_wheel_predicts_in_an_empty_environment(empty_environment: Path, tmp_path: Path) -> None:
    photograph = Path(data.data_dir) / "astronaut.png"
    output = run(empty_environment / "motivnet", "predict", photograph, "--json", cwd=tmp_path)
    (result,) = map(json.loads, output.splitlines())
    assert (result["source"], result["status"], result["error"]) == (str(photograph), "ok", None)
    assert result["model"] == "nano"
    # The astronaut's face is about here: 512 x 512 pixels, one woman, smiling.
    x, y, width, height = (result["faces"][0][name] for name in ("x", "y", "width", "height"))
    assert 150 < x + width / 2 < 280
    assert 60 < y + height / 2 < 200
    assert result["faces"][0]["emotion"] == "happiness"
    assert sum(result["faces"][0]["probs"].values()) == pytest.approx(1, abs=1e-3)


def test_library_comes_from_the_wheel_and_torch_is_not_there(empty_environment: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util, motivnet; print(motivnet.__file__);"
        "print([name for name in ('torch', 'pyarrow', 'pytest', 'skimage') if importlib.util.find_spec(name)])"
    )
    file, others = run(empty_environment / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(empty_environment.parent)
    assert others == "[]"
