import io
import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from motivnet.checkpoints.files import open_weights, release, unwrapped
from motivnet.checkpoints.pickles import INERT_NAMES, names_in_pickle
from motivnet.errors import CheckpointError

SPECIMEN = Path(__file__).parent / "specimens" / "mmengine_checkpoint.pth"
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")


def make_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "layers.0.weight": torch.randn(64, 48, generator=generator),
        "layers.0.bias": torch.randn(48, generator=generator).bfloat16(),
        "norm.num_batches_tracked": torch.tensor(7),
        "mask": torch.tensor([True, False]),
    }


class Network(nn.Module):
    """Nested, with parameters, buffers, a module under two names, a layer without bias, and what is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 4, 8))
        blocks = [self.block(), self.block()]
        self.layers = nn.ModuleList(blocks)
        self.norm = nn.BatchNorm1d(4)
        self.tied = blocks[0][0]
        self.names = ["a", "b"]
        self.sizes = [1, 2]
        self.plain = torch.ones(3)
        self.steps: torch.Tensor
        self.register_buffer("steps", torch.arange(3))

    def block(self) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8, bias=False), nn.Dropout())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.pos_embed + torch.tensor([2.0]).to(x.dtype)
        for layer in self.layers:
            y = layer(y)
        return self.norm(y) + self.plain.sum() + self.steps.sum() + self.sizes[0]


def save_torchscript(path: Path, *, traced: bool = True, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Write an archive and give what torch itself reads back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.manual_seed(0)
        network = Network().eval().to(dtype)
        script = torch.jit.trace(network, torch.ones(1, 4, 8, dtype=dtype)) if traced else torch.jit.script(network)
        torch.jit.save(script, str(path))
        return torch.jit.load(str(path)).state_dict()


def rewrite_zip(
    path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> None:
    """Change members of a zip, or drop them."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            changed = change(name, content)
            if changed is not None:
                archive.writestr(name, changed)


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: save_file(make_state(), path, metadata={"heads": "16"}),
    "pickle": lambda path: torch.save(make_state(), path),
    "legacy pickle": lambda path: torch.save(make_state(), path, _use_new_zipfile_serialization=False),
    "torchscript": save_torchscript,
}


@pytest.fixture(params=WRITERS)
def container_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    path = tmp_path / "weights.bin"
    WRITERS[request.param](path)
    return request.param, path


