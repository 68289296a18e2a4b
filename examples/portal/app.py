"""The portal as a WSGI application: which request gets which answer.

`make_application` mounts one portal for each profile, side by side, over the same session. An
application usually has one profile and needs none of that: the line that gives it sessions is the
first one in `Portal.__init__`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import Map, Rule
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from sealedstate import PROFILES, Keeper, OperatorError, Session, SessionTooLarge
from sealedstate.errors import LoginsUnreadable
from sealedstate.sso import ServiceLogin
from sealedstate_wsgi import ENVIRON_KEY, SealedSessionMiddleware

from ..shop.goods import GOODS
from ..views.budget import Budget
from ..views.forms import check_form, ensure_token, token_text
from ..views.rendering import SECURITY_HEADERS, make_environment
from ..views.set_cookie_sizes import SetCookieSizes
from ..views.static_files import static_file
from .actions import (
    ACTIONS,
    COUNTS,
    MAX_NAME_CHARS,
    MAX_NOTE_CHARS,
    Action,
    Submission,
    cart_items,
)
from .comparison import compare_forms
from .logins import ServiceLogins
from .notices import NOTICES
from .problems import Problem, explain
from .resources import PortalResources
from .ring_view import view_ring
from .terms import MAX_PURPOSE_CHARS, PROBLEMS, Terms

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Cookies of another application, which take room from our cookies.
TRACKER_BYTES = 1500
MAX_TRACKERS = 4

TEMPLATES = make_environment(Path(__file__).with_name("templates"))
ROUTES = Map(
    [
        Rule("/", endpoint="overview", methods=["GET"]),
        Rule("/services", endpoint="services", methods=["GET"]),
        Rule("/keys", endpoint="keys", methods=["GET"]),
        Rule("/terms", endpoint="terms", methods=["GET"]),
        Rule("/terms", endpoint="accept-terms", methods=["POST"]),
        Rule("/withdraw-terms", endpoint="withdraw-terms", methods=["POST"]),
        Rule("/add-tracker", endpoint="add-tracker", methods=["POST"]),
        Rule("/remove-trackers", endpoint="remove-trackers", methods=["POST"]),
        *(Rule(f"/{name}", endpoint=name, methods=["POST"]) for name in ACTIONS),
    ]
)

_log = logging.getLogger(__name__)


def make_application(resources: PortalResources, profile: str) -> WSGIApplication:
    """The portal in every profile, each below its name; `/` leads to `profile`."""
    keepers: list[Keeper] = []
    portals: dict[str, WSGIApplication] = {
        f"/{name}": Portal(resources, name, keepers) for name in PROFILES
    }

    @Request.application
    def front(request: Request) -> Response:
        # What is outside the profiles needs no session.
        return redirect(f"/{profile}/") if request.path == "/" else static_file(request)

    return DispatcherMiddleware(front, portals)


class PortalRequest(Request):
    """A request whose forms are small."""

    max_content_length = 16_384

    @property
    def session(self) -> Session:
        """The session that the middleware provides."""
        session: Session = self.environ[ENVIRON_KEY]
        return session

    @property
    def trackers(self) -> list[str]:
        """The names of the other application's cookies."""
        return [name for name in self.cookies if name.startswith("tracker-")]


