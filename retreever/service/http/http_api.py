"""The HTTP interface: endpoints, tokens, time-outs and refusals around a gateway. Ray and models are not known here."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteError
from starlette.routing import Match, Route

from retreever import __version__
from retreever.bundle.tree_view import NodeView, TreeView
from retreever.data.dataset import Passage
from retreever.service.contract import ReadMethod, Reply, SearchAnswer
from retreever.service.gateway import Gateway
from retreever.service.http.body_limit import BodyLimit
from retreever.service.http.request_log import ANSWER_KEY, RequestLog, read_trace_id
from retreever.service.http.service_metrics import read_node_metrics
from retreever.service.http.static_page import mount_page
from retreever.service.refusal import RefusalError
from retreever.service.schema import (
    MAX_BODY_BYTES,
    MAX_DOCUMENTS,
    AddRequest,
    ChangeResponse,
    DocumentId,
    DocumentPage,
    EmbedRequest,
    EmbedResponse,
    Health,
    ModelState,
    MultiSearchResponse,
    Readiness,
    Refusal,
    SearchRequest,
    SearchResponse,
)

JSON_MEDIA_TYPE = "application/json"
MAX_INTEGER = 2**53  # larger integers are inexact in JavaScript
ReplyType = TypeVar("ReplyType")
RecordFunction = Callable[[SearchRequest, SearchAnswer, str], None]
WRITE_PATIENCE = 6  # a write may take this many times as long as a read


def _describe_refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "the body is not JSON",
        401: "the token is missing or wrong",
        403: "writing is off: the service has no token",
        404: "there is no such node or document",
        409: "a document of this id exists already",
        413: "the body is too large",
        422: "a field breaks a rule",
        429: "busy; try again after Retry-After seconds",
        503: "no version serves yet",
        504: "it took too long",
    }
    return {status: {"model": Refusal, "description": words[status]} for status in statuses}


READ_REFUSALS = _describe_refusals(422, 429, 503, 504)
BODY_REFUSALS = READ_REFUSALS | _describe_refusals(400, 413)
WRITE_REFUSALS = BODY_REFUSALS | _describe_refusals(401, 403)


def make_api(
    gateway: Gateway,
    token: str | None = None,
    timeout_s: float = 30,
    page: bool = True,
    record_search: RecordFunction | None = None,
) -> FastAPI:
    """Make the HTTP interface of a gateway.

    Args:
        token: bearer token that writes need; None turns writing off.
        timeout_s: seconds after which a read is answered with 504; a write may take six times as long.
        page: also serve the page.
        record_search: called with every answered search and the caller's trace id, empty where it sent none.
    """
    app = FastAPI(
        title="retreever",
        version=__version__,
        description="Exact search over a corpus routed by a learned binary tree, at any level of it.",
        responses={422: {"model": Refusal, "description": "a field breaks a rule"}},
    )
    _add_error_handlers(app)
    _add_read_routes(app, gateway, timeout_s, record_search)
    _add_write_routes(app, gateway, timeout_s, token)
    _add_state_routes(app, gateway)
    if page:
        mount_page(app)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(RequestLog, metrics=gateway.metrics)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def handle_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        """Answer with field and rule of every fault, without the input: it may be large or invalid Unicode."""
        faults = [
            {"loc": _clean_location(f["loc"]), "msg": f["msg"].removeprefix("Value error, ")} for f in error.errors()
        ]
        broken = any(fault["type"] == "json_invalid" for fault in error.errors())
        return JSONResponse({"detail": faults}, status_code=400 if broken else 422)

    @app.exception_handler(RefusalError)
    async def handle_refusal(request: Request, error: RefusalError) -> JSONResponse:
        headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        return JSONResponse({"detail": error.detail}, status_code=error.status, headers=headers)

    @app.exception_handler(StarletteError)
    async def handle_http_error(request: Request, error: StarletteError) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of one route, a path may have several
            headers["allow"] = ", ".join(sorted(_find_methods(app, request)))
        return JSONResponse({"detail": str(error.detail)}, status_code=error.status_code, headers=headers)


def _find_methods(app: FastAPI, request: Request) -> set[str]:
    """Find the methods that a request's path allows."""
    known = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            known |= route.methods or set()
    return known


def _clean_location(location: tuple[int | str, ...]) -> list[int | str]:
    """Shorten the names in a field's location, and make them valid Unicode: the caller may have chosen them."""
    return [part if isinstance(part, int) else part[:100].encode(errors="replace").decode() for part in location]


async def _await_within(call: Awaitable[ReplyType], seconds: float) -> ReplyType:
    """Wait for a reply.

    Raises:
        RefusalError: it takes longer.
    """
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise RefusalError(504, f"it took more than {seconds:g} s", retry_after=1) from None


async def _respond_within(call: Awaitable[Reply], seconds: float) -> Response:
    """Turn a reply into a response.

    Raises:
        RefusalError: the reply is one, or takes longer.
    """
    reply = await _await_within(call, seconds)
    if isinstance(reply, RefusalError):
        raise reply
    return Response(reply, media_type=JSON_MEDIA_TYPE)


