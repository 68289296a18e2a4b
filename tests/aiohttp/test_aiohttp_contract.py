"""The aiohttp adapter, by the promises that every adapter owes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="not installed: aiohttp")

from aiohttp.test_utils import TestServer

from sealedstate import Settings
from sealedstate.testing.adapters import AdapterContract
from tests.support.client import OverHTTP
from tests.support.pages import aiohttp


class Behind(OverHTTP):
    """The application of the kit behind aiohttp's test server, which runs in a thread."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = TestServer(aiohttp.make(settings))
        self._run(self._server.start_server(max_field_size=16384))
        super().__init__(self._server.port or 0)

    def close(self) -> None:
        self._run(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()


class TestAiohttp(AdapterContract):
    has_binding = True

    def open_client(self, settings: Settings) -> Behind:
        return Behind(settings)
