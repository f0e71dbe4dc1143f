import importlib
import subprocess
import sys

import pytest

import motivnet
from motivnet.errors import MissingExtraError

NEED_TORCH = ("load_backbone", "load_head", "load_model")
PUBLIC = {
    *("EMOTIONS", "Box", "Emotion", "FaceResult", "ImageResult", "LabelSet", "MotivNetError", "Predictor"),
    *("NamedImage", "Preprocessing", "Results", "__version__", "decode_image", "frames_of", "load_detector"),
    *("PredictorConfig", "evaluate", "fit", "label_video", "list_models", "read_camera", "run_bulk", *NEED_TORCH),
}
HEAVY = ("torch", "cv2", "onnxruntime", "PIL", "numpy", "pyarrow", "timm", "lightning", "rich")


def test_public_names_are_these_and_no_others():
    assert set(motivnet.__all__) == PUBLIC
    assert len(motivnet.__all__) == len(PUBLIC)
    assert set(dir(motivnet)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {*NEED_TORCH}))
def test_public_names_exist(name):
    assert getattr(motivnet, name) is not None


@pytest.mark.parametrize("name", NEED_TORCH)
def test_loaders_are_those_of_checkpoints(name):
    pytest.importorskip("torch")
    assert getattr(motivnet, name) is getattr(importlib.import_module("motivnet.checkpoints.load"), name)


@pytest.mark.parametrize("name", NEED_TORCH)
def test_loaders_without_torch_say_what_to_install(monkeypatch, name):
    monkeypatch.delitem(vars(motivnet), name, raising=False)
    monkeypatch.delitem(sys.modules, "motivnet.checkpoints.load", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'motivnet\[torch\]'"):
        getattr(motivnet, name)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        _ = motivnet.Predicter


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    assert loaded_by("import motivnet") == set()


def test_labels_load_nothing_heavy():
    assert loaded_by("from motivnet import EMOTIONS, Emotion, LabelSet") == set()


def test_predictor_is_torch_free():
    assert "torch" not in loaded_by("from motivnet import Predictor")


def test_command_line_loads_nothing_heavy():
    assert loaded_by("import motivnet.cli.main") == set()
