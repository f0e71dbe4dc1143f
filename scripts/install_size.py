"""Weigh the installed packages of the lock files, and fail where they outgrow what a user was promised.

Run it with the environment's own Python: `.venv-demo/bin/python scripts/install_size.py`. With `--extras`, and the
Python of an environment that has all of them, it writes what each adds to the core into `docs/install.md`.
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"
PAGE = ROOT / "docs" / "install.md"
LIMITS_MB = {"core": 350, "demo": 600}


def main() -> int:
    if "--extras" in sys.argv:
        write_extras()
        return 0
    too_large = False
    for name, limit_mb in LIMITS_MB.items():
        size_mb = sum(map(size_on_disk, locked_packages(REQUIREMENTS / f"{name}.txt"))) / 2**20
        print(f"requirements/{name}.txt: {size_mb:.0f} MB on disk, at most {limit_mb}")
        too_large |= size_mb > limit_mb
    return int(too_large)


def write_extras() -> None:
    """Write the size of each extra into the last column of the page's table; what is not installed stays as it is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core, text = closure(project["dependencies"]), PAGE.read_text(encoding="utf-8")
    for extra, requirements in project["optional-dependencies"].items():
        added = closure(requirements) - core
        if all(map(installed, added)):
            size = f"{sum(map(size_on_disk, added)) / 2**20:,.0f} MB"
            text = re.sub(rf"^(\| `{extra}` \|.*\|)[^|]*\|$", rf"\1 {size} |", text, flags=re.MULTILINE)
    PAGE.write_text(text, encoding="utf-8")


def closure(requirements: list[str]) -> set[str]:
    """Name the packages that requirements ask for here, and what those ask for in turn."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        for asked in {"", *requirement.extras}:
            if (name, asked) not in seen:
                seen.add((name, asked))
                needs = (metadata.requires(name) or []) if installed(name) else []
                waiting += [(Requirement(line), asked) for line in needs]
    return found


def installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def locked_packages(lock_file: Path) -> list[str]:
    """Name the packages that a lock file pins."""
    lines = lock_file.read_text(encoding="utf-8").splitlines()
    return [line.partition("==")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))]


def size_on_disk(package: str) -> int:
    """Add up the blocks, in bytes, of the files that pip wrote for a package; 0 where its marker left it out."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return 0
    paths = [Path(str(file.locate())) for file in files]
    return sum(path.stat().st_blocks * 512 for path in paths if path.exists())


if __name__ == "__main__":
    sys.exit(main())
