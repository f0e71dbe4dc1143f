"""The examples of the README, of the first pages of `docs` and of its tutorials are run as they are written.

Each block of commands has a folder of its own with the files that examples name. Plain calls of `motivnet` run in this
process, everything else in a shell; what cannot run here is named in `NOT_HERE` with its reason, what takes minutes in
`SLOW`. A server that a block starts, or talks to, runs as long as the block. A tutorial is run from its first block to
its last in an empty folder, and so is the notebook that is made of it.
"""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from motivnet.checkpoints.bundle import Calibration, open_bundle, write_config
from motivnet.checkpoints.keymaps import MOTIVNET_RELEASED
from motivnet.cli.main import app
from motivnet.labels import EMOTIONS, Emotion
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import build_model

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/index.md", "docs/quickstart.md")
# Why a line does not run here. The first pattern that is found in it counts.
NOT_HERE = {
    r"^make ": "sets up environments of its own; CI is `make test` itself",
    r"^(python -m )?pip ": "installs; test_wheel.py does so from the wheel",
    r"^docker|^podman": "needs a container engine",
    r"affectnet:": "AffectNet is not public",
    r"weights fetch": "downloads released weights",
    r"backbone\.weights=(sapiens|mobilenet|faceres)": "needs weights that are downloaded",
    r"ckplus:|rafdb:": "needs a data set that its publisher gives out",
    r"\b(s3|gs|hf)://|https?://(?!127\.0\.0\.1|localhost)": "needs the network",
    r"motivnet live(?! +\S+\.(mp4|mkv|avi|mov))|camera:": "needs a camera",
    r"--address": "needs a cluster",
    r"--device cuda": "needs a GPU",
}
SLOW = {
    r"motivnet (pre)?train (?!.*--show)": "trains, or traces a model of a billion parameters",
    r"motivnet ablate": "trains many times",
    r"--engine ray": "starts Ray",
    r"motivnet explain": "runs torch once per emotion",
}
TUTORIALS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("tutorial-*.md"))
TRAINING = "docs/tutorial-train.md"
LIMIT_S = 300
PORT = 8000


class Block(NamedTuple):
    """Commands that stand together on a page, each on one line."""

    page: str
    number: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def blocks(page: str, kinds: tuple[str, ...]) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        content
        for kind, content in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if kind in kinds
    ]


def lines_of(block: str) -> tuple[str, ...]:
    """Join lines that a backslash breaks; leave out empty ones, and those that only remark."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def reason(line: str, table: dict[str, str]) -> str | None:
    """Tell why a line is in a table; remarks do not count."""
    command = re.sub(r"\s#.*", "", line)
    return next((why for pattern, why in table.items() if re.search(pattern, command)), None)


SHELL = [
    Block(page, number, lines_of(block)) for page in PAGES for number, block in enumerate(blocks(page, ("sh", "bash")))
]
PYTHON = [(page, number, block) for page in PAGES for number, block in enumerate(blocks(page, ("python",)))]
RUNNING = [block for block in SHELL if any(not reason(line, NOT_HERE) for line in block.lines)]
SLOW_BLOCKS = [
    block for block in RUNNING if any(reason(line, SLOW) and not reason(line, NOT_HERE) for line in block.lines)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that examples run in, as if it were a clone beside the shared data."""
    clone = tmp_path / "clone"
    clone.mkdir()
    astronaut = Image.open(Path(data.data_dir) / "astronaut.png").convert("RGB")
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    astronaut.save(clone / "family.jpg")
    (clone / "broken.jpg").write_bytes(b"no photograph")
    for name in ("holiday", "photographs"):
        (clone / name / "beach").mkdir(parents=True)
        shutil.copy(hopper, clone / name / "beach" / "hopper.jpg")
        Image.new("RGB", (320, 240), "grey").save(clone / name / "sea.png")
    (clone / "archive").mkdir()
    astronaut.resize((256, 256)).save(clone / "archive" / "1983.png")
    shared = tmp_path / "shared" / "data" / "fer2013"
    shared.mkdir(parents=True)
    write_fer2013(shared / "fer2013.parquet")
    (clone / "fer2013.parquet").symlink_to(shared / "fer2013.parquet")
    monkeypatch.chdir(clone)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return clone


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in MotivNet's released format: of a released width, but a single block deep."""
    config = ModelConfig(
        backbone="sapiens",
        image_size=(128, 96),
        vit=VitConfig(embed_dim=1024, depth=1, num_heads=16),
        head=HeadConfig(dim=64, num_layers=2),
    )
    state, _ = MOTIVNET_RELEASED.inverse().apply(build_model(config).state_dict())
    path = tmp_path_factory.mktemp("released") / "MotivNet.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def weights(folder: Path, released: Path) -> Path:
    """The folder with released weights, and with a bundle as training leaves it."""
    (folder / "MotivNet.pth").symlink_to(released)
    nano = open_bundle("nano")
    shutil.copytree(nano.path, folder / "runs" / "mine" / "bundle")
    write_config(folder / "runs" / "mine" / "bundle", dataclasses.replace(nano.config, calibration=Calibration()))
    return folder


