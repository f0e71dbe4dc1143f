"""Hostile weight files, bundles and tables by seed, and what the readers do with them; for `make campaign`.

Each attack is a small sound file with one thing changed: bytes, numbers, JSON, names. A reader may accept it or raise a
MotivNetError; anything else is an escape.

    python benchmarks/campaign_files.py [--checkpoints 2000] [--tables 3000] [--seed 0] [--out campaign_files.json]
"""

import argparse
import csv
import io
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from motivnet.checkpoints.bundle import ASSETS, CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME
from motivnet.errors import MotivNetError

HANG_S = 5.0
# Values that no reader should take for granted.
NUMBERS = (0, -1, 1, 7, 200_000, 2**31, 2**63, -(2**63), 1e300, 0.5, 10**400, float("nan"), float("inf"))
ODD = (*NUMBERS, None, True, "", "x" * 5000, "\udcff", "\x1b[31m", [], {}, [[]], "NaN", "../../etc/passwd", "=1+1")
NAMES = (
    "os\nsystem",
    "builtins\neval",
    "_codecs\nencode",
    "__builtin__\nbytearray",
    "numpy.core.multiarray\n_reconstruct",
)

Made = tuple[str, Path]


def checkpoints(folder: Path, count: int, seed: int = 0) -> Iterator[Made]:
    """Write hostile weight files and bundles one after the other, and yield the kind and the path of each.

    Args:
        folder: an empty one; the file or bundle before is removed.
        count: how many.
        seed: of the choice.
    """
    rng = random.Random(seed)
    sources = _sources(folder / "sources")
    for number in range(count):
        place = folder / f"{number}"
        kind = (*WEIGHTS, *BUNDLES)[number % (len(WEIGHTS) + len(BUNDLES))]
        if kind in WEIGHTS:
            place.write_bytes(WEIGHTS[kind](rng, sources))
        else:
            shutil.copytree(sources["bundle"], place)
            BUNDLES[kind](rng, place)
        yield kind, place
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def tables(folder: Path, count: int, seed: int = 0) -> Iterator[Made]:
    """Write hostile tables of answers (CSV and Parquet) for `evaluate --predictions`; as `checkpoints`."""
    rng = random.Random(seed)
    for number in range(count):
        kind = TABLES[number % len(TABLES)]
        place = folder / f"{number}.{'parquet' if kind.startswith('parquet') else 'csv'}"
        place.write_bytes(_table(rng, kind))
        yield kind, place
        place.unlink()


def read_checkpoint(path: Path) -> None:
    """Do what commands do with a weight file or a bundle: inspect, load, predict one image."""
    from motivnet.checkpoints.bundle import model_fingerprint, open_bundle
    from motivnet.checkpoints.formats import inspect_weights
    from motivnet.checkpoints.load import load_model
    from motivnet.inference.predictor import Predictor

    if path.is_dir():
        open_bundle(path)
        model_fingerprint(path)
        Predictor.load(path, detector="whole", threads=1).predict(np.full((40, 40, 3), 90, np.uint8))
    else:
        inspect_weights(path)
    load_model(path)


def read_table(path: Path) -> None:
    """Read a table of answers."""
    from motivnet.data.manifest import make_manifest
    from motivnet.evaluation.external_predictions import read_predictions
    from motivnet.labels import EMOTIONS

    labels = list(EMOTIONS.names)
    images = {"path": [f"{label}.png" for label in labels], "label": labels, "split": ["test"] * len(labels)}
    read_predictions(path, make_manifest(images), data="folder:set")


