"""Devices of onnxruntime. Only the CPU is sure to be here; the others are tested with a substitute."""

import types

import pytest

from motivnet import onnx_session
from motivnet.errors import CheckpointError, ConfigError, DetectorError
from motivnet.faces import DetectorConfig, load_detector
from motivnet.faces.yunet import MODEL_FILE
from motivnet.inference.backends import OnnxBackend, _uses_onnx, load_backend
from motivnet.inference.predictor import Predictor, detector_of
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.onnx_session import PROVIDERS, offers, open_session

CPU = PROVIDERS["cpu"]


@pytest.fixture
def substitute(monkeypatch):
    """Return a function that puts an onnxruntime in place that offers providers, and records how sessions are made."""
    import onnxruntime

    def install(*devices: str, starts: bool = True) -> list[list]:
        made = []

        class Session(onnxruntime.InferenceSession):
            def __init__(self, path, sess_options, providers, enable_fallback):
                made.append(providers)
                self._names = [name for name, _ in providers] if starts else [CPU]
                super().__init__(path, sess_options=sess_options, providers=[CPU])

            def get_providers(self):
                return self._names

        names = [*(PROVIDERS[device] for device in devices), CPU]
        fake = types.SimpleNamespace(
            SessionOptions=onnxruntime.SessionOptions,
            InferenceSession=Session,
            get_available_providers=lambda: names,
            __version__="1.99",
        )
        monkeypatch.setattr(onnx_session, "_onnxruntime", lambda: fake)
        return made

    return install


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_cpu_is_the_default(device, substitute):
    made = substitute("cuda", "coreml", "openvino")
    open_session(MODEL_FILE, device=device)
    assert made == [[(CPU, {})]]


@pytest.mark.parametrize(
    ("device", "provider", "options"),
    [
        ("cuda", "CUDAExecutionProvider", {}),
        ("cuda:1", "CUDAExecutionProvider", {"device_id": "1"}),
        ("coreml", "CoreMLExecutionProvider", {}),
        ("openvino", "OpenVINOExecutionProvider", {}),
    ],
)
def test_devices_are_providers(device, provider, options, substitute, tiny_bundle):
    made = substitute(device.partition(":")[0])
    load_detector(config=DetectorConfig(device=device))
    Predictor.load(tiny_bundle.path, device=device, backend="onnx")
    assert made == [[(provider, options), (CPU, {})]] * 3


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "coreml", "openvino"])
def test_an_error_says_what_is_offered(device, substitute, tiny_bundle):
    substitute(*{"coreml", "openvino"} - {device})
    for load in (
        lambda: load_detector(config=DetectorConfig(device=device)),
        lambda: OnnxBackend(tiny_bundle, device=device),
        lambda: load_backend(tiny_bundle.path, PredictorConfig(device=device, backend="onnx")),
    ):
        with pytest.raises(
            ConfigError, match=rf"^device '{device}': onnxruntime 1.99 as installed offers cpu, .*\."
        ) as error:
            load()
        assert "\n" not in str(error.value)


def test_a_provider_that_does_not_start(substitute):
    substitute("cuda", starts=False)
    with pytest.raises(ConfigError, match="device 'cuda': CUDAExecutionProvider cannot start here"):
        open_session(MODEL_FILE, device="cuda")


def test_a_device_that_onnxruntime_does_not_know():
    assert not offers("mps")
    with pytest.raises(ConfigError, match=r"device 'mps': onnxruntime .* offers cpu"):
        load_detector(config=DetectorConfig(device="mps"))


@pytest.mark.parametrize(
    ("device", "offered", "expected"),
    [("auto", "cuda", "auto"), ("cuda:1", "cuda", "cuda:1"), ("cuda", "coreml", "cpu"), ("mps", "coreml", "cpu")],
)
def test_the_detector_stays_on_the_cpu_where_only_torch_has_the_device(device, offered, expected, substitute):
    substitute(offered)
    detector = detector_of(PredictorConfig(device=device, min_score=0.3, min_face=12, long_side=1280))
    assert detector.config == DetectorConfig(device=expected, min_score=0.3, min_face=12, long_side=1280)


def test_cuda_is_torchs_where_onnxruntime_has_none(substitute, tiny_bundle, monkeypatch):
    substitute("cuda")
    assert isinstance(load_backend(tiny_bundle.path, PredictorConfig(device="cuda"))[1], OnnxBackend)
    substitute()
    monkeypatch.setattr("motivnet.inference.backends.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"offers cpu\. Allowed: those; for cuda or openvino, the extra gpu or openvino"
    ):
        load_backend(tiny_bundle.path, PredictorConfig(device="cuda"))
    monkeypatch.setattr("motivnet.inference.backends.find_spec", lambda name: name)
    assert not _uses_onnx(tiny_bundle, PredictorConfig(device="cuda"))


def test_defaults_are_those_of_the_detector():
    config = PredictorConfig()
    assert detector_of(config).config == DetectorConfig(device="auto")


def test_a_failure_to_run_is_one_line(monkeypatch, astronaut):
    detector = load_detector()

    class Session:
        def run(self, names, feeds):
            raise onnx_session.session_errors()[0]("no memory")

    monkeypatch.setattr(detector, "_session", Session())
    with pytest.raises(DetectorError, match=r"detector 'yunet': cannot be run on 1 image\(s\): .*no memory"):
        detector.detect(astronaut)


def test_a_damaged_file(tmp_path):
    file = tmp_path / "x.onnx"
    file.write_bytes(b"\0")
    with pytest.raises(CheckpointError, match=r"x\.onnx: cannot be loaded"):
        open_session(file)
