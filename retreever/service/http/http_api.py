"""The HTTP interface: endpoints, limits and refusals around anything that answers as a `Backend` does.

Nothing is known here of Ray and of models, so the interface is tested in one process.
"""

import asyncio
import hmac
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteError
from starlette.routing import Match, Route

from retreever import __version__
from retreever.bundle.tree_view import NodeView, TreeView
from retreever.data.dataset import Passage
from retreever.service.http.body_limit import BodyLimit
from retreever.service.http.prometheus_metrics import Measured, Metrics
from retreever.service.http.static_page import mount_page
from retreever.service.refusal import Refused
from retreever.service.schema import (
    LARGEST_BODY,
    MOST_DOCUMENTS,
    AddRequest,
    Changed,
    DocumentPage,
    EmbedRequest,
    EmbedResponse,
    Health,
    ManyResponse,
    ModelState,
    Name,
    Readiness,
    Refusal,
    SearchRequest,
    SearchResponse,
)
from retreever.service.version.engine import Look

JSON = "application/json"
LARGEST_NUMBER = 2**53


class Backend(Protocol):
    """What answers. Any call may raise `Refused`."""

    metrics: Metrics

    async def search(self, asked: SearchRequest) -> bytes:
        """Best passages, in JSON."""

    async def embed(self, asked: EmbedRequest) -> bytes:
        """Texts at a level, in JSON."""

    async def look(self, what: Look, *arguments: Any) -> bytes:
        """The tree, a node, or documents, in JSON."""

    async def add(self, passages: list[Passage]) -> bytes:
        """Add passages; on disk when it returns."""

    async def delete(self, ids: list[str]) -> bytes:
        """Delete passages; on disk when it returns."""

    async def reload(self) -> None:
        """See whether another version is to serve, and wait until it does or has failed to."""

    def state(self) -> ModelState | None:
        """The versions that serve; None where none does."""

    def fault(self) -> str | None:
        """Why what is asked for does not serve; None where it does."""

    async def exposition(self) -> str:
        """All figures as Prometheus reads them."""


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "the body is no JSON",
        401: "the token is missing or another",
        403: "writing is off: the service has no token",
        404: "there is no such thing",
        409: "there is such a document already",
        413: "the body is too large",
        422: "a field breaks a rule",
        429: "busy; try again after Retry-After seconds",
        503: "no version serves yet",
        504: "it took too long",
    }
    return {status: {"model": Refusal, "description": words[status]} for status in statuses}


READ = _refusals(422, 429, 503, 504)
ASK = READ | _refusals(400, 413)
WRITE = ASK | _refusals(401, 403)


def make_api(backend: Backend, token: str | None = None, timeout_s: float = 30, page: bool = True) -> FastAPI:
    """The interface around a backend.

    Args:
        token: that writers must bear; where it is None, writing is off.
        timeout_s: after which a request is answered with 504.
    """
    app = FastAPI(
        title="retreever",
        version=__version__,
        description="Exact search over a corpus routed by a learned binary tree, at any level of it.",
        responses={422: {"model": Refusal, "description": "a field breaks a rule"}},
    )
    _refuse_clearly(app)
    _add_reading(app, backend, timeout_s)
    _add_writing(app, backend, timeout_s, token)
    _add_state(app, backend)
    if page:
        mount_page(app)
    app.add_middleware(BodyLimit, most=LARGEST_BODY)
    app.add_middleware(Measured, metrics=backend.metrics)
    return app


