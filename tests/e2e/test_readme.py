"""What the README promises is there: its Python runs, its commands and paths exist, its scores are the model's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data

from motivnet.checkpoints.keymaps import MOTIVNET_RELEASED
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.models.motivnet import build_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SHELL_BLOCKS = "".join(re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^motivnet ([a-z-]+)(.*?)(?:  +#.*)?$", SHELL_BLOCKS, re.MULTILINE)
MAKE_TARGETS = re.findall(r"^make ([a-z-]+)", SHELL_BLOCKS, re.MULTILINE)
(TREE,) = re.findall(r"^```\n(\.\n.*?)^```$", README, re.DOTALL | re.MULTILINE)
RUN_CLI = "from motivnet.cli.main import main; main()"


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the README's examples are run in."""
    Image.open(Path(data.data_dir) / "astronaut.png").convert("RGB").save(tmp_path / "family.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    write_shallow_motivnet(tmp_path / "MotivNet.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_shallow_motivnet(path: Path) -> None:
    """Write random weights in the released format: of a released width, but a single block deep."""
    config = ModelConfig(
        backbone="sapiens",
        image_size=(128, 96),
        vit=VitConfig(embed_dim=1024, depth=1, num_heads=16),
        head=HeadConfig(dim=64, num_layers=2),
    )
    state, _ = MOTIVNET_RELEASED.inverse().apply(build_model(config).state_dict())
    torch.save(state, path)


def tree_paths() -> list[str]:
    """Read the annotated tree: every line names a file or a folder, four columns deeper than its parent."""
    paths, parents = [], []
    for line in TREE.splitlines()[1:]:
        indent, name = re.fullmatch(r"([│ ]*)[├└]── (\S+).*", line).groups()  # type: ignore[union-attr]
        parents = [*parents[: len(indent) // 4], name.rstrip("/")]
        paths.append("/".join(parents))
    return paths


@pytest.mark.parametrize("number", range(len(PYTHON_BLOCKS)))
@pytest.mark.usefixtures("photographs")
def test_python_block_runs(number: int) -> None:
    exec(compile(PYTHON_BLOCKS[number], f"README.md, Python block {number}", "exec"), {})


@pytest.mark.usefixtures("photographs")
def test_first_example_shows_both_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PYTHON_BLOCKS[0], "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok"
    assert "happiness" in lines[1]
    assert lines[-1] == "unreadable"


@pytest.mark.parametrize(("verb", "rest"), COMMANDS, ids=[verb + rest for verb, rest in COMMANDS])
def test_command_exists_with_its_flags(verb: str, rest: str) -> None:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            RUN_CLI,
            verb,
            *re.findall(r"^ ([a-z]+) ", rest)[: verb in ("weights", "data")],
            "--help",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert shown.returncode == 0, shown.stderr
    for flag in re.findall(r"--[a-z-]+", rest):
        assert re.search(rf"{flag}\b", shown.stdout), f"motivnet {verb} has no {flag}"


def test_two_make_commands_exist() -> None:
    assert MAKE_TARGETS == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in MAKE_TARGETS)


@pytest.mark.parametrize("path", tree_paths())
def test_tree_names_what_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_tree_names_every_room() -> None:
    package = ROOT / "src" / "motivnet"
    rooms = {path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= {Path(path).name for path in tree_paths()}


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_scores_are_those_of_the_embedded_model() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "render_scores.py", "--check"], check=False)
    assert done.returncode == 0, "run `make scores`"
