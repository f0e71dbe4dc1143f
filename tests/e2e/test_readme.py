"""What the README promises is there: its commands and paths exist, its scores are the model's.

So do the commands, settings and links of the pages in `docs`. `test_examples.py` runs the examples.
"""

import functools
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from motivnet import config
from motivnet.cli.main import app
from motivnet.training.mae.pretrain_recipes import pretrain_recipe
from motivnet.training.recipes import recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL_BLOCKS = "".join(re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
MAKE_TARGETS = re.findall(r"^make ([a-z-]+)", SHELL_BLOCKS, re.MULTILINE)
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
(TREE,) = re.findall(r"^```\n(\.\n.*?)^```$", CONTRIBUTING, re.DOTALL | re.MULTILINE)
NAMES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}


def shell_lines(page: str) -> list[str]:
    """Read the lines of a page's blocks of commands, those that a backslash breaks joined."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    text = "".join(content for kind, content in blocks if kind in ("", "sh", "bash"))
    return re.sub(r"\\\n *", "", text).splitlines()


def commands(page: str) -> list[list[str]]:
    """Find the calls of the program, whatever starts it, word by word, without comments."""
    found = [re.match(r"(?:.* (?:-m )|srun )?motivnet +(.*)", line) for line in shell_lines(page)]
    return [words_of(match[1]) for match in found if match]


def words_of(line: str) -> list[str]:
    """Split a command, and leave out what follows a pipe, an ampersand or an arrow."""
    words = shlex.split(line, comments=True)
    end = next((place for place, word in enumerate(words) if re.fullmatch(r"[|&;]+|\d?[<>]+.*", word)), None)
    return words[:end]


def settings_in(words: list[str]) -> list[str]:
    return [value for option, value in pairwise(words) if option == "--set"]


COMMANDS = [(name, words) for name, page in PAGES.items() for words in commands(page)]
# Those of the table of tasks.
COMMANDS += [("README.md", words_of(line)) for line in re.findall(r"`motivnet ([^`]+)`", README)]
# Settings without a command, line by line, are those of any recipe of MotivNet.
LOOSE = [
    shlex.split(line, comments=True)
    for name, page in PAGES.items()
    for line in shell_lines(page)
    if name.startswith("docs/training") and line.startswith("--set")
]
RECIPES = {"train": recipe, "pretrain": pretrain_recipe}
RUNS = [words for _, words in COMMANDS if words[0] in RECIPES and words[1:] and words[1][0] != "-"]


def tree_paths() -> list[str]:
    """Read the annotated tree: every line names a file or a folder, four columns deeper than its parent."""
    paths, parents = [], []
    for line in TREE.splitlines()[1:]:
        indent, name = re.fullmatch(r"([│ ]*)[├└]── (\S+).*", line).groups()  # type: ignore[union-attr]
        parents = [*parents[: len(indent) // 4], name.rstrip("/")]
        paths.append("/".join(parents))
    return paths


@functools.cache
def help_of(*verb: str) -> str:
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    shown = CliRunner().invoke(app, [*verb, "--help"], env=environment)
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS])
def test_command_exists_with_its_flags(page: str, words: list[str]) -> None:
    verb = words[: 2 if words[0] in ("weights", "data") else 1]
    for flag in [word for word in words if word.startswith("--")]:
        assert re.search(rf"{flag}(?![\w-])", help_of(*verb)), f"motivnet {' '.join(verb)} has no {flag}"
    assert help_of(*verb)


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_recipe_exists_with_its_settings(words: list[str]) -> None:
    verb, name = words[:2]
    config.override(RECIPES[verb](name), settings_in(words))


@pytest.mark.parametrize("words", LOOSE, ids=" ".join)
def test_setting_exists(words: list[str]) -> None:
    config.override(recipe("motivnet-1b"), settings_in(words))


def test_readme_is_short() -> None:
    assert len(README.split()) <= 900


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


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]) if "://" not in link]
    # Pages on commands are made when the site is built, which checks links to them.
    written = [link for link in links if not link.startswith("commands/")]
    assert [link for link in written if not ((ROOT / page).parent / link).exists()] == []


def test_scores_are_those_of_the_embedded_model() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "render_scores.py", "--check"], check=False)
    assert done.returncode == 0, "run `make scores`"