def assert_refused(path: Path, *said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith("a TorchScript archive")
    for words in said:
        assert words in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt2", ".txt", ""])
def test_container_is_read_off_the_content(container_file: tuple[str, Path], suffix: str) -> None:
    container, path = container_file
    path = path.rename(path.with_name("weights" + suffix))
    opened = open_weights(str(path))
    assert opened.path == path
    assert opened.container == container.removeprefix("legacy ")
    assert opened.metadata == ({"heads": "16"} if container == "safetensors" else {})
    if container != "torchscript":
        assert opened.tensors.keys() == make_state().keys()
        for name, tensor in make_state().items():
            assert opened.tensors[name].dtype == tensor.dtype
            assert torch.equal(opened.tensors[name], tensor)


@LINUX_ONLY
def test_tensors_are_mapped_from_the_file(container_file: tuple[str, Path]) -> None:
    container, path = container_file
    tensor = next(iter(open_weights(path).tensors.values()))
    address = tensor.data_ptr()
    mappings = [line.split(None, 5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [[int(end, 16) for end in mapping[0].split("-")] for mapping in mappings if str(path) in mapping[-1]]
    assert any(begin <= address < end for begin, end in ranges) == (container != "legacy pickle")


def test_parameters_come_without_gradients(tmp_path: Path) -> None:
    path = tmp_path / "parameters.pth"
    torch.save({"state_dict": nn.Linear(2, 2).state_dict(keep_vars=True), "epoch": 3}, path)
    opened = open_weights(path)
    assert list(opened.tensors) == ["weight", "bias"]
    assert all(type(tensor) is torch.Tensor and not tensor.requires_grad for tensor in opened.tensors.values())


# Checkpoints by mmengine


def test_specimen_names_what_the_released_files_name() -> None:
    with zipfile.ZipFile(SPECIMEN) as archive:
        names = names_in_pickle(io.BytesIO(archive.read("archive/data.pkl")))
    assert names == {
        *INERT_NAMES[:5],
        "collections.OrderedDict",
        "torch.FloatStorage",
        "torch._utils._rebuild_tensor_v2",
    }


def assert_specimen_opens() -> None:
    tensors = open_weights(SPECIMEN).tensors
    assert list(tensors) == ["backbone.cls_token", "backbone.ln1.weight", "head.final_layer.weight"]
    assert torch.equal(tensors["head.final_layer.weight"], torch.arange(6.0).reshape(2, 3))


def test_specimen_opens_without_mmengine() -> None:
    assert_specimen_opens()
    assert "mmengine" not in sys.modules


def test_numpy_arrays_are_not_rebuilt(tmp_path: Path) -> None:
    with zipfile.ZipFile(SPECIMEN) as archive:
        pickled = archive.read("archive/data.pkl")
    # An array of another dtype than any that exists: numpy would not build it.
    assert b"f4" in pickled
    path = tmp_path / "odd.pth"
    path.write_bytes(SPECIMEN.read_bytes())
    rewrite_zip(path, lambda name, content: content.replace(b"f4", b"?!") if name.endswith("data.pkl") else content)
    assert open_weights(path).tensors


@pytest.mark.parametrize("name", ["numpy.core.multiarray scalar", "mmengine.config.config Config", "numpy._core x"])
def test_neighbours_of_the_allowed_names_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "neighbour.pth"
    path.write_bytes(SPECIMEN.read_bytes())
    own, other = b"mmengine.config.config\nConfigDict\n", name.replace(" ", "\n").encode() + b"\n"
    rewrite_zip(path, lambda member, content: content.replace(own, other) if member.endswith("data.pkl") else content)
    assert_refused(path, name.replace(" ", "."))


# Pickles that would execute something


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


EVIL: dict[str, Callable[[Path], Call]] = {
    f"{os.system.__module__}.system": lambda file: Call(os.system, f"echo > {file}"),
    "builtins.eval": lambda file: Call(eval, f"open({str(file)!r}, 'w').close()"),
    "subprocess.Popen": lambda file: Call(subprocess.Popen, ["touch", str(file)]),
}


def pickle_with(protocol: int) -> Callable[[object, Path], object]:
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol))


EVIL_WRITERS: dict[str, Callable[[object, Path], object]] = {
    "zip": lambda content, path: torch.save(content, path),
    "zip of protocol 4": lambda content, path: torch.save(content, path, pickle_protocol=4),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
} | {f"bare pickle of protocol {protocol}": pickle_with(protocol) for protocol in range(6)}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("write", EVIL_WRITERS.values(), ids=EVIL_WRITERS)
def test_no_pickle_executes(tmp_path: Path, name: str, write: Callable[[object, Path], object]) -> None:
    path, made = tmp_path / "evil.pth", tmp_path / "made"
    write({"state_dict": {"w": torch.ones(2)}, "meta": EVIL[name](made)}, path)
    assert_refused(path, name)
    assert not made.exists()


@pytest.mark.parametrize("name", EVIL)
def test_no_torchscript_pickle_executes(tmp_path: Path, name: str) -> None:
    path, made = tmp_path / "evil.pt2", tmp_path / "made"
    save_torchscript(path)
    evil = pickle.dumps(EVIL[name](made), protocol=2)
    rewrite_zip(path, lambda member, content: evil if member.endswith("/data.pkl") else content)
    assert_refused(path, name)
    assert not made.exists()


# Contents that are no dict of tensors


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.ones(2), "type Tensor"),
        ([torch.ones(2)], "type list"),
        (None, "type NoneType"),
        ({}, "an empty dict"),
        ({"state_dict": {}}, "an empty dict"),
        ({"state_dict": [torch.ones(2)]}, "'state_dict' of type list"),
        ({"state_dict": {"w": torch.ones(2), "lr": 0.1}}, "'lr' of type float"),
        ({"w": torch.ones(2), "epoch": 3}, "'epoch' of type int"),
        ({0: torch.ones(2)}, "found 0"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"w": torch.empty(2, device="meta")}, "_rebuild_meta_tensor"),
        ({"w": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "content.pth"
    torch.save(content, path)
    assert_refused(path, said)


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "quantised.pth"
    torch.save({"w": torch.ones(2, dtype=torch.int8)}, path)
    # The same bytes, said to be of another kind.
    rewrite_zip(path, lambda _, content: content.replace(b"CharStorage", b"QInt8Storage"))
    assert_refused(path, "torch.QInt8Storage", "dense tensors")


def test_stand_ins_are_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "array.pth"
    path.write_bytes(SPECIMEN.read_bytes())
    # The wrapper's key is gone, so that its parts count as tensors.
    rewrite_zip(path, lambda _, content: content.replace(b"state_dict", b"state_duck"))
    assert_refused(path, "'meta' of type dict")


# TorchScript


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("traced", [True, False], ids=["traced", "scripted"])
def test_torchscript_reads_as_torch_reads_it(tmp_path: Path, traced: bool, dtype: torch.dtype) -> None:
    path = tmp_path / "network.pt2"
    expected = save_torchscript(path, traced=traced, dtype=dtype)
    opened = open_weights(path)
    assert opened.container == "torchscript"
    assert list(opened.tensors) == list(expected)
    assert {"pos_embed", "layers.1.0.weight", "tied.weight", "steps", "norm.num_batches_tracked"} <= expected.keys()
    for name, tensor in expected.items():
        assert opened.tensors[name].dtype == tensor.dtype
        assert torch.equal(opened.tensors[name], tensor)


def test_frozen_torchscript_says_that_its_weights_are_constants(tmp_path: Path) -> None:
    path = tmp_path / "frozen.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.freeze(torch.jit.trace(Network().eval(), torch.ones(1, 4, 8))), str(path))
    assert_refused(path, "no parameters", "constants")


def pickled_text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def pickled_tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def pickled_int(number: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", number)


def pickled_module(
    numel: int = 6,
    offset: int = 0,
    size: tuple[int, ...] = (2, 3),
    stride: tuple[int, ...] = (3, 1),
    storage: str = "torch\nFloatStorage",
    kind: str = "storage",
    rebuild: str = "torch._utils\n_rebuild_tensor_v2",
) -> bytes:
    """Pickle a module with one parameter `w` over the storage 0, by hand, so that it can lie."""
    where = pickled_tuple(
        pickled_text(kind), f"c{storage}\n".encode(), pickled_text("0"), pickled_text("cpu"), pickled_int(numel)
    )
    shape = [pickled_tuple(*map(pickled_int, numbers)) for numbers in (size, stride)]
    view = pickled_tuple(where + b"Q", pickled_int(offset), *shape, b"\x89", b"ccollections\nOrderedDict\n)R")
    tensor = f"c{rebuild}\n".encode() + view + b"R"
    return b"\x80\x02c__torch__\nNet\n)\x81}" + pickled_text("w") + tensor + b"sb."


def write_archive(path: Path, pickled: bytes, *, drop: str = "", shift: int = 0, **replaced: bytes) -> None:
    """Write an archive by hand; `drop` leaves a member out, `shift` moves the numbers by so many bytes."""
    source = b'class Net(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n  w : Tensor\n'
    members = {"data/0": struct.pack("<6f", *range(6)), "data.pkl": pickled, "constants.pkl": b"\x80\x02)."}
    members |= {"code/__torch__.py": source, "byteorder": sys.byteorder.encode()} | replaced
    members.pop(drop, None)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(f"net/{name}")
            if name == "data/0":  # first in the file: 30 bytes and the name come before the padding
                num_padding = 64 - 30 - len(member.filename) + shift
                member.extra = struct.pack("<HH", 0x4246, num_padding - 4) + bytes(num_padding - 4)
            archive.writestr(member, content)


def test_torchscript_views(tmp_path: Path) -> None:
    path = tmp_path / "views.pt2"
    write_archive(path, pickled_module())
    assert open_weights(path).tensors["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    write_archive(path, pickled_module(offset=1, size=(2, 2), stride=(1, 3)))
    assert open_weights(path).tensors["w"].tolist() == [[1, 4], [2, 5]]
    write_archive(path, pickled_module(), shift=1)
    assert open_weights(path).tensors["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"numel": 7}, "24 bytes, expected 7 of torch.float32"),
        ({"numel": -6}, "24 bytes, expected -6"),
        ({"numel": 2**62}, "24 bytes"),
        ({"storage": "torch\nDoubleStorage"}, "24 bytes, expected 6 of torch.float64"),
        ({"storage": "torch\nQInt8Storage"}, "torch.QInt8Storage"),
        ({"storage": "builtins\ngetattr"}, "builtins.getattr"),
        ({"storage": "collections\nOrderedDict"}, "'storage'"),
        ({"kind": "module"}, "'module'"),
        ({"offset": 1}, "storage"),
        ({"offset": -1}, "RuntimeError"),
        ({"size": (2, 4)}, "storage"),
        ({"size": (-2, 3)}, "RuntimeError"),
        ({"stride": (4, 1)}, "storage"),
        ({"stride": (-3, 1)}, "RuntimeError"),
        ({"stride": (2**62, 1)}, "RuntimeError"),
        ({"size": (2**40, 2**40), "stride": (0, 0)}, "RuntimeError"),
        ({"size": (6,)}, "RuntimeError"),
        ({"rebuild": "torch._utils\n_rebuild_sparse_tensor"}, "torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_torchscript_that_lies(tmp_path: Path, lie: dict, said: str) -> None:
    path = tmp_path / "lies.pt2"
    write_archive(path, pickled_module(**lie))
    assert_refused(path, said)


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (b"\x80\x02).", "found tuple, expected a module"),
        (b"\x80\x02c__torch__\nNet\n)\x81.", "'w'"),
        (b"\x80\x02c__torch__\nNet\n)\x81r\xff\xff\xff\x7f.", "memo with holes"),
        (b"\x80\x04c__torch__\nNet\n)\x81.", "protocol 4"),
        (b"\x80\x02c__torch__\nNet\n)\x81", ""),
        (b"", ""),
        # A module that contains itself.
        (b"\x80\x02c__torch__\nNet\n)\x81q\x00}(X\x01\x00\x00\x00wNX\x01\x00\x00\x00mh\x00ub.", "200000 attributes"),
        # Attributes set on what does the reading.
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__func__Ns\x86b.", "AttributeError"),
        (b"\x80\x02c__torch__\nNet\n}b.", "TypeError"),
    ],
)
def test_torchscript_of_other_pickles(tmp_path: Path, pickled: bytes, said: str) -> None:
    path = tmp_path / "pickled.pt2"
    write_archive(path, pickled)
    assert_refused(path, said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drop": "data/0"}, "data/0"),
        ({"drop": "code/__torch__.py"}, "code/__torch__.py"),
        ({"drop": "data.pkl"}, "without net/data.pkl"),
        ({"byteorder": b"big" if sys.byteorder == "little" else b"little"}, "endian"),
        ({"code/__torch__.py": b"\xff"}, "decode"),
        ({"code/__torch__.py": b"class Net:\n  w : Tensor\n"}, "no parameters"),
    ],
)
def test_torchscript_with_other_members(tmp_path: Path, changes: dict, said: str) -> None:
    path = tmp_path / "members.pt2"
    write_archive(path, pickled_module(), **changes)
    assert_refused(path, said)


def test_torchscript_of_a_text_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.pt2"
    write_archive(path, pickled_module())
    monkeypatch.setattr("motivnet.checkpoints.torchscript.MAX_CODE_BYTES", 20)
    assert_refused(path, "allowed are 20")


# Small files that would take long, or much memory


def pickled_state(more: bytes) -> bytes:
    """Pickle a dict of `x`, which is what the instructions make."""
    return b"\x80\x02}" + pickled_text("x") + more + b"s."


def pickled_call(name: str, *arguments: bytes) -> bytes:
    return f"c{name}\n".encode() + pickled_tuple(*arguments) + b"R"


# A tuple of two references to the one before, again and again.
DOUBLED = b"N" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
LONG = {
    "a codec of quadratic time": (
        pickled_state(pickled_call("_codecs\nencode", pickled_text("\u4e00\u9000" * 20_000), pickled_text("punycode"))),
        "found 'x' of type numpy or mmengine",
    ),
    "a gigabyte of zeros": (
        pickled_state(pickled_call("__builtin__\nbytearray", pickled_int(1 << 33))),
        "builtins.bytearray",
    ),
    "a key of 2**60 values": (b"\x80\x02}" + DOUBLED + b"Ns.", "repeats objects"),
    "a storage of 2**60 names": (pickled_state(b"(" + pickled_text("storage") + DOUBLED + b"NNNtQ"), "repeats objects"),
    "deep tuples": (pickled_state(b"N" + 100_000 * b"\x85"), "200 deep"),
    "a million values": (pickled_state(b"(" + 1_000_000 * b"N" + b"t"), "more than 400000 instructions"),
    "the state of a tensor": (
        pickled_state(
            pickled_call("torch._utils\n_rebuild_tensor_v2", *[b"N"] * 6) + pickled_tuple(b"N", pickled_int(9)) + b"b"
        ),
        "sets the state of a tensor",
    ),
}


@pytest.mark.parametrize(("pickled", "said"), LONG.values(), ids=LONG)
def test_pickles_that_would_take_long(tmp_path: Path, pickled: bytes, said: str) -> None:
    path = tmp_path / "long.pth"
    write_archive(path, pickled, drop="constants.pkl")
    assert_refused(path, said)


def test_a_module_of_many_that_contain_it(tmp_path: Path) -> None:
    path = tmp_path / "tree.pt2"
    inside = b"".join(pickled_text(f"m{i}") + b"h\x00" for i in range(9000))
    write_archive(path, b"\x80\x02c__torch__\nNet\n)\x81q\x00}(" + pickled_text("w") + b"N" + inside + b"ub.")
    assert_refused(path, "200000 attributes")


def test_code_that_inflates(tmp_path: Path) -> None:
    path = tmp_path / "code.pt2"
    write_archive(path, pickled_module())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for i in range(5):
            archive.writestr(f"net/code/__torch__/m{i}.py", bytes(8_000_000))
    assert_refused(path, "its code has 40000")


def test_a_header_without_end(tmp_path: Path) -> None:
    path = tmp_path / "header.safetensors"
    path.write_bytes(struct.pack("<Q", 9_000_000) + b"{" + 9_000_000 * b" ")
    assert_refused(path, "its header has 9000000 bytes")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "device.pth").symlink_to("/dev/zero")
    for name in ("pipe.pth", "device.pth"):
        assert_refused(tmp_path / name, "no regular file")


# Wrappers and prefixes


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_what_is_under_a_key(tmp_path: Path, key: str) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save({key: {"w": torch.ones(2)}, "optimizer": {"lr": 0.1}}, path)
    opened = open_weights(path)
    assert opened.tensors["w"].tolist() == [1, 1]
    assert opened.taken_off == (repr(key),)


@pytest.mark.parametrize(
    ("prefix", "taken_off"),
    [("module.", ("'module.'",)), ("model.", ("'model.'",)), ("module._orig_mod.", ("'module.'", "'_orig_mod.'"))],
)
def test_prefixes_are_taken_off_if_that_makes_a_file_whole(tmp_path, caplog, prefix, taken_off) -> None:
    path = tmp_path / "prefixed.safetensors"
    save_file({prefix + name: torch.ones(2) for name in ("a.w", "b.w")}, path)
    file = unwrapped(open_weights(path), lambda found: "a.w" in found.tensors)
    assert (list(file.tensors), file.taken_off) == (["a.w", "b.w"], taken_off)
    assert caplog.messages == [f"{path}: taken off its names: {', '.join(taken_off)}"]
    file = unwrapped(open_weights(path), lambda found: "c.w" in found.tensors)
    assert (sorted(file.tensors), file.taken_off) == ([f"{prefix}a.w", f"{prefix}b.w"], ())
    save_file({f"{prefix}a.w": torch.ones(2), "b.w": torch.ones(2)}, path)
    assert not unwrapped(open_weights(path), lambda found: "a.w" in found.tensors).taken_off


# Damage


@pytest.mark.parametrize("kept", [0, 1, 4, 20, 0.1, 0.5, 0.9, -200, -30, -1])
def test_half_a_file(container_file: tuple[str, Path], kept: float) -> None:
    _, path = container_file
    whole = path.read_bytes()
    num_bytes = round(kept * len(whole)) if isinstance(kept, float) else kept
    path.write_bytes(whole[:num_bytes])
    assert_refused(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"weights\n" * 20, "begins with"),
        (b"{}", "begins with"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "begins with"),
        (bytes(200), "begins with"),
        (struct.pack("<Q", 2**40) + b"{}".ljust(100), "eader"),
        (struct.pack("<Q", 90) + b"{}".ljust(20), "eader"),
        (struct.pack("<Q", 20) + b"{not json".ljust(20), "eader"),
        (struct.pack("<Q", 2) + b"{}", "an empty dict"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert_refused(path, said)


@pytest.mark.parametrize("entry", [{"shape": [3]}, {"data_offsets": [0, 4000]}, {"dtype": "F3"}, {"shape": [-2]}])
def test_safetensors_header_that_lies(tmp_path: Path, entry: dict) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}).encode()
    path = tmp_path / "lies.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert_refused(path, "SafetensorError")


def test_no_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / "missing.pth", "no such file")
    assert_refused(tmp_path, "a folder")


