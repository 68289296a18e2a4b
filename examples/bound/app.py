"""A page that shows what a copied cookie is good for, when sessions are bound to a device.

The line that binds them is the setting `binding_path`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from sealedstate import Keeper, Key, Session, Settings
from sealedstate_wsgi import ENVIRON_KEY, SealedSessionMiddleware

from ..views.forms import check_form, ensure_token, renew_token, token_text
from ..views.rendering import SECURITY_HEADERS, make_environment
from ..views.static_files import NAMES, static_file

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Chromium keeps up with this only without its quota, see serving.py; the default is 300.
LIFE = 30
MOST_COPIES = 6
TEMPLATES = make_environment(Path(__file__).with_name("templates"))


class Copy(NamedTuple):
    """What a thief has: a Cookie header, when it was copied, and what it is called."""

    header: str
    taken_at: float
    title: str


class Thief:
    """Another client, which sends what was copied from the visitor's browser."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._copies: list[Copy] = []

    def take(self, header: str, title: str) -> None:
        self._copies = [*self._copies, Copy(header, time.time(), title)][-MOST_COPIES:]

    def try_all(self) -> list[dict[str, object]]:
        """What each copy opens now."""
        found = []
        for copy in self._copies:
            session = self._keeper.session(copy.header)
            why = session.withheld or session.refusal
            age = int(time.time() - copy.taken_at)
            found.append({"title": copy.title, "age": age, "user": session.subject, "why": why})
        return found


class Page:
    """The application: one page, and what its buttons do."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper, self._thief = keeper, Thief(keeper)
        self._cookies = keeper.deployment.cookies

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request, session = Request(environ), environ[ENVIRON_KEY]
        if request.path.removeprefix("/") in NAMES:
            return static_file(request)(environ, start_response)
        response = self._act(request, session) if request.method == "POST" else self._show(session)
        response.headers.update(SECURITY_HEADERS)
        return response(environ, start_response)

    def _show(self, session: Session) -> Response:
        ensure_token(session)
        text = TEMPLATES.get_template("bound.html").render(
            user=session.subject,
            is_bound=session.is_bound,
            why=session.withheld,
            csrf=token_text(session),
            copies=self._thief.try_all(),
            counts=self._keeper.counts,
            life=LIFE,
            has_store=self._keeper.deployment.store is not None,
            bound_name=self._cookies.bound_name,
            name=self._cookies.name,
        )
        return Response(text, mimetype="text/html")

    def _act(self, request: Request, session: Session) -> Response:
        check_form(session, request)
        header = request.headers.get("Cookie", "")
        if request.path == "/sign-in":
            session.subject = "ann"
            renew_token(session)
            # What malware would find in the second before the session is bound.
            lines = self._keeper.save(session)
            self._thief.take(lines[0].partition(";")[0], "at the sign-in, before the binding")
        elif request.path == "/steal":
            pairs = [
                pair for pair in header.split("; ") if pair.startswith(f"{self._cookies.name}=")
            ]
            self._thief.take("; ".join(pairs), "the session cookie")
            self._thief.take(header, "all cookies")
        elif request.path == "/sign-out":
            session.invalidate()
        response = redirect("/", 303)
        return Response(headers=response.headers, status=response.status)


def make_application(var: Path, *, has_store: bool = True) -> WSGIApplication:
    """The page, with keys of this process. `var`: the directory of the store.

    Raises ConfigurationError or OperatorError.
    """
    settings = Settings(
        keys=[Key.generate(os.urandom).export()],
        storage=f"sqlite:{var / 'bound.sqlite'}" if has_store else None,
        binding_path="/session-binding",
        bound_lifetime=LIFE,
    )
    keeper = Keeper(settings)
    return SealedSessionMiddleware(Page(keeper), keeper)
