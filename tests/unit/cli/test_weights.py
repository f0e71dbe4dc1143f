import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from motivnet.checkpoints.released import RELEASED
from motivnet.cli.weights import weights
from motivnet.errors import CheckpointError, ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf:owner/repo/model.safetensors"


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, nothing of the user's."""
    pytest.importorskip("huggingface_hub", reason="the extra `torch` is not installed")
    monkeypatch.setenv("MOTIVNET_OFFLINE", "1")
    monkeypatch.delenv("MOTIVNET_MIRROR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache as the hub's programs leave it, which holds one small file of weights."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save

    return put(tmp_path / "hub", save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}))


def put(cache: Path, body: bytes, file: str = "model.safetensors", repo: str = "owner--repo") -> Path:
    """Write a file into a cache in the hub's layout."""
    folder = cache / f"models--{repo}"
    blob = folder / "blobs" / hashlib.sha256(body).hexdigest()
    link = folder / "snapshots" / COMMIT / file
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(body)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs" / "main").write_text(COMMIT)
    return cache


def run(*arguments: object) -> Result:
    return CliRunner().invoke(weights, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """Run a verb that must end in an error of ours, which `main` turns into one line and exit code 2."""
    done = run(*arguments)
    assert isinstance(done.exception, (CheckpointError, ConfigError)), (done.output, done.exception)
    return str(done.exception)


class TestList:
    """`motivnet weights list`."""

    def test_json_says_all_of_every_file(self, tmp_path: Path) -> None:
        done = run("list", "--json", "--cache", tmp_path)
        assert done.exit_code == 0, done.exception
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["name"] for row in rows] == [entry.name for entry in RELEASED]
        pose = next(row for row in rows if row["name"] == "sapiens-pose-1b")
        assert pose["repo"] == "facebook/sapiens-pose-1b"
        assert pose["file"] == "sapiens_1b_goliath_best_goliath_AP_639.pth"
        assert (pose["size"], pose["size_bytes"], pose["sha256"]) == ("4.68 GB", 4_680_000_000, None)
        assert pose["licence"]["name"] == "CC BY-NC 4.0"
        assert pose["cached"] is None

    def test_what_is_cached_is_said(self, tmp_path: Path) -> None:
        file = "sapiens2_0.1b_pretrain.safetensors"
        put(tmp_path, b"x", file, "facebook--sapiens2-pretrain-0.1b")
        rows = [json.loads(line) for line in run("list", "--json", "--cache", tmp_path).stdout.splitlines()]
        here = {row["name"]: row["cached"] for row in rows if row["cached"]}
        assert list(here) == ["sapiens2-pretrain-0.1b"]
        assert here["sapiens2-pretrain-0.1b"].endswith(file)
        table = run("list", "--cache", tmp_path).stdout
        assert re.search(r"sapiens2-pretrain-0\.1b +yes +about 0\.46 GB", table)
        assert re.search(r"sapiens2-pretrain-0\.4b +no ", table)

    def test_the_table_names_every_file_and_where_it_is(self, tmp_path: Path) -> None:
        done = run("list", "--cache", tmp_path)
        text = " ".join(done.stdout.split())
        for entry in RELEASED:
            assert entry.name in text
            assert entry.file in text
        assert "from its authors; not on a hub that is known" in text
        assert "4.68 GB" in text

    def test_the_terms_of_the_licences_are_told(self, tmp_path: Path) -> None:
        told = run("list", "--cache", tmp_path).stderr
        assert "surveillance" in told
        assert "no commercial use" in told


class TestFetch:
    """`motivnet weights fetch`; transfers are tested where they are made."""

    def test_the_path_is_all_that_stdout_says(self, cache: Path) -> None:
        done = run("fetch", NAME, "--cache", cache)
        assert done.exit_code == 0, done.exception
        assert done.stdout == f"{cache}/models--owner--repo/snapshots/{COMMIT}/model.safetensors\n"

    def test_offline_it_says_so(self, tmp_path: Path) -> None:
        assert "forbids the network" in refused("fetch", "sapiens-pose-1b", "--cache", tmp_path)

    def test_what_has_no_host_says_so(self) -> None:
        assert "comes from its authors" in refused("fetch", "motivnet-1b")

    def test_a_bad_mirror(self, tmp_path: Path) -> None:
        assert "is no address" in refused("fetch", NAME, "--mirror", "nowhere", "--cache", tmp_path)

    def test_an_unknown_name(self) -> None:
        assert "did you mean 'sapiens-pose-1b'" in refused("fetch", "sapiens-pose-1")


