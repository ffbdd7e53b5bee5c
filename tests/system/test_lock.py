"""One driver at a time, and nothing left RUNNING by one that was killed."""

import subprocess
import sys
import time

import pytest

from retreever.errors import ConfigError
from retreever.system.lock import held
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker
from retreever.tracking.watchdog import watched

HOLDER = """
import sys, time
from pathlib import Path
from retreever.system.lock import held
from retreever.tracking.watchdog import watched
with held(Path(sys.argv[1]), "it"), watched(Path(sys.argv[1]), sys.argv[2], sys.argv[3]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def runs(tmp_path):
    """A tracker, and a parent with a child, both RUNNING."""
    workspace = Workspace.at(tmp_path)
    tracker = Tracker.of(workspace)
    parent = tracker.start(tracker.experiment(workspace), "parent")
    return tracker, parent, tracker.start(tracker.experiment(workspace), "child", parent=parent)


@pytest.fixture
def holder(tmp_path, runs):
    tracker, parent, _ = runs
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "sweep"), tracker.uri, parent]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_driver_is_refused_until_the_first_is_killed(tmp_path, holder):
    with (
        pytest.raises(ConfigError, match=f"sweep x: process {holder.pid} is running it"),
        held(tmp_path / "sweep", "sweep x", patience=0.1),
    ):
        pass
    holder.kill()
    with held(tmp_path / "sweep", "sweep x", patience=10):
        assert (tmp_path / "sweep" / "driver.lock").is_file()


def test_runs_of_a_killed_driver_are_ended(runs, holder):
    tracker, parent, child = runs
    holder.kill()
    deadline = time.monotonic() + 60
    while {tracker.run(run).info.status for run in (parent, child)} != {"KILLED"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_watchdog_leaves_alone_what_a_new_driver_has_taken_over(tmp_path, runs, holder):
    tracker, parent, child = runs
    holder.kill()
    with held(tmp_path / "sweep", "sweep", patience=10):
        time.sleep(5)  # the watchdog has come and seen
        assert {tracker.run(run).info.status for run in (parent, child)} == {"RUNNING"}


def test_a_driver_that_ends_by_itself_is_not_touched(tmp_path, runs):
    tracker, parent, child = runs
    with held(tmp_path / "sweep", "sweep"), watched(tmp_path / "sweep", tracker.uri, parent):
        pass
    assert {tracker.run(run).info.status for run in (parent, child)} == {"RUNNING"}
