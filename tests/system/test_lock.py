"""One driver at a time, and no run stays RUNNING after its driver was killed."""

import subprocess
import sys
import time

import pytest

from retreever.errors import ConfigError
from retreever.system.lock import lock_folder
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker
from retreever.tracking.watchdog import watch_driver

HOLDER = """
import sys, time
from pathlib import Path
from retreever.system.lock import lock_folder
from retreever.tracking.watchdog import watch_driver
with lock_folder(Path(sys.argv[1]), "it"), watch_driver(Path(sys.argv[1]), sys.argv[2], sys.argv[3]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def runs(tmp_path):
    """A tracker, and a parent with a child, both RUNNING."""
    workspace = Workspace.at(tmp_path)
    tracker = Tracker.of(workspace)
    parent = tracker.start(tracker.get_experiment(workspace), "parent")
    return tracker, parent, tracker.start(tracker.get_experiment(workspace), "child", parent=parent)


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
        lock_folder(tmp_path / "sweep", "sweep x", patience=0.1),
    ):
        pass
    holder.kill()
    with lock_folder(tmp_path / "sweep", "sweep x", patience=10):
        assert (tmp_path / "sweep" / "driver.lock").is_file()


def test_runs_of_a_killed_driver_are_ended(runs, holder):
    tracker, parent, child = runs
    holder.kill()
    deadline = time.monotonic() + 60
    while {tracker.get_run(run).info.status for run in (parent, child)} != {"KILLED"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_watchdog_leaves_alone_what_a_new_driver_has_taken_over(tmp_path, runs, holder):
    tracker, parent, child = runs
    holder.kill()
    with lock_folder(tmp_path / "sweep", "sweep", patience=10):
        time.sleep(5)  # long enough for the watchdog to try the lock
        assert {tracker.get_run(run).info.status for run in (parent, child)} == {"RUNNING"}


def test_a_driver_that_ends_by_itself_is_not_touched(tmp_path, runs):
    tracker, parent, child = runs
    with lock_folder(tmp_path / "sweep", "sweep"), watch_driver(tmp_path / "sweep", tracker.uri, parent):
        pass
    assert {tracker.get_run(run).info.status for run in (parent, child)} == {"RUNNING"}
