"""What the sites of all members share: routes, pages, errors, how messages leave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.routing import Map
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from sealedstate import OperatorError, Session, SessionTooLarge
from sealedstate.deployment import Deployment
from sealedstate_wsgi import ENVIRON_KEY, SealedSessionMiddleware

from ..views.forms import token_text
from ..views.rendering import make_environment
from ..views.set_cookie_sizes import SetCookieSizes
from ..views.static_files import NAMES, static_file
from .federation import Federation
from .messages import Refused
from .xml_text import wrap_in_envelope

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TEMPLATES = Path(__file__).with_name("templates")

_log = logging.getLogger(__name__)


class SiteRequest(Request):
    """A request whose messages are of a sensible size."""

    max_content_length = 262_144
    max_form_memory_size = 131_072

    @property
    def session(self) -> Session:
        """The session that the middleware provides."""
        session: Session = self.environ[ENVIRON_KEY]
        return session


Handler = Callable[[SiteRequest], Response]


class Site:
    """A WSGI application with sealed sessions; `handlers` by the endpoints of `routes`.

    `templates`: the directory with the member's pages. `layout`: the template that they extend.
    `common`: values that every page needs.
    """

    def __init__(
        self,
        deployment: Deployment,
        routes: Map,
        handlers: Mapping[str, Handler],
        federation: Federation,
        templates: Path,
        layout: str,
        common: Mapping[str, object],
    ) -> None:
        self._with_sessions = SealedSessionMiddleware(self._serve, deployment)
        self.keeper = self._with_sessions.keeper
        self.set_cookie_sizes = SetCookieSizes()
        self._routes = routes
        self._handlers = handlers
        self._headers = _security_headers(federation)
        self._templates = make_environment(templates, TEMPLATES)
        self._common = {"layout": layout, **common}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            start = self.set_cookie_sizes.watch(environ, start_response)
            return self._with_sessions(environ, start)
        except (SessionTooLarge, OperatorError) as error:
            # The headers are not out, and the browser keeps its cookies.
            _log.warning("a session was not saved: %s", error)
            environ[ENVIRON_KEY] = self.keeper.session(environ.get("HTTP_COOKIE", ""))
            story = (
                "It could not be recorded, so it has not happened. Please try again in a moment."
            )
            response = self._refuse(SiteRequest(environ), 503, "Not now", story)
            return response(environ, start_response)

    def page(
        self, request: SiteRequest, template: str, status: int = 200, **values: Any
    ) -> Response:
        """A page for people; all templates can use what is listed here."""
        page = self._templates.get_template(template).render(
            session=request.session, token=token_text(request.session), **self._common, **values
        )
        return Response(page, status, self._headers, mimetype="text/html")

    def post_page(
        self, request: SiteRequest, destination: str, fields: Mapping[str, str], recipient: str
    ) -> Response:
        """A page that sends a message on through the browser: a form that submits itself."""
        return self.page(
            request,
            "posting.html",
            destination=destination,
            fields=fields,
            recipient=recipient,
        )

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The application that the middleware gives sessions to."""
        request = SiteRequest(environ)
        try:
            response = self._answer(request)
        except Refused as error:
            _log.info("%s: refused: %s", request.path, error)
            story = f"It was not accepted: {error}."
            response = self._refuse(request, 400, "Message refused", story)
        except HTTPException as error:
            response = self._refuse(request, error.code or 500, error.name, error.description)
        except (SessionTooLarge, OperatorError):
            raise
        except Exception:
            _log.exception("%s failed", request.path)
            failure = InternalServerError()
            response = self._refuse(request, 500, failure.name, failure.description)
        # A list: then the session is saved before the middleware returns, and what goes wrong there
        # still gets a page.
        return list(response(environ, start_response))

    def _answer(self, request: SiteRequest) -> Response:
        if request.path.removeprefix("/") in NAMES:
            return static_file(request)
        name, _ = self._routes.bind_to_environ(request.environ).match()
        return self._handlers[name](request)

    def _refuse(
        self, request: SiteRequest, status: int, headline: str, story: str | None
    ) -> Response:
        return self.page(request, "refusal.html", status, headline=headline, story=story or "")


def respond_by_soap(message: str) -> Response:
    """An answer to another member, by SOAP."""
    body = wrap_in_envelope(message)
    return Response(body, mimetype="text/xml", headers={"Cache-Control": "no-store"})


def see_other(address: str) -> Response:
    """Send the browser elsewhere, without the address it comes from, which may hold a message."""
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