def attack(made: Iterator[Made], read: Callable[[Path], None]) -> dict[str, Any]:
    """Read what was made, and count what happened.

    Returns:
        Counts of `made`, `accepted`, `refused`, `escapes` and `hangs`, the slowest read in seconds, the growth of
        memory in MB after the first 100, at the end and at its peak, and examples of escapes.
    """
    counts, examples, slowest, began_mb, number = Counter[str](), [], 0.0, 0.0, 0
    for number, (kind, path) in enumerate(made):
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
            counts["accepted"] += 1
        except MotivNetError:
            counts["refused"] += 1
        except Exception as error:  # what is looked for
            counts["escapes"] += 1
            examples.append(f"{kind} ({number}): {type(error).__name__}: {str(error)[:200]}")
        seconds = time.process_time() - start  # of this process, as the machine may be busy
        counts["hangs"] += seconds > HANG_S
        if seconds > HANG_S:
            examples.append(f"{kind} ({number}): {seconds:.1f} s")
        slowest = max(slowest, seconds)
        if number <= 100:
            began_mb = _memory_mb()
    found = {name: counts[name] for name in ("accepted", "refused", "escapes", "hangs")}
    growth = {"growth_mb": round(_memory_mb() - began_mb, 1), "peak_growth_mb": round(_peak_mb() - began_mb, 1)}
    return {"made": number + 1, **found, "slowest_cpu_s": round(slowest, 2), **growth, "examples": examples[:20]}


