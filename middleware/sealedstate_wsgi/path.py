"""The pages of `sealedstate.path` as a WSGI application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sealedstate import Keeper
from sealedstate.path import PathPages
from sealedstate.path._pages import MOST_BODY_BYTES, PathRequest, server_name

from .health import HasKeeper

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["PathApplication"]


class PathApplication:
    """A WSGI application that shows what the path to it carries.

    Mount it where you like; ``sealedstate path`` looks for it at ``/sealedstate/path`` by default.
    It answers requests with a link that `sealedstate path link` printed in the last hour, and no
    others. docs/path.md has the rest.

    `source`: a Keeper, or a middleware that has one. Raises ConfigurationError.
    """

    def __init__(self, source: Keeper | HasKeeper) -> None:
        self._pages = PathPages(source)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = b""
        if environ["REQUEST_METHOD"] == "POST":
            length = environ.get("CONTENT_LENGTH") or "0"
            size = int(length) if length.isascii() and length.isdigit() else 0
            body = environ["wsgi.input"].read(min(size, MOST_BODY_BYTES))
        headers = {
            name[5:].replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        response = self._pages.answer(
            PathRequest(
                environ["REQUEST_METHOD"],
                environ.get("SCRIPT_NAME", "").encode("latin-1").decode("utf-8", "replace"),
                environ.get("PATH_INFO", ""),
                environ.get("QUERY_STRING", ""),
                headers,
                environ["wsgi.url_scheme"],
                environ.get("REMOTE_ADDR", ""),
                _server_of(environ),
                body,
            )
        )
        start_response(response.status, list(response.headers))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]


def _server_of(environ: WSGIEnvironment) -> str:
    if "uwsgi.version" in environ:
        return "uWSGI"
    if "mod_wsgi.version" in environ:
        return "Apache"
    return server_name(environ.get("SERVER_SOFTWARE", ""))
