"""Where each part is kept: a pure plan from sizes, policies and capacity.

`auto` parts leave the cookies in the configured spill order first, then the largest first, until
the rest fits. A part in the store comes back only if the cookies are then at most `RETURN_SHARE`
full, so a foreign cookie that comes and goes does not move it each time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

from .._wire.record import Place, Policy
from ..errors import SessionTooLarge

RETURN_SHARE = 0.85
# At most what an entry in the manifest takes besides a name, and the heads of a part in a cookie.
ENTRY_BYTES, HEADS_BYTES = 12, 10
# How a reserve is divided: for entries; for a part that is larger than those before.
ENTRIES_SHARE, LARGEST_SHARE = 5, 8


# Not frozen, because a plan makes one for each part, and a frozen one costs three times as much.
@dataclass(slots=True)
class PartSize:
    """A part to place, with sizes in bytes.

    `size`: in a cookie; None if the part is in the store and was not recalled, so it stays there.
    `entry`: of its manifest entry if it is in the store. `orphan_entry`: of the manifest entry for
    the row that it would leave in the store if it came back.
    """

    name: str
    size: int | None
    entry: int
    policy: Policy
    place: Place | None
    orphan_entry: int = 0

    @property
    def cookie_bytes(self) -> int:
        """`size`, or 0 if it is unknown."""
        return self.size or 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bytes for parts in the core and in overflow.

    `core`: including manifest entries. `both`: for core and overflow together, as soon as there is
    overflow, which then also takes `overflow_entry` bytes of the core. `overflow` is 0 if there are
    no further cookies.
    """

    core: int
    overflow: int
    both: int
    overflow_entry: int

    @property
    def total(self) -> int:
        """The most that all parts together can take."""
        return max(self.core, min(self.both, self.core + self.overflow), 0)

    def scale(self, share: float) -> Capacity:
        """This capacity with only `share` of it usable."""
        core, overflow, both = (int(size * share) for size in (self.core, self.overflow, self.both))
        return Capacity(core, overflow, both, self.overflow_entry)


def plan(
    parts: Sequence[PartSize], capacity: Capacity, spill_order: Sequence[str], can_spill: bool
) -> dict[str, Place]:
    """A place for each part. Raises SessionTooLarge if the parts do not fit."""
    spilled = {part.name for part in parts if part.policy is Policy.SERVER or part.size is None}
    if spilled and not can_spill:
        raise _too_large(parts, capacity, "parts with policy 'server' need a storage service")
    leaving = _find_leaving(parts, spilled, spill_order)
    # Parts in the store return in the reverse order of leaving, and only into ample capacity.
    returning = [part for part in leaving if can_spill and part.place is Place.SPILLED]
    spilled |= {part.name for part in returning}
    while returning and _pack(parts, spilled, capacity) is not None:
        fewer = spilled - {returning.pop().name}
        if _pack(parts, fewer, capacity.scale(RETURN_SHARE)) is None:
            break
        spilled = fewer
    queue = iter([part for part in leaving if part.name not in spilled])
    spilled, size, entries = set(spilled), *_sums(parts, spilled)
    # Running sums find the steps in which no order can fit, so that few are tried.
    while not _may_fit(size, entries, capacity) or (
        (places := _pack(parts, spilled, capacity)) is None
    ):
        if not can_spill:
            raise _too_large(parts, capacity, "no storage service is configured to spill into")
        part = next(queue, None)
        if part is None:
            raise _too_large(parts, capacity, "nothing more may leave the cookies")
        spilled.add(part.name)
        size, entries = size - part.cookie_bytes, entries + part.entry - part.orphan_entry
    return places


@dataclass(slots=True)
class Reserve:
    """By how much parts may grow, and new parts may come, so that `plan` has a place for each.

    In bytes. `entries`: their entries in the manifest. `size`: the parts themselves. `largest`: the
    largest of them.
    """

    entries: int
    size: int
    largest: int

    def take(self, name: str, value_bytes: int) -> bool:
        """Use it for a part that is new or assigned again. False if it does not suffice."""
        name_bytes = len(name.encode())
        entry, size = name_bytes + ENTRY_BYTES, name_bytes + value_bytes + HEADS_BYTES
        if entry > self.entries or size > min(self.size, self.largest):
            return False
        self.entries, self.size = self.entries - entry, self.size - size
        return True