def _memory_mb() -> float:
    """Return the memory of this process; 0 where the system does not tell."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if status.exists() else 0.0


def _peak_mb() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _sources(folder: Path) -> dict[str, Any]:
    """Make what attacks change: a weight file of every container, and a bundle with small weights."""
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True)
    state = {"w.weight": torch.randn(4, 3), "w.bias": torch.zeros(4, dtype=torch.float16), "steps": torch.tensor(3)}
    found: dict[str, Any] = {"safetensors": save(state)}
    for name, legacy in (("zip", False), ("legacy", True)):
        buffer = io.BytesIO()
        content = {"state_dict": state, "meta": {"lr": 0.1, "names": ["a", "b"]}}
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
        found[name] = buffer.getvalue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 4))), buffer)
    found["torchscript"] = buffer.getvalue()
    found["bundle"] = folder / "bundle"
    shutil.copytree(ASSETS / "nano", found["bundle"])
    return found


def _bytes(rng: random.Random, sources: dict[str, Any]) -> bytes:
    """Change, cut or repeat bytes."""
    data = bytearray(sources[rng.choice(("safetensors", "zip", "legacy", "torchscript"))])
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    return bytes(data + data[: rng.choice((0, 0, 50))])


def _header(rng: random.Random, _: dict[str, Any]) -> bytes:
    """Write a header of safetensors that lies."""
    entry: dict[str, Any] = {"dtype": rng.choice(("F32", "F16", "BF16", "X")), "shape": [2, 3], "data_offsets": [0, 24]}
    entry[rng.choice(list(entry))] = rng.choice((*ODD[:10], [0, 2**62], [2**40, 2**40], [-1], [24, 0]))
    text = json.dumps({rng.choice(("w", "", "__metadata__", "\x1b")): entry, "v": {**entry}}).encode()
    return struct.pack("<Q", rng.choice((len(text), 2**40, 0, len(text) + 1))) + text + bytes(24)


def _pickle(rng: random.Random, sources: dict[str, Any]) -> bytes:
    """Replace the pickle of an archive by random instructions, calls, sharing or depth."""
    text = b"X" + struct.pack("<I", 3) + b"abc"
    doubled = b"N" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(rng.randint(2, 60)))
    call = (
        b"c"
        + rng.choice(NAMES).encode()
        + b"\n("
        + rng.choice((text, b"K\x07", b"J\xff\xff\xff\x7f", text * 2))
        + b"tR"
    )
    module = b"c__torch__\nNet\n)\x81q\x00}(" + text + b"h\x00ub"
    parts = (doubled, call, module, b"N" + rng.choice((5, 5000)) * b"\x85", b"(" + rng.randint(1, 5000) * b"Nt(", text)
    noise = bytes(rng.choice(b"()]}.0NtulsabcqhRQ\x81\x85\x86\x87K\x01\x94") for _ in range(rng.randint(1, 60)))
    body = rng.choice((*parts, noise))
    pickled = b"\x80\x02" + rng.choice((body, b"}" + text + body + b"s", b"}" + body + b"Ns")) + b"."
    return _rezipped(
        sources[rng.choice(("zip", "torchscript"))], lambda name, data: pickled if "data.pkl" in name else data
    )


def _members(rng: random.Random, sources: dict[str, Any]) -> bytes:
    """Drop, empty, swell or compress a member of an archive."""
    data = sources[rng.choice(("zip", "torchscript"))]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        chosen = rng.choice(archive.namelist())
    other = rng.choice((None, b"", bytes(30_000_000), b"\xff" * 50))
    compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    return _rezipped(data, lambda name, content: other if name == chosen else content, compression)


def _rezipped(
    data: bytes, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w", compression) as made:
        for name in archive.namelist():
            content = change(name, archive.read(name))
            if content is not None:
                made.writestr(name, content)
    return buffer.getvalue()


def _noise(rng: random.Random, _: dict[str, Any]) -> bytes:
    """Write what is no weight file."""
    begin = rng.choice((b"", b"PK\3\4", b"\x80\x02", b"{}", b"\x08\x07", b"GIF89a", b"\x89HDF\r\n"))
    return begin + rng.randbytes(rng.randrange(2000))


def _tensors(rng: random.Random, _: dict[str, Any]) -> bytes:
    """Write tensors whose names or shapes are those of a format, but not all of them."""
    import torch
    from safetensors.torch import save

    prefixes = ("", "module.", "model.", "_orig_mod.", "backbone.", "pose_encoder.", "decoder.")
    names = (
        "cls_token",
        "pos_embed",
        "patch_embed.projection.weight",
        "layers.0.attn.qkv.weight",
        "embed_standart.weight",
    )
    names = (*names, "blocks.0.attn.wq.weight", "duplicate_pooling", "layers.99999999.ln1.weight")
    shapes = ((), (0,), (1,), (1, 2, 3), (8, 3, 16, 16), (1, 5, 8), (7, 7))
    prefix = rng.choice(prefixes)
    state = {prefix + name: torch.zeros(rng.choice(shapes)) for name in rng.sample(names, rng.randint(1, len(names)))}
    return save(state, {"num_heads": rng.choice(("0", "-1", "9" * 30, "x", "4"))})


def _settings(rng: random.Random, place: Path) -> None:
    """Change, drop or add one setting of a bundle, however deep."""
    file = place / CONFIG_NAME
    plain = node = json.loads(file.read_text(encoding="utf-8"))
    while True:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        break
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(ODD)
    sys.set_int_max_str_digits(0)  # for numbers longer than Python reads
    file.write_text(json.dumps(plain), encoding="utf-8")
    sys.set_int_max_str_digits(4300)


def _model(rng: random.Random, place: Path) -> None:
    """Make the bundle a transformer of odd dimensions."""
    file = place / CONFIG_NAME
    plain = json.loads(file.read_text(encoding="utf-8"))
    vit: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 4, "patch_size": 16, "mlp_ratio": 4.0}
    vit[rng.choice([*vit, "patch_padding", "num_kv_heads"])] = rng.choice(NUMBERS[:10])
    plain["model"] |= {
        "backbone": rng.choice(("sapiens", "sapiens2", "timm:nothing", "timm:vit_giant_patch14_224")),
        "vit": vit,
    }
    plain["model"]["head"][rng.choice(list(plain["model"]["head"]))] = rng.choice(ODD)
    file.write_text(json.dumps(plain), encoding="utf-8")
    (place / ONNX_NAME).unlink(missing_ok=True)


def _json(rng: random.Random, place: Path) -> None:
    """Replace the settings by deep, long, cut or binary text."""
    whole = (place / CONFIG_NAME).read_bytes()
    deep = rng.choice((50, 500, 50_000))
    texts = (b"[" * deep, b'{"a":' * deep + b"1" + b"}" * deep, b'{"name": "' + b"x" * 2_000_000 + b'"}', b"\xff\xfe")
    provenance = json.dumps({"provenance": None}).encode().replace(b"null", b"[" * 90 + b"]" * 90)
    (place / CONFIG_NAME).write_bytes(rng.choice((*texts, provenance, whole[: rng.randrange(len(whole))])))


def _special(rng: random.Random, place: Path) -> None:
    """Put a pipe, a folder, or a link to a device or to itself in the place of a file."""
    file = place / rng.choice((CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME))
    file.unlink()
    make: tuple[Callable[[], object], ...] = (
        file.mkdir,
        lambda: os.mkfifo(file),
        lambda: file.symlink_to("/dev/zero"),
        lambda: file.symlink_to(file),
        file.touch,
    )
    rng.choice(make)()


def _onnx(rng: random.Random, place: Path) -> None:
    """Change bytes of an ONNX file: its text, its weights, or its structure."""
    file = place / ONNX_NAME
    data = bytearray(file.read_bytes())
    text = rng.choice((b"pixels", b"logits", b"labels", b"preprocessing"))
    if rng.random() < 0.4 and text in data:
        data = data.replace(text, b"\xff" * len(text), rng.choice((1, -1)))
    ends = (500, len(data) // 2, len(data))
    for _ in range(rng.randint(0, 5)):
        data[len(data) - 1 - rng.randrange(min(rng.choice(ends), len(data)))] = rng.choice((0, 0x7F, 0x80, 0xFF))
    file.write_bytes(bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))]))


WEIGHTS: dict[str, Callable[[random.Random, dict[str, Any]], bytes]] = {
    "bytes": _bytes,
    "header": _header,
    "pickle": _pickle,
    "members": _members,
    "noise": _noise,
    "tensors": _tensors,
}
BUNDLES: dict[str, Callable[[random.Random, Path], None]] = {
    "settings": _settings,
    "model": _model,
    "JSON": _json,
    "special file": _special,
    "ONNX": _onnx,
}
TABLES = ("cells", "header", "encoding", "bytes", "shape", "parquet cells", "parquet bytes")


def _table(rng: random.Random, kind: str) -> bytes:
    """Write the answers to seven images, with something changed."""
    from motivnet.labels import EMOTIONS

    names = list(EMOTIONS.names)
    rows: list[dict[str, Any]] = [
        {"path": f"{name}.png", "pred": name} | {f"prob_{other}": float(other == name) for other in names}
        for name in names
    ]
    for _ in range(rng.randint(1, 4)):
        row = rng.choice(rows)
        row[rng.choice(list(row))] = rng.choice(ODD)
    columns = list(rows[0])
    if kind == "header":
        new = rng.choice(("box", "valence", "status", "emotion", "path", "prob_", "", "=cmd", "\x1b[2J", "é", "row"))
        columns[rng.randrange(len(columns))] = new
    if kind.startswith("parquet"):
        data = _parquet(rows, columns)
    else:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=rng.choice(",,,;\t") if kind == "shape" else ",")
        writer.writerow(columns)
        sys.set_int_max_str_digits(0)
        writer.writerows([list(row.values())[: rng.choice((9, 9, 3)) if kind == "shape" else 9] for row in rows])
        sys.set_int_max_str_digits(4300)
        encoding = rng.choice(("latin-1", "utf-16", "utf-8-sig", "cp037")) if kind == "encoding" else "utf-8"
        data = text.getvalue().encode(encoding, "replace")
    if kind.endswith("bytes"):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 6)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        data = bytes(changed[: rng.choice((len(changed), rng.randrange(len(changed))))])
    return data


def _parquet(rows: list[dict[str, Any]], columns: list[str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    arrays = []
    for column in rows[0]:
        try:
            arrays.append(pa.array([row[column] for row in rows]))
        except (pa.ArrowException, OverflowError, TypeError, UnicodeError):  # of several types
            arrays.append(pa.array([ascii(row[column])[:100] for row in rows]))
    pq.write_table(pa.table(arrays, names=[name.encode("ascii", "replace").decode() for name in columns]), sink)
    return sink.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=2000)
    parser.add_argument("--tables", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    counts = {}
    read_checkpoint(ASSETS / "nano")  # imports what is needed, which is not to count as a hang
    with tempfile.TemporaryDirectory() as folder:
        for name, make, read in (("checkpoints", checkpoints, read_checkpoint), ("tables", tables, read_table)):
            place = Path(folder) / name
            place.mkdir()
            counts[name] = attack(make(place, getattr(options, name), options.seed), read)
    text = json.dumps(counts, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(any(found["escapes"] or found["hangs"] for found in counts.values()))


if __name__ == "__main__":
    main()
