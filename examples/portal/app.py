"""The portal as a WSGI application: which request gets which answer.

Knows routes, forms, tokens against forged forms, and errors. Does not know what a button does, how
a page looks, or how a session is kept.

`make_application` mounts one portal for each profile, side by side, over the same session: an
application of your own has one profile, and needs none of that. The line that gives it sessions is
the one in `Portal.__init__`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import Map, Rule
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from sealedstate import (
    PROFILES,
    Keeper,
    Session,
    SessionTooLarge,
    SessionWithheld,
    Settings,
    StorageError,
)
from sealedstate.rotation.source import RotatingKeySource
from sealedstate_wsgi import ENVIRON_KEY, SealedSessionMiddleware

from ..views.facts import facts_of
from ..views.forms import check_form, offer_token, token_text
from ..views.journal import EventLog
from ..views.markup import Html
from ..views.static_files import static_file
from . import pages
from .actions import ACTIONS, Action, Order, cart_items, note_of, service_logins
from .deployment import Deployment
from .ring_view import RingView, ring_view

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Cookies of somebody else, for the visitor to see how they take room from ours.
TRACKER_BYTES = 1500
MOST_TRACKERS = 4

ROUTES = Map(
    [
        Rule("/", endpoint="overview", methods=["GET"]),
        Rule("/services", endpoint="services", methods=["GET"]),
        Rule("/keys", endpoint="keys", methods=["GET"]),
        Rule("/add-tracker", endpoint="add-tracker", methods=["POST"]),
        Rule("/remove-trackers", endpoint="remove-trackers", methods=["POST"]),
        *(Rule(f"/{name}", endpoint=name, methods=["POST"]) for name in ACTIONS),
    ]
)
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def make_application(deployment: Deployment, profile: str) -> WSGIApplication:
    """The portal in every profile, each below its name; the link's target is `profile`."""
    journal = EventLog()
    keepers: list[Keeper] = []
    portals: dict[str, WSGIApplication] = {}
    for name in PROFILES:
        portal = Portal(deployment.settings(name), deployment.keys, journal, keepers)
        keepers.append(portal.keeper)
        portals[f"/{name}"] = portal
    return DispatcherMiddleware(_front(profile), portals)


class PortalRequest(Request):
    """A request whose forms are small."""

    max_content_length = 16_384

    @property
    def session(self) -> Session:
        """The session that the middleware gives."""
        session: Session = self.environ[ENVIRON_KEY]
        return session


