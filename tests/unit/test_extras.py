"""A missing package is blamed on an extra that brings it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from motivnet import _EXTRAS, _HOME

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/motivnet"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Module -> its distribution, where the names differ; what a distribution brings along is its own affair.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
    "starlette": "fastapi",
    "pydantic": "fastapi",
    "httpx2": "huggingface-hub",
    "markupsafe": "jinja2",
    "onnx_ir": "onnxscript",
    "litert_torch": "litert-torch",
    "ai_edge_litert": "litert-torch",
}


def packages(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;~! ]", each, maxsplit=1)[0].lower() for each in requirements}


CORE = packages(PROJECT["dependencies"])
# torch has requirements of its own, which cannot be missing where it is.
BROUGHT = {"torch": {"jinja2"}}
EXTRAS = {name: packages(wanted) for name, wanted in PROJECT["optional-dependencies"].items()}
EXTRAS = {name: found.union(*(BROUGHT.get(each, set()) for each in found)) for name, found in EXTRAS.items()}


def imports(body: list[ast.stmt]) -> Iterator[str]:
    """Name the modules that statements import when they are run, outside of functions and type checking."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from imports([*node.body, *node.orelse])
        elif isinstance(node, ast.With | ast.Try):
            yield from imports(node.body)


def file_of(module: str) -> Path | None:
    path = ROOT / "src" / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def needed_by(module: str) -> frozenset[str]:
    """Name the distributions that importing a module of this package needs."""
    file = file_of(module)
    seen, found = {module}, set[str]()
    todo = [] if file is None else [file]
    while todo:
        for name in imports(ast.parse(todo.pop().read_text(encoding="utf-8")).body):
            if name.startswith("motivnet"):
                below = file_of(name)
                if name not in seen and below:
                    todo.append(below)
                seen.add(name)
            else:
                found.add(name.partition(".")[0])
    known = {DISTRIBUTIONS.get(name, name.replace("_", "-")).lower() for name in found - sys.stdlib_module_names}
    return frozenset(known)


def blocks() -> Iterator[tuple[str, str, str, ast.With]]:
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.With) and "needs_extra(" in ast.unparse(node.items[0]):
                call = node.items[0].context_expr
                if isinstance(call, ast.Call) and all(isinstance(each, ast.Constant) for each in call.args):
                    package, extra = (each.value for each in call.args if isinstance(each, ast.Constant))
                    where = f"{file.relative_to(SOURCE)}:{node.lineno}"
                    yield pytest.param(package, extra, node, id=where)


@pytest.mark.parametrize(("package", "extra", "block"), [*blocks()])
def test_an_extra_brings_what_it_is_named_for(package, extra, block):
    wanted = {DISTRIBUTIONS.get(package, package.replace("_", "-"))}
    for name in imports(block.body):
        if name.startswith("motivnet"):
            wanted |= needed_by(name)
        else:
            wanted.add(DISTRIBUTIONS.get(name.partition(".")[0], name.partition(".")[0].replace("_", "-")))
    assert wanted - CORE - EXTRAS[extra] - set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize("module", sorted({*_HOME.values()}))
def test_the_extra_of_a_public_name_brings_what_its_module_needs(module):
    assert needed_by(f"motivnet.{module}") - CORE - EXTRAS.get(_EXTRAS.get(module, ""), set()) == set()
