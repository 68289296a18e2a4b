"""Sealed sessions for Quart: an encrypted `quart.session`, kept in cookies.

    app.config["SEALEDSTATE_KEYS"] = "file:keys.json"
    SealedSessions(app)

The configuration is that of `sealedstate_flask`. The event loop never waits for the store.
docs/quart.md has what differs from Flask.
"""

from __future__ import annotations

from sealedstate.adapting import sealed

from ._session import (
    QuartSession,
    SealedSessionInterface,
    SealedSessions,
    devices,
    load_session,
)

__all__ = [
    "QuartSession",
    "SealedSessionInterface",
    "SealedSessions",
    "devices",
    "load_session",
    "sealed",
]
