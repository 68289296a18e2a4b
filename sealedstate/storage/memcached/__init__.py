"""FOLD: package."""

from __future__ import annotations

from .store import MemcachedStorage

__all__ = ["MemcachedStorage"]