def write_fer2013(path: Path) -> None:
    """Write a table in the form of FER-2013 with FERPlus' votes, one face in many lights, most often called happy."""
    rng = np.random.default_rng(0)
    face = Image.open(Path(data.data_dir) / "astronaut.png").convert("L").crop((170, 60, 280, 170)).resize((48, 48))
    rows: list[dict[str, object]] = []
    for split, copies in {"Training": 10, "PublicTest": 1, "PrivateTest": 1}.items():
        for label in (*EMOTIONS, *EMOTIONS, *[Emotion.HAPPINESS] * 18) * copies:
            pixels = np.asarray(face) * rng.uniform(0.4, 1.0) + rng.uniform(0, 40, (48, 48))
            votes = {f"votes_{name}": 10 * (name == label) for name in (*EMOTIONS, "contempt", "unknown", "not_face")}
            rows.append({"usage": split, "label": str(label), "png": encode(pixels), **votes})
    pq.write_table(pa.Table.from_pylist(rows), path)


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_video(path: Path) -> None:
    """Write a second of the astronaut."""
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    image = np.asarray(Image.open("family.jpg").convert("RGB"))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
        for _ in range(25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


class Shell:
    """Run the lines of a block one after the other, as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "PATH": f"{self._program()}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
        }

    def run(self, line: str) -> None:
        """Run a line, and fail if it does; exit code 1 is right where a broken photograph is among the inputs."""
        line = re.sub(rf"(?<!\d){PORT}(?!\d)", str(self.port), line)
        allowed = (0, 1) if "broken" in line else (0,)
        if assignment := re.fullmatch(r"(?:export )?([A-Z_]+)=(\S+)(?:\s+#.*)?", line):
            self.environment[assignment[1]] = assignment[2]
            return
        if re.search(r"^(\w+=\S+ )*motivnet serve", line):
            self.serve(line)
            return
        if re.search(rf"(127\.0\.0\.1|localhost):{self.port}", line) and self.server is None:
            self.serve(f"motivnet serve --port {self.port}")
        for name in re.findall(r"(?<!-)(?<!--out )(?<!--annotate )\b[\w./-]+\.mp4", line):
            if not (self.folder / name).exists() and not re.search(rf"--\S+[ =]{re.escape(name)}", line):
                write_video(self.folder / name)
        code, output = self._plain(line) if is_plain(line) else self._bash(line)
        assert code in allowed, f"$ {line}\nexit code {code}\n{output}"

    def serve(self, line: str) -> None:
        """Start a server in the background and wait until it answers."""
        command = re.sub(r"\s*(&|#.*)?\s*$", "", line)
        if "--port" not in command:
            command += f" --port {self.port}"
        self.server = subprocess.Popen(["bash", "-c", f"exec env {command}"], cwd=self.folder, env=self.environment)
        deadline = time.monotonic() + LIMIT_S
        while True:
            assert self.server.poll() is None, f"$ {command}\nended with {self.server.returncode}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10):
                    return
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline, f"$ {command}\ngave no answer in {LIMIT_S} s"
                time.sleep(0.1)

    def close(self) -> None:
        """Stop the server, which has to end by itself."""
        if self.server is None:
            return
        self.server.send_signal(signal.SIGTERM)
        try:
            code = self.server.wait(timeout=LIMIT_S)
        finally:
            self.server.kill()
            self.server.wait()
        assert code in (0, 128 + signal.SIGTERM, -signal.SIGTERM)

    def _plain(self, line: str) -> tuple[int, str]:
        words = shlex.split(line, comments=True)
        words = [re.sub(r"\$(\w+)", lambda match: self.environment[match[1]], word) for word in words]
        done = CliRunner().invoke(app, words[1:], env={**self.environment, "COLUMNS": "160", "NO_COLOR": "1"})
        if done.exception and not isinstance(done.exception, SystemExit):
            return 2, f"{type(done.exception).__name__}: {done.exception}"
        return done.exit_code, done.output

    def _bash(self, line: str) -> tuple[int, str]:
        for tool in ("curl", "jq"):
            if re.search(rf"\b{tool}\b", line) and not shutil.which(tool):
                pytest.skip(f"{tool} is not installed")
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def _program(self) -> Path:
        """Write programs that are this interpreter's, whether or not the package is installed."""
        programs = self.folder.parent / "bin"
        programs.mkdir(exist_ok=True)
        for name, call in {"motivnet": "-m motivnet", "python": ""}.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {call} "$@"\n', encoding="utf-8")
            program.chmod(0o755)
        return programs


def is_plain(line: str) -> bool:
    """Whether a line is a call of `motivnet` alone: no pipe, no redirection, no pattern that a shell would expand."""
    tokens = shlex.shlex(line, posix=False, punctuation_chars=True)
    return line.startswith("motivnet ") and not any(re.match(r"[|&;<>()`]|[^'\"]*\*", token) for token in tokens)


def free_port() -> int:
    """Find one that systems do not hand out by themselves, as others ask them for ports before a server has it."""
    first = 10_000 + 200 * (os.getpid() % 100)
    for port in range(first, first + 200):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


@pytest.fixture
def shell(weights: Path) -> Iterator[Shell]:
    shell = Shell(weights)
    yield shell
    shell.close()


def run_block(block: Block, shell: Shell, *, slow: bool) -> None:
    for line in block.lines:
        if not reason(line, NOT_HERE) and (slow or not reason(line, SLOW)):
            shell.run(line)


@pytest.mark.parametrize("block", RUNNING, ids=str)
def test_block_of_commands_runs(block: Block, shell: Shell) -> None:
    run_block(block, shell, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("block", SLOW_BLOCKS, ids=str)
def test_block_of_commands_runs_whole(block: Block, shell: Shell) -> None:
    run_block(block, shell, slow=True)


@pytest.mark.parametrize(("page", "number", "block"), PYTHON, ids=[f"{page}-{number}" for page, number, _ in PYTHON])
@pytest.mark.usefixtures("weights")
def test_block_of_python_runs(page: str, number: int, block: str) -> None:
    exec(compile(block, f"{page}, Python block {number}", "exec"), {"__name__": "__main__"})


@pytest.mark.usefixtures("weights")
def test_first_example_shows_both_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PYTHON[0][2], "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok [('happiness', 0.")
    assert lines[1:] == ["unreadable []"]


@pytest.fixture
def beginner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """An empty folder of somebody who has used nothing yet and is offline."""
    study = tmp_path / "study"
    study.mkdir()
    (tmp_path / "home").mkdir()
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    shell = Shell(study)
    yield shell
    shell.close()


def same_text(found: str, shown: str) -> bool:
    """Compare outputs word by word; decimals may differ in their last place, as processors round differently."""
    words, expected = found.split(), shown.split()
    decimal = re.compile(r"-?\d+\.\d")
    return len(words) == len(expected) and all(
        abs(float(word) - float(other)) < 0.11
        if decimal.fullmatch(word) and decimal.fullmatch(other)
        else word == other
        for word, other in zip(words, expected, strict=True)
    )


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page == TRAINING)) for page in TUTORIALS]
)
def test_tutorial_runs_and_prints_what_it_shows(page: str, beginner: Shell) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    parts = re.findall(r"^```(sh|python)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", text, re.DOTALL | re.MULTILINE)
    assert len(parts) > 4
    for kind, code, shown in parts:
        if "motivnet serve" in code:
            beginner.run(code.strip())
            continue
        program = ["bash", "-e", "-o", "pipefail", "-c"] if kind == "sh" else ["python", "-c"]
        done = subprocess.run(
            [*program, code.replace(str(PORT), str(beginner.port))],
            cwd=beginner.folder,
            env=beginner.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
        if shown:
            assert same_text(done.stdout, shown), f"{code}\n{done.stdout}\nnot\n{shown}"


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS)
def test_notebook_runs(page: str, beginner: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package)
    import nbclient
    import nbformat

    name = Path(page).stem.removeprefix("tutorial-")
    text = (ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text.replace(f":{PORT}", f":{beginner.port}").replace(f" {PORT}", f" {beginner.port}"), 4)
    nbformat.validate(notebook)
    monkeypatch.setenv("PATH", beginner.environment["PATH"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"), prepend=os.pathsep)
    nbclient.NotebookClient(notebook, timeout=LIMIT_S, resources={"metadata": {"path": beginner.folder}}).execute()


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("motivnet predict family.jpg 'archive/*.png'", True),
        ("motivnet predict a.jpg --json   # one object", True),
        ("motivnet train x --data $FER", True),
        ("motivnet predict archive/*.png", False),
        ("motivnet predict a.jpg --json | jq .", False),
        ("cat a.jpg | motivnet predict -", False),
        ("motivnet predict - < a.jpg", False),
    ],
)
def test_a_line_for_the_shell_is_known_by_its_marks(line: str, plain: bool) -> None:
    assert is_plain(line) is plain
