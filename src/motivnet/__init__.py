"""Seven emotions from faces.

```python
from motivnet import Predictor

for result in Predictor.load("nano").predict(["photograph.jpg"]):
    print(result.source, result.status, [(face.emotion, face.box) for face in result.faces])
```

Names are loaded when they are first used: `import motivnet` loads neither torch nor OpenCV nor onnxruntime.
"""

import importlib
from typing import TYPE_CHECKING, Any

from motivnet.errors import MissingExtraError, MotivNetError
from motivnet.version import __version__

if TYPE_CHECKING:
    from motivnet.bulk.job import run_bulk
    from motivnet.checkpoints.load import load_backbone, load_head, load_model
    from motivnet.faces import load_detector
    from motivnet.images import NamedImage, decode_image
    from motivnet.inference.predictor import Predictor
    from motivnet.inference.predictor_config import PredictorConfig
    from motivnet.inference.results import FaceResult, ImageResult, Results
    from motivnet.labels import EMOTIONS, Emotion, LabelSet
    from motivnet.preprocess import Box, Preprocessing
    from motivnet.video.camera import read_camera
    from motivnet.video.label import label_video
    from motivnet.video.reader import frames_of

__all__ = [
    "EMOTIONS",
    "Box",
    "Emotion",
    "FaceResult",
    "ImageResult",
    "LabelSet",
    "MotivNetError",
    "NamedImage",
    "Predictor",
    "PredictorConfig",
    "Preprocessing",
    "Results",
    "__version__",
    "decode_image",
    "frames_of",
    "label_video",
    "load_backbone",
    "load_detector",
    "load_head",
    "load_model",
    "read_camera",
    "run_bulk",
]

_HOME = {
    "EMOTIONS": "motivnet.labels",
    "Box": "motivnet.preprocess",
    "Emotion": "motivnet.labels",
    "FaceResult": "motivnet.inference.results",
    "ImageResult": "motivnet.inference.results",
    "LabelSet": "motivnet.labels",
    "NamedImage": "motivnet.images",
    "Predictor": "motivnet.inference.predictor",
    "PredictorConfig": "motivnet.inference.predictor_config",
    "Preprocessing": "motivnet.preprocess",
    "Results": "motivnet.inference.results",
    "decode_image": "motivnet.images",
    "frames_of": "motivnet.video.reader",
    "label_video": "motivnet.video.label",
    "load_backbone": "motivnet.checkpoints.load",
    "load_detector": "motivnet.faces",
    "load_head": "motivnet.checkpoints.load",
    "load_model": "motivnet.checkpoints.load",
    "read_camera": "motivnet.video.camera",
    "run_bulk": "motivnet.bulk.job",
}
# Package -> the extra that installs it.
_EXTRAS = dict.fromkeys(("torch", "timm", "safetensors", "huggingface_hub"), "torch")
_EXTRAS |= {"fsspec": "scale", "pyarrow": "scale"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        raise MissingExtraError(error.name, _EXTRAS[error.name]) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
