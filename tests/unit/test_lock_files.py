"""The lock files agree with each other and with pyproject.toml, carry hashes, and name no index or machine."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
# gpu and openvino would each replace onnxruntime; the other two are for exports alone, and tflite fits no lock file.
UNLOCKED = {"gpu", "openvino", "tflite", "executorch"}
CONTENT = {
    "core": PROJECT["dependencies"],
    "demo": PROJECT["dependencies"] + EXTRAS["demo"],
    "serve": PROJECT["dependencies"] + EXTRAS["serve"],
    "build": [*PYPROJECT["build-system"]["requires"], "editables"],
    "release": ["build", "check-wheel-contents", "hatchling", "twine", "uv"],
    "test": PROJECT["dependencies"] + [each for name in EXTRAS.keys() - UNLOCKED for each in EXTRAS[name]],
}
PIN = re.compile(r"(?P<pin>[^ ].*?)(?P<hashes>( --hash=sha256:[0-9a-f]{64})+)")


def read_lock(name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Read a lock file: package -> its pin and the hashes of its files. Comments are all that may stand beside them."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    locked = {}
    for line in re.sub(r" *\\\n *", " ", text).splitlines():
        if not line.lstrip().startswith("#"):
            found = PIN.fullmatch(line)
            assert found, f"{name}.txt: neither a comment nor a pin with hashes: {line}"
            pin = Requirement(found["pin"])
            locked[canonicalize_name(pin.name)] = pin, sorted(found["hashes"].split())
    return locked


@pytest.mark.parametrize("name", CONTENT)
def test_lock_file_satisfies_pyproject(name: str) -> None:
    locked = read_lock(name)
    for wanted in map(Requirement, CONTENT[name]):
        (version,) = locked[canonicalize_name(wanted.name)][0].specifier
        assert version.operator == "=="
        assert wanted.specifier.contains(version.version), (
            f"{wanted}: {name}.txt pins {version.version}; run `make lock`"
        )


@pytest.mark.parametrize("name", ["core", "demo", "serve", "build"])
def test_smaller_lock_file_is_part_of_the_tested_one(name: str) -> None:
    tested = read_lock("test")
    for package, (pin, hashes) in read_lock(name).items():
        assert (pin.specifier, hashes) == (tested[package][0].specifier, tested[package][1]), package


@pytest.mark.parametrize("name", ["core", "demo", "serve"])
def test_no_torch_and_one_opencv(name: str) -> None:
    locked = read_lock(name)
    assert not [package for package in locked if package.startswith(("torch", "nvidia", "timm", "lightning"))]
    assert [package for package in locked if package.startswith("opencv")] == ["opencv-python-headless"]


@pytest.mark.parametrize("name", CONTENT)
def test_lock_file_names_no_place(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert " @ " not in text
