"""Show the emotion of every face in the photographs that scikit-image and matplotlib ship.

It runs the command line that everybody uses, prints its table, and says where the annotated photographs are.
`make demo` calls it.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
from skimage import data

OUTPUT = Path("demo-output")
PHOTOGRAPHS = [
    Path(data.data_dir) / "astronaut.png",
    Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
]


def main() -> int:
    motivnet = Path(sys.executable).with_name("motivnet")
    arguments = ["predict", *map(os.path.relpath, PHOTOGRAPHS), "--annotate", str(OUTPUT), "--overwrite"]
    print("$", shlex.join(["motivnet", *arguments]), flush=True)
    status = subprocess.run([motivnet, *arguments], check=False).returncode
    if status == 0:
        print("\nAnnotated photographs:", *(f"  {path.resolve()}" for path in sorted(OUTPUT.iterdir())), sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
