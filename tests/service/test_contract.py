"""The classes behind `contract.py` have its methods. `RemoteCaller` calls them by name, so mypy cannot check it."""

import asyncio
import inspect
from typing import get_args

import pytest
from ray.exceptions import RayActorError

from retreever.service.app import ControllerClient, ControllerReplica
from retreever.service.contract import ControlPlane, ReadMethod, Version
from retreever.service.controller.controller import Controller
from retreever.service.refusal import RefusalError
from retreever.service.replicas.remote_version import READ_ATTEMPTS, RemoteCaller
from retreever.service.replicas.retriever_replica import RetrieverReplica
from retreever.service.version.answers import RequestHandler
from retreever.service.version.engine import Engine


def methods(protocol):
    return {
        name for base in protocol.__mro__ for name, member in vars(base).items() if inspect.iscoroutinefunction(member)
    }


@pytest.mark.parametrize(
    ("protocol", "implementation"),
    [
        (Version, Engine),
        (Version, RetrieverReplica.func_or_class),
        (ControlPlane, Controller),
        (ControllerClient, ControllerReplica.func_or_class),
    ],
)
def test_an_implementation_has_every_method_with_its_signature(protocol, implementation):
    assert {"add", "delete"} < methods(protocol)
    for name in methods(protocol):
        method = getattr(implementation, name)
        assert inspect.iscoroutinefunction(method), name
        assert inspect.signature(method, eval_str=True) == inspect.signature(getattr(protocol, name), eval_str=True), (
            name
        )


def test_read_methods_are_methods_of_the_handler():
    assert all(callable(getattr(RequestHandler, name)) for name in get_args(ReadMethod))


class LostHandle:
    """A deployment whose replica is lost; counts the calls."""

    def __init__(self):
        self.calls = 0

    def __getattr__(self, method):
        return self

    async def remote(self, *arguments):
        self.calls += 1
        raise RayActorError()


@pytest.mark.parametrize(
    ("method", "attempts"), [("search", READ_ATTEMPTS), ("reload", READ_ATTEMPTS), ("add", 1), ("delete", 1)]
)
def test_a_lost_replica_is_a_refusal_and_a_write_is_not_repeated(method, attempts):
    handle = LostHandle()
    with pytest.raises(RefusalError, match="a replica was lost"):
        asyncio.run(getattr(RemoteCaller(handle), method)([]))
    assert handle.calls == attempts
