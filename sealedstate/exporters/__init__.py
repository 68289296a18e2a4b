"""Observers that count events in somebody else's metrics, and what all of them tell of an event.

Knows events. Does not know any library of metrics: each exporter is imported from its own module,
so that nobody needs a library that he does not use.
"""

from __future__ import annotations

from ..events import Event

# The other events' kids would each be a time series of its own that never grows.
BY_KID = frozenset({"opened", "refused"})


def labels_of(event: Event) -> dict[str, str]:
    """What one count is told apart by: event, reason and kid, each "" where there is none.

    The numbers of reasons and of kids are bounded. Sessions are not, so they are no label.
    """
    kid = event.counted_kid if event.name in BY_KID else None
    return {"event": event.name, "reason": event.reason or "", "kid": kid or ""}
