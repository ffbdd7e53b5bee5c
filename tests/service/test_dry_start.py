"""`retreever serve --check`: what a start needs is found, and every fault of one that would fail is named."""

import socket

import pytest

from retreever.errors import RetreeverError
from retreever.service import dry_start
from retreever.service.dry_start import check_service
from retreever.service.settings import ServiceSettings
from retreever.system.ports import find_free_ports


def make_settings(served, model):
    return ServiceSettings(model=str(model), workspace=str(served[0].root), threads=1)


def test_a_service_that_would_start(served, monkeypatch):
    monkeypatch.setenv("RETREEVER_WRITE_TOKEN", "secret")
    found = check_service(make_settings(served, served[1]), "127.0.0.1", find_free_ports(1)[0])
    told = {finding.subject: finding.detail for finding in found}
    assert list(told) == ["port", "model", "index", "search", "memory", "writing"]
    assert "300 passages" in told["index"] and "encode" in told["search"] and told["writing"] == "on"


def test_all_faults_of_a_service_that_would_not_start(served, live, monkeypatch):
    monkeypatch.delenv("RETREEVER_WRITE_TOKEN", raising=False)
    (live / "documents" / "documents.jsonl").unlink()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RetreeverError) as raised:
            check_service(make_settings(served, live), "127.0.0.1", taken.getsockname()[1])
    assert "cannot be bound" in str(raised.value) and "documents.jsonl" in str(raised.value)


def test_too_little_memory_is_told(served, monkeypatch):
    monkeypatch.setattr(dry_start, "RAY_BYTES", 2**60)
    with pytest.raises(
        RetreeverError, match=r"memory: 1 replicas and the controller need about .* GiB, .* GiB are free"
    ):
        check_service(make_settings(served, served[1]), "127.0.0.1", find_free_ports(1)[0])