def _add_read_routes(app: FastAPI, gateway: Gateway, timeout_s: float, record_search: RecordFunction | None) -> None:
    async def read(method: ReadMethod, *arguments: Any) -> Response:
        return await _respond_within(gateway.read(method, *arguments), timeout_s)

    @app.post("/v1/search", responses=BODY_REFUSALS, response_model=SearchResponse | MultiSearchResponse)
    async def search(asked: SearchRequest, request: Request) -> Response:
        """Find the exact best passages for one query, or for each of several."""
        answer: SearchAnswer = await _await_within(gateway.search(asked), timeout_s)
        request.scope.setdefault("state", {})[ANSWER_KEY] = answer
        if record_search is not None:
            record_search(asked, answer, read_trace_id(request.headers.get("traceparent", "")))
        return Response(answer.body, media_type=JSON_MEDIA_TYPE)

    @app.post("/v1/embed", responses=BODY_REFUSALS, response_model=EmbedResponse)
    async def embed(request: EmbedRequest) -> Response:
        """Embed texts as probabilities of the nodes of a level."""
        return await _respond_within(gateway.embed(request), timeout_s)

    @app.get("/v1/documents", responses=READ_REFUSALS | _describe_refusals(404), response_model=DocumentPage)
    async def documents(
        id: Annotated[
            list[DocumentId] | None,
            Query(max_length=MAX_DOCUMENTS, description="ids to read; without it, all documents page by page"),
        ] = None,
        after: Annotated[int, Query(ge=-1, le=MAX_INTEGER, description="`next` of the previous page")] = -1,
        limit: Annotated[int, Query(ge=1, le=1000, description="documents of a page")] = 100,
    ) -> Response:
        """Read documents by id, or page by page in the order in which they were added."""
        return await (read("read_documents", id) if id else read("list_documents", after, limit))

    @app.get("/v1/tree", responses=READ_REFUSALS, response_model=TreeView)
    async def tree() -> Response:
        """Read every node of the tree with its words and size."""
        return await read("read_tree")

    @app.get("/v1/nodes/{id}", responses=READ_REFUSALS | _describe_refusals(404), response_model=NodeView)
    async def node(
        id: Annotated[int, Path(ge=0, le=MAX_INTEGER, description="in heap order: the root is 0")],
    ) -> Response:
        """Read one node with its examples."""
        return await read("read_node", id)


def _add_write_routes(app: FastAPI, gateway: Gateway, timeout_s: float, token: str | None) -> None:
    async def check_token(authorization: Annotated[str | None, Header(description="Bearer TOKEN")] = None) -> None:
        if token is None:
            raise RefusalError(403, "writing is off: start the service with RETREEVER_WRITE_TOKEN in its environment")
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise HTTPException(401, "writing needs the service's bearer token", {"WWW-Authenticate": "Bearer"})

    guard = [Depends(check_token)]

    @app.post(
        "/v1/documents",
        responses=WRITE_REFUSALS | _describe_refusals(409),
        response_model=ChangeResponse,
        dependencies=guard,
    )
    async def add(request: AddRequest) -> Response:
        """Add documents. When the answer comes they are on disk, and the next search finds them."""
        passages = [Passage(d.id, d.text, d.title, d.metadata) for d in request.documents]
        return await _respond_within(gateway.add(passages), WRITE_PATIENCE * timeout_s)

    @app.delete(
        "/v1/documents",
        responses=WRITE_REFUSALS | _describe_refusals(404),
        response_model=ChangeResponse,
        dependencies=guard,
    )
    async def delete(id: Annotated[list[DocumentId], Query(min_length=1, max_length=MAX_DOCUMENTS)]) -> Response:
        """Delete documents. When the answer comes the change is on disk, and no search finds them."""
        return await _respond_within(gateway.delete(id), WRITE_PATIENCE * timeout_s)

    @app.post("/v1/reload", responses=WRITE_REFUSALS, dependencies=guard)
    async def reload() -> ModelState:
        """Serve the version that the alias names now. The answer comes when it serves, or says why it does not."""
        await gateway.reload()
        return _require_state(gateway)


def _require_state(gateway: Gateway) -> ModelState:
    state = gateway.get_state()
    if state is None:
        raise RefusalError(503, gateway.get_fault() or "no version serves yet", retry_after=2)
    return state


def _add_state_routes(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/model", responses=_describe_refusals(503))
    async def model() -> ModelState:
        """Describe the version that serves, the canary, and why either failed to load."""
        return _require_state(gateway)

    @app.get("/healthz")
    async def healthz() -> Health:
        """Answer: the process is alive."""
        return Health()

    @app.get("/readyz", responses={503: {"model": Readiness, "description": "no version serves"}})
    async def readyz(response: Response) -> Readiness:
        """Say whether searches are answered, and why the desired version does not serve."""
        state = gateway.get_state()
        response.status_code = 200 if state else 503
        return Readiness(ready=state is not None, version=state and state.version, fault=gateway.get_fault())

    @app.get(
        "/metrics",
        response_class=Response,
        responses=_describe_refusals(503) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Write the metrics of this node's replicas for Prometheus, as Ray keeps them."""
        return Response(await read_node_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")