class Portal:
    """The portal in one profile. `keepers` are those of all profiles, for the counters shown."""

    def __init__(
        self,
        settings: Settings,
        keys: RotatingKeySource,
        journal: EventLog,
        keepers: Sequence[Keeper],
    ) -> None:
        self._with_sessions = SealedSessionMiddleware(self._application, settings)
        self.keeper = self._with_sessions.keeper
        self._keys = keys
        self._keepers = keepers
        self._journal = journal

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return self._with_sessions(environ, self._journal.noting(environ, start_response))
        except (SessionTooLarge, StorageError, SessionWithheld) as error:
            # By an action, or when the session was saved. The headers are not out, and the browser
            # keeps what it has: that is what the page is about.
            environ[ENVIRON_KEY] = self.keeper.session(environ.get("HTTP_COOKIE", ""))
            page = pages.problem(_frame(PortalRequest(environ)), error)
            return _response(page, 503)(environ, start_response)

    def _application(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        request = PortalRequest(environ)
        try:
            response = self._answer(request)
        except HTTPException as error:
            response = _refusal(request, error)
        # A list, not an iterator: then the session is saved before the middleware returns, and
        # what goes wrong there still gets a page.
        return list(response(environ, start_response))

    def _answer(self, request: PortalRequest) -> Response:
        name, _ = ROUTES.bind_to_environ(request.environ).match()
        if name in ACTIONS:
            return self._act(request, ACTIONS[name])
        answers: dict[str, Callable[[PortalRequest], Response]] = {
            "overview": self._overview,
            "services": self._services,
            "keys": self._ring,
            "add-tracker": self._add_tracker,
            "remove-trackers": self._remove_trackers,
        }
        return answers[name](request)

    # --- pages ----------------------------------------------------------------------------------

    def _overview(self, request: PortalRequest) -> Response:
        session, now = request.session, int(time.time())
        # Looking whether a part is there recalls it: only when a link asks for that.
        _ = request.args.get("read") in session
        cookie_header = request.headers.get("Cookie", "")
        facts = facts_of(session, self.keeper, cookie_header, now)
        if facts is None:
            return self._sign_in_page(request)
        shown = pages.Overview(
            facts,
            self.keeper.settings,
            self._journal.last(session.id),
            self._ring_view(now),
            self._counts(),
            len(service_logins(session)) if _is_read(session, "services", self.keeper) else None,
            cart_items(session) if _is_read(session, "cart", self.keeper) else None,
            note_of(session),
            len(_trackers(request)),
        )
        return _response(pages.overview(_frame(request), shown))

    def _sign_in_page(self, request: PortalRequest) -> Response:
        session = request.session
        offer_token(session)
        return _response(pages.sign_in(_frame(request), session.withheld is not None))

    def _services(self, request: PortalRequest) -> Response:
        if request.session.subject is None:
            return _see_other(request)
        logins = service_logins(request.session)  # recalled from the store, if that is its place
        return _response(pages.services(_frame(request), logins))

    def _ring(self, request: PortalRequest) -> Response:
        session, now = request.session, int(time.time())
        facts = facts_of(session, self.keeper, request.headers.get("Cookie", ""), now)
        if facts is None:
            return _see_other(request)
        longest = self.keeper.deployment.lifetimes.refresh
        return _response(pages.keys(_frame(request), self._ring_view(now), facts.kid, longest))

    def _ring_view(self, now: int) -> RingView:
        return ring_view(self._keys.ring, now)

    def _counts(self) -> Counter[str]:
        # Copied first: other threads count meanwhile.
        return sum((Counter(dict(keeper.counts)) for keeper in self._keepers), Counter())

    # --- forms ----------------------------------------------------------------------------------

    def _act(self, request: PortalRequest, action: Action) -> Response:
        session = request.session
        if session.subject is None and action is not ACTIONS["sign-in"]:
            return _see_other(request)
        check_form(request.session, request)
        notice = action.run(Order(session, request.form, self.keeper, self._keys))
        return _see_other(request, action.then, notice)

    def _add_tracker(self, request: PortalRequest) -> Response:
        check_form(request.session, request)
        number = len(_trackers(request)) + 1
        if number > MOST_TRACKERS:
            return _see_other(request, notice="no-more-trackers")
        response = _see_other(request, notice="tracker-added")
        name = f"tracker-{number}"
        response.set_cookie(name, "x" * (TRACKER_BYTES - len(name) - 1), samesite="Lax")
        return response

    def _remove_trackers(self, request: PortalRequest) -> Response:
        check_form(request.session, request)
        response = _see_other(request, notice="trackers-removed")
        for name in _trackers(request):
            response.delete_cookie(name, samesite="Lax")
        return response


# --- answers ------------------------------------------------------------------------------------


def _frame(request: PortalRequest) -> pages.Frame:
    session = request.session
    return pages.Frame(
        request.root_path,
        session.subject,
        token_text(session),
        request.args.get("done", ""),
    )


def _is_read(session: Session, name: str, keeper: Keeper) -> bool:
    """Whether reading a part asks nobody: it is not there, came with the cookies, or was read."""
    part = keeper.info(session).parts.get(name)
    return part is None or part.value_bytes is not None


def _trackers(request: PortalRequest) -> list[str]:
    return [name for name in request.cookies if name.startswith("tracker-")]


def _see_other(request: PortalRequest, page: str = "", notice: str = "") -> Response:
    query = f"?done={notice}" if notice else ""
    return redirect(f"{request.root_path}/{page}{query}", 303)


def _refusal(request: PortalRequest, error: HTTPException) -> Response:
    response = _response(pages.refusal(_frame(request), error), error.code or 500)
    # Such as Allow, which belongs to a 405.
    more = [field for field in error.get_headers() if field[0] != "Content-Type"]
    response.headers.extend(more)
    return response


def _response(page: Html, status: int = 200) -> Response:
    return Response(page, status, SECURITY_HEADERS, mimetype="text/html")


def _front(profile: str) -> WSGIApplication:
    """What stands outside the profiles: the way in, and the stylesheet. It needs no session."""

    @Request.application
    def front(request: Request) -> Response:
        if request.path == "/":
            return redirect(f"/{profile}/")
        return static_file(request)

    return front
