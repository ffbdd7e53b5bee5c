"""The tests of tracking, runs and sweeps also pass with a real `mlflow server` on loopback instead of sqlite."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
FILES = {
    "runs": ["tests/tracking/test_run_catalog.py"],
    "tracking": ["tests/tracking/test_tracker.py"],
    "sweeps": ["tests/sweeps/test_run_sweep.py", "-k", "weak or named or ctrl_c"],
}


@pytest.fixture
def server(tmp_path):
    """A tracking server with an empty store that also keeps the artifacts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log)
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield uri
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.parametrize("what", FILES)
def test_the_same_tests_pass_with_a_server(what, server):
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST"))}
    environ |= {"MLFLOW_TRACKING_URI": server}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "600", *FILES[what]]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout or "[100%]" in done.stdout
