"""Predict mutated images of all formats: does each become a row, in bounded time and memory?

    python benchmarks/campaign_images.py [--count 20000] [--seed 0] [--out campaign_images.json]

For each detector, `--count` files are made from a face of scikit-image's astronaut: encoded in a kind of `samples`,
then cut, overwritten, and their parts repeated or removed, most of all in the head, where the structure is. Image
number n is the same in every run with the same seed, so that a failure can be repeated: `image(n, seed)`.

A process predicts them one after another. An escape is an exception, or the death of that process, at which the next
one goes on; a hang is an image that takes more than 5 s; growth is that of the process's resident memory, from the
thousandth image to the last. What the process writes to stderr is counted, as nothing should be.
"""

import argparse
import faulthandler
import io
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

HANG_S, KILL_S = 5.0, 60.0
# Images after which memory counts: until then libraries are loaded, and caches filled.
WARM_UP = 1000
FACE = (40, 240, 160, 300)  # top, bottom, left, right, in the astronaut


def samples() -> dict[str, bytes]:
    """Return a file of each format and kind that this installation can write, by name."""
    from pillow_heif import register_heif_opener
    from skimage.data import astronaut

    register_heif_opener()
    top, bottom, left, right = FACE
    face = Image.fromarray(astronaut()[top:bottom, left:right]).resize((84, 120))
    grey, exif = face.convert("L"), Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [face.rotate(180)]}
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    kinds = {
        "avif": (face, "AVIF", {}),
        "avif, animated": (face, "AVIF", frames),
        "bmp": (face, "BMP", {}),
        "gif": (face, "GIF", frames),
        "heic": (face, "HEIF", {"exif": exif.tobytes()}),
        "jpeg": (face, "JPEG", {"exif": exif}),
        "jpeg, progressive": (face, "JPEG", {"progressive": True}),
        "jpeg, cmyk": (face.convert("CMYK"), "JPEG", {}),
        "jpeg 2000": (face, "JPEG2000", {}),
        "mpo": (face, "MPO", frames),
        "png": (face.convert("RGBA"), "PNG", {"exif": exif}),
        "png, palette": (face.quantize(16), "PNG", {}),
        "png, 16 bits": (wide, "PNG", {}),
        "png, animated": (face, "PNG", frames),
        "ppm": (face, "PPM", {}),
        "tiff": (face, "TIFF", {"exif": exif}),
        "tiff, lzw": (face, "TIFF", {"compression": "tiff_lzw"}),
        "tiff, deflate": (grey, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tiff, jpeg": (face, "TIFF", {"compression": "jpeg"}),
        "tiff, fax": (face.convert("1"), "TIFF", {"compression": "group4"}),
        "webp": (face, "WEBP", {"exif": exif}),
        "webp, lossless": (face.convert("RGBA"), "WEBP", {"lossless": True}),
        "webp, animated": (face, "WEBP", frames),
    }
    files = {}
    for name, (image, kind, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files


def image(number: int, seed: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the kind and the bytes of a mutated image; the same for the same number and seed."""
    rng = np.random.default_rng((seed, number))
    kind = list(files)[number % len(files)]
    data = bytearray(files[kind])
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        end = len(data) if rng.random() < 0.5 else min(len(data), 256)
        at, length = int(rng.integers(0, max(1, end))), int(rng.integers(1, 9))
        match int(rng.integers(0, 7)):
            case 0:
                del data[at + length :]
            case 1:
                data[at : at + 1] = bytes([data[at] ^ 1 << int(rng.integers(0, 8))]) if at < len(data) else b""
            case 2:
                data[at : at + length] = rng.bytes(length)
            case 3:
                data[at : at + length] = bytes([int(rng.choice([0, 0x7F, 0x80, 0xFF]))]) * length
            case 4:
                data[at:at] = data[at : at + 8 * length]
            case 5:
                del data[at : at + length]
            case 6:  # a part of another format
                other = files[str(rng.choice(list(files)))]
                data[at : at + 8 * length] = other[at : at + 8 * length]
    return kind, bytes(data)


def predict(detector: str, first: int, count: int, seed: int) -> None:
    """Predict images `first` to `count`, and print a line of JSON for each."""
    from motivnet.inference.predictor import Predictor
    from motivnet.machine import prepare_for_images

    prepare_for_images()
    files = samples()
    predictor = Predictor.load("nano", detector=detector, workers=1, threads=1)
    for number in range(first, count):
        kind, data = image(number, seed, files)
        faulthandler.dump_traceback_later(KILL_S, exit=True)
        began, escape = time.perf_counter(), ""
        try:
            status = predictor.predict(data)[0].status
        except Exception as error:  # this is what is looked for
            status, escape = "escape", f"{type(error).__name__}: {error}"
        seconds = round(time.perf_counter() - began, 3)
        line = {"number": number, "kind": kind, "status": status, "escape": escape, "s": seconds, "mb": resident_mb()}
        print(json.dumps(line), flush=True)


def resident_mb() -> float:
    """Return the resident memory of this process, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 1e6, 1)


def campaign(detector: str, count: int, seed: int) -> dict:
    """Predict `count` images in processes of their own, and return the counts."""
    statuses, escapes, hangs, noise, growth_mb = Counter(), [], [], Counter(), 0.0
    slowest_s = 0.0
    done = 0
    while done < count:
        command = [sys.executable, __file__, "--child", detector, str(done), "--count", str(count), "--seed", str(seed)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        statuses.update(line["status"] for line in lines)
        escapes += [line for line in lines if line["escape"]]
        hangs += [line for line in lines if line["s"] > HANG_S]
        slowest_s = max([slowest_s, *(line["s"] for line in lines)])
        if len(lines) > WARM_UP:
            growth_mb = max(growth_mb, lines[-1]["mb"] - lines[WARM_UP]["mb"])
        noise.update(line[:40] for line in ended.stderr.splitlines() if ended.returncode == 0)
        done += len(lines)
        if ended.returncode:
            escapes.append({"number": done, "escape": f"exit code {ended.returncode}: {ended.stderr[-300:]}"})
            statuses["died"] += 1
            done += 1
    return {
        "images": count,
        "statuses": dict(sorted(statuses.items())),
        "escapes": len(escapes),
        "hangs": len(hangs),
        "growth_mb": round(growth_mb, 1),
        "slowest_s": slowest_s,
        "lines_on_stderr": sum(noise.values()),
        "examples": [*escapes, *hangs][:10] + [text for text, _ in noise.most_common(5)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        predict(options.child[0], int(options.child[1]), options.count, options.seed)
        return
    from motivnet.faces import DETECTORS

    found = {detector: campaign(detector, options.count, options.seed) for detector in DETECTORS}
    text = json.dumps(found, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(any(counts["escapes"] or counts["hangs"] or counts["growth_mb"] > 100 for counts in found.values()))


if __name__ == "__main__":
    main()
