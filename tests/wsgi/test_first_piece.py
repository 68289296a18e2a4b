"""Bodies that are generators, and servers that read the headers before the body."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.client import environ_of
from tests.support.jar import Clock, keeper

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def generated(pieces: list[bytes], written_after: int, seen: list[object]) -> Any:
    """An application whose session is written after some pieces of its body."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("201 Created", [("Content-Type", "text/plain")])
        for number, piece in enumerate(pieces):
            if number == written_after:
                environ["sealedstate.session"]["cart"] = "tea"
            seen.append(number)
            yield piece

    return app


def call(app: Any, **extras: object) -> tuple[list[tuple[str, Any]], Any]:
    """What start_response got until the application has returned, and the body."""
    started: list[tuple[str, Any]] = []

    def start_response(status: str, headers: Any, *_: object) -> Any:
        started.append((status, headers))
        return lambda data: None

    body = SealedSessionMiddleware(app, keeper(Clock()))(
        environ_of(extras={"SERVER_SOFTWARE": "any", **extras}), start_response
    )
    return started, body


@pytest.mark.parametrize("pieces", [[b"tea", b"milk"], [b"tea"], []])
def test_headers_are_known_when_the_application_returns(pieces: list[bytes]) -> None:
    seen: list[object] = []
    started, body = call(generated(pieces, 0, seen))
    assert [status for status, _ in started] == ["201 Created"]
    assert ("Set-Cookie" in dict(started[0][1])) == bool(pieces)
    assert seen == [0][: len(pieces)]  # exactly one piece was taken
    assert list(body) == pieces
    body.close()
    assert len(started) == 1


def test_headers_wait_for_a_piece_that_is_not_empty() -> None:
    seen: list[object] = []
    started, body = call(generated([b"", b"", b"tea"], 1, seen))
    assert (started, seen) == ([], [0])
    assert b"".join(body) == b"tea"
    assert "Set-Cookie" in dict(started[0][1])
    body.close()


def test_granian_gets_its_headers_with_what_was_written_before_a_piece_that_is_not_empty() -> None:
    seen: list[object] = []
    started, body = call(generated([b"", b"tea", b"milk"], 1, seen), SERVER_SOFTWARE="Granian")
    assert "Set-Cookie" in dict(started[0][1])
    assert seen == [0, 1]
    assert b"".join(body) == b"teamilk"
    body.close()


@pytest.mark.parametrize(
    ("given", "is_noted"),
    [
        ({"HTTP_HOST": "shop.example"}, True),
        ({"HTTP_HOST": "10.0.0.5:8000"}, True),
        ({"HTTP_HOST": "localhost:8000"}, False),
        ({"HTTP_HOST": "app.localhost"}, False),
        ({"HTTP_HOST": "127.0.0.1:5000"}, False),
        ({"HTTP_HOST": "[::1]:5000"}, False),
        ({"HTTP_HOST": "shop.example", "wsgi.url_scheme": "https"}, False),
    ],
)
def test_secure_cookie_over_plain_http_is_noted_once(
    given: dict[str, str], is_noted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        environ["sealedstate.session"]["cart"] = "tea"
        start_response("200 OK", [])
        return [b""]

    middleware = SealedSessionMiddleware(app, keeper(Clock()))
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        middleware(environ_of(extras=given), lambda *_: lambda data: None)
    assert sum("secure=False" in record.message for record in caplog.records) == is_noted
