"""What each backend declares in its usual configurations, against every use.

Knows capabilities as they are documented; a test holds each row against the live server that it
speaks of. Does not know connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .contract import Capabilities
from .requirements import USES, unmet

_MEBIBYTE = 1 << 20


def _server(**differences: object) -> Capabilities:
    usual: dict[str, object] = {
        "context_bytes": 1 << 12,
        "key_bytes": 1 << 12,
        "value_bytes": _MEBIBYTE,
        "shared": True,
        "durable": True,
        "survives_restart": True,
        "evicts": False,
        "enumerable": True,
    }
    return Capabilities(**usual | differences)  # type: ignore[arg-type]  # a table of fields


DECLARED: Mapping[str, Capabilities] = {
    "memory": _server(shared=False, durable=False, survives_restart=False),
    "sqlite": _server(),
    "postgresql": _server(),
    "mariadb": _server(),
    "redis, AOF always": _server(),
    # A slow fsync holds back up to two seconds of acknowledged writes in the server's memory.
    "redis, AOF everysec": _server(durable=False),
    "redis, snapshots": _server(durable=False),
    "redis, no persistence": _server(durable=False, survives_restart=False),
    "redis, evicting": _server(evicts=True),
    "memcached": _server(
        durable=False, survives_restart=False, evicts=True, enumerable=False, contexts=False
    ),
    "cookie": _server(shared=False, durable=False, evicts=True, server_side=False),
}


def as_rows(declared: Mapping[str, Capabilities]) -> Iterator[tuple[str, ...]]:
    """A table: a head, then a row for each store with yes or no for each use."""
    yield ("store", *USES)
    for name, can in declared.items():
        yield (name, *("no" if unmet(use, can) else "yes" for use in USES.values()))


def as_markdown(declared: Mapping[str, Capabilities]) -> str:
    """The same table for the documentation."""
    head, *rows = as_rows(declared)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
