"""The middleware: a session for each request, saved with its response."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from werkzeug.wsgi import ClosingIterator

from sealedstate import Keeper, Settings
from sealedstate.deployment import Deployment

from ._response import Response, close

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ENVIRON_KEY = "sealedstate.session"


class SealedSessionMiddleware:
    """Gives `app` a sealed session in ``environ["sealedstate.session"]``.

    `sessions`: a keeper, or what to make it of, such as ``Settings.from_env()``. An exception of
    `app` before its first byte leaves the cookies as they are. SessionTooLarge and StorageError
    while saving reach the server like exceptions of `app`; an assignment that makes a session too
    large raises SessionTooLarge in `app`.
    """

    def __init__(self, app: WSGIApplication, sessions: Keeper | Deployment | Settings) -> None:
        self.app = app
        self.keeper = sessions if isinstance(sessions, Keeper) else Keeper(sessions)
        # With origins, a request without Sec-Fetch-Site may be from another site, too.
        self._has_origins = bool(self.keeper.settings.origins)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        cookies, site = environ.get("HTTP_COOKIE", ""), environ.get("HTTP_SEC_FETCH_SITE")
        if site == "cross-site" or (site is None and self._has_origins):
            method, origin = environ["REQUEST_METHOD"], environ.get("HTTP_ORIGIN")
            cross_site = self.keeper.is_cross_site(method, site, origin)
            session = self.keeper.session(cookies, cross_site)
        else:
            session = self.keeper.session(cookies)
        environ[ENVIRON_KEY] = session
        response = Response(self.keeper, session, start_response)
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
        # A lambda in place of partial would make cells of two variables, and slow every request.
        return ClosingIterator(response.stream(body), partial(response.close, body))


def _is_servers_file(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)
