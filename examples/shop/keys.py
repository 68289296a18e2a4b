"""The ring of keys, made at the first start; elsewhere, `sealedstate keys init` makes it."""

from __future__ import annotations

from pathlib import Path

from sealedstate import Settings
from sealedstate.deployment import open_report_store, open_ring_storage
from sealedstate.events import EventLog
from sealedstate.rotation.source import RotatingKeySource


def make_ring(path: Path, longest_lifetime: int) -> str:
    """Make the ring and its directory if they are missing; returns the setting `keys`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = Settings(keys=f"file:{path}", longest_lifetime=longest_lifetime)
    storage, reports = open_ring_storage(settings), open_report_store(settings)
    rotation, events = settings.rotation(), EventLog()
    RotatingKeySource(storage, rotation, events, reports, creates_missing=True).close()
    return f"file:{path}"
