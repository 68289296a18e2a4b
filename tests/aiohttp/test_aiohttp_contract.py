"""The aiohttp adapter, by the promises that every adapter owes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("aiohttp", reason="not installed: aiohttp")

from sealedstate import Settings
from sealedstate.testing.adapters import AdapterContract, Answer
from tests.support.aiohttp_server import Server
from tests.support.pages import aiohttp


class Behind:
    """The application of the kit behind aiohttp's test server."""

    def __init__(self, settings: Settings) -> None:
        self._server = Server(aiohttp.make(settings))

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        return self._server.send("POST", path, headers, body)

    def close(self) -> None:
        self._server.close()


class TestAiohttp(AdapterContract):
    def open_client(self, settings: Settings) -> Behind:
        return Behind(settings)
