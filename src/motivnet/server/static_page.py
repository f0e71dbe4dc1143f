"""The page as a folder that needs no server: the model runs in the browser, with onnxruntime-web.

A browser that opens a page from a disk loads neither modules nor other files for it, but it runs classic scripts: one
holds the modules of `page`, the weights and the runtime as text, and `page/boot.js` starts them. A policy in the page
(`page/boot.html`) lets it neither fetch nor send anything, wherever it lies.
"""

import base64
import shutil
from pathlib import Path
from typing import Any

from motivnet.checkpoints.bundle import Bundle, open_bundle, require_head
from motivnet.config import to_json, to_plain
from motivnet.errors import ConfigError, OutputError
from motivnet.faces import DetectorConfig
from motivnet.faces.yunet import MODEL_FILE
from motivnet.storage import ASSETS, atomic_folder

PAGE = Path(__file__).with_name("page")
RUNTIME = ASSETS / "onnxruntime-web"
INDEX, CONTENTS = "index.html", "contents.js"
FILTERS = ("area", "bilinear", "bicubic")


def write_page(folder: str | Path, *, model: str | Path = "nano", overwrite: bool = False) -> Path:
    """Write the page for one model.

    Args:
        folder: to write: a new one, or with `overwrite` one that this function wrote.
        model: name of an embedded model, or folder of a bundle with an ONNX file.
        overwrite: replace a page.

    Returns:
        The file to open, or to let a web server serve with the others.

    Raises:
        CheckpointError: if there is no such model.
        OSError: if it has no ONNX file.
        ConfigError: if its preprocessing is none that the page has.
        OutputError: if the folder exists and is not to be replaced, or cannot be written.
    """
    folder = Path(folder)
    contents = _contents(require_head(open_bundle(model)))
    if folder.exists() and not (overwrite and (folder / "page" / CONTENTS).is_file()):
        raise OutputError(f"{folder}: exists already. Allowed: another folder; or a page, with --overwrite")
    module = '<script type="module" src="page/app.js"></script>'
    scripts = (PAGE / "boot.html").read_text(encoding="utf-8")
    html = (PAGE / INDEX).read_text(encoding="utf-8").replace(module, scripts.strip())
    with atomic_folder(folder) as temporary:
        (temporary / INDEX).write_text(html, encoding="utf-8")
        page = temporary / "page"
        page.mkdir()
        for file in (PAGE / "style.css", PAGE / "icon.svg", PAGE / "boot.js", RUNTIME / "ort.wasm.min.js"):
            shutil.copyfile(file, page / file.name)
        (page / CONTENTS).write_text(f"globalThis.motivnet = {to_json(contents)};\n", encoding="utf-8")
        for file in (RUNTIME / "LICENSE", MODEL_FILE.with_name("LICENSE")):
            shutil.copyfile(file, page / f"LICENSE-{file.parent.name}.txt")
    return folder / INDEX


def _contents(bundle: Bundle) -> dict[str, Any]:
    """Return the modules of the page, what they know of model and detector, and weights and runtime in base64."""
    preprocessing = bundle.config.preprocessing
    if preprocessing.geometry != "square" or preprocessing.align or preprocessing.filter not in FILTERS:
        found = f"{preprocessing.geometry}, {preprocessing.filter}{', align' * preprocessing.align}"
        raise ConfigError(
            f"model {bundle.config.name!r}: the page has no preprocessing {found}. Allowed: square, "
            f"{' or '.join(FILTERS)}, without align"
        )
    files = {"detector": MODEL_FILE, "model": bundle.onnx_file("fp32")}
    files |= {kind: RUNTIME / f"ort-wasm-simd-threaded.{kind}.gz" for kind in ("mjs", "wasm")}
    return {
        "config": to_plain(bundle.config),
        "detector": to_plain(DetectorConfig()),
        "fingerprint": preprocessing.fingerprint,
        "data": {name: base64.b64encode(file.read_bytes()).decode() for name, file in files.items()},
        "modules": {file.stem: file.read_text(encoding="utf-8") for file in PAGE.glob("*.js")},
    }
