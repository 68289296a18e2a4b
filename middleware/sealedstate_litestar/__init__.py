"""Sealed sessions for Litestar: an encrypted `request.session`, kept in cookies.

    session_config = SealedSessionConfig(keys="file:keys.json", storage="redis://cache")
    app = Litestar(handlers, on_app_init=[session_config.on_app_init])

docs/litestar.md has what changes for an application.
"""

from __future__ import annotations

from sealedstate.asynchronous import SealedSession

from ._session import SealedSessionBackend, SealedSessionConfig, load_session, sealed

__all__ = [
    "SealedSession",
    "SealedSessionBackend",
    "SealedSessionConfig",
    "load_session",
    "sealed",
]
