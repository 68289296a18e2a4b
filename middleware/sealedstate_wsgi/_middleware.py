"""The middleware: a session for each request, saved with its response."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sealedstate import ConfigurationError, Keeper, Session, Settings
from sealedstate.binding import SessionBinding, open_binding
from sealedstate.deployment import Deployment

from ._response import Response, close

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ENVIRON_KEY = "sealedstate.session"
SITE = "HTTP_SEC_FETCH_SITE"
SERVER = "SERVER_SOFTWARE"


class SealedSessionMiddleware:
    """Gives `app` a sealed session in ``environ["sealedstate.session"]``.

    `sessions`: a keeper, or what to make it of, such as ``Settings.from_env()``. `environ_key`:
    where the session is, if not there. Several of these may be around one another, such as for a
    login and for a session that lives for months: each needs its own `environ_key` and
    `cookie_name`, or the start or the first request raises ConfigurationError.

    An exception of `app` before its first byte leaves the cookies as they are. SessionTooLarge and
    StorageError while saving reach the server like exceptions of `app`; an assignment that makes a
    session too large raises SessionTooLarge in `app`.
    """

    def __init__(
        self,
        app: WSGIApplication,
        sessions: Keeper | Deployment | Settings,
        environ_key: str = ENVIRON_KEY,
    ) -> None:
        self.app = app
        self.environ_key = environ_key
        self.keeper = sessions if isinstance(sessions, Keeper) else Keeper(sessions)
        # With origins, a request without Sec-Fetch-Site may be from another site, too.
        self._has_origins = bool(self.keeper.settings.origins)
        self._is_stack_checked = False
        if isinstance(app, SealedSessionMiddleware):
            self._refuse_confusion(app)
        if (binding := open_binding(self.keeper)) is not None:
            self.app = _BoundSessions(app, binding, environ_key)
        _middlewares.add(self)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._is_stack_checked:
            self._check_stack(environ)
        # Looking it up twice costs less than `get`, in every request.
        if self._has_origins or (SITE in environ and environ[SITE] == "cross-site"):
            session = self._session_by_site(environ)
        else:
            session = self.keeper.session(environ.get("HTTP_COOKIE", ""))
        environ[self.environ_key] = session
        response = Response(self.keeper, session, environ, start_response)
        body = self.app(environ, response.start)
        # A complete body runs no more code of the application, and a server's file neither: it is
        # returned as it is, so that the server can send it in its own way.
        if type(body) in (list, tuple) or _is_servers_file(body, environ):
            try:
                if response.is_waiting:
                    response.commit()
                else:
                    response.check_late_changes()
            except BaseException:
                close(body)  # the server will never see it
                raise
            return body
        try:
            # A server may wait for more pieces (PEP 3333), so exactly one is taken.
            pieces = iter(body)
            first = next(pieces, None)
            # But Granian reads the headers when this returns.
            while first == b"" and environ.get(SERVER) == "Granian":
                first = next(pieces, None)
            if response.is_waiting and first != b"":
                response.commit()
        except BaseException:
            close(body)
            raise
        # A lambda in place of partial would make cells of two variables, and slow every request.
        return _Body(response.stream(first, pieces), partial(response.close, body))

    def _session_by_site(self, environ: WSGIEnvironment) -> Session:
        """The session of a request that may be from another site."""
        site, origin = environ.get(SITE), environ.get("HTTP_ORIGIN")
        cross_site = self.keeper.is_cross_site(environ["REQUEST_METHOD"], site, origin)
        return self.keeper.session(environ.get("HTTP_COOKIE", ""), cross_site)

    def _check_stack(self, environ: WSGIEnvironment) -> None:
        """Raise ConfigurationError if this middleware and one around it would be confused.

        Checked at the first request, because other middlewares may be between the two.
        """
        for other in list(_middlewares):
            session = environ.get(other.environ_key)
            # An application that is called again with its environ has a session of this keeper.
            is_again = other.keeper is self.keeper and other.environ_key == self.environ_key
            if isinstance(session, Session) and other.keeper.owns(session) and not is_again:
                self._refuse_confusion(other)
        self._is_stack_checked = True

    def _refuse_confusion(self, other: SealedSessionMiddleware) -> None:
        cookies = self.keeper.deployment.cookies
        if cookies.overlaps(other.keeper.deployment.cookies):
            raise ConfigurationError(
                f"cookie_name: two sessions of one request have the cookie {cookies.name!r};"
                " give each its own cookie_name"
            )
        if other.environ_key == self.environ_key:
            raise ConfigurationError(
                f"environ_key: two sessions of one request are in environ[{self.environ_key!r}];"
                " give each middleware its own environ_key"
            )


class _Body:
    """The pieces of a response. Closing it closes `pieces`, and calls `close_request`."""

    def __init__(
        self, pieces: Generator[bytes, None, None], close_request: Callable[[], None]
    ) -> None:
        self._pieces, self._close_request = pieces, close_request

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()
        self._close_request()


class _BoundSessions:
    """Answers browsers that bind their sessions; all other requests are for `app`."""

    def __init__(self, app: WSGIApplication, binding: SessionBinding, environ_key: str) -> None:
        self._app, self._binding, self._key = app, binding, environ_key

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session: Session = environ[self._key]
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        if self._binding.is_for(path):
            answer = self._binding.answer(
                session,
                environ["REQUEST_METHOD"],
                path,
                lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}"),
            )
            from http import HTTPStatus

            phrase = HTTPStatus(answer.status).phrase
            start_response(f"{answer.status} {phrase}", list(answer.headers))
            return [answer.body]

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
        ) -> Callable[[bytes], object]:
            return start_response(status, [*headers, *self._binding.offer(session)], exc_info)

        return self._app(environ, start)


# All that exist, because a session in an environ does not say of which it is.
_middlewares: WeakSet[SealedSessionMiddleware] = WeakSet()


def _is_servers_file(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)
