"""The Dockerfile and the compose file, as far as that can be told without an engine that builds them."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from motivnet.cli.main import app

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
ALLOWED = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Read the Dockerfile: (instruction, the rest), lines joined, without comments."""
    lines = [line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line.strip()]
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines())]


def rests(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def last_list(name: str) -> list[str]:
    return json.loads(rests(name)[-1])


def service() -> dict:
    (found,) = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    return found


def serve_parameters(arguments: list[str]) -> dict:
    """Let the command line read the arguments of `motivnet serve`, without running it."""
    command = typer.main.get_command(app).commands["serve"]  # pyright: ignore[reportAttributeAccessIssue]
    return command.make_context("serve", list(arguments)).params


def is_sent(path: str) -> bool:
    """Say whether .dockerignore, which names all and then what is sent all the same, lets a path through."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert lines[0] == "*"
    return any(path == name or path.startswith(f"{name}/") for name in kept)


def test_only_known_instructions():
    assert {name for name, _ in instructions()} <= ALLOWED


def test_base_images_are_pinned_exactly():
    stages = rests("FROM")
    assert stages
    for stage in stages:
        image = stage.split()[0]
        assert re.fullmatch(r"[a-z/.-]+(:\d+\.\d+\.\d+[a-z0-9.-]*|(:[\w.-]+)?@sha256:[0-9a-f]{64})", image), image
    # What is built with one Python runs with the same.
    assert len({stage.split()[0] for stage in stages}) == 1


def test_what_is_copied_exists_and_is_sent():
    for rest in rests("COPY"):
        words = shlex.split(rest)
        if words[0].startswith("--from="):
            assert words[0] == "--from=build"
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert is_sent(source), source
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line


def test_what_the_build_needs_is_copied():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = " ".join(rests("COPY")).split()
    assert {"pyproject.toml", project["project"]["readme"], "LICENSE", "src"} <= set(copied)


def test_every_package_is_held_to_the_tested_version():
    """The extra exists, and the constraints pin all that it and the core name."""
    (install,) = rests("RUN")
    (extra,) = re.findall(r'"\.\[(\w+)\]"', install)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"][extra]
    wanted += project["build-system"]["requires"]
    (constraints,) = re.findall(r"PIP_CONSTRAINT=/build/(\S+)", " ".join(rests("ENV")))
    assert f"{constraints} {constraints}" in rests("COPY")
    assert "/build" in rests("WORKDIR")
    lines = (ROOT / constraints).read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    pinned = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    for requirement in map(Requirement, wanted):
        assert pinned.get(canonicalize_name(requirement.name), "").startswith("=="), requirement


def test_it_serves_as_nobody_in_particular():
    user = rests("USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert last_list("ENTRYPOINT") == ["motivnet", "serve"]
    parameters = serve_parameters(last_list("CMD"))
    assert parameters["host"] == "0.0.0.0"
    assert [str(parameters["port"])] == rests("EXPOSE")
    # Strangers are kept out by the token alone.
    assert not parameters["insecure"]


def test_the_health_check_asks_the_port():
    options, _, command = rests("HEALTHCHECK")[-1].partition("CMD ")
    program = json.loads(command)
    assert "--interval=" in options
    assert program[:2] == ["python", "-c"]
    compile(program[2], "healthcheck", "exec")
    assert f"http://127.0.0.1:{rests('EXPOSE')[0]}/healthz" in program[2]


def test_compose():
    found = service()
    parameters = serve_parameters(found["command"])
    (port,) = found["ports"]
    assert port.split(":")[-1] == str(parameters["port"]) == rests("EXPOSE")[0]
    assert port.startswith("127.0.0.1:")
    assert (parameters["host"], parameters["insecure"]) == ("0.0.0.0", False)
    assert found["environment"].keys() == {"MOTIVNET_TOKEN"}
    assert int(found["stop_grace_period"].removesuffix("s")) > parameters["shutdown_timeout_s"]
    assert found["read_only"]
    assert (ROOT / found["build"] / "Dockerfile").is_file()


def test_options_that_the_page_names_exist():
    command = typer.main.get_command(app).commands["serve"]  # pyright: ignore[reportAttributeAccessIssue]
    known = {option for parameter in command.params for option in parameter.opts}
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    # Of curl, and of `motivnet predict`.
    others = {"--form", "--header", "--json"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - others <= known
