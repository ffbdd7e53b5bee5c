"""`serve/Dockerfile` and its commands: what they name exists. Nothing is built here."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main

from retreever.cli.main import app
from retreever.service.gateway import Gateway
from retreever.service.http.http_api import make_api
from retreever.service.http.service_metrics import ServiceMetrics

ROOT = Path(__file__).parents[2]
DOCKERFILE, README = ROOT / "serve" / "Dockerfile", ROOT / "serve" / "README.md"


def read_instructions(text):
    """The instructions of a Dockerfile with their arguments, in order."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in lines.splitlines() if line.strip()]


def find_faults(text):
    """All faults of a Dockerfile."""
    instructions = read_instructions(text)
    last = dict(instructions)
    found = [f"COPY: there is no {source}" for name, words in instructions if name == "COPY"
             for source in words.split()[:-1] if not (ROOT / source).exists()]  # fmt: skip
    found += _find_command_faults(json.loads(last["CMD"]))
    found += [] if last["EXPOSE"] == str(_find_default("serve", "port")) else ["EXPOSE: not the port of the service"]
    found += [] if last["STOPSIGNAL"] == "SIGTERM" else ["STOPSIGNAL: the service ends gracefully at SIGTERM"]
    found += [] if last["USER"] not in ("root", "0") else ["USER: root"]
    probe = re.search(r"127\.0\.0\.1:(\d+)(/\w+)'", last["HEALTHCHECK"])
    paths = {route.path for route in make_api(Gateway(None, ServiceMetrics()), page=False).routes}
    found += (
        [] if probe and probe[1] == last["EXPOSE"] and probe[2] in paths else ["HEALTHCHECK: there is no such path"]
    )
    install = next(words for name, words in instructions if name == "RUN" and words.startswith("pip install"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found += [f"pip: there is no extra {extra}" for extra in re.findall(r"\[(\w+)\]", install) if extra not in extras]
    found += [] if "--constraint constraints.txt" in install else ["pip: versions are not pinned"]
    return found


def _find_command_faults(words):
    program, verb, *rest = words
    commands = typer.main.get_command(app).commands
    if program != "retreever" or verb not in commands:
        return [f"there is no command {program} {verb}"]
    known = {option for parameter in commands[verb].params for option in parameter.opts}
    return [f"{verb}: there is no option {word}" for word in rest if word.startswith("-") and word not in known]


def _find_default(verb, option):
    return next(one.default for one in typer.main.get_command(app).commands[verb].params if one.name == option)


def test_what_it_names_exists():
    assert find_faults(DOCKERFILE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("COPY search_spaces", "COPY search_space"),
        ('"--host"', '"--hosts"'),
        ('"retreever", "serve"', '"retreever", "serves"'),
        ("EXPOSE 8000", "EXPOSE 8080"),
        ("SIGTERM", "SIGKILL"),
        ("USER retreever", "USER root"),
        ("/readyz", "/ready"),
        ("[demo]", "[demos]"),
        ("--constraint constraints.txt ", ""),
    ],
)
def test_faults_are_found(before, after):
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert before in text
    assert find_faults(text.replace(before, after))


def test_the_commands_of_its_readme_name_what_exists():
    (block,) = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    build, *runs = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    assert build[:2] == ["docker", "build"] and (ROOT / build[build.index("--file") + 1]) == DOCKERFILE
    image = build[build.index("--tag") + 1]
    assert len(runs) == 2 and all(run[:2] == ["docker", "run"] and image in run for run in runs)
    for run in runs:  # the image has the name of the program, and `--name` may be that name too
        command = run[run.index(image, run.index("--volume")) + 1 :]
        assert command == [] or _find_command_faults(command) == []
    port = _find_default("serve", "port")
    assert f"127.0.0.1:{port}:{port}" in runs[-1]
