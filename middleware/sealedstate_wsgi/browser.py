"""Parts of the policy ``browser``, kept in the browser's Web Storage (experimental).

    deployment = Deployment.open(Settings(..., part_policies={"consent": "browser"}))
    application = SealedSessionMiddleware(BrowserParts(app, deployment), deployment)

Until the browser keeps such a part, it is where any part is. The next top-level navigation by GET
is answered by a page whose script writes the part, sealed, into localStorage, reads it back and
posts what it has read; then the session's core names generation and digest in place of the part.
Where the application reads a part that the browser keeps, the navigation is answered by a page that
posts the part; it is then a part like any other until it is moved again.

Cookies remember which pages were tried, so there is no loop: then the application answers, and
reading a part that the browser did not bring raises PartUnavailable, as it does in every request
that is no navigation. With a store, a copy of the part stays there, and is what requests read. See
docs/adr/0056-parts-in-the-browser.md.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request, Response

from sealedstate import ConfigurationError, Session
from sealedstate.deployment import Deployment
from sealedstate.errors import (
    NoPrimaryKey,
    PartUnavailable,
    ProtectedTextRefused,
    ProtectedTextWithheld,
    SessionTooLarge,
    StorageError,
    UnreadablePart,
)
from sealedstate.session import browser_generation

from ._middleware import ENVIRON_KEY
from ._response import close

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["BrowserParts"]

PATH = "/.sealedstate/browser"
MAX_BYTES = 1 << 20
# How long, in seconds, a page that was tried is not tried again.
WRITE_AGAIN, READ_AGAIN = 86400, 60
# How many pages may ask for a part in that time: another tab may be about to bring it. A page that
# has asked in vain uses them up.
READS = 3
# How long a part that the browser has brought stays a part like any other.
REST = 300

# The pages differ in the attributes of the form only, so a policy names the script by its hash. It
# sends nothing but to the form's own origin, and goes nowhere but where the browser is.
SCRIPT = """
"use strict";
(async () => {
  const form = document.forms[0], data = form.dataset;
  const post = (field, value) => fetch(form.action, {
    method: "POST", redirect: "error", body: new URLSearchParams({part: data.part, [field]: value}),
  });
  try {
    const found = Object.keys(localStorage).filter((name) => name.startsWith(data.prefix)).sort();
    if (data.mode === "write") {
      localStorage.setItem(data.key, data.text);
      const answer = await post("kept", localStorage.getItem(data.key) ?? "");
      if (answer.ok) {
        found.filter((name) => name !== data.key).slice(0, -2)
          .forEach((name) => localStorage.removeItem(name));
      }
    } else if (data.mode === "read") {
      await post("brought", localStorage.getItem(data.key) ?? "");
    } else {
      found.forEach((name) => localStorage.removeItem(name));
    }
  } catch {
    // Storage is blocked or full, or there is no network: the server does without.
    if (data.mode === "read") await post("brought", "").catch(() => {});
  }
  if (location.href.includes("#")) location.reload(); else location.replace(location.href);
})();
"""
_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
HEADERS = {
    # Browsers ask for an icon; Firefox reports it where a policy forbids one.
    "Content-Security-Policy": f"default-src 'none'; script-src 'sha256-{_HASH}'; connect-src"
    " 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store, private",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class BrowserParts:
    """Moves parts of the policy ``browser`` into Web Storage, and back where they are read.

    `app`: the application. A middleware around it all puts the session of `deployment` into
    `environ_key`. `path`: where the pages post to, below the middleware's own root. Raises
    ConfigurationError for another object, and for a path that is relative or the root.
    """

    def __init__(
        self,
        app: WSGIApplication,
        deployment: Deployment,
        environ_key: str = ENVIRON_KEY,
        path: str = PATH,
    ) -> None:
        if not isinstance(deployment, Deployment):
            raise ConfigurationError(
                "deployment: expected a Deployment, such as Deployment.open(settings) or"
                f" middleware.keeper.deployment, got {type(deployment).__name__}"
            )
        if not path.startswith("/") or path.startswith("//") or path == "/":
            raise ConfigurationError(
                f"path: must begin with one slash and be no page of the application; got {path!r}"
            )
        self.app, self.environ_key, self.path = app, environ_key, path
        settings = deployment.settings
        self._names = [name for name, word in settings.part_policies.items() if word == "browser"]
        self._now, self._longest = deployment.now, deployment.lifetimes.longest
        self._protector = deployment.protector("browser", max_age=self._longest)
        self._backs = deployment.protector("browser/back", max_age=min(3600, self._longest))
        self._storage_prefix = f"{deployment.cookies.name}/"
        self._is_secure = settings.secure
        # No script and no other host can set or keep what has this prefix.
        self._hint_prefix = "__Host-sealedstate-" if settings.secure else "sealedstate-"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session: Session = environ[self.environ_key]
        request = Request(environ)
        if request.path == self.path:
            return self._receive(request, session)(environ, start_response)
        can_read = False
        if _is_navigation(environ):
            page = self._page_before(request, session)
            if page is not None:
                return page(environ, start_response)
            can_read = self._can_read(request)
        return self._answer(request, session, start_response, can_read)

    def _answer(
        self, request: Request, session: Session, start_response: StartResponse, can_read: bool
    ) -> Iterable[bytes]:
        """The application's answer, or the page that asks for the part that it misses."""
        environ, is_started = request.environ, False

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal is_started
            if can_read and not is_started and session.missing_part is not None:
                return lambda _: None  # the page takes its place
            is_started = True
            lost = self._lost_parts(session)
            for name in lost:
                session.load().write_copy(name, None)
            if lost:
                answer = Response()
                self._remember(answer, "clear", WRITE_AGAIN)
                headers = [*headers, ("Set-Cookie", answer.headers["Set-Cookie"])]
            if exc_info is None:
                return start_response(status, headers)
            return start_response(status, headers, exc_info)

        body: Iterable[bytes] = ()
        try:
            body = self.app(environ, start)
        except PartUnavailable:
            if is_started or not can_read:
                raise
        if can_read and not is_started and session.missing_part is not None:
            close(body)
            return self._ask_for(request, *session.missing_part)(environ, start_response)
        return body

    # --- pages ----------------------------------------------------------------------------------

    def _page_before(self, request: Request, session: Session) -> Response | None:
        """The page that is due before the application answers, if any."""
        if self._has_hint(request, "clear"):
            page = self._page(request, "clear", "")
            self._forget(page, "clear")
            return page
        # This is no use of the session: the response of the application does not depend on it.
        loaded = session.load_ahead(())
        record = loaded.record
        if loaded.withheld is not None or record is None:
            return None
        listed = {
            *record.parts,
            *record.spilled,
            *(record.overflow.names if record.overflow else ()),
        }
        for name in listed.intersection(self._names):
            generation = browser_generation(record.parts.get(name))
            if generation is None:
                if not self._has_hint(request, "write"):
                    return self._write_page(request, session, name)
            # Brought and sealed again before the seal expires.
            elif generation / 1000 + self._longest / 2 < self._now() and self._can_read(request):
                return self._ask_for(request, name, generation)
        return None

    def _write_page(self, request: Request, session: Session, name: str) -> Response | None:
        generation = int(self._now() * 1000)
        try:
            text = self._protector.seal([generation, session[name]], bound_to=name)
        except (KeyError, UnreadablePart):  # the store has lost it, or it is the browser's
            return None
        attributes = {"key": self._key(name, generation), "text": text}
        page = self._page(request, "write", name, attributes)
        self._remember(page, "write", WRITE_AGAIN)
        return page

    def _ask_for(self, request: Request, name: str, generation: int) -> Response:
        """The page that posts a part which the browser keeps."""
        page = self._page(request, "read", name, {"key": self._key(name, generation)})
        self._remember(page, "read", READ_AGAIN, self._reads(request) + 1)
        return page

    def _page(
        self,
        request: Request,
        mode: str,
        name: str,
        attributes: Mapping[str, str] | None = None,
    ) -> Response:
        # Quoted, and with one slash in front, it leads nowhere but to this host.
        place = "/" + quote(request.root_path + request.path).lstrip("/")
        if request.query_string:
            place += f"?{request.query_string.decode('latin-1')}"
        back = self._backs.seal(place)
        prefix = self._storage_prefix + (f"{name}." if name else "")
        given = {"mode": mode, "part": name, "prefix": prefix, **(attributes or {})}
        shown = " ".join(f'data-{key}="{html.escape(value)}"' for key, value in given.items())
        page = (
            "<!DOCTYPE html><title>One moment</title><link rel=icon href=data:,>"
            f'<form method=post {shown} action="{html.escape(request.root_path + self.path)}">'
            f'<input type=hidden name=back value="{back}"><button>Continue</button></form>'
            f"<script>{SCRIPT}</script>"
        )
        return Response(page, mimetype="text/html", headers=HEADERS)

    # --- what the pages post --------------------------------------------------------------------

    def _receive(self, request: Request, session: Session) -> Response:
        request.max_content_length = request.max_form_memory_size = MAX_BYTES
        if request.method != "POST" or request.headers.get("Sec-Fetch-Site") != "same-origin":
            return Response(status=403)
        try:
            fields = request.form
        except HTTPException as error:  # it is too large
            return Response(status=error.code)
        if "back" in fields:
            answer = self._lead_back(fields["back"])
        elif "kept" in fields:
            answer = Response(status=self._take(session, fields, "kept", session.move_to_browser))
            if answer.status_code == 204:
                self._forget(answer, "write")
        else:
            take = session.take_from_browser
            answer = Response(status=self._take(session, fields, "brought", take))
            if answer.status_code == 204:
                self._remember(answer, "write", REST)
        if answer.status_code == 204:
            self._forget(answer, "read")
        elif "kept" not in fields and not fields.get("brought"):
            # There is no script or no text: the application answers next. A text that does not fit
            # may be one that another tab has outrun.
            self._remember(answer, "read", READ_AGAIN, READS)
        answer.headers["Cache-Control"] = HEADERS["Cache-Control"]
        return answer

    def _lead_back(self, text: str) -> Response:
        try:
            place = str(self._backs.open(text))
        except (ProtectedTextRefused, ProtectedTextWithheld):
            return Response(status=409)
        return Response(status=303, headers={"Location": place})

    def _take(
        self,
        session: Session,
        fields: Mapping[str, str],
        field: str,
        take: Callable[[str, int, object], bool],
    ) -> int:
        """The status for a text that was kept or brought, which `take` gets opened."""
        name = fields.get("part", "")
        try:
            opened: Any = self._protector.open(fields.get(field, ""), bound_to=name)
        except ProtectedTextWithheld:
            return 503
        except ProtectedTextRefused:
            return 409
        generation, value = opened
        if name not in self._names or session.withheld is not None:
            return 409
        try:
            # False if another tab has written the part meanwhile, and for a text of another
            # generation, session or user.
            return 204 if take(name, generation, value) else 409
        except SessionTooLarge:
            return 413
        except (StorageError, NoPrimaryKey):
            return 503

    # --- helpers --------------------------------------------------------------------------------

    def _key(self, name: str, generation: int) -> str:
        return f"{self._storage_prefix}{name}.{generation:012x}"

    def _lost_parts(self, session: Session) -> list[str]:
        """The parts that the browser keeps and that this request removed, as a logout does."""
        record = session.load().record if session.accessed else None
        return [
            name
            for name in self._names
            if record is not None
            and browser_generation(record.parts.get(name)) is not None
            and name not in session
        ]

    def _can_read(self, request: Request) -> bool:
        return self._reads(request) < READS

    def _reads(self, request: Request) -> int:
        """How many pages have asked for a part within the last minute."""
        text = request.cookies.get(self._hint_prefix + "read", "0")
        return int(text) if text in ("0", "1", "2") else READS

    def _has_hint(self, request: Request, word: str) -> bool:
        return self._hint_prefix + word in request.cookies

    def _remember(self, response: Response, word: str, seconds: int, count: int = 1) -> None:
        response.set_cookie(
            self._hint_prefix + word,
            str(count),
            seconds,
            secure=self._is_secure,
            httponly=True,
            samesite="Lax",
        )

    def _forget(self, response: Response, word: str) -> None:
        response.delete_cookie(
            self._hint_prefix + word, secure=self._is_secure, httponly=True, samesite="Lax"
        )


def _is_navigation(environ: WSGIEnvironment) -> bool:
    """Whether a page is loaded into a window: no frame, script, form, prefetch or API client."""
    return (
        environ["REQUEST_METHOD"] == "GET"
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
        and "HTTP_SEC_PURPOSE" not in environ
        and "HTTP_PURPOSE" not in environ
    )