def find_reserve(
    parts: Sequence[PartSize], capacity: Capacity, spill_order: Sequence[str], can_spill: bool
) -> Reserve | None:
    """What is left beside the parts, if as many of them leave as is best; None if that is unknown.

    It is certain for two reasons. `plan` tries every number of leaving parts, and parts that stay
    as they are leave in the same order, whatever others come between them. And `_pack_both` always
    succeeds if the parts take two of the largest less than there is.
    """
    spilled = {part.name for part in parts if part.policy is Policy.SERVER or part.size is None}
    leaving = _find_leaving(parts, spilled, spill_order) if can_spill else []
    spilled |= {part.name for part in leaving if part.place is Place.SPILLED}
    if spilled and not can_spill:
        return None
    leaving = [part for part in leaving if part.name not in spilled]
    gone = spilled.union([part.name for part in leaving])
    staying = max([part.size or 0 for part in parts if part.name not in gone], default=0)
    # The largest of the parts that stay, by how many have left.
    sizes = [part.size or 0 for part in reversed(leaving)]
    largest = list(accumulate(sizes, max, initial=staying))[::-1]
    size, entries = _sums(parts, spilled)
    names = sum([_listed_bytes(part) for part in parts if part.name not in spilled])
    best, best_score = None, -1
    for left in range(len(leaving) + 1):
        if left:
            part = leaving[left - 1]
            size, names = size - (part.size or 0), names - _listed_bytes(part)
            entries += part.entry - part.orphan_entry
        limit = most = listed = capacity.core - entries - size
        if limit < 0 and capacity.overflow:
            listed = capacity.core - capacity.overflow_entry - entries - names
            certain = listed + capacity.overflow - size - 2 * largest[left]
            # A larger part than those here takes two of its size from what is certain.
            most = max(largest[left], certain // LARGEST_SHARE)
            both = capacity.both - capacity.overflow_entry - entries - names - size
            limit = min(certain - 2 * (most - largest[left]), both)
        if min(limit, listed) < 0:
            continue
        share = min(limit // ENTRIES_SHARE, listed)
        if (score := min(ENTRIES_SHARE * share, limit)) > best_score:
            best, best_score = Reserve(share, limit - share, most), score
    return best


def _listed_bytes(part: PartSize) -> int:
    """What the name of a part takes in the manifest's list of parts in overflow."""
    return len(part.name.encode()) + 2


def _find_leaving(
    parts: Sequence[PartSize], spilled: Collection[str], spill_order: Sequence[str]
) -> list[PartSize]:
    """The `auto` parts that free bytes by leaving, in the order of leaving.

    A part smaller than its manifest entry would take more bytes in the store than in the cookie.
    """
    ranks = {name: rank for rank, name in enumerate(spill_order)}
    auto, last = Policy.AUTO, len(ranks)
    leaving = [
        part
        for part in parts
        if part.policy is auto
        and (part.size or 0) + part.orphan_entry > part.entry
        and part.name not in spilled
    ]
    leaving.sort(key=lambda part: (ranks.get(part.name, last), -(part.size or 0)))
    return leaving


def _sums(parts: Sequence[PartSize], spilled: Collection[str]) -> tuple[int, int]:
    """What the parts that stay in cookies take, and the manifest entries, in bytes."""
    size = entries = 0
    for part in parts:
        if part.name in spilled:
            entries += part.entry
        else:
            size, entries = size + (part.size or 0), entries + part.orphan_entry
    return size, entries


def _may_fit(size: int, entries: int, capacity: Capacity) -> bool:
    """False if no order of parts of this size in all fits."""
    room = capacity.core - entries
    both = min(room + capacity.overflow, capacity.both - entries) - capacity.overflow_entry
    return size <= max(room, both)


def _pack(
    parts: Sequence[PartSize], spilled: set[str], capacity: Capacity
) -> dict[str, Place] | None:
    """Places of all parts if `spilled` are spilled; None if they do not fit.

    A part in overflow stays there if possible, because a small change would otherwise rewrite every
    cookie. The smallest parts go into the core, if everything then fits.
    """
    places = {part.name: Place.SPILLED for part in parts if part.name in spilled}
    size, entries = _sums(parts, spilled)
    if not _may_fit(size, entries, capacity):
        return None
    staying = [part for part in parts if part.name not in spilled]
    if size <= capacity.core - entries:
        return places | {part.name: Place.CORE for part in staying}
    names = {part.name: _listed_bytes(part) for part in staying}
    keeping = (True, False) if any(part.place is Place.OVERFLOW for part in staying) else (False,)
    for keeps_overflow, largest_first in product(keeping, (False, True)):
        ordered = sorted(staying, key=lambda part: part.size or 0, reverse=largest_first)
        packed = _pack_both(ordered, names, capacity, entries, keeps_overflow)
        if packed is not None:
            return places | packed
    return None


def _pack_both(
    staying: Sequence[PartSize],
    names: Mapping[str, int],
    capacity: Capacity,
    entries: int,
    keeps_overflow: bool,
) -> dict[str, Place] | None:
    """Core and overflow, part by part in this order; None if one does not fit.

    `names`: what the name of each part takes in the manifest's list of parts in overflow.
    """
    places = {}
    # The manifest lists the names of parts in overflow: a part that goes into the core gives the
    # bytes of its name back.
    core = capacity.core - capacity.overflow_entry - entries - sum(names.values())
    overflow, both = capacity.overflow, capacity.both - capacity.overflow_entry - entries
    for part in staying:
        size, name = part.size or 0, names[part.name]
        fits_core, fits_overflow = size - name <= core, size <= overflow
        stays = keeps_overflow and part.place is Place.OVERFLOW
        if fits_overflow and (stays or not fits_core):
            overflow, both = overflow - size, both - size - name
            places[part.name] = Place.OVERFLOW
        elif fits_core:
            core, both = core - (size - name), both - size
            places[part.name] = Place.CORE
        else:
            return None
    return places if min(core, both) >= 0 else None


def _too_large(parts: Sequence[PartSize], capacity: Capacity, why: str) -> SessionTooLarge:
    return SessionTooLarge({part.name: part.cookie_bytes for part in parts}, capacity.total, why)
