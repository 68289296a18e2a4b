"""Observers that count events in metrics systems.

Each exporter is a module that is imported separately, so an application needs only the library that
it uses.
"""

from __future__ import annotations

from ..events import Event

__all__ = ["labels_of"]

# Each kid is a time series. The other events have a kid that never returns.
_EVENTS_BY_KID = frozenset({"opened", "refused"})


def labels_of(event: Event) -> dict[str, str]:
    """The labels of one count: event, reason and kid, "" for a missing value.

    The numbers of reasons and of kids are limited. That of sessions is not, so they are no label.
    """
    kid = event.counted_kid if event.name in _EVENTS_BY_KID else None
    return {"event": event.name, "reason": event.reason or "", "kid": kid or ""}
