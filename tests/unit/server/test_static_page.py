"""The folder of `motivnet page`; tests/browser opens it."""

import base64
import dataclasses
import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from motivnet.checkpoints.bundle import open_bundle, write_config
from motivnet.config import from_plain, to_plain
from motivnet.errors import CheckpointError, ConfigError, OutputError
from motivnet.preprocess import Preprocessing
from motivnet.server.static_page import PAGE, RUNTIME, write_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page") / "faces").parent


def contents(folder: Path) -> dict:
    text = (folder / "page" / "contents.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("globalThis.motivnet = ").removesuffix(";\n"))


def test_it_holds_all_that_it_names(folder):
    html = (folder / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:href|src)="page/([^"]+)"', html))
    held = {file.name for file in (folder / "page").iterdir()}
    assert held == named | {"LICENSE-onnxruntime-web.txt", "LICENSE-yunet.txt"}
    assert named == {"ort.wasm.min.js", "contents.js", "boot.js", "style.css", "icon.svg"}
    assert "connect-src 'none'" in html
    assert 'type="module"' not in html


def test_model_modules_and_settings(folder):
    held, bundle = contents(folder), open_bundle("nano")
    assert base64.b64decode(held["data"]["model"]) == bundle.onnx.read_bytes()
    assert from_plain(Preprocessing, held["config"]["preprocessing"]) == bundle.config.preprocessing
    assert held["config"]["calibration"] == to_plain(bundle.config.calibration)
    assert (held["detector"]["min_score"], held["fingerprint"]) == (0.6, bundle.config.preprocessing.fingerprint)
    assert set(held["modules"]) == {path.stem for path in PAGE.glob("*.js")}


def test_what_exists_is_replaced_only_if_it_is_a_page(tmp_path):
    write_page(tmp_path / "faces")
    with pytest.raises(OutputError, match="exists already"):
        write_page(tmp_path / "faces")
    (tmp_path / "faces" / "page" / "boot.js").write_text("old")
    write_page(tmp_path / "faces", overwrite=True)
    assert (tmp_path / "faces" / "page" / "boot.js").read_text() != "old"
    with pytest.raises(OutputError, match="exists already"):
        write_page(tmp_path, overwrite=True)


def test_models_that_the_page_cannot_run(tiny_bundle, tmp_path):
    config = tiny_bundle.config
    stretched = dataclasses.replace(config.preprocessing, geometry="stretch")
    write_config(tmp_path / "a", dataclasses.replace(config, preprocessing=stretched))
    with pytest.raises(ConfigError, match=r"no preprocessing stretch, .* Allowed: square"):
        write_page(tmp_path / "page", model=tmp_path / "a")
    write_config(tmp_path / "b", config)
    with pytest.raises(FileNotFoundError, match=r"model.onnx"):
        write_page(tmp_path / "page", model=tmp_path / "b")
    with pytest.raises(CheckpointError):
        write_page(tmp_path / "page", model="nobody")


def test_runtime_is_the_published_one():
    """The files are those of the package on npm, whose digests its README has."""
    stated = dict(re.findall(r"^\| `(\S+)` \| `([0-9a-f]{64})` \|$", (RUNTIME / "README.md").read_text(), re.MULTILINE))
    assert set(stated) == {"ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"}
    for name, digest in stated.items():
        file = RUNTIME / name
        data = file.read_bytes() if file.exists() else gzip.decompress((RUNTIME / f"{name}.gz").read_bytes())
        assert hashlib.sha256(data).hexdigest() == digest, name
    assert "MIT License" in (RUNTIME / "LICENSE").read_text(encoding="utf-8")