def _refuse_clearly(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        """Field and rule of every fault; the input is not repeated, it may be large or no valid Unicode."""
        faults = [{"loc": _plain(f["loc"]), "msg": f["msg"].removeprefix("Value error, ")} for f in error.errors()]
        return JSONResponse({"detail": faults}, status_code=422)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        return JSONResponse({"detail": error.detail}, status_code=error.status, headers=headers)

    @app.exception_handler(StarletteError)
    async def other(request: Request, error: StarletteError) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of one route, a path may have several
            headers["allow"] = ", ".join(sorted(_methods(app, request)))
        return JSONResponse({"detail": str(error.detail)}, status_code=error.status_code, headers=headers)


def _methods(app: FastAPI, request: Request) -> set[str]:
    """Methods that a request's path knows."""
    known = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            known |= route.methods or set()
    return known


def _plain(place: tuple[int | str, ...]) -> list[int | str]:
    """A field's place, which may hold names that the caller chose."""
    return [p if isinstance(p, int) else p[:100].encode(errors="replace").decode() for p in place]


async def _within(call: Any, seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise Refused(504, f"it took more than {seconds:g} s", retry_after=1) from None


def _add_reading(app: FastAPI, backend: Backend, timeout_s: float) -> None:
    async def looked(what: Look, *arguments: Any) -> Response:
        return Response(await _within(backend.look(what, *arguments), timeout_s), media_type=JSON)

    @app.post("/v1/search", responses=ASK, response_model=SearchResponse | ManyResponse)
    async def search(asked: SearchRequest) -> Response:
        """The exact best passages for a query, or for each of several."""
        return Response(await _within(backend.search(asked), timeout_s), media_type=JSON)

    @app.post("/v1/embed", responses=ASK, response_model=EmbedResponse)
    async def embed(asked: EmbedRequest) -> Response:
        """Texts as probabilities of the nodes of a level."""
        return Response(await _within(backend.embed(asked), timeout_s), media_type=JSON)

    @app.get("/v1/documents", responses=READ | _refusals(404), response_model=DocumentPage)
    async def documents(
        id: Annotated[
            list[Name] | None, Query(max_length=MOST_DOCUMENTS, description="these; without it all in turn")
        ] = None,
        after: Annotated[int, Query(ge=-1, le=LARGEST_NUMBER, description="`next` of the page before")] = -1,
        limit: Annotated[int, Query(ge=1, le=1000, description="documents of a page")] = 100,
    ) -> Response:
        """Documents by id, or page by page in the order in which they were added."""
        return await (looked("documents", id) if id else looked("listed", after, limit))

    @app.get("/v1/tree", responses=READ, response_model=TreeView)
    async def tree() -> Response:
        """Every node of the tree with its words and size."""
        return await looked("tree")

    @app.get("/v1/nodes/{id}", responses=READ | _refusals(404), response_model=NodeView)
    async def node(
        id: Annotated[int, Path(ge=0, le=LARGEST_NUMBER, description="in heap order: the root is 0")],
    ) -> Response:
        """One node with its examples."""
        return await looked("node", id)


def _add_writing(app: FastAPI, backend: Backend, timeout_s: float, token: str | None) -> None:
    async def may_write(authorization: Annotated[str | None, Header(description="Bearer TOKEN")] = None) -> None:
        if token is None:
            raise Refused(403, "writing is off: start the service with RETREEVER_WRITE_TOKEN in its environment")
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    guard = [Depends(may_write)]

    @app.post("/v1/documents", responses=WRITE | _refusals(409), response_model=Changed, dependencies=guard)
    async def add(asked: AddRequest) -> Response:
        """Add documents: on disk, and found by the next search, before the answer."""
        passages = [Passage(d.id, d.text, d.title, d.metadata) for d in asked.documents]
        return Response(await _within(backend.add(passages), 6 * timeout_s), media_type=JSON)

    @app.delete("/v1/documents", responses=WRITE | _refusals(404), response_model=Changed, dependencies=guard)
    async def delete(id: Annotated[list[Name], Query(min_length=1, max_length=MOST_DOCUMENTS)]) -> Response:
        """Delete documents: on disk, and not found any more, before the answer."""
        return Response(await _within(backend.delete(id), 6 * timeout_s), media_type=JSON)

    @app.post("/v1/reload", responses=WRITE, dependencies=guard)
    async def reload() -> ModelState:
        """Serve what the alias points at now; answers when it serves, or with the reason why it does not."""
        await backend.reload()
        return _serving(backend)


def _serving(backend: Backend) -> ModelState:
    state = backend.state()
    if state is None:
        raise Refused(503, backend.fault() or "no version serves yet", retry_after=2)
    return state


def _add_state(app: FastAPI, backend: Backend) -> None:
    @app.get("/v1/model", responses=_refusals(503))
    async def model() -> ModelState:
        """The version that serves, where it comes from, what is tried beside it, and what did not load."""
        return _serving(backend)

    @app.get("/healthz")
    async def healthz() -> Health:
        """Whether the service answers at all."""
        return Health()

    @app.get("/readyz", responses={503: {"model": Readiness, "description": "no version serves"}})
    async def readyz(response: Response) -> Readiness:
        """Whether searches are answered, and why what was asked for does not serve."""
        state = backend.state()
        response.status_code = 200 if state else 503
        return Readiness(ready=state is not None, version=state and state.version, fault=backend.fault())

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(await backend.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
