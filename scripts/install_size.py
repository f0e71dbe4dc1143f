"""Weigh the installed packages of the lock files, and fail where they outgrow what a user was promised.

Run it with the environment's own Python: `.venv-demo/bin/python scripts/install_size.py`.
"""

import sys
from importlib import metadata
from pathlib import Path

REQUIREMENTS = Path(__file__).parent.parent / "requirements"
LIMITS_MB = {"core": 350, "demo": 600}


def main() -> int:
    too_large = False
    for name, limit_mb in LIMITS_MB.items():
        size_mb = sum(map(size_on_disk, locked_packages(REQUIREMENTS / f"{name}.txt"))) / 2**20
        print(f"requirements/{name}.txt: {size_mb:.0f} MB on disk, at most {limit_mb}")
        too_large |= size_mb > limit_mb
    return int(too_large)


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
