"""Fuzz the decoder of images by Atheris, guided by which lines of Pillow's and of our Python are reached.

    python benchmarks/campaign_decoder.py [--count 50000] [--seed 0] [--out campaign_decoder.json]

It begins with the files of `campaign_images.samples`. libFuzzer ends at the first escape (an exception that is no
`ImageError`), hang (an image that takes more than 5 s) or process of more than 2 GB, and keeps its input. Needs
`pip install atheris`, which has wheels for Linux and Python 3.11 to 3.13; without it nothing is counted.
"""

import argparse
import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

MOST_S, MOST_MB = 5, 2000


def fuzz(arguments: list[str]) -> None:
    """Decode what Atheris gives, in this process, until libFuzzer ends it."""
    import atheris  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    with atheris.instrument_imports(  # pyright: ignore[reportAttributeAccessIssue]
        include=["PIL", "motivnet"]
    ):
        from pillow_heif import register_heif_opener

        from motivnet.errors import ImageError
        from motivnet.images import decode_image

    register_heif_opener()

    def decode(data: bytes) -> None:
        with contextlib.suppress(ImageError):
            decode_image(data)

    atheris.Setup([sys.argv[0], *arguments], decode)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fuzz(options.child)
        return
    if importlib.util.find_spec("atheris") is None:
        print("left out: atheris is not installed", file=sys.stderr)
        return
    # Not in the child, where Atheris must be the first to import Pillow.
    from campaign_images import samples

    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(samples().values()):
            (corpus / str(number)).write_bytes(data)
        # libFuzzer takes no seed of 0: it would choose one.
        settings = {"runs": options.count, "seed": options.seed + 1, "timeout": MOST_S, "rss_limit_mb": MOST_MB}
        settings |= {"max_len": 20_000, "artifact_prefix": f"{name}/"}
        flags = [f"-{key}={value}" for key, value in settings.items()]
        command = [sys.executable, __file__, "--child", str(corpus), *flags]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        found = re.findall(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)", ended.stderr, re.MULTILINE)
        done = re.search(r"Done (\d+) runs in (\d+) second", ended.stderr)
        kept = [each.name for each in Path(name).glob("*-*")]
    counts = {
        "images": int(done[1]) if done else int(found[-1][0]) if found else 0,
        "seconds": int(done[2]) if done else None,
        "branches_reached": int(found[-1][1]) if found else 0,
        "corpus": int(found[-1][3]) if found else 0,
        "escapes": sum(not each.startswith("timeout") for each in kept),
        "hangs": sum(each.startswith("timeout") for each in kept),
        "exit_code": ended.returncode,
        "examples": [] if done else [ended.stderr[-2000:]],
    }
    text = json.dumps(counts, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
