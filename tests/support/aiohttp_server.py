"""aiohttp's test server in a thread, for tests that send requests by http.client."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Sequence

from aiohttp import web
from aiohttp.test_utils import TestServer

from sealedstate.testing.adapters import Answer

__all__ = ["Server"]


class Server:
    """An application on a free port of this machine."""

    def __init__(self, app: web.Application) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._server = TestServer(app)
        start = self._server.start_server(max_field_size=16384)
        asyncio.run_coroutine_threadsafe(start, self.loop).result()
        self.port = self._server.port

    def send(
        self, method: str, path: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port or 0, timeout=20)
        try:
            connection.putrequest(method, path)
            for name, value in [*headers, ("Content-Length", str(len(body)))]:
                connection.putheader(name, value.encode("latin-1"))
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
