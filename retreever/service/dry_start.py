"""A dry start of the service: everything that a start needs is tried in this process, and nothing is left running."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from retreever.errors import RetreeverError
from retreever.service.app import WRITE_TOKEN_VARIABLE
from retreever.service.controller.bundle_copies import verify_bundle
from retreever.service.schema import SearchRequest
from retreever.service.settings import ServiceSettings
from retreever.service.version.engine import WARM_UP_TEXT, Engine
from retreever.system.ports import check_port
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model

RAY_BYTES = 900 * 2**20  # of Ray's own processes, and of Python and its libraries in the controller and one replica


@dataclass(frozen=True)
class DryStartFinding:
    """What a dry start has found out about one subject."""

    subject: str
    detail: str


def check_service(settings: ServiceSettings, host: str, port: int) -> list[DryStartFinding]:
    """Check port, model, index, encoder, memory and token.

    Raises:
        RetreeverError: the service would not start; the message names every fault.
    """
    findings, faults = [], []
    try:
        check_port(host, port)
        findings.append(DryStartFinding("port", f"{host}:{port} is free"))
    except RetreeverError as error:
        faults.append(str(error))
    try:
        folder = locate_model(settings.model, Workspace.at(Path(settings.workspace)))
        verify_bundle(folder)
        findings.append(DryStartFinding("model", f"{settings.model} is {folder}; all checksums match"))
        findings += _try_version(folder, settings)
    except RetreeverError as error:
        faults.append(str(error))
    writing = "on" if os.environ.get(WRITE_TOKEN_VARIABLE) else f"off: {WRITE_TOKEN_VARIABLE} is not set"
    findings.append(DryStartFinding("writing", writing))
    if faults:
        raise RetreeverError("the service would not start:\n" + "\n".join(f"  {fault}" for fault in faults))
    return findings


def _try_version(folder: Path, settings: ServiceSettings) -> list[DryStartFinding]:
    process, begun = psutil.Process(), time.perf_counter()
    before = process.memory_info()
    exports = Workspace.at(Path(settings.workspace)).exports
    engine = Engine.open(folder, settings.model, exports, settings.threads_each, settings.device)
    opened = time.perf_counter() - begun
    (answer,) = engine.answer([SearchRequest(query=WARM_UP_TEXT)])
    if isinstance(answer, Exception):
        raise RetreeverError(f"{settings.model}: a search fails: {answer}")
    stages = ", ".join(f"{stage} {seconds * 1000:.1f} ms" for stage, seconds in answer.stages.items())
    after, memory = process.memory_info(), psutil.virtual_memory()
    own = max(0, (after.rss - after.shared) - (before.rss - before.shared))
    needed = own * (settings.max_replicas + 1) + RAY_BYTES
    if needed > memory.available:
        raise RetreeverError(
            f"memory: {settings.max_replicas} replicas and the controller need about {needed / 2**30:.1f} GiB, "
            f"{memory.available / 2**30:.1f} GiB are free"
        )
    return [
        DryStartFinding("index", f"{len(engine.handler.retreever.index):,} passages, opened in {opened:.1f} s"),
        DryStartFinding("search", stages),
        DryStartFinding("memory", f"about {needed / 2**30:.1f} GiB of {memory.available / 2**30:.1f} GiB free"),
    ]
