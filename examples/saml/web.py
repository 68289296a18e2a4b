"""What a member's site has in common with the others': routes, files, errors, how messages leave.

Knows HTTP and the middleware. Does not know what a page says, or what a message means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from sealedstate import Session, SessionTooLarge, SessionWithheld, Settings, StorageError
from sealedstate_wsgi import ENVIRON_KEY, SealedSessionMiddleware

from ..views.journal import EventLog
from ..views.markup import Html
from ..views.static_files import STATIC, static_file
from .federation import Federation
from .messages import Refused
from .xml_text import enveloped

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_log = logging.getLogger(__name__)


class SiteRequest(Request):
    """A request whose messages are of a sensible size."""

    max_content_length = 262_144
    max_form_memory_size = 131_072

    @property
    def session(self) -> Session:
        """The session that the middleware gives."""
        session: Session = self.environ[ENVIRON_KEY]
        return session


Handler = Callable[[SiteRequest], Response]


class Site:
    """A WSGI application with sealed sessions; `handlers` by the endpoints of `routes`.

    `refusal` makes the page for a request or a message that has no other answer.
    """

    def __init__(
        self,
        settings: Settings,
        routes: Map,
        handlers: Mapping[str, Handler],
        refusal: Callable[[SiteRequest, int, str, str], Html],
        federation: Federation,
    ) -> None:
        self._with_sessions = SealedSessionMiddleware(self._application, settings)
        self.keeper = self._with_sessions.keeper
        self.journal = EventLog()
        self._routes = routes
        self._handlers = handlers
        self._refusal = refusal
        self._headers = _security_headers(federation)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return self._with_sessions(environ, self.journal.noting(environ, start_response))
        except (SessionTooLarge, StorageError, SessionWithheld) as error:
            # The headers are not out, and the browser keeps what it has.
            _log.warning("a session was not saved: %s", error)
            environ[ENVIRON_KEY] = self.keeper.session(environ.get("HTTP_COOKIE", ""))
            request = SiteRequest(environ)
            story = (
                "It could not be recorded, so it has not happened. Please try again in a moment."
            )
            return self.page(self._refusal(request, 503, "Not now", story), 503)(
                environ, start_response
            )

    def page(self, page: Html, status: int = 200) -> Response:
        """A page for people."""
        return Response(page, status, self._headers, mimetype="text/html")

    def _application(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        request = SiteRequest(environ)
        try:
            response = self._answer(request)
        except HTTPException as error:
            response = self._refused(request, error.code or 500, error.name, error.description)
        except Refused as error:
            _log.info("%s: refused: %s", request.path, error)
            response = self._refused(request, 400, "Message refused", f"It was not taken: {error}.")
        # A list: then the session is saved before the middleware returns, and what goes wrong there
        # still gets a page.
        return list(response(environ, start_response))

    def _answer(self, request: SiteRequest) -> Response:
        if request.path.strip("/") in {path.name for path in STATIC.iterdir()}:
            return static_file(request)
        name, _ = self._routes.bind_to_environ(request.environ).match()
        return self._handlers[name](request)

    def _refused(
        self, request: SiteRequest, status: int, headline: str, story: str | None
    ) -> Response:
        return self.page(self._refusal(request, status, headline, story or ""), status)


def soap(message: str) -> Response:
    """An answer to another member, by SOAP."""
    return Response(enveloped(message), mimetype="text/xml", headers={"Cache-Control": "no-store"})


def see_other(address: str) -> Response:
    """The browser goes on elsewhere; what was in the address is of no more use."""
    response = redirect(address, 303)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _security_headers(federation: Federation) -> dict[str, str]:
    # Forms lead to the other members, too: a browser that posts a message goes there.
    origins = (urlsplit(member.base) for member in federation.members)
    forms = " ".join(f"{origin.scheme}://{origin.netloc}" for origin in origins)
    return {
        "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self';"
        f" script-src 'self'; form-action 'self' {forms}; base-uri 'none';"
        " frame-ancestors 'none'",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
