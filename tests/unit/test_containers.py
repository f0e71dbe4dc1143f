"""What the container starts, `compose.yaml` and the server's page, against the options of `motivnet serve`."""

import json
import re
from pathlib import Path

import pytest
import typer

from motivnet.cli.main import app

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def last(instruction: str) -> str:
    return re.findall(rf"^{instruction} (.*)$", DOCKERFILE, re.MULTILINE)[-1]


def serve_parameters(arguments: list[str]) -> dict:
    """Let the command line parse the arguments of `motivnet serve`, without running it."""
    command = typer.main.get_command(app).commands["serve"]  # pyright: ignore[reportAttributeAccessIssue]
    return command.make_context("serve", list(arguments)).params


def test_container():
    assert json.loads(last("ENTRYPOINT")) == ["motivnet", "serve"]
    parameters = serve_parameters(json.loads(last("CMD")))
    assert (parameters["host"], str(parameters["port"])) == ("0.0.0.0", last("EXPOSE"))
    # The token alone keeps strangers out.
    assert not parameters["insecure"]


def test_compose():
    (found,) = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    parameters = serve_parameters(found["command"])
    (port,) = found["ports"]
    assert port.split(":")[-1] == str(parameters["port"]) == last("EXPOSE")
    assert port.startswith("127.0.0.1:")
    assert (parameters["host"], parameters["insecure"]) == ("0.0.0.0", False)
    assert found["environment"].keys() == {"MOTIVNET_TOKEN"}
    assert int(found["stop_grace_period"].removesuffix("s")) > parameters["shutdown_timeout_s"]


def test_options_that_the_page_names_exist():
    command = typer.main.get_command(app).commands["serve"]  # pyright: ignore[reportAttributeAccessIssue]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    # Of curl, and of `motivnet predict`.
    others = {"--form", "--header", "--json"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - others <= known
