"""The Quart adapter, by the promises that every adapter owes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

pytest.importorskip("quart", reason="not installed: quart")

from sealedstate import Settings
from sealedstate.testing.adapters import AdapterContract, Answer
from tests.support.pages import quart


class InProcess:
    """The application of the kit behind Quart's test client, each request in another loop."""

    def __init__(self, settings: Settings) -> None:
        self._app = quart.make(settings)

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        return asyncio.run(self._send(path, headers, body))

    async def _send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        client = self._app.test_client(use_cookies=False)
        response = await client.post(path, scheme="https", headers=dict(headers), data=body)
        return Answer(
            response.status_code, list(response.headers), await response.get_data(as_text=False)
        )

    def close(self) -> None:
        asyncio.run(self._app.extensions["sealedstate"].close())


class TestQuart(AdapterContract):
    has_binding = True

    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings)
