"""The Ray Serve application: a bundle behind `POST /v1/search`, `GET /healthz` and OpenAPI docs.

`api` makes the HTTP interface around anything that searches, so that it is tested without Ray; `Retriever` is the
deployment that holds a bundle; `build` is what `serve run` and `serve deploy` import; `start` runs it in this cluster.
"""

import os
import time
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from retreever import __version__
from retreever.errors import EncoderError
from retreever.retriever import Retreever
from serve.schema import Health, ModelInfo, PassageFound, Refusal, SearchRequest, SearchResponse

APPLICATION = "retreever"
WARM_UP = "what is there"


class AppArguments(BaseModel):
    """Arguments of the application, as in the `args` of a Serve configuration."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="folder of a bundle, the same on every node")
    replicas: int = Field(1, ge=1)
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="torch threads of a replica")


def describe(retreever: Retreever) -> ModelInfo:
    """Which model this is."""
    config = retreever.config
    return ModelInfo(
        digest=retreever.digest[:16],
        depth=config.tree.depth,
        similarity=config.loss.similarity,
        encoder=config.encoder.name,
    )


def answer(retreever: Retreever, request: SearchRequest) -> SearchResponse:
    """Search for one query.

    Raises:
        HTTPException: 422 for a level that the index does not have, or a query of which the encoder reads nothing.
    """
    depth = retreever.config.tree.depth
    coarsest = depth if retreever.index.layout.compact else 1
    level = depth if request.level is None else request.level
    if not coarsest <= level <= depth:
        fault = {"loc": ["body", "level"], "msg": f"must lie within [{coarsest}, {depth}]", "input": level}
        raise HTTPException(422, [fault])
    started = time.perf_counter()
    try:
        hits = retreever.search([request.query], request.k, level)[0]
    except EncoderError as error:
        raise HTTPException(422, [{"loc": ["body", "query"], "msg": str(error)}]) from None
    return SearchResponse(
        query=request.query,
        level=level,
        hits=[PassageFound(id=hit.id, score=hit.score, title=hit.title, text=hit.text) for hit in hits],
        took_ms=round((time.perf_counter() - started) * 1000, 3),
        model=describe(retreever),
    )


def api() -> FastAPI:
    """The HTTP interface without its endpoints: name, version, and refusals that can always be encoded."""
    app = FastAPI(
        title="retreever",
        version=__version__,
        description="Exact search over a corpus routed by a learned binary tree, at any level of it.",
        responses={422: {"model": Refusal}},
    )

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        """Field and rule of every fault; the input is not repeated, it may be large or no valid Unicode."""
        faults = [{"loc": list(f["loc"]), "msg": f["msg"].removeprefix("Value error, ")} for f in error.errors()]
        return JSONResponse({"detail": faults}, status_code=422)

    return app


def with_endpoints(app: FastAPI, retreever: Retreever) -> FastAPI:
    """The interface around one loaded bundle, outside of Ray."""

    @app.post("/v1/search")
    def search(request: SearchRequest) -> SearchResponse:
        """The best passages for a query."""
        return answer(retreever, request)

    @app.get("/healthz")
    def healthz() -> Health:
        """Whether the service answers, and with what."""
        return health(retreever)

    return app


def health(retreever: Retreever) -> Health:
    """The service is up."""
    return Health(status="ok", documents=len(retreever.documents), model=describe(retreever))


_app = api()


@serve.deployment(max_ongoing_requests=32)
@serve.ingress(_app)
class Retriever:
    """One replica: a bundle, loaded and warmed before it takes traffic."""

    def __init__(self, arguments: dict[str, Any]):
        settings = AppArguments(**arguments)
        torch.set_num_threads(settings.threads)
        self.retreever = Retreever.load(settings.model)
        self.check_health()

    def check_health(self) -> None:
        """A query of our own; Serve replaces a replica that cannot answer it."""
        self.retreever.search([WARM_UP], k=1)

    @_app.post("/v1/search")
    def search(self, request: SearchRequest) -> SearchResponse:
        """The best passages for a query."""
        return answer(self.retreever, request)

    @_app.get("/healthz")
    def healthz(self) -> Health:
        """Whether the service answers, and with what."""
        return health(self.retreever)


def build(arguments: AppArguments) -> serve.Application:
    """The application for `serve run serve.app:build model=FOLDER` and for Serve configurations."""
    return Retriever.options(num_replicas=arguments.replicas).bind(arguments.model_dump())  # type: ignore[attr-defined]


def start(model: str, *, host: str = "127.0.0.1", port: int = 8000, replicas: int = 1) -> str:
    """Serve a bundle in the Ray cluster that this process has joined; returns the service's address once it is ready.

    Raises:
        RuntimeError: a replica could not be started; the message is its own.
    """
    serve.start(http_options={"host": host, "port": port})
    serve.run(build(AppArguments(model=model, replicas=replicas)), name=APPLICATION, route_prefix="/", blocking=False)
    return f"http://{host}:{port}"
