"""The service around one bundle without Ray: the whole HTTP interface in one process.

`python -m tests.support.local_service BUNDLE PORT` serves it; writes need the token `secret`.
"""

import asyncio
import sys
from pathlib import Path

from retreever.service.controller.bundle_changes import write_origin
from retreever.service.gateway import Gateway
from retreever.service.http.http_api import make_api
from retreever.service.http.service_metrics import ServiceMetrics
from retreever.service.schema import VersionInfo
from retreever.service.version.engine import Engine

TOKEN = "secret"


class OneVersion(Engine):
    """An engine that is also its own control plane."""

    async def reload(self):
        """There is nothing else to load."""


def local_service(bundle: Path, max_waiting: int = 64, **settings):
    """The HTTP interface of a bundle, which it may change, and the engine behind it."""
    if not (bundle / "copied.json").is_file():
        write_origin(bundle)
    engine = OneVersion.open(bundle, "tiny/1")
    handler = engine.handler
    gateway = Gateway(engine, ServiceMetrics(), max_waiting)
    info = VersionInfo(
        **handler.model.model_dump(),
        uri="tiny",
        run_id=None,
        run_url=None,
        data=None,
        metrics={},
        documents=handler.count_passages(),
        relevance=None if handler.retreever.relevance is None else handler.retreever.relevance.reports,
        share=1.0,
    )
    gateway.champion = gateway.make_live(info, engine)
    return make_api(gateway, **{"token": TOKEN, **settings}), engine


if __name__ == "__main__":
    import uvicorn

    app, _ = local_service(Path(sys.argv[1]))
    asyncio.run(uvicorn.Server(uvicorn.Config(app, "127.0.0.1", int(sys.argv[2]), log_level="warning")).serve())
