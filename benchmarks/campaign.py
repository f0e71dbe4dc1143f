"""Run the campaigns against hostile input, strangers and kills, and write what they count to `results/campaign.json`.

    python benchmarks/campaign.py [--only images files video kills server]

Each is a script of its own, `campaign_NAME.py`, whose docstring says what it counts and what it takes; here each runs
with its full numbers and seed 0. A campaign that ends with an error is named, and its earlier counts stay as they are.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import RESULTS, write_results

CAMPAIGNS = ("images", "decoder", "files", "video", "kills", "server")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=CAMPAIGNS)
    file = RESULTS / "campaign.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    failed = []
    for name in parser.parse_args().only:
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "counts.json"
            script = Path(__file__).with_name(f"campaign_{name}.py")
            ended = subprocess.run([sys.executable, script, "--out", out], check=False)
            if ended.returncode:
                failed.append(name)
            if out.exists():
                minutes = round((time.monotonic() - began_s) / 60, 1)
                results[name] = {"minutes": minutes, **json.loads(out.read_text(encoding="utf-8"))}
        results.pop("machine", None)
        write_results("campaign", results)
    if failed:
        raise SystemExit(f"what was asked does not hold: {', '.join(failed)}")


if __name__ == "__main__":
    main()
