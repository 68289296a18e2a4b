"""Sealed sessions for Flask: an encrypted `flask.session`, kept in cookies.

    app.config["SEALEDSTATE_KEYS"] = "file:keys.json"
    SealedSessions(app)

docs/flask.md has what changes for an application, and how to move to it.
"""

from __future__ import annotations

from sealedstate.adapting import sealed

from ._extension import SealedSessions, devices
from ._session import FlaskSession, SealedSessionInterface

__all__ = ["FlaskSession", "SealedSessionInterface", "SealedSessions", "devices", "sealed"]
