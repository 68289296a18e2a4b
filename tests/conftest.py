"""What all tests share: no property is judged by the clock of a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("sealedstate", deadline=None)
settings.load_profile("sealedstate")
