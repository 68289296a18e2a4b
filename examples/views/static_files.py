"""The stylesheet, the picture and the script that all pages share, over HTTP."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Request, Response

STATIC = Path(__file__).with_name("static")
NAMES = frozenset(path.name for path in STATIC.iterdir())


def static_file(request: Request) -> Response:
    """The file that the request's path names. Raises NotFound."""
    name = request.path.removeprefix("/")
    if name not in NAMES:
        raise NotFound
    response = Response((STATIC / name).read_bytes(), mimetype=mimetypes.guess_type(name)[0])
    response.cache_control.no_cache = True
    response.add_etag()
    return response.make_conditional(request)
