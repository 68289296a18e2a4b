"""Health check for load balancers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from sealedstate import ConfigurationError, Keeper
from sealedstate._forks import ForkSafeLock
from sealedstate.errors import escape_message, show_value
from sealedstate.keeper import find_keeper

from ._response import refuse_method, send_json

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["HealthApplication"]

_log = logging.getLogger("sealedstate.wsgi")


class HasKeeper(Protocol):
    """A middleware with a keeper."""

    keeper: Keeper


class HealthApplication:
    """A WSGI application for paths such as ``/livez`` and ``/readyz``, or for a separate port.

    ``/livez``: 200 with ``{"status": "up"}`` as long as the process answers, because a restart
    repairs neither keys nor a store. Any other path says whether to send visitors here: 200 with
    ``{"status": "up", "keys": "up", "store": "up"}`` if a key is active and the store answers, else
    503 with ``"down"`` for what fails. Without a store there is no ``"store"``.
    The reason is only logged, once each time the process goes down. GET and HEAD only.

    `source`: a Keeper, or a middleware that has one. An answer is kept for `keep_for` seconds of
    the settings' clock, so the store is asked once in that time, by one request. Concurrent
    requests wait for its answer, which takes at most the timeout of the store. Raises
    ConfigurationError.
    """

    def __init__(self, source: Keeper | HasKeeper, keep_for: float = 1.0) -> None:
        if type(keep_for) not in (int, float) or not keep_for >= 0:
            raise ConfigurationError(
                f"keep_for: must be a number of seconds, at least 0; got {show_value(keep_for)}"
            )
        self._keeper = find_keeper(source)
        self._keep_for = keep_for
        self._health: Mapping[str, bool] = {}
        self._checked_at = -math.inf
        self._was_up = True
        self._lock = ForkSafeLock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return refuse_method(start_response)
        path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
        if path.rstrip("/").endswith("/livez"):
            return send_json(environ, start_response, "200 OK", {"status": "up"})
        health = self._current_health()
        is_up = all(health.values())
        words = {name: "up" if up else "down" for name, up in {"status": is_up, **health}.items()}
        status = "200 OK" if is_up else "503 Service Unavailable"
        return send_json(environ, start_response, status, words)

    def _current_health(self) -> Mapping[str, bool]:
        """Whether each thing is up, checked less than `keep_for` seconds ago."""
        now = self._keeper.settings.clock
        with self._lock:
            if not 0 <= now() - self._checked_at < self._keep_for:
                health = self._keeper.health()
                problems = [
                    f"{name}: {error}" for name, error in health.items() if error is not None
                ]
                if self._was_up and problems:
                    _log.warning("down, %s", escape_message("; ".join(problems)))
                self._was_up = not problems
                self._health = {name: error is None for name, error in health.items()}
                self._checked_at = now()
            return self._health
