"""Encoders in separate processes, forked from one server."""

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
from retreever.service.encoder.fork_server import ENCODER_NICENESS, LINGER_S, accept_connections, open_listener
from retreever.service.encoder.forked_encoder import ForkedEncoder, LostProcessError
from retreever.service.encoder.text_encoder import TextEncoder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an encoder's replica encodes itself")
SERVER = f"test-{os.getpid()}"


def find_processes():
    """The server and its children."""
    return {p for p in psutil.process_iter(["cmdline"]) if SERVER in " ".join(p.info["cmdline"] or [])}


def fork_encoder(folder):
    """A forked encoder, and its process."""
    ForkedEncoder(folder, 1, "cpu", SERVER)  # the server is up
    before = find_processes()
    there = ForkedEncoder(folder, 1, "cpu", SERVER)
    (process,) = find_processes() - before
    return there, process


def test_a_forked_encoder_encodes_like_one_in_this_process(served):
    texts = ["ba be bi", "so", "ti ta"]
    there, here = ForkedEncoder(served[1], 1, "cpu", SERVER), TextEncoder(served[1], 1)
    for kind in ("query", "passage"):
        nodes, faults = there(texts, kind)
        assert faults == {} and nodes.dtype == np.float32
        np.testing.assert_allclose(nodes, here(texts, kind)[0], atol=1e-6)


def test_processes_share_a_server_and_end_with_their_connections(served):
    first, one = fork_encoder(served[1])
    second, two = fork_encoder(served[1])
    assert one != two and one.ppid() == two.ppid() != os.getpid()
    assert one.nice() == min(os.getpriority(os.PRIO_PROCESS, 0) + ENCODER_NICENESS, 19)
    del first
    assert psutil.wait_procs([one], 10)[1] == []
    assert second(["ba"], "query")[0].shape[0] == 1


def test_a_model_that_does_not_load_raises_the_same_error_as_here(tmp_path):
    with pytest.raises(BundleError, match="nothing"):
        ForkedEncoder(tmp_path / "nothing", 1, "cpu", SERVER)


def test_a_fault_fails_one_batch_alone(served):
    there = ForkedEncoder(served[1], 1, "cpu", SERVER)
    with pytest.raises(RetreeverError, match="texts"):
        there([""], "query")
    assert there(["ba"], "query")[1] == {}


def test_a_lost_process_is_an_error_and_another_can_be_started(served):
    there, process = fork_encoder(served[1])
    process.send_signal(signal.SIGKILL)
    with pytest.raises(LostProcessError):
        there(["ba"], "query")
    assert ForkedEncoder(served[1], 1, "cpu", SERVER)(["ba"], "query")[1] == {}


def test_the_socket_of_a_dead_server_is_replaced(served):
    name = f"{SERVER}-dead"
    path = forked_encoder.make_socket_folder() / f"{name}.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert ForkedEncoder(served[1], 1, "cpu", name)(["ba"], "query")[1] == {}


def test_a_server_ends_without_processes(tmp_path_factory):
    with open_listener(tmp_path_factory.mktemp("s") / "a.sock") as listener:
        begun = time.monotonic()
        accept_connections(listener, linger_s=0.5)
        assert 0.5 <= time.monotonic() - begun < LINGER_S


def test_sockets_in_a_folder_that_others_may_enter_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(forked_encoder, "SOCKET_BASE", tmp_path)
    folder = forked_encoder.make_socket_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(RetreeverError, match="this user alone"):
        forked_encoder.make_socket_folder()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RetreeverError, match="this user alone"):
        forked_encoder.make_socket_folder()
