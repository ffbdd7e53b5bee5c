"""The wheel stands on its own: built, installed into a clean environment, and used from another folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from retreever.data import beir
from tests.support import tiny

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("retreever", "search_spaces", "pyproject.toml", "README.md", "LICENSE")

TEXT = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "-w", str(target)]
    check(subprocess.run(command, cwd=source, **TEXT))
    (built,) = target.glob("retreever-*.whl")
    return built


def check(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_it_holds_retreever_alone_and_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"retreever", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    assert {f"retreever/search_spaces/{path.name}" for path in (ROOT / "search_spaces").glob("*.yaml")} <= set(names)
    assert "retreever/service/http/page/index.html" in names
    assert "retreever/service/haproxy.cfg" in names


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a command of a clean environment in another folder; the wheel has no extras at first."""
    folder = tmp_path_factory.mktemp("elsewhere")
    check(subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], **TEXT))
    bin_folder = folder / "venv" / "bin"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RETREEVER"))}
    environment = clean | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "SHELL": "/bin/bash"}

    def run(*command: str, code: int = 0) -> str:
        done = subprocess.run([str(bin_folder / command[0]), *command[1:]], cwd=folder, env=environment, **TEXT)
        assert done.returncode == code, done.stdout[-3000:]
        return done.stdout

    run("pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    return folder, run


def test_a_stranger_gets_from_texts_to_a_search(wheel, installed):
    folder, run = installed
    light = "import sys, time; begun = time.perf_counter(); import retreever; spent = time.perf_counter() - begun; "
    run("python", "-c", f"{light}assert spent < 0.3 and not {{'torch', 'ray', 'mlflow'}} & set(sys.modules), spent")
    assert run("retreever", "--version") == run("python", "-m", "retreever", "--version")
    assert "completion" in run("retreever", "--show-completion").lower()

    beir.write_beir(tiny.tiny_dataset(), folder / "raw")
    run("retreever", "data", "beir", "--path", "raw", "--name", "mine")
    settings = ("data.name=mine", "tree.depth=4", "train.steps=20", "train.batch_size=64")
    small = [word for setting in settings for word in ("--set", setting)]
    assert "pip install 'retreever[demo]'" in run("retreever", "train", *small, "--name", "one", code=2)
    assert "pip install 'retreever[baselines]'" in run("retreever", "compare", "mine", code=2)

    run("pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), f"{wheel}[demo]")
    run("retreever", "train", *small, "--name", "one")
    run("retreever", "index", "one")
    assert "p0007" in run("retreever", "search", tiny.tiny_dataset().corpus[7].text, "--model", "one")
    assert "frozen" in run("retreever", "evaluate", "one")
    assert "scheduler=random_square" in run("retreever", "sweep", "schedulers", "--set", "data.name=mine", "--dry-run")
