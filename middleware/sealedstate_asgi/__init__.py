"""Sealed sessions for any ASGI application: Starlette, FastAPI and others.

    app.add_middleware(SealedSessionMiddleware, keys="file:keys.json", storage="redis://cache")

The session is ``scope["session"]``, which is `request.session` of Starlette and FastAPI: a dict.
What a dict does not have (`sign_in`, `invalidate`, `limit` and others) is in ``sealed(request)``.
It is saved when the response starts, or when a websocket is accepted. docs/asgi.md has what changes
for an application.
"""

from __future__ import annotations

from sealedstate.asynchronous import SealedSession

from ._middleware import SealedSessionMiddleware
from ._session import load_session, sealed
from .path import PathApplication

__all__ = [
    "PathApplication",
    "SealedSession",
    "SealedSessionMiddleware",
    "load_session",
    "sealed",
]
