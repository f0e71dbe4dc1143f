"""Seven emotions from faces.

```python
from motivnet import Predictor

for result in Predictor.load("nano").predict(["photograph.jpg"]):
    print(result.source, result.status, [(face.emotion, face.box) for face in result.faces])
```

Names are loaded when they are first used: `import motivnet` loads neither torch nor OpenCV nor onnxruntime.
"""

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from motivnet.errors import MotivNetError, needs_extra
from motivnet.version import __version__

if TYPE_CHECKING:
    from motivnet.bulk.job import run_bulk as run_bulk
    from motivnet.checkpoints.bundle import list_models as list_models
    from motivnet.checkpoints.load import load_backbone as load_backbone
    from motivnet.checkpoints.load import load_head as load_head
    from motivnet.checkpoints.load import load_model as load_model
    from motivnet.evaluation.evaluate import evaluate as evaluate
    from motivnet.faces import load_detector as load_detector
    from motivnet.frames.reader import frames_of as frames_of
    from motivnet.images import NamedImage as NamedImage
    from motivnet.images import decode_image as decode_image
    from motivnet.inference.predictor import Predictor as Predictor
    from motivnet.inference.predictor_config import PredictorConfig as PredictorConfig
    from motivnet.inference.results import FaceResult as FaceResult
    from motivnet.inference.results import ImageResult as ImageResult
    from motivnet.inference.results import Results as Results
    from motivnet.labels import EMOTIONS as EMOTIONS
    from motivnet.labels import Emotion as Emotion
    from motivnet.labels import LabelSet as LabelSet
    from motivnet.preprocess import Box as Box
    from motivnet.preprocess import Preprocessing as Preprocessing
    from motivnet.training.fit import fit as fit
    from motivnet.video.camera import read_camera as read_camera
    from motivnet.video.label import label_video as label_video

# Module -> its extra and its public names.
_MODULES = {
    "bulk.job": ("scale", "run_bulk"),
    "checkpoints.bundle": ("", "list_models"),
    "checkpoints.load": ("torch", "load_backbone load_head load_model"),
    "evaluation.evaluate": ("evaluate", "evaluate"),
    "faces": ("", "load_detector"),
    "images": ("", "NamedImage decode_image"),
    "inference.predictor": ("", "Predictor"),
    "inference.predictor_config": ("", "PredictorConfig"),
    "inference.results": ("", "FaceResult ImageResult Results"),
    "labels": ("", "EMOTIONS Emotion LabelSet"),
    "preprocess": ("", "Box Preprocessing"),
    "training.fit": ("train", "fit"),
    "video.camera": ("", "read_camera"),
    "video.label": ("video", "label_video"),
    "video.reader": ("", "frames_of"),
}
_HOME = {name: (module, extra) for module, (extra, names) in _MODULES.items() for name in names.split()}
__all__ = ["MotivNetError", "__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _HOME[name]
    with needs_extra(extra, extra) if extra else contextlib.nullcontext():
        value = getattr(importlib.import_module(f"motivnet.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
