"""The documents hold what they say: links resolve, options exist, results are those of the reports."""

import re
import shlex
import subprocess
import sys

import pytest
import typer.main

from benchmarks.results_page import PAGE, README, RESULTS, fill_page, read_reports
from retreever.cli.main import app
from tests.docs.pages import DOCS, ROOT, RUN_PAGES, read_commands

COMMANDS = [(page, line) for page in (*RUN_PAGES, README) for line in read_commands(page)]


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "quickstart.html").is_file()


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).as_posix() not in nav] == []


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: str(value)[-60:])
def test_every_option_of_a_command_exists(page, line):
    words = shlex.split(line.partition(" #")[0], posix=True)[1:]
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    options = {word.partition("=")[0] for word in words if word.startswith("-") and not word.lstrip("-")[:1].isdigit()}
    assert options <= known | {"--install-completion", "--show-completion"}


@pytest.mark.parametrize("path", [PAGE, README], ids=lambda path: path.name)
def test_results_are_those_of_the_reports(path):
    page = path.read_text(encoding="utf-8")
    assert fill_page(page, read_reports()) == page, "python -m benchmarks.results_page makes the page anew"


def test_a_page_that_differs_is_found():
    page, reports = PAGE.read_text(encoding="utf-8"), read_reports()
    name, report = next(iter(reports.items()))
    changed = {**report, "protocol": {**report["protocol"], "queries": 7}}
    assert fill_page(page, {**reports, name: changed}) != page


def test_reports_are_small():
    assert all(path.stat().st_size < 100_000 for path in RESULTS.glob("*.json"))


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize("page", [README, *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.stem)
def test_every_file_that_is_named_exists(page):
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|yaml|md|js|json|png|cfg))`", page.read_text(encoding="utf-8"))
    places = [ROOT, ROOT / "retreever", ROOT / "retreever" / "service", ROOT / "retreever" / "index", DOCS]
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert missing == [] or page.name == "CHANGELOG.md"  # which names files that were
