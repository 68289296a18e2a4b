"""Sealed sessions for Pyramid: an encrypted `request.session`, kept in cookies.

    config.include("sealedstate_pyramid")  # with sealedstate.keys = file:keys.json in the ini file

docs/pyramid.md has what changes for an application.
"""

from __future__ import annotations

from sealedstate.adapting import sealed

from ._session import PyramidSession, SealedSessionFactory, includeme

__all__ = ["PyramidSession", "SealedSessionFactory", "includeme", "sealed"]
