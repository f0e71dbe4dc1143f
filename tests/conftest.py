"""What tests share: the shared folder, a tiny real bundle, and photographs that other packages ship."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.checkpoints.bundle import Bundle, BundleConfig, write_config
from motivnet.config import to_plain
from motivnet.models.config import ModelConfig
from motivnet.preprocess import Preprocessing

# Tests run side by side, one a core. Before anything loads a library that counts cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parent.parent
# By which a process knows that torchrun or SLURM started it, and as which of several.
LAUNCHED = (
    *("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_NTASKS", "SLURM_NNODES", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_NAME"),
)


@pytest.fixture(autouse=True, scope="session")
def alone() -> Iterator[None]:
    """Not started by torchrun or SLURM, whatever the tests were started by; fixtures of modules neither."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LAUNCHED:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Goldens and data sets beside the checkout."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A real ONNX bundle that judges by mean brightness: bright is happiness, dark sadness, middling neutral."""
    return build_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def build_tiny_bundle(folder: Path, **metadata: str) -> Bundle:
    """Write the tiny bundle; `metadata` replaces entries of the ONNX file's own."""
    onnx = pytest.importorskip("onnx")
    config = BundleConfig(
        name="tiny",
        summary="Judges by mean brightness, for tests",
        licence="Apache-2.0",
        model=ModelConfig(backbone="timm:none", image_size=(16, 16), in_chans=1),
        preprocessing=Preprocessing(
            geometry="square",
            size=(16, 16),
            channels="grey",
            filter="bilinear",
            mean=(127.5,),
            std=(127.5,),
            margin=0.1,
        ),
        scores={"fer2013/PrivateTest": {"war": 0.25, "uar": 0.125}},
    )
    weight = np.array([[0, 4, -4, 0, 0, 0, 0]], np.float32)
    bias = np.array([1, 0, 0, -1, -2, -3, -4], np.float32)
    make_value, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
            onnx.helper.make_node("Flatten", ["pooled"], ["flat"]),
            onnx.helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
        ],
        "tiny",
        [make_value("pixels", floats, ["batch", 1, 16, 16])],
        [make_value("logits", floats, ["batch", 7])],
        [onnx.numpy_helper.from_array(weight, "weight"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    own = {"labels": json.dumps(list(config.labels)), "preprocessing": json.dumps(to_plain(config.preprocessing))}
    onnx.helper.set_model_props(model, own | metadata)
    bundle = write_config(folder, config)
    onnx.save(model, bundle.onnx)
    return bundle


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """scikit-image's photograph of Eileen Collins, RGB uint8 (512, 512, 3): one face about (225, 114)."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="session")
def grace_hopper() -> np.ndarray:
    """matplotlib's photograph of Grace Hopper, RGB uint8 (606, 512, 3): one face."""
    cbook = pytest.importorskip("matplotlib.cbook", reason="matplotlib is not installed")
    with cbook.get_sample_data("grace_hopper.jpg") as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def photographs(tmp_path: Path, astronaut: np.ndarray, grace_hopper: np.ndarray) -> Path:
    """A folder: `astronaut.png`, `deep/HOPPER.JPG`, `no_face.png` and `notes.txt`."""
    folder = tmp_path / "photographs"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(astronaut).save(folder / "astronaut.png")
    Image.fromarray(grace_hopper).save(folder / "deep" / "HOPPER.JPG", quality=90)
    Image.fromarray(np.full((200, 300, 3), 90, np.uint8)).save(folder / "no_face.png")
    (folder / "notes.txt").write_text("not an image")
    return folder
