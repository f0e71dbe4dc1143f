"""The lock files agree with each other and with pyproject.toml, and say nothing of the machine that made them."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONTENT = {
    "core": PROJECT["dependencies"],
    "demo": PROJECT["dependencies"] + EXTRAS["demo"],
    "test": PROJECT["dependencies"] + [requirement for extra in EXTRAS.values() for requirement in extra],
}


def read_pins(name: str) -> dict[str, Requirement]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


@pytest.mark.parametrize("name", CONTENT)
def test_lock_file_satisfies_pyproject(name: str) -> None:
    pins = read_pins(name)
    for wanted in map(Requirement, CONTENT[name]):
        (version,) = pins[canonicalize_name(wanted.name)].specifier
        assert version.operator == "=="
        assert wanted.specifier.contains(version.version), (
            f"{wanted}: {name}.txt pins {version.version}; run `make lock`"
        )


@pytest.mark.parametrize("name", ["core", "demo"])
def test_smaller_lock_file_is_part_of_the_tested_one(name: str) -> None:
    pins, tested = read_pins(name), read_pins("test")
    assert {package: str(pin) for package, pin in pins.items() if pin != tested.get(package)} == {}


@pytest.mark.parametrize("name", ["core", "demo"])
def test_no_torch_and_one_opencv(name: str) -> None:
    pins = read_pins(name)
    assert not [package for package in pins if package.startswith(("torch", "nvidia", "timm", "lightning"))]
    assert [package for package in pins if package.startswith("opencv")] == ["opencv-python-headless"]


@pytest.mark.parametrize("name", CONTENT)
def test_lock_file_names_no_place(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    options = [line for line in text.splitlines() if line.lstrip().startswith("-")]
    assert options == []
    assert "://" not in text
    assert " @ " not in text