class Portal:
    """The portal in one profile. `keepers`: those of all profiles, whose counters are shown."""

    def __init__(self, resources: PortalResources, profile: str, keepers: list[Keeper]) -> None:
        self._with_sessions = SealedSessionMiddleware(self._serve, resources.open(profile))
        self._keeper = self._with_sessions.keeper
        self._keeper_without_store = Keeper(resources.open_without_store(profile))
        self._terms = Terms(self._keeper.deployment)
        self._resources = resources
        self._profile = PROFILES[profile]
        self._set_cookie_sizes = SetCookieSizes()
        self._keepers = keepers
        keepers.append(self._keeper)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            start = self._set_cookie_sizes.watch(environ, start_response)
            return self._with_sessions(environ, start)
        except (SessionTooLarge, OperatorError) as error:
            # An action or the save raised it. The headers are not out, and the browser keeps its
            # cookies, so the page shows the session that they hold.
            environ[ENVIRON_KEY] = self._keeper.session(environ.get("HTTP_COOKIE", ""))
            response = self._problem(PortalRequest(environ), explain(error))
            return response(environ, start_response)

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The application that the middleware gives sessions to."""
        request = PortalRequest(environ)
        try:
            response = self._answer(request)
        except HTTPException as error:
            response = self._refuse(request, error)
        except (SessionTooLarge, OperatorError):
            raise
        except Exception:
            _log.exception("%s failed", request.path)
            response = self._refuse(request, InternalServerError())
        # A list, not an iterator: then the session is saved before the middleware returns, and
        # what goes wrong there still gets a page.
        return list(response(environ, start_response))

    def _answer(self, request: PortalRequest) -> Response:
        name, _ = ROUTES.bind_to_environ(request.environ).match()
        if name in ACTIONS:
            return self._act(request, ACTIONS[name])
        pages: dict[str, Callable[[PortalRequest], Response]] = {
            "overview": self._overview,
            "services": self._services,
            "keys": self._keys,
            "terms": self._show_terms,
            "accept-terms": self._accept_terms,
            "withdraw-terms": self._withdraw_terms,
            "add-tracker": self._add_tracker,
            "remove-trackers": self._remove_trackers,
        }
        return pages[name](request)

    # --- pages ----------------------------------------------------------------------------------

    def _overview(self, request: PortalRequest) -> Response:
        session, now = request.session, int(time.time())
        if session.subject is None or session.is_new:
            ensure_token(session)
            return self._page(
                request, "sign_in.html", withheld=session.withheld, max_chars=MAX_NAME_CHARS
            )
        session.get(request.args.get("read", ""))  # recalls a spilled part if a link asks for it
        logins = ServiceLogins(self._resources.records, session, now)
        read = self._read(logins)
        arrived = self._keeper.info(session)
        cart = arrived.parts.get("cart")
        header_bytes = len(request.headers.get("Cookie", ""))
        last = self._set_cookie_sizes.last(session.id)
        return self._page(
            request,
            "overview.html",
            now=now,
            info=arrived,
            budget=Budget(arrived, self._profile, header_bytes, last),
            logins=read,
            form=logins.form,
            part=arrived.parts.get(logins.part),
            forms=compare_forms(
                self._keeper_without_store,
                self._resources.records,
                session,
                arrived,
                [login.entity_id for login in read or ()],
                now,
            ),
            counts_to_add=COUNTS,
            cart=None if cart and cart.value_bytes is None else cart_items(session),
            goods=GOODS,
            note=session.get("note", ""),
            max_note_chars=MAX_NOTE_CHARS,
            trackers=request.trackers,
            ring=view_ring(self._resources.keys.ring, now),
            # Copied first, since other threads count meanwhile.
            counts=sum((Counter(dict(keeper.counts)) for keeper in self._keepers), Counter()),
        )

    def _services(self, request: PortalRequest) -> Response:
        session, now = request.session, int(time.time())
        if session.subject is None:
            return _see_other(request)
        logins = ServiceLogins(self._resources.records, session, now)
        return self._page(request, "services.html", logins=self._read(logins))

    def _keys(self, request: PortalRequest) -> Response:
        session, now = request.session, int(time.time())
        if session.subject is None:
            return _see_other(request)
        return self._page(
            request,
            "keys.html",
            info=self._keeper.info(session),
            ring=view_ring(self._resources.keys.ring, now),
            refresh_after=self._keeper.deployment.lifetimes.refresh,
        )

    def _show_terms(self, request: PortalRequest, problem: str = "") -> Response:
        subject = request.session.subject
        if subject is None:
            return _see_other(request)
        consent = self._terms.find(subject)
        answers = {} if consent is None else consent.answers
        entered = {
            "purpose": request.form.get("purpose", answers.get("purpose", "")),
            "news": "news" in request.form if request.form else answers.get("news", False),
        }
        return self._page(
            request,
            "terms.html",
            consent=consent,
            due=self._terms.are_due(subject),
            parameters=self._terms.parameters,
            ticket=self._terms.ticket(request.session),
            entered=entered,
            problem=problem,
            max_purpose_chars=MAX_PURPOSE_CHARS,
        )

    def _read(self, logins: ServiceLogins) -> Sequence[ServiceLogin] | None:
        """The service logins, recalled from the store if they are there; None if unreadable."""
        try:
            return logins.all()
        except LoginsUnreadable as error:
            _log.warning("service logins are unreadable: %s", error)
            return None

    # --- forms ----------------------------------------------------------------------------------

    def _act(self, request: PortalRequest, action: Action) -> Response:
        session = request.session
        if session.subject is None and action is not ACTIONS["sign-in"]:
            return _see_other(request)
        check_form(session, request)
        notice = action.run(Submission(session, request.form, self._keeper, self._resources))
        return _see_other(request, action.next_page, notice)

    def _accept_terms(self, request: PortalRequest) -> Response:
        session = request.session
        if session.withheld is not None or session.subject is None:
            return _see_other(request, "terms")
        admission = self._terms.accept(session, request.form)
        if admission in PROBLEMS:
            return self._show_terms(request, PROBLEMS[admission])
        return _see_other(request, "terms", "terms-accepted")  # also for a double click

    def _withdraw_terms(self, request: PortalRequest) -> Response:
        session = request.session
        if session.subject is None:
            return _see_other(request)
        check_form(session, request)
        self._terms.withdraw(session.subject)
        return _see_other(request, "terms", "terms-withdrawn")

    def _add_tracker(self, request: PortalRequest) -> Response:
        check_form(request.session, request)
        number = len(request.trackers) + 1
        if number > MAX_TRACKERS:
            return _see_other(request, notice="no-more-trackers")
        response = _see_other(request, notice="tracker-added")
        name = f"tracker-{number}"
        response.set_cookie(name, "x" * (TRACKER_BYTES - len(name) - 1), samesite="Lax")
        return response

    def _remove_trackers(self, request: PortalRequest) -> Response:
        check_form(request.session, request)
        response = _see_other(request, notice="trackers-removed")
        for name in request.trackers:
            response.delete_cookie(name, samesite="Lax")
        return response

    # --- responses ------------------------------------------------------------------------------

    def _page(
        self, request: PortalRequest, template: str, status: int = 200, **values: Any
    ) -> Response:
        """A page; every template can use the values that are listed here."""
        page = TEMPLATES.get_template(template).render(
            base=request.root_path,
            session=request.session,
            token=token_text(request.session),
            notice=NOTICES.get(request.args.get("done", "")),
            profile=self._profile,
            profiles=PROFILES.values(),
            **values,
        )
        return Response(page, status, SECURITY_HEADERS, mimetype="text/html")

    def _problem(self, request: PortalRequest, problem: Problem) -> Response:
        return self._page(request, "problem.html", problem.status, problem=problem)

    def _refuse(self, request: PortalRequest, error: HTTPException) -> Response:
        """A page for a request that has no other answer."""
        response = self._problem(request, explain(error))
        # Such as Allow, which belongs to a 405.
        more = [field for field in error.get_headers() if field[0] != "Content-Type"]
        response.headers.extend(more)
        return response


def _see_other(request: PortalRequest, page: str = "", notice: str = "") -> Response:
    query = f"?done={notice}" if notice else ""
    return redirect(f"{request.root_path}/{page}{query}", 303)
