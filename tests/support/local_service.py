"""The service around one bundle without Ray: the whole interface in one process.

`python -m tests.support.local_service BUNDLE PORT` serves it, with the token `secret` for writers.
"""

import asyncio
import sys
from pathlib import Path

from retreever.service.controller.bundle_changes import originate
from retreever.service.encoder.text_encoder import Encoding
from retreever.service.encoder.text_router import Routing
from retreever.service.gateway import Front, Live
from retreever.service.http.http_api import make_api
from retreever.service.http.prometheus_metrics import Metrics
from retreever.service.schema import VersionInfo
from retreever.service.version.answers import Answers
from retreever.service.version.engine import Engine

TOKEN = "secret"


class OneVersion(Engine):
    """An engine that is its own writer."""

    async def reload(self):
        """There is nothing else to load."""


def local_service(bundle: Path, most: int = 64, **settings):
    """The interface around a bundle, which it may change; and the engine behind it."""
    if not (bundle / "copied.json").is_file():
        originate(bundle)
    answers = Answers.open(bundle, "tiny/1")
    engine = OneVersion(answers, Routing(Encoding(bundle, threads=1)).route)
    front = Front(engine, Metrics())
    info = VersionInfo(
        **answers.model.model_dump(),
        uri="tiny",
        run_id=None,
        run_url=None,
        data=None,
        metrics={},
        documents=answers.total,
        share=1.0,
    )
    front.champion = Live(info, engine, front.metrics, most)
    return make_api(front, **{"token": TOKEN, **settings}), engine


if __name__ == "__main__":
    import uvicorn

    app, _ = local_service(Path(sys.argv[1]))
    asyncio.run(uvicorn.Server(uvicorn.Config(app, "127.0.0.1", int(sys.argv[2]), log_level="warning")).serve())
