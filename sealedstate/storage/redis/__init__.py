"""FOLD: package."""

from __future__ import annotations

from .store import RedisStorage

__all__ = ["RedisStorage"]
