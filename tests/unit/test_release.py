"""The scripts that check where the core can be installed, and what a release consists of."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


def test_notes_are_the_section_of_the_version(script) -> None:
    release: ModuleType = script("release")
    changelog = "# Changelog\n\n## [Unreleased]\n\n- later\n\n## [0.2.0] - 2026-12-01\n\n- new\n\n## [0.1.0]\n\n- old\n"
    assert release.release_notes(changelog, "0.2.0") == "# motivnet 0.2.0\n\n- new\n"
    assert release.release_notes(changelog, "0.1.0") == "# motivnet 0.1.0\n\n- old\n"
    for missing in ("0.3.0", "0.2"):
        with pytest.raises(SystemExit, match=re.escape(missing)):
            release.release_notes(changelog, missing)


def test_the_version_has_notes(script) -> None:
    from motivnet import __version__

    assert script("release").release_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), __version__)


def test_wheels_of_a_package_stand_in_one_row(script) -> None:
    wheels: ModuleType = script("check_wheels")
    newest = {(platform, python): {"numpy": "2.4"} for platform in wheels.PLATFORMS for python in wheels.PYTHONS}
    newest["Windows x86-64", "3.11"] = {"numpy": "2.3", "colorama": "0.4"}
    colorama, numpy = wheels.rows(newest)
    assert numpy["Linux ARM64"] == "2.4"
    assert numpy["Windows x86-64"] == "2.3 (3.11); 2.4 (3.12, 3.13, 3.14)"
    assert colorama["Linux ARM64"] == ""
    assert colorama["Windows x86-64"] == "0.4 (3.11); none (3.12, 3.13, 3.14)"


def test_a_package_without_wheels_fails(script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    wheels: ModuleType = script("check_wheels")
    uv = tmp_path / "uv"
    failing = 'case "$*" in *aarch64-apple*3.14*) echo "no wheels of numpy" >&2; exit 1;; esac'
    uv.write_text(f"#!/bin/sh\n{failing}\necho numpy==2.4\n")
    uv.chmod(0o755)
    monkeypatch.setattr(wheels.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(wheels.sys, "argv", ["check_wheels.py"])
    page = tmp_path / "install.md"
    page.write_text("<!-- wheels:begin -->\n<!-- wheels:end -->\n")
    monkeypatch.setattr(wheels, "PAGE", page)
    assert wheels.main() == 1
    assert "macOS 14 ARM64, Python 3.14: no wheels of numpy" in capsys.readouterr().out
    assert "numpy" not in page.read_text()
