"""Sealed sessions for any WSGI application (PEP 3333).

    from sealedstate import Settings
    from sealedstate_wsgi import SealedSessionMiddleware

    application = SealedSessionMiddleware(application, Settings(keys="env:"))

The session is ``environ["sealedstate.session"]``. It is saved when the first piece of the body that
is not empty is about to be sent. Until then the application may change it, even after it has called
start_response. From then on, a write raises LateWrite, because no cookie could carry it, and a
first read of the session raises LateRead, because Vary could not be sent any more.
"""

from __future__ import annotations

from ._middleware import ENVIRON_KEY, SealedSessionMiddleware
from .health import HealthApplication
from .path import PathApplication
from .status import SessionStatus

__all__ = [
    "ENVIRON_KEY",
    "HealthApplication",
    "PathApplication",
    "SealedSessionMiddleware",
    "SessionStatus",
]
