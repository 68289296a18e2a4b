"""The sealed session of a request as a FastAPI dependency.

from sealedstate_asgi.fastapi import Sealed

@app.get("/me")
def me(session: Sealed) -> dict[str, str | None]:
    return {"user": session.subject}
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Depends
from fastapi.requests import HTTPConnection

from . import SealedSession, sealed

__all__ = ["Sealed"]


def _find(connection: HTTPConnection) -> SealedSession:
    return sealed(connection)


Sealed: TypeAlias = Annotated[SealedSession, Depends(_find)]
"""The `SealedSession` of the request or websocket, in ``async def`` and ``def`` endpoints."""
