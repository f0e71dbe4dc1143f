"""What must stay cheap to import, held in a process of its own each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

HEAVY = {
    *("torch", "torchvision", "timm", "lightning", "safetensors", "huggingface_hub"),
    *("cv2", "onnxruntime", "onnx", "pyarrow", "matplotlib", "scipy", "skimage"),
}
RUN_CLI = """
import sys
from motivnet.cli.main import main
sys.argv = ["motivnet", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
"""


def imported_by(code: str, *arguments: str) -> set[str]:
    """Run code in a fresh interpreter and name the top-level modules that it loaded."""
    report = "\nimport json, sys; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code + report, *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_motivnet_is_light() -> None:
    modules = imported_by("import motivnet")
    assert "motivnet" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("predict", "--help"),
        ("train", "--help"),
        ("models",),
        *((verb, "--help") for verb in ("data", "evaluate", "benchmark", "audit", "calibrate", "quantize", "explain")),
        *((verb, "--help") for verb in ("video", "live", "bulk", "serve")),
        ("weights", "--help"),
        *(("weights", verb, "--help") for verb in ("list", "fetch", "inspect", "convert", "verify")),
    ],
    ids=" ".join,
)
def test_command_line_is_light(arguments: tuple[str, ...]) -> None:
    assert not imported_by(RUN_CLI, *arguments) & HEAVY


def test_predict_is_torch_free(tmp_path: Path) -> None:
    face = tmp_path / "face.png"
    Image.linear_gradient("L").save(face)
    modules = imported_by(RUN_CLI, "predict", str(face), "--json", "--detector", "whole")
    assert "onnxruntime" in modules
    assert not modules & (HEAVY - {"onnxruntime", "cv2"})


def test_public_names_exist_and_unknown_ones_do_not() -> None:
    import motivnet

    assert "Predictor" in motivnet.__all__
    for name in motivnet.__all__:
        assert getattr(motivnet, name) is not None
    with pytest.raises(AttributeError):
        _ = motivnet.Predicter
