"""What a load balancer asks: shall this process be sent visitors?

Knows HTTP, JSON and for how long an answer counts. Does not know sessions, keys or stores: what is
wrong with them the keeper says.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from sealedstate import Keeper
from sealedstate._forks import ForkSafeLock

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_log = logging.getLogger("sealedstate.wsgi")

_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"


class HasKeeper(Protocol):
    """A middleware of ours."""

    keeper: Keeper


class HealthApplication:
    """A WSGI application for a path such as ``/healthz``, or for a port of its own.

    200 and ``{"status": "up", "keys": "up", "store": "up"}`` when a key may seal and the store
    answers, else 503 with what is ``"down"``; without a store, no word of it. Why it is down stands
    in the log alone, once for each time that it goes down. GET and HEAD only, whatever the path.

    `source`: a Keeper, or a middleware that has one. An answer counts for `keep_for` seconds of the
    settings' clock, so that the store is asked once in that time, however many ask here. One of
    them does it and the others wait for him, none longer than the store's own timeout lets him.
    """

    def __init__(self, source: Keeper | HasKeeper, keep_for: float = 1.0) -> None:
        self._keeper = source if isinstance(source, Keeper) else source.keeper
        self._keep_for = keep_for
        self._found: Mapping[str, bool] = {}
        self._found_at = -math.inf
        self._was_up = True
        self._lock = ForkSafeLock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            body, kind = b"GET and HEAD only\n", _TEXT
            start_response(
                "405 Method Not Allowed", [*_headers(body, kind), ("Allow", "GET, HEAD")]
            )
            return [body]
        found = self._health()
        status = "200 OK" if all(found.values()) else "503 Service Unavailable"
        body = _body(found)
        start_response(status, _headers(body, _JSON))
        return [body] if method == "GET" else []

    def _health(self) -> Mapping[str, bool]:
        """Whether each thing is up, as it was found less than `keep_for` ago."""
        with self._lock:
            if not 0 <= self._now() - self._found_at < self._keep_for:
                self._found = self._asked()
                self._found_at = self._now()
            return self._found

    def _asked(self) -> Mapping[str, bool]:
        health = self._keeper.health()
        problems = [f"{name}: {error}" for name, error in health.items() if error is not None]
        if self._was_up and problems:
            _log.warning("down, %s", "; ".join(problems))
        self._was_up = not problems
        return {name: error is None for name, error in health.items()}

    def _now(self) -> float:
        return self._keeper.settings.clock()


def _body(found: Mapping[str, bool]) -> bytes:
    whole = {"status": all(found.values()), **found}
    words = {name: "up" if is_up else "down" for name, is_up in whole.items()}
    return json.dumps(words).encode() + b"\n"


def _headers(body: bytes, kind: str) -> list[tuple[str, str]]:
    return [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
