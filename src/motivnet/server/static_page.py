"""The page as a folder that needs no server: the model runs in the browser, with onnxruntime-web.

A browser that opens a page from a disk loads neither modules nor other files for it, but it runs classic scripts. So the
modules of `page` become one script, and weights and runtime are text in others. Own code: bundlers such as esbuild need
Node.js at run time, for the few forms of import and export that are used here.
"""

import base64
import re
from pathlib import Path
from typing import Any

from motivnet.checkpoints.bundle import Bundle, open_bundle, require_head
from motivnet.config import to_json, to_plain
from motivnet.errors import CheckpointError, ConfigError, OutputError
from motivnet.faces import DetectorConfig
from motivnet.faces.yunet import MODEL_FILE
from motivnet.storage import atomic_folder

PAGE = Path(__file__).with_name("page")
RUNTIME = Path(__file__).parents[1] / "assets" / "onnxruntime-web"
INDEX = "index.html"
# In place of the module that asks the server.
INSTEAD = {"api": "local"}
FILTERS = ("area", "bilinear", "bicubic")
_IMPORT = re.compile(r'^import \{ (.+) \} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
# Nothing may be fetched or sent, wherever the page lies.
POLICY = (
    "default-src 'none'; connect-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob:; media-src 'self' blob:; form-action 'none'; base-uri 'none'"
)


def write_page(folder: str | Path, *, model: str | Path = "nano", overwrite: bool = False) -> Path:
    """Write the page for one model.

    Args:
        folder: to write: a new one, or with `overwrite` one that this function wrote.
        model: name of an embedded model, or folder of a bundle with an ONNX file.
        overwrite: replace a page.

    Returns:
        The file to open, or to let a web server serve with the others.

    Raises:
        CheckpointError: if there is no such model, or it has no ONNX file.
        ConfigError: if its preprocessing is none that the page has.
        OutputError: if the folder exists and is not to be replaced, or cannot be written.
    """
    folder = Path(folder)
    bundle = require_head(open_bundle(model))
    if folder.exists() and not (overwrite and (folder / "weights.js").is_file()):
        raise OutputError(f"{folder}: exists already. Allowed: another folder; or a page, with --overwrite")
    texts = {
        INDEX: _index(),
        "page.js": bundle_modules("app"),
        "weights.js": f"globalThis.motivnet = {to_json(_contents(bundle))};\n",
    }
    files = [PAGE / "style.css", PAGE / "icon.svg", RUNTIME / "ort.wasm.min.js"]
    with atomic_folder(folder) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        for file in files:
            (temporary / file.name).write_bytes(file.read_bytes())
        for owner, file in (("onnxruntime-web", RUNTIME / "LICENSE"), ("yunet", MODEL_FILE.with_name("LICENSE"))):
            (temporary / f"LICENSE-{owner}.txt").write_bytes(file.read_bytes())
    return folder / INDEX


def bundle_modules(entry: str) -> str:
    """Return the modules of the page as one script that runs `entry` last: a function for each, which returns its exports."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        code = (PAGE / f"{INSTEAD.get(name, name)}.js").read_text(encoding="utf-8")
        for _, imported in _IMPORT.findall(code):
            if imported not in done:
                add(imported)
        names = ", ".join(name for _, name in _EXPORT.findall(code))
        code = _IMPORT.sub(lambda found: f"const {{ {found[1].replace(' as ', ': ')} }} = modules.{found[2]};\n", code)
        code = _EXPORT.sub(r"\1", code)
        done[name] = f"modules.{name} = (() => {{\n{code}\nreturn {{ {names} }};\n}})();\n"

    add(entry)
    return "\n".join(('"use strict";\nconst modules = {};', *done.values()))


def _index() -> str:
    """Return the HTML for the files beside it, with the texts that are true without a server."""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    scripts = "".join(f'<script defer src="{name}.js"></script>\n    ' for name in ("ort.wasm.min", "weights", "page"))
    html = (PAGE / INDEX).read_text(encoding="utf-8")
    html = html.replace('<html lang="en" data-engine="server">', '<html lang="en" data-engine="local">')
    html = html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n    {policy}')
    html = html.replace('<script type="module" src="page/app.js"></script>', scripts.rstrip())
    return html.replace('="page/', '="')


def _contents(bundle: Bundle) -> dict[str, Any]:
    """Return what the page's script knows of model and detector, and their weights and the runtime in base64."""
    config = bundle.config
    preprocessing = config.preprocessing
    if preprocessing.geometry != "square" or preprocessing.align or preprocessing.filter not in FILTERS:
        found = f"{preprocessing.geometry}, {preprocessing.filter}{', align' * preprocessing.align}"
        allowed = f"square, {' or '.join(FILTERS)}, without align"
        raise ConfigError(f"model {config.name!r}: the page has no preprocessing {found}. Allowed: {allowed}")
    if not bundle.onnx.is_file():
        raise CheckpointError(f"{bundle.onnx}: no such file; the page needs an ONNX model")
    described = {name: getattr(config, name) for name in ("name", "summary", "licence", "scores")}
    described |= {"labels": list(config.labels), "preprocessing": preprocessing.fingerprint}
    settings = {"detector": DetectorConfig(), "preprocessing": preprocessing, "calibration": config.calibration}
    files = {"detector": MODEL_FILE, "model": bundle.onnx}
    files |= {"glue": RUNTIME / "ort-wasm-simd-threaded.mjs.gz", "wasm": RUNTIME / "ort-wasm-simd-threaded.wasm.gz"}
    data = {name: base64.b64encode(file.read_bytes()).decode() for name, file in files.items()}
    return {"model": described, "data": data, **{name: to_plain(value) for name, value in settings.items()}}
