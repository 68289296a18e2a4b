"""Whether the visitor is signed in, for pages that ask without keeping the session alive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sealedstate import Keeper
from sealedstate.keeper import find_keeper

from ._response import refuse_method, send_json
from .health import HasKeeper

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["SessionStatus"]

# The last two keep browsers from loading the answer as a script, or into pages of other sites.
_HEADERS = [
    ("Vary", "Cookie"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]


class SessionStatus:
    """A WSGI application for a path such as ``/session``, for single-page and mobile clients.

    Answers 200 with a JSON object of four members:

    - ``signed_in``: whether the session has a subject.
    - ``idle_seconds``, ``absolute_seconds``: in how many seconds the session ends if no request
      renews it, and in any case; null for a visitor who is not.
    - ``reason``: why the visitor is not signed in, else null. ``"none"``: there is no session, or
      it is a visitor's. ``"expired"``, ``"signed-out"``. ``"replaced"``: another request gave the
      session a new id a moment ago; ask again, the cookie is on its way. ``"withheld"``: this node
      cannot judge the cookie now; ask again, later.

    The answer renews nothing, sets no cookie and is kept by no cache. It has no header that lets
    pages of other origins read it. GET and HEAD only, for any path. With a store it is asked for
    logouts, as for any request that looks at its session.

    `source`: a Keeper, or a middleware that has one. Raises ConfigurationError.
    """

    def __init__(self, source: Keeper | HasKeeper) -> None:
        self._keeper = find_keeper(source)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return refuse_method(start_response)
        keeper, idle_seconds, absolute_seconds = self._keeper, None, None
        # It is never saved, so it is not renewed either.
        session = keeper.session(environ.get("HTTP_COOKIE", ""))
        is_signed_in = session.subject is not None
        if is_signed_in:
            info, now = keeper.info(session), keeper.deployment.now()
            idle_seconds = max(0, int((info.idle_expires_at or now) - now))
            absolute_seconds = max(0, int((info.expires_at or now) - now))
        document = {
            "signed_in": is_signed_in,
            "idle_seconds": idle_seconds,
            "absolute_seconds": absolute_seconds,
            "reason": None if is_signed_in else session.refusal or "none",
        }
        return send_json(environ, start_response, "200 OK", document, _HEADERS)
