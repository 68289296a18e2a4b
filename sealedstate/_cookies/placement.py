"""Which part lives where: a pure plan from sizes, policies and room.

Knows names and numbers. Does not know values, keys, cookies or stores; what the plan costs to
carry out is the keeper's business.

`auto` parts leave the cookies in the configured spill order first, then the largest first, until
the rest fits. A part that lives in the store comes back only when the cookies would then be at most
`RETURN_SHARE` full, so that a foreign cookie that comes and goes doesn't make it flap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from .._wire.record import Place, Policy
from ..errors import SessionTooLarge

RETURN_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class Item:
    """A part to place. `size`: its bytes in a cookie; `entry`: the bytes of its manifest entry.

    `size` None: the part lives in the store and was not recalled, so it stays there. `left`: what
    the manifest takes for the row that it leaves behind there, should it come back.
    """

    name: str
    size: int | None
    entry: int
    policy: Policy
    place: Place | None
    left: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes for parts and manifest entries in the core, bytes for parts in overflow.

    `both`: for core and overflow together, as soon as there is overflow, which then also takes
    `overflow_entry` bytes of the core. `overflow` 0: there are no further cookies.
    """

    core: int
    overflow: int
    both: int
    overflow_entry: int

    @property
    def total(self) -> int:
        """The most that parts can take in all."""
        return max(self.core, min(self.both, self.core + self.overflow), 0)

    def shrunk(self, share: float) -> Room:
        """The same room, only `share` of it usable."""
        core, overflow, both = (int(size * share) for size in (self.core, self.overflow, self.both))
        return Room(core, overflow, both, self.overflow_entry)


def plan(
    items: Sequence[Item], room: Room, spill_order: Sequence[str], can_spill: bool
) -> dict[str, Place]:
    """A place for each item. Raises SessionTooLarge when there is none for all of them."""
    spilled = {item.name for item in items if _must_spill(item)}
    if spilled and not can_spill:
        raise _too_large(items, room, "parts with policy 'server' need a storage service")
    leaving = _leaving_order([item for item in items if item.name not in spilled], spill_order)
    stayed = [item for item in leaving if can_spill and item.place is Place.SPILLED]
    with_stayed = spilled | {item.name for item in stayed}
    while stayed and _pack(items, with_stayed, room) is not None:
        # What is spilled comes back, in the reverse order of leaving, only into ample room.
        returning = stayed.pop()
        fewer = with_stayed - {returning.name}
        if _pack(items, fewer, room.shrunk(RETURN_SHARE)) is None:
            break
        with_stayed = fewer
    return _first_fit(items, room, with_stayed, leaving, can_spill)


def _first_fit(
    items: Sequence[Item], room: Room, spilled: set[str], leaving: Sequence[Item], can_spill: bool
) -> dict[str, Place]:
    queue = [item for item in leaving if item.name not in spilled]
    while (places := _pack(items, spilled, room)) is None:
        if not can_spill:
            raise _too_large(items, room, "no storage service is configured to spill into")
        if not queue:
            raise _too_large(items, room, "nothing more may leave the cookies")
        spilled = spilled | {queue.pop(0).name}
    return places


def _must_spill(item: Item) -> bool:
    return item.policy is Policy.SERVER or item.size is None


def _leaving_order(items: Sequence[Item], spill_order: Sequence[str]) -> list[Item]:
    """The `auto` items that free room when they leave, first to leave first."""
    ranks = {name: rank for rank, name in enumerate(spill_order)}
    # What is smaller than its entry in the manifest would take more room in the store than here.
    auto = [
        item
        for item in items
        if item.policy is Policy.AUTO and (item.size or 0) + item.left > item.entry
    ]
    return sorted(auto, key=lambda item: (ranks.get(item.name, len(ranks)), -(item.size or 0)))


def _pack(items: Sequence[Item], spilled: set[str], room: Room) -> dict[str, Place] | None:
    """Core and overflow for what is not spilled; None if that is too much.

    What already overflows stays there, or each small change would rewrite every cookie: unless
    there is no other way. The smallest go into the core, if that way it all fits.
    """
    places = {item.name: Place.SPILLED for item in items if item.name in spilled}
    entries = sum(item.entry if item.name in spilled else item.left for item in items)
    staying = [item for item in items if item.name not in spilled]
    if sum(item.size or 0 for item in staying) <= room.core - entries:
        return places | {item.name: Place.CORE for item in staying}
    for rooted, largest_first in product((True, False), (False, True)):
        ordered = sorted(staying, key=lambda item: item.size or 0, reverse=largest_first)
        packed = _pack_both(ordered, room, entries, rooted)
        if packed is not None:
            return places | packed
    return None


def _pack_both(
    staying: Sequence[Item], room: Room, entries: int, rooted: bool
) -> dict[str, Place] | None:
    places = {}
    names = {item.name: len(item.name.encode()) + 2 for item in staying}
    # The manifest lists the name of each part in overflow; the core holds what is left beside them.
    core = room.core - room.overflow_entry - entries - sum(names.values())
    overflow, both = room.overflow, room.both - room.overflow_entry - entries
    for item in staying:
        size, name = item.size or 0, names[item.name]
        fits_core, fits_overflow = size - name <= core, size <= overflow
        if fits_overflow and ((rooted and item.place is Place.OVERFLOW) or not fits_core):
            overflow, both = overflow - size, both - size - name
            places[item.name] = Place.OVERFLOW
        elif fits_core:
            core, both = core - (size - name), both - size
            places[item.name] = Place.CORE
        else:
            return None
    return places if min(core, both) >= 0 else None


def _too_large(items: Sequence[Item], room: Room, why: str) -> SessionTooLarge:
    return SessionTooLarge({item.name: item.size or 0 for item in items}, room.total, why)


def policies_of(policies: Mapping[str, str]) -> dict[str, Policy]:
    """Policies by part name from their configured words. Raises ValueError for another word."""
    return {name: Policy(word) for name, word in policies.items()}
