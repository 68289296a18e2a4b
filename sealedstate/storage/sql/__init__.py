"""FOLD: package."""

from __future__ import annotations

from .store import SQLStorage

__all__ = ["SQLStorage"]
