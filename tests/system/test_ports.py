"""Ports: one that is taken is named, and free ones are free."""

import socket

import pytest

from retreever.errors import RetreeverError
from retreever.system.ports import check_port, find_free_ports


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RetreeverError, match=rf"port: 127\.0\.0\.1:{port} cannot be bound: Address already in use"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_a_host_that_is_not_ours_is_named():
    with pytest.raises(RetreeverError, match=r"port: 203\.0\.113\.1:8000 cannot be bound"):
        check_port("203.0.113.1", 8000)


def test_free_ports_follow_one_another():
    ports = find_free_ports(5)
    assert ports == list(range(ports[0], ports[0] + 5))
    for port in ports:
        check_port("127.0.0.1", port)
