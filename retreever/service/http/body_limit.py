"""Bodies that are too large are refused before they are in memory as a whole."""

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `most` bytes, whether or not its length was announced."""

    def __init__(self, app: ASGIApp, most: int):
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._most:
            return await self._refuse(send)
        messages: list[Message] = []
        read, more = 0, True
        while more:
            message = await receive()
            messages.append(message)
            read += len(message.get("body", b""))
            more = message.get("more_body", False)
            if read > self._most:
                return await self._refuse(send)
        messages.reverse()

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        return await self._app(scope, again, send)

    async def _refuse(self, send: Send) -> None:
        body = json.dumps({"detail": f"the body must be at most {self._most} bytes"}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})
