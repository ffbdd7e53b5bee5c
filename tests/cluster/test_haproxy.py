"""HAProxy's settings; that it serves is seen in the tests of the service itself."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from retreever.cluster.haproxy import SWITCH, haproxy

CONFIG = """frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:{stats}
"""


def test_statistics_stay_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    with haproxy():
        assert os.environ[SWITCH] == "1"
        binary = Path(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"])
        metrics, stats = (os.environ[f"RAY_SERVE_HAPROXY_{name}_PORT"] for name in ("METRICS", "STATS"))
        config = tmp_path / "haproxy.cfg"
        config.write_text(CONFIG.format(metrics=metrics, stats=stats))
        done = subprocess.run([binary, "-v", "-f", config], capture_output=True, text=True, check=True)
        assert "HAProxy version" in done.stdout  # the real one was called
        bound = [line.split()[1] for line in config.read_text().splitlines() if "bind" in line]
        assert bound == [f"127.0.0.1:{metrics}", "127.0.0.1:8000", f"127.0.0.1:{stats}"]
        assert stat.S_IMODE(binary.parent.stat().st_mode) == 0o700
    assert not binary.parent.exists()
    assert not [name for name in os.environ if name.startswith("RAY_SERVE_HAPROXY_")]
    assert SWITCH not in os.environ


def test_an_ingress_may_be_busy_for_as_long_as_the_user_says(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT", "7")
    with haproxy():
        assert os.environ["RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT"] == "7"
        assert os.environ["RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL"] == "12"


def test_what_the_user_has_set_is_there_again_afterwards(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "8404")
    before = dict(os.environ)
    with haproxy():
        assert os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] != "8404"
    assert dict(os.environ) == before


@pytest.mark.parametrize("chosen", ["0", "1"])
def test_a_user_who_has_chosen_is_left_alone(monkeypatch, chosen):
    monkeypatch.setenv(SWITCH, chosen)
    before = dict(os.environ)
    with haproxy():
        assert dict(os.environ) == before
