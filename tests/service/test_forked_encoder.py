"""Encoders in processes of their own, forked from one server."""

import os
import signal
import socket
import sys
import time

import numpy as np
import psutil
import pytest

from retreever.errors import BundleError, RetreeverError
from retreever.service.encoder import forked_encoder
from retreever.service.encoder.fork_server import COMPUTES, LINGER_S, attend, listening
from retreever.service.encoder.forked_encoder import Forked, LostProcess
from retreever.service.encoder.text_encoder import Encoding

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an encoder's replica encodes itself")
SERVER = f"test-{os.getpid()}"


def processes():
    """The server and those that it forked."""
    return {p for p in psutil.process_iter(["cmdline"]) if SERVER in " ".join(p.info["cmdline"] or [])}


def forking(folder):
    """An encoder in a process of its own, and that process."""
    Forked(folder, 1, "cpu", SERVER)  # the server is up
    before = processes()
    there = Forked(folder, 1, "cpu", SERVER)
    (process,) = processes() - before
    return there, process


def test_what_is_forked_encodes_as_one_would_here(served):
    texts = ["ba be bi", "so", "ti ta"]
    there, here = Forked(served[1], 1, "cpu", SERVER), Encoding(served[1], 1)
    for kind in ("query", "passage"):
        nodes, faults = there(texts, kind)
        assert faults == {} and nodes.dtype == np.float32
        np.testing.assert_allclose(nodes, here(texts, kind)[0], atol=1e-6)


def test_processes_share_a_server_and_end_with_their_connections(served):
    first, one = forking(served[1])
    second, two = forking(served[1])
    assert one != two and one.ppid() == two.ppid() != os.getpid()
    assert one.nice() == min(os.getpriority(os.PRIO_PROCESS, 0) + COMPUTES, 19)
    del first
    assert psutil.wait_procs([one], 10)[1] == []
    assert second(["ba"], "query")[0].shape[0] == 1


def test_what_does_not_load_says_why_as_it_would_here(tmp_path):
    with pytest.raises(BundleError, match="nothing"):
        Forked(tmp_path / "nothing", 1, "cpu", SERVER)


def test_a_fault_of_one_batch_leaves_the_process_to_the_next(served):
    there = Forked(served[1], 1, "cpu", SERVER)
    with pytest.raises(RetreeverError, match="texts"):
        there([""], "query")
    assert there(["ba"], "query")[1] == {}


def test_a_lost_process_is_told_of_and_another_can_be_had(served):
    there, process = forking(served[1])
    process.send_signal(signal.SIGKILL)
    with pytest.raises(LostProcess):
        there(["ba"], "query")
    assert Forked(served[1], 1, "cpu", SERVER)(["ba"], "query")[1] == {}


def test_a_socket_that_a_dead_server_left_is_replaced(served):
    name = f"{SERVER}-dead"
    path = forked_encoder.sockets() / f"{name}.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert Forked(served[1], 1, "cpu", name)(["ba"], "query")[1] == {}


def test_a_server_ends_when_nobody_has_come_for_a_while(tmp_path_factory):
    with listening(tmp_path_factory.mktemp("s") / "a.sock") as listener:
        begun = time.monotonic()
        attend(listener, linger_s=0.5)
        assert 0.5 <= time.monotonic() - begun < LINGER_S


def test_sockets_in_a_folder_that_others_may_enter_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(forked_encoder, "BASE", tmp_path)
    folder = forked_encoder.sockets()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(RetreeverError, match="this user alone"):
        forked_encoder.sockets()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RetreeverError, match="this user alone"):
        forked_encoder.sockets()