class TestVerify:
    """`motivnet weights verify`."""

    def test_a_sound_file_by_name(self, cache: Path) -> None:
        done = run("verify", NAME, "--cache", cache)
        assert done.exit_code == 0, done.exception
        assert re.search(
            r"safetensors, 2 tensor\(s\), 10 values, all finite; sha256 [0-9a-f]{64}, as expected", done.stdout
        )

    def test_a_file_that_nobody_knows(self, cache: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.safetensors"
        copy.write_bytes(next(cache.glob("*/snapshots/*/*")).read_bytes())
        done = run("verify", copy)
        assert done.exit_code == 0, done.exception
        assert "nothing known to compare it with" in done.stdout

    def test_a_changed_file_in_the_cache(self, cache: Path) -> None:
        path = next(cache.glob("*/snapshots/*/*"))
        body = bytearray(path.read_bytes())
        body[-1] ^= 1
        path.write_bytes(body)
        assert re.search(r"damaged: sha256 \w{64}, expected \w{64}", refused("verify", NAME, "--cache", cache))

    @pytest.mark.parametrize("length", [0, 5, 60, -4])
    def test_half_a_file(self, cache: Path, tmp_path: Path, length: int) -> None:
        half = tmp_path / "half.safetensors"
        half.write_bytes(next(cache.glob("*/snapshots/*/*")).read_bytes()[:length])
        assert "half.safetensors: cannot be read: " in refused("verify", half)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_numbers_that_are_none(self, tmp_path: Path, bad: float, suffix: str) -> None:
        torch = pytest.importorskip("torch")
        from safetensors.torch import save_file

        tensors = {"a": torch.tensor([1.0, bad, bad]), "b": torch.tensor([1, 2])}
        path = tmp_path / f"weights{suffix}"
        (torch.save if suffix == ".pth" else save_file)(tensors, path)
        assert "damaged: 2 of 5 values are NaN or infinite" in refused("verify", path)

    def test_a_torch_file(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        torch.save({"a": torch.zeros(3)}, tmp_path / "x.pth")
        assert "pickle, 1 tensor(s), 3 values, all finite" in run("verify", tmp_path / "x.pth").stdout

    def test_a_pickle_that_would_do_something(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch = pytest.importorskip("torch")
        monkeypatch.chdir(tmp_path)
        torch.save({"a": Evil()}, tmp_path / "x.pth")
        assert f"its pickle names {os.system.__module__}.system" in refused("verify", tmp_path / "x.pth")
        assert not (tmp_path / "done").exists()

    def test_what_is_no_file_of_weights(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("Nothing to see here")
        assert "found a file that begins with b'Nothing" in refused("verify", tmp_path / "notes.txt")
        assert "no such file" in refused("verify", tmp_path / "none.pth")
        assert "no bundle" in refused("verify", tmp_path)

    def test_a_bundle(self, tiny_bundle) -> None:
        done = run("verify", tiny_bundle.path)
        assert done.exit_code == 0, done.exception
        assert re.fullmatch(r".*model\.onnx: onnx, all finite; sha256 .*\n", done.stdout)

    def test_a_name_that_is_not_fetched(self, tmp_path: Path) -> None:
        assert "not fetched yet" in refused("verify", "sapiens-pose-1b", "--cache", tmp_path)


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch done",)


def test_help_and_list_import_nothing_heavy() -> None:
    code = """
import sys
from motivnet.cli.weights import weights
try:
    weights(["--help"])
except SystemExit:
    pass
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "timm", "huggingface_hub", "safetensors"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.splitlines()[-1] == "[]"


def test_verbs_are_all_there() -> None:
    help_text = run("--help").stdout
    for verb in ("list", "fetch", "inspect", "convert", "verify"):
        assert re.search(rf"\b{verb} ", help_text)
