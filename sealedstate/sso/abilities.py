"""What of single logout works with which store: a table, from what stores declare and uses need.

Knows capabilities and uses. Does not know connections, settings or any backend.

A store that falls short of a use is refused at the start, unless that use is tolerated or its
contexts go to another store; so "no" says what that store can't be trusted with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..storage import USES, Capabilities, unmet

NO_STORE = "none"
# What works, and the uses of a store that it rests on; without any, it needs no store.
ABILITIES: Mapping[str, tuple[str, ...]] = {
    "front channel": (),
    "captured cookies are refused": ("revocation",),
    "a user is signed out everywhere": ("revocation",),
    "progress survives crashes": ("logout",),
    "back channel, derived identifiers": ("revocation", "logout"),
    "back channel, any NameID": ("revocation", "logout", "logins"),
    "all are told at once": ("revocation", "logout", "spilling"),
    "list of live sessions": ("revocation", "sessions"),
}


def works(ability: str, capabilities: Capabilities | None) -> bool:
    """Whether an ability can rest on a store; `capabilities` None: there is none."""
    uses = ABILITIES[ability]
    if capabilities is None:
        return not uses
    return not any(unmet(USES[use], capabilities) for use in uses)


def as_rows(declared: Mapping[str, Capabilities]) -> Iterator[tuple[str, ...]]:
    """A table: a head, then a row for no store and for each store."""
    yield ("store", *ABILITIES)
    stores: dict[str, Capabilities | None] = {NO_STORE: None, **declared}
    for name, can in stores.items():
        yield (name, *("yes" if works(ability, can) else "no" for ability in ABILITIES))


def as_markdown(declared: Mapping[str, Capabilities]) -> str:
    """The same table for the documentation."""
    head, *rows = as_rows(declared)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
