"""Sealed sessions for aiohttp.web, with the names of aiohttp-session.

    setup(app, keys="file:keys.json", storage="redis://cache")

    session = await get_session(request)

docs/aiohttp.md has what changes for an application.
"""

from __future__ import annotations

from sealedstate.adapting import sealed

from ._session import KEEPER, RequestSession, get_session, new_session, setup

__all__ = ["KEEPER", "RequestSession", "get_session", "new_session", "sealed", "setup"]
