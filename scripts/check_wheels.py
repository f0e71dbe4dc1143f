"""Check that the core, and everything that it needs, can be installed without a compiler wherever it is meant to be.

    make wheels
    python scripts/check_wheels.py [--extra video ...]

For every Python and platform below, uv resolves the newest versions of which the index has wheels. Fails where it finds
none; the versions of the core go into `docs/install.md`.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from tables import fill_block, markdown_table  # noqa: E402

PAGE = ROOT / "docs" / "install.md"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# uv takes macOS 13 otherwise, for which onnxruntime has had no wheels since 1.24.
ENVIRONMENT = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
# What it is called -> uv's name.
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM64": "aarch64-manylinux_2_28",
    "macOS 14 ARM64": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", default=[], help="an extra to check beside the core; repeatable")
    extras = parser.parse_args().extra
    found: dict[tuple[str, str], dict[str, str]] = {}
    failures = []
    for platform in PLATFORMS:
        for python in PYTHONS:
            try:
                found[platform, python] = resolve(platform, python, extras)
            except LookupError as error:
                failures.append(f"{platform}, Python {python}: {error}")
    table = markdown_table(rows(found)) if found else ""
    print(table, *failures, sep="\n")
    if not extras and not failures:
        fill_block(PAGE, "wheels", table)
    return int(bool(failures))


def resolve(platform: str, python: str, extras: Iterable[str]) -> dict[str, str]:
    """Give the newest versions with wheels for a platform and a Python, by package.

    Raises:
        LookupError: if a package has no such version.
    """
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--only-binary", ":all:", "--python-platform", PLATFORMS[platform], "--python-version", python]
    command += [word for extra in extras for word in ("--extra", extra)]
    command.append("pyproject.toml")
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LookupError(" ".join(done.stderr.split()))
    return dict(re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE))


def rows(found: Mapping[tuple[str, str], Mapping[str, str]]) -> list[dict[str, str]]:
    """Lay out one row per package: its version on each platform, and where it differs those of each Python."""
    packages = sorted({package for versions in found.values() for package in versions})
    return [
        {"package": package}
        | {
            platform: _cell({python: found.get((platform, python), {}).get(package, "") for python in PYTHONS})
            for platform in PLATFORMS
        }
        for package in packages
    ]


def _cell(versions: Mapping[str, str]) -> str:
    """Write the versions of a package by Python; where it is not needed, nothing."""
    pythons: dict[str, list[str]] = {}
    for python, version in versions.items():
        pythons.setdefault(version, []).append(python)
    if len(pythons) == 1:
        return next(iter(pythons))
    return "; ".join(f"{version or 'none'} ({', '.join(names)})" for version, names in pythons.items())


if __name__ == "__main__":
    sys.exit(main())
