"""Refuses bodies that are too large, before the whole of them is in memory, and bodies that come too slowly."""

import asyncio
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_TIMEOUT_S = 30


class BodyLimit:
    """ASGI middleware: answers 413 to a body of more than `max_bytes`, and 408 to one that takes over `max_seconds`."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float = BODY_TIMEOUT_S):
        self._app, self._max_bytes, self._max_seconds = app, max_bytes, max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"")
        too_large = f"the body must be at most {self._max_bytes} bytes"
        if length.isdigit() and int(length) > self._max_bytes:
            return await _refuse(send, 413, too_large)
        messages: list[Message] = []
        read, more = 0, True
        try:
            async with asyncio.timeout(self._max_seconds):
                while more:
                    message = await receive()
                    messages.append(message)
                    read += len(message.get("body", b""))
                    more = message.get("more_body", False)
                    if read > self._max_bytes:
                        return await _refuse(send, 413, too_large)
        except TimeoutError:
            return await _refuse(send, 408, f"the body must come within {self._max_seconds:g} s")
        messages.reverse()

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return await self._app(scope, replay, send)


async def _refuse(send: Send, status: int, detail: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
