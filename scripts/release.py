"""Build what a release consists of, and check it: nothing is published.

    make release

Builds the source distribution and from it the wheel into `dist/`, checks them (`twine check`, `check-wheel-contents`),
installs the wheel into an empty environment, has it find the two faces of the README's picture, and writes the section
of the changelog to `dist/NOTES.md`. The tools are those of `requirements/release.txt`.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
PICTURE = ROOT / "docs" / "assets" / "pictures" / "annotated.png"


def main() -> None:
    version = re.findall(r'__version__ = "(.+)"', (ROOT / "src/motivnet/version.py").read_text(encoding="utf-8"))[0]
    notes = release_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT)
    (wheel,) = DIST.glob(f"motivnet-{version}-*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    run(Path(sys.executable).with_name("check-wheel-contents"), wheel)
    with tempfile.TemporaryDirectory() as folder:
        try_wheel(wheel, Path(folder))
    (DIST / "NOTES.md").write_text(notes, encoding="utf-8")
    print(f"{DIST}: motivnet {version}, checked. Read NOTES.md before you publish.")


def release_notes(changelog: str, version: str) -> str:
    """Give the section of a version.

    Raises:
        SystemExit: if there is none.
    """
    found = re.search(rf"^## \[{re.escape(version)}\].*?\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE)
    if not found or not found[1].strip():
        raise SystemExit(f"CHANGELOG.md: nothing under ## [{version}]")
    return f"# motivnet {version}\n\n{found[1].strip()}\n"


def try_wheel(wheel: Path, folder: Path) -> None:
    """Install the wheel alone, with what it asks for, and predict.

    Raises:
        SystemExit: if it does not find both faces.
    """
    venv.create(folder / "environment", with_pip=True)
    programs = folder / "environment" / ("Scripts" if sys.platform == "win32" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    answer = json.loads(run(programs / "motivnet", "predict", PICTURE, "--json", cwd=folder))
    emotions = [face["emotion"] for face in answer["faces"]]
    if sorted(emotions) != ["happiness", "neutral"]:
        raise SystemExit(f"{wheel.name}: found {emotions} in {PICTURE.name}, not happiness and neutral")
    print(f"{wheel.name}: installed, and found {' and '.join(emotions)}")


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run a command that must succeed; what it says is shown if it does not."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
