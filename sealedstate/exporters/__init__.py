"""Observers that count events in metrics systems.

Each exporter is a module that is imported separately, so an application needs only the library that
it uses.
"""

from __future__ import annotations

from ..events import Event
from ..profiles import PROFILES

__all__ = ["labels_of"]

# Upper bounds of a histogram of Cookie fields: what the profiles and common servers take, and more.
COOKIE_BUCKETS = sorted(
    {512, 1024, 2048, 4096, 6144, 8190, 10_240, 16_384, 32_768}
    | {each.header_bytes for each in PROFILES.values()}
)
# Each kid is a time series. The other events have a kid that never returns.
_EVENTS_BY_KID = frozenset({"opened", "refused"})


def labels_of(event: Event) -> dict[str, str]:
    """The labels of one count: event, reason and kid, "" for a missing value.

    The numbers of reasons and of kids are limited. That of sessions is not, so they are no label.
    """
    kid = event.counted_kid if event.name in _EVENTS_BY_KID else None
    return {"event": event.name, "reason": event.reason or "", "kid": kid or ""}


def cookie_sizes(event: Event) -> dict[str, int]:
    """The bytes of a Cookie field, by whose cookies; empty for any other event.

    Their sum is what servers limit, and cannot be learnt from the two, so it is the third.
    """
    if event.our_bytes is None or event.foreign_bytes is None:
        return {}
    both = event.our_bytes + event.foreign_bytes
    return {"session": event.our_bytes, "others": event.foreign_bytes, "all": both}
