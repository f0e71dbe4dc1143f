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
import re
from pathlib import Path
from typing import Any

from motivnet.errors import needs_extra

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
# Public name -> its module.
_HOME = {name: module for module, name in re.findall(r"^from motivnet\.(\S+) import (\w+)", _STUB, re.MULTILINE)}
# What a module needs beyond the core.
_EXTRAS = {
    "bulk.job": "scale",
    "checkpoints.load": "torch",
    "evaluation.evaluate": "evaluate",
    "training.fit": "train",
    "video.label": "video",
}
__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _HOME[name]
    extra = _EXTRAS.get(module)
    with needs_extra(extra, extra) if extra else contextlib.nullcontext():
        value = getattr(importlib.import_module(f"motivnet.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