def test_other_zips(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    assert_refused(path, "a zip without word/data.pkl")


@pytest.mark.parametrize("container_file", ["pickle", "torchscript"], indirect=True)
@pytest.mark.parametrize("member", ["/data.pkl", "/data/0"])
def test_zip_with_a_missing_or_compressed_member(container_file: tuple[str, Path], member: str) -> None:
    _, path = container_file
    whole = path.read_bytes()
    rewrite_zip(path, lambda name, content: None if name.endswith(member) else content)
    assert_refused(path, member.strip("/"))
    path.write_bytes(whole)
    rewrite_zip(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    assert_refused(path, "is compressed")


# Memory


@LINUX_ONLY
def test_release_empties_what_is_mapped_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    wanted = {name: torch.randn(300, 400) for name in ("a", "b", "c")}
    save_file(wanted, path)
    mapped = open_weights(path).tensors
    release(mapped["b"].fill_(0))  # what is written is lost, so that a look at it shows what was released
    assert torch.equal(mapped["b"][10:290], wanted["b"][10:290])
    for name in ("a", "c"):
        assert torch.equal(mapped[name], wanted[name])
    in_memory = torch.randn(300, 400)
    kept = in_memory.clone()
    release(in_memory)
    assert torch.equal(in_memory, kept)


@pytest.mark.parametrize("tensor", [torch.empty(0, 4), torch.tensor(1.0), torch.empty(4000, device="meta")])
def test_release_of_what_has_no_pages(tensor: torch.Tensor) -> None:
    release(tensor)


MEASURE = """
import json, sys, re, pathlib
import torch
from motivnet.checkpoints.files import open_weights, release

def memory(kind):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(kind + r":\\s+(\\d+)", status)[1]) / 1024

grown = {}
for path in sys.argv[1:]:
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    tensors = open_weights(path).tensors
    opened = memory("VmHWM") - before
    copies = []
    for tensor in tensors.values():
        copies.append(tensor.to(torch.bfloat16))
        release(tensor)
    grown[path] = opened, memory("VmHWM") - before, memory("VmRSS") - before
    del tensors, copies, tensor
print(json.dumps(grown))
"""


@LINUX_ONLY
def test_memory(tmp_path: Path) -> None:
    num_tensors, tensor_mb = 12, 8
    numbers = torch.ones(tensor_mb, 1 << 18)
    state = {f"layers.{index}.weight": numbers + index for index in range(num_tensors)}
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(OrderedDict(state_dict=state), tmp_path / "weights.pth")
    module = nn.Module()
    module.layers = nn.ModuleList(nn.Module() for _ in range(num_tensors))
    for index, layer in enumerate(module.layers):
        layer.register_buffer("weight", state[f"layers.{index}.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), str(tmp_path / "weights.pt2"))
    files = [str(tmp_path / f"weights.{suffix}") for suffix in ("safetensors", "pth", "pt2")]
    # So that what one file needed goes back to the system before the next.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURE, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    copied_mb = num_tensors * tensor_mb / 2
    for path, (opened_mb, peak_mb, after_mb) in json.loads(done.stdout).items():
        assert opened_mb < 30, path
        assert copied_mb * 0.9 < after_mb, path
        assert peak_mb < copied_mb + tensor_mb + 30, path


# Threads


def test_threads_open_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        for opened in [pool.submit(assert_specimen_opens) for _ in range(80)]:
            opened.result()
