"""The Litestar adapter, by the promises that every adapter owes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("litestar", reason="not installed: litestar")
pytest.importorskip("httpx", reason="not installed: httpx")

from litestar.testing import TestClient

from sealedstate import Settings
from sealedstate.testing.adapters import AdapterContract, Answer
from tests.support.pages import litestar


class InProcess:
    """The application of the kit behind Litestar's test client."""

    def __init__(self, settings: Settings) -> None:
        self._client = TestClient(litestar.make(settings), base_url="https://testserver.local")
        self._client.__enter__()

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        response = self._client.post(path, headers=raw, content=body)
        self._client.cookies.clear()
        return Answer(response.status_code, response.headers.multi_items(), response.content)

    def close(self) -> None:
        self._client.__exit__(None, None, None)


class TestLitestar(AdapterContract):
    has_binding = True

    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings)
