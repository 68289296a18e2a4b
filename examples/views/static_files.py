"""The stylesheet and the pictures that pages share, over HTTP.

Knows files and conditional requests. Does not know sessions: no file needs one.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path

from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Request, Response

STATIC = Path(__file__).with_name("static")


def static_file(request: Request) -> Response:
    """The file that the request's path names. Raises NotFound."""
    files = {f"/{path.name}": path for path in STATIC.iterdir()}
    path = files.get(request.path)
    if path is None:
        raise NotFound
    response = Response(path.read_bytes(), mimetype=mimetypes.guess_type(path.name)[0])
    response.cache_control.no_cache = True
    response.add_etag()
    return response.make_conditional(request)
