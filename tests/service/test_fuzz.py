"""Requests generated from the OpenAPI document: no server error, and every answer as documented.

Some hundreds in the fast tests; 10,000 with `pytest tests/service/test_fuzz.py -m slow`.
"""

import os
import subprocess
import sys
import time

import httpx
import pytest

from tests.support.local_service import TOKEN
from tests.support.ray_service import free_port

# Rules that OpenAPI cannot express (levels of the tree, fields that exclude one another) are refused with 422.
EXCLUDED_CHECK = "positive_data_acceptance"

# `/metrics` is excluded: Ray keeps the metrics, and this service runs without it.

# A body too large is refused before it is read (413), which schemathesis does not count as a refusal by itself.
SETTINGS = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413, 422, 429]
"""


@pytest.fixture
def address(live):
    """The address of a service around a copy of the bundle, in a separate process."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.local_service", str(live), str(port)], stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(600):
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def fuzz(address, folder, examples, seed):
    """Run schemathesis and return the number of requests; fail with its output."""
    command = [
        os.path.join(os.path.dirname(sys.executable), "schemathesis"), "run", f"{address}/openapi.json", "--no-color",
        "--header", f"authorization: Bearer {TOKEN}", "--max-examples", str(examples), "--seed", str(seed),
        "--exclude-checks", EXCLUDED_CHECK, "--exclude-path", "/metrics", "--continue-on-failure",
    ]  # fmt: skip
    (folder / "schemathesis.toml").write_text(SETTINGS)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    generated = next(line for line in done.stdout.splitlines() if " generated, " in line)
    return int(generated.split()[0].replace(",", ""))


def test_generated_requests(address, tmp_path):
    assert fuzz(address, tmp_path, examples=5, seed=1) > 300


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_generated_requests(address, tmp_path):
    assert fuzz(address, tmp_path, examples=1_500, seed=int(time.time())) >= 10_000
