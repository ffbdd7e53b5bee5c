"""Refuses what the proxy of another service sends: two services of a machine must never answer for each other.

A proxy names its application in every request. A replica may get the port of a lost one of another service, before that
one's proxy has noticed.
"""

import json

from starlette.types import ASGIApp, Receive, Scope, Send

APPLICATION_HEADER = "x-retreever-application"


class OwnRequests:
    """ASGI middleware: answers 503 to a request that names another application."""

    def __init__(self, app: ASGIApp, application: str):
        self._app, self._application = app, application.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            named = dict(scope["headers"]).get(APPLICATION_HEADER.encode(), self._application)
            if named != self._application:
                headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
                await send({"type": "http.response.start", "status": 503, "headers": headers})
                body = json.dumps({"detail": "this port serves another application now; try again"}).encode()
                return await send({"type": "http.response.body", "body": body})
        return await self._app(scope, receive, send)
