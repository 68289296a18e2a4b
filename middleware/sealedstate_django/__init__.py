"""Sealed sessions for Django: an encrypted `request.session`, kept in cookies.

    SESSION_ENGINE = "sealedstate_django"
    SEALEDSTATE = {"keys": "file:keys.json", "storage": "django:default"}

docs/django.md has what changes for a project, and how to move to it.
"""

from __future__ import annotations

from sealedstate.adapting import sealed

from ._keeper import devices, keeper
from ._middleware import SealedSessionMiddleware
from ._reports import ReportFilter
from ._store import SessionStore

__all__ = [
    "ReportFilter",
    "SealedSessionMiddleware",
    "SessionStore",
    "devices",
    "keeper",
    "sealed",
]
