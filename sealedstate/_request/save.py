"""From the changes of a session to Set-Cookie lines.

    record = identify(...)       who is saved: a sign-in asks the store for a sign-out everywhere
    plan = plan_save(...)        pure: what goes where, what is deleted, what is revoked
    lines = commit(...)          write rows, seal, revoke the replaced id, Set-Cookie: in that order

The keeper decides whether a session is saved; this module decides how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import NamedTuple, Protocol

from .._cookies.codec import OpenedRecord
from .._cookies.header import Candidates, CookieFamily, field_bytes
from .._cookies.placement import Capacity, PartSize, Reserve, find_reserve, plan
from .._stored.parts import Merge, last_writer_wins
from .._stored.revocations import Ending
from .._wire import cbor
from .._wire.encoding import token_bytes
from .._wire.record import (
    DEVICE,
    NO_FIELDS,
    NO_PARTS,
    NO_ROWS,
    NO_TERMS,
    OverflowSet,
    Place,
    Policy,
    Record,
    Terms,
    encode_record,
    head_bytes,
    kept_fields,
)
from .._wire.token import OVERHEAD_BYTES
from ..deployment import LOGIN_BYTES, Deployment, log
from ..errors import (
    ConfigurationError,
    MalformedRecord,
    RevokedSession,
    RowUnreadable,
    SessionTooLarge,
)
from ..hooks import SaveEvent
from ..profiles import FLOOR_BYTES, Budget, most_bytes
from ..session import NO_LIMIT, Changes, Part, Session, core_part
from .load import VERSION_BYTES, LoadedSession

_new = object.__new__
# The manifest's frame, and by how much the heads of the core's arrays can grow.
FRAME_BYTES = 14
# What sealing and the head of its list put around the parts in overflow.
OVERFLOW_BYTES = OVERHEAD_BYTES + 3
# Set id, count, digest and the head of the list of names.
OVERFLOW_ENTRY_BYTES = 1 + 9 + 1 + 17 + 3
# By how many bytes the planner may overestimate a session of unchanged size: FRAME_BYTES as text,
# the longest name, a separator.
SLACK_BYTES = 32
# What `Session.limit` and a device's key add to a record.
TERMS_BYTES = 64
# More foreign cookies than any header carries.
FULL = 1 << 30
# Chunk cookies that a wider profile may have left in browsers.
LAST_CHUNK = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings allow every save of one application.

    `budget`: `profiles.budget_for` of the profile. `core_bytes(foreign_bytes, other_bytes,
    is_persistent)`: the largest core if it is the only cookie sent. `most_bytes`: as in `profiles`.
    `last_chunk`: the highest number of a chunk cookie that may be in a browser. `may_drop`: the
    parts that may be left out, first to last. `delete_legacy`: the line that deletes a former
    framework's cookie of this name. `former`: cookies of former settings, which each response
    deletes that sets or deletes the current.
    """

    cookies: CookieFamily
    budget: Callable[[int, int, int, int, int], Budget]
    core_bytes: Callable[[int, int, bool], int]
    most_bytes: Callable[[int, int], int]
    last_chunk: int
    policies: Mapping[str, Policy]
    spill_order: tuple[str, ...]
    may_drop: tuple[str, ...]
    can_spill: bool
    is_persistent: bool
    delete_legacy: Callable[[str], str] | None
    former: tuple[CookieFamily, ...]

    @classmethod
    def of(cls, deployment: Deployment) -> Limits:
        """The limits of a deployment."""
        settings = deployment.settings
        return cls(
            deployment.cookies,
            deployment.budget,
            deployment.core_bytes,
            partial(most_bytes, deployment.profile),
            max(LAST_CHUNK, deployment.profile.cookies - 1),
            deployment.policies,
            tuple(settings.spill_order),
            tuple(settings.may_drop),
            deployment.parts is not None,
            settings.persistent,
            None if settings.legacy is None else settings.legacy.delete_line,
            settings.former_families(),
        )


class Arrived(Protocol):
    """What a plan reads of the request: a `LoadedSession`."""

    record: Record | None
    adopted: Record | None
    replaced: Record | None
    candidates: Candidates
    header: str
    versions: Mapping[str, int | None]

    @property
    def legacy_names(self) -> list[str]: ...

    def kept_chunks(self, now: int) -> tuple[str, ...] | None: ...


class Outcome(Enum):
    """What a save did.

    UNTOUCHED: the application did not use the session. UNCHANGED: nothing had to be sent. SAVED:
    the cookies carry the session. EMPTIED: nothing is left in it, and the cookies are deleted.
    WITHHELD: the cookies of the request cannot be judged now, so nothing is sent. ENDED: another
    request ended the session or gave it a new id, so nothing is sent. NO_ROOM: the change only
    fits without the cookies of others in the request, or `Session.check_size` has refused it.
    """

    UNTOUCHED = "untouched"
    UNCHANGED = "unchanged"
    SAVED = "saved"
    EMPTIED = "emptied"
    WITHHELD = "withheld"
    ENDED = "ended"
    NO_ROOM = "no room"


class Saved(list[str]):
    """The Set-Cookie field values that a response must carry, and the outcome of the last save."""

    __slots__ = ("outcome",)
    outcome: Outcome


class Spill(NamedTuple):
    """A part to write to the store over version `known`, None if there should be no row.

    `base`: the encoding that the request loaded.
    """

    name: str
    data: bytes
    known: int | None
    base: bytes | None

    def __repr__(self) -> str:
        return f"<Spill of {len(self.data)} bytes over version {self.known}>"


@dataclass(frozen=True, slots=True)
class OutsideCore:
    """What a save does besides sending the core.

    `places`: where each part will be. `core_chars`: the longest sealed core that fits. `spills`:
    parts to write to the store. `overflow`: parts for chunk cookies, of at most `chunk_rooms`
    characters each; None if the chunks are sent again as they came, which are `chunks`.
    `last_chunk`: up to which number chunk cookies that this save does not write are deleted.
    `deletions`: lines that delete other cookies. `unused_rows`: stored rows to delete, by part name
    and version. `replaced`: the session whose id is revoked. `left_out`: names of the parts that
    are left out, because they may be and do not fit.
    """

    places: Mapping[str, Place]
    core_chars: int
    spills: tuple[Spill, ...]
    overflow: Mapping[str, bytes] | None
    chunk_rooms: tuple[int, ...]
    last_chunk: int
    deletions: tuple[str, ...]
    unused_rows: Mapping[str, int]
    replaced: Record | None
    left_out: tuple[str, ...] = ()
    chunks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        # Reprs end up in logs and tracebacks: counts, no name and no value.
        in_overflow = sum(place is Place.OVERFLOW for place in self.places.values())
        return (
            f"<OutsideCore: {len(self.spills)} spills, {in_overflow} parts in overflow,"
            f" {len(self.left_out)} left out,"
            f" {len(self.unused_rows)} rows and {len(self.deletions)} cookies deleted, chunks"
            f" deleted up to {self.last_chunk}, revokes an id: {self.replaced is not None}>"
        )


# Not frozen, because every save makes one, and a frozen dataclass costs three times as much.
@dataclass(slots=True)
class SavePlan:
    """What a save will do.

    `record`: the session with its core parts, and the versions of stored parts that stay as they
    are. `payload`: the encoded core; None if something has to be written before it is known.
    `max_age`: of the cookies, in seconds; None for cookies that end with the browser. `outside`:
    what else is done; None if the core is everything.
    """

    record: Record
    payload: bytes | None
    max_age: int | None
    outside: OutsideCore | None

    def __repr__(self) -> str:
        size = "not encoded yet" if self.payload is None else f"{len(self.payload)} bytes"
        return f"<SavePlan: core {size}, outside: {self.outside}>"


def save(
    deployment: Deployment,
    limits: Limits,
    session: Session,
    changes: Changes,
    loaded: LoadedSession,
    other_bytes: int,
) -> list[str] | None:
    """The Set-Cookie field values that make the browser carry the session; None if it was ended.

    `other_bytes`: what the response's other Set-Cookie fields take. Raises SessionTooLarge,
    StorageError or NoPrimaryKey; then nothing is sent, and the browser keeps what it has.
    """
    now, timer = deployment.now(), deployment.events.timer
    began = None if timer is None else timer()
    try:
        record = identify(deployment, changes, loaded.record, now, bool(loaded.sent))
    except RevokedSession as error:
        deployment.emit("not-sent", session_id=changes.id, reason=error.reason)
        report_not_saved(deployment, session, loaded)
        return None
    sealed_at = deployment.keyring().sealing_time(int(now))
    plan, parts = None, None
    if changes.core is None:
        plan = plan_core_alone(record, changes, loaded, limits, other_bytes, sealed_at)
        parts = None if plan is not None else _recall_movable(changes, loaded, limits)
    if plan is None:
        plan = plan_save(record, changes, parts, loaded, limits, other_bytes, sealed_at)
    hooks = deployment.hooks
    if not hooks.all:
        return commit(deployment, plan, session, changes, loaded, now, sealed_at, None, began)
    event = _save_event(plan, session, changes, loaded, now)
    try:
        hooks.before_save(event)
        lines = commit(deployment, plan, session, changes, loaded, now, sealed_at, event, began)
    except Exception:
        hooks.after_failed_save(event)
        raise
    if lines is not None:
        hooks.after_save(event)
    return lines


def check_size(
    limits: Limits, clock: Callable[[], float], session: Session, loaded: LoadedSession
) -> Reserve | None:
    """Raise SessionTooLarge if no response to this request could carry the session as it is now.

    Returns what more it could certainly carry, None if that is unknown. A part that is or may be in
    the store takes its entry in the list of stored parts. Parts that may be left out never count.
    """
    changes, old = session.changes(), loaded.record
    # Its times have the same size, whatever they are.
    now = int(clock())
    record = Record(changes.id, changes.subject, now, now, 1)
    if old is not None and not (changes.is_signed_in or changes.is_ended):
        record = record.replace(
            created_at=old.created_at,
            expires_at=old.expires_at,
            generation=old.generation + 1,
            terms=old.terms,
            fields=old.fields if old.id == changes.id else kept_fields(old.fields),
        )
    if changes.limit is not NO_LIMIT:
        deployment, created_at = loaded.deployment, record.created_at
        expires_at, terms = _limit(deployment, changes, created_at, record.expires_at, record.terms)
        fields = record.fields
        if (device := changes.limit.device) is not None:
            fields = {**fields, DEVICE: device}
        record = record.replace(expires_at=expires_at, terms=terms, fields=fields)
    # A core that does not grow fits as it did before. One that grows must leave room for saves that
    # write everything, as after a rotation.
    cores = loaded.candidates.core
    alone = plan_core_alone(record, changes, loaded, limits, 0, now) if len(cores) == 1 else None
    payload = None if alone is None else alone.payload
    if payload is not None and len(payload) + OVERHEAD_BYTES <= token_bytes(len(cores[0])):
        return None
    parts: dict[str, Part] = {}
    for name, part in _parts_of(changes).items():
        may_spill = limits.can_spill and limits.policies.get(name) is not Policy.COOKIE
        if part.encoded is None and not (may_spill and part.place is Place.SPILLED):
            part.encoded = part.saved = loaded.recall(name)
            if part.encoded is None:
                continue
        parts[name] = part
    planner = _Planner(record, changes, parts, loaded, limits, 0, now)
    reserve = planner.find_reserve()
    if reserve is None:
        planner.plan()
    return reserve


def delete_cookies(
    limits: Limits, session: Session, changes: Changes, loaded: LoadedSession
) -> list[str]:
    """The Set-Cookie field values that leave no cookie of this session in the browser.

    Ends the session, because nothing of it is left. Raises StorageError or NoPrimaryKey.
    """
    if not changes.is_ended and (changes.is_signed_in or changes.is_regenerated):
        loaded.end()
    cookies = limits.cookies
    names = [cookies.name] if loaded.candidates.core else []
    names += map(cookies.chunk_name, range(1, _last_stale_chunk(loaded, limits) + 1))
    if cookies.bound_name in loaded.header:
        names.append(cookies.bound_name)
    lines = [*map(cookies.delete_line, names), *_other_deletions(loaded, limits)]
    session.mark_saved(_resume, loaded, None, 0, None, lines, NO_ROWS)
    return lines


# --- who is saved -------------------------------------------------------------------------------


def identify(
    deployment: Deployment,
    changes: Changes,
    old: Record | None,
    now: float,
    is_again: bool = False,
) -> Record:
    """The record to save, as if all parts were in the core. `old`: what the request brought.

    `is_again`: whether this request has saved it before, so that `old` was not sent yet.

    Raises StorageError or NoPrimaryKey at a sign-in that cannot be compared with a sign-out, and
    RevokedSession if the user was signed in and is signed out everywhere since.
    """
    if old is not None and not (changes.is_signed_in or changes.is_ended):
        created_at, expires_at, terms, fields = (
            old.created_at,
            old.expires_at,
            old.terms,
            old.fields,
        )
        generation = old.generation + (not is_again)
        if fields and old.id != changes.id:
            fields = kept_fields(fields)
    else:
        # What `Session.expires_at` says counts from the sign-in, however long the request takes.
        began_at = changes.limit.began_at
        created_at = int(now) if began_at is None else began_at
        generation, terms, fields = 1, NO_TERMS, NO_FIELDS
        expires_at = created_at + deployment.lifetimes.absolute
        if changes.subject is not None and deployment.revocations is not None:
            # It begins after any sign-out of its subject.
            lifetime = deployment.longest_lifetime()
            is_same = old is not None and old.subject == changes.subject and not changes.is_ended
            since = old.created_at if old is not None and is_same else None
            created_at = deployment.revocations.begin(changes.subject, lifetime, created_at, since)
            expires_at = max(expires_at, created_at + 1)
    if changes.limit is not NO_LIMIT:
        expires_at, terms = _limit(deployment, changes, created_at, expires_at, terms)
        if changes.limit.device is not None:
            fields = {**fields, DEVICE: changes.limit.device}
    # Half the cost of `Record(...)`.
    record = _new(Record)
    record.id, record.subject = changes.id, changes.subject
    record.created_at, record.expires_at = created_at, expires_at
    record.generation, record.parts = generation, changes.core or NO_PARTS
    record.overflow, record.spilled, record.orphaned_rows = None, NO_ROWS, NO_ROWS
    record.terms, record.fields = terms, fields
    return record


def is_unproven(record: Record) -> bool:
    """Whether no request has brought a cookie of this session yet, and no user has signed in."""
    return record.generation == 1 and record.subject is None


def _limit(
    deployment: Deployment, changes: Changes, created_at: int, expires_at: int, terms: Terms
) -> tuple[int, Terms]:
    """When the session ends, and its terms, with what this request asked for."""
    limit, lifetimes, has_own_end = changes.limit, deployment.lifetimes, terms.has_own_end
    if limit.until is not None:
        # A sign-in just after a sign-out everywhere begins later than now.
        expires_at = max(created_at + 1, min(limit.until, created_at + lifetimes.longest))
        has_own_end = expires_at > created_at + lifetimes.absolute
    idle = terms.idle if limit.idle is None else limit.idle
    persistent = terms.persistent if limit.persistent is None else limit.persistent
    return expires_at, Terms(persistent, idle, has_own_end)


def _recall_movable(changes: Changes, loaded: LoadedSession, limits: Limits) -> dict[str, Part]:
    """The parts, recalled where they cannot stay in the store; those that are lost are left out."""
    has_new_id = loaded.record is not None and loaded.record.id != changes.id
    parts = _parts_of(changes)
    for name, part in list(parts.items()):
        is_free = limits.policies.get(name, Policy.AUTO) is not Policy.COOKIE
        stays = part.place is Place.SPILLED and is_free and not has_new_id and limits.can_spill
        if part.encoded is None and not stays:
            part.encoded = part.saved = loaded.recall(name)
            if part.encoded is None:
                del parts[name]
    return parts


def _parts_of(changes: Changes) -> dict[str, Part]:
    return {
        name: part if isinstance(part, Part) else core_part(part)
        for name, part in changes.parts.items()
    }


# --- the plan -----------------------------------------------------------------------------------


def plan_core_alone(
    record: Record,
    changes: Changes,
    arrived: Arrived,
    limits: Limits,
    other_bytes: int,
    now: int,
) -> SavePlan | None:
    """The plan that leaves everything outside the core as it came; None if it cannot stay so.

    Nothing is recalled from the store, and the overflow is not sealed again. Its cookies are sent
    as they came: even if this response arrives late, its core comes with the overflow that it
    names. The arguments are those of `plan_save`.
    """
    old = arrived.record
    if (
        changes.core is not None
        or old is None
        or old.id != changes.id
        or old.orphaned_rows
        or limits.delete_legacy is not None
        or limits.former
    ):
        return None
    core, places, rows = dict[str, bytes](), dict[str, Place](), dict[str, int]()
    policies, in_core = limits.policies, Place.CORE
    for name, part in changes.parts.items():
        policy = policies.get(name, Policy.AUTO)
        if not isinstance(part, Part) or part.place is None or part.place is in_core:
            if policy is Policy.SERVER:
                return None
            core[name] = part.encoded or b"" if isinstance(part, Part) else part
            places[name] = in_core
            continue
        if part.is_changed or policy is (
            Policy.COOKIE if part.place is Place.SPILLED else Policy.SERVER
        ):
            return None
        places[name] = part.place
        if part.place is Place.SPILLED:
            version = arrived.versions.get(name, part.version)
            # A part that was recalled may come back into the cookies.
            if version is None or part.encoded is not None or not limits.can_spill:
                return None
            rows[name] = version
    names = old.overflow.names if old.overflow is not None else ()
    if len(places) != len(core) + len(old.spilled) + len(names) or len(rows) != len(old.spilled):
        return None  # a part outside was removed
    chunks = arrived.kept_chunks(now) if names else ()
    if chunks is None:
        return None
    cookies, last_chunk = limits.cookies, _last_stale_chunk(arrived, limits)
    persistent = record.terms.persistent
    is_persistent = limits.is_persistent if persistent is None else persistent
    max_age = max(1, record.expires_at - now) if is_persistent else None
    longest = cookies.chunk_name(1)
    lines = _chunk_deletions(cookies, len(chunks) + 1, last_chunk)
    budget = limits.budget(
        arrived.candidates.foreign_bytes,
        0,
        other_bytes + sum(map(field_bytes, lines)),
        len(longest) + 1,
        cookies.line_overhead(longest, max_age),
    )
    record = record.replace(parts=core, overflow=old.overflow, spilled=rows)
    payload, room = encode_record(record, now), token_bytes(budget.core_chars) - OVERHEAD_BYTES
    if len(payload) > room:
        return None
    if chunks:
        # As few chunks as possible, and none if everything fits into the core.
        chars, most = sum(map(len, chunks)), budget.chunk_chars
        listed = OVERFLOW_ENTRY_BYTES + sum(len(name.encode()) + 2 for name in names)
        if (
            token_bytes(chars) - OVERFLOW_BYTES <= room - len(payload) + listed
            or -(-chars // max(most, 1)) < len(chunks)
            or len(chunks) > budget.chunks
            or max(map(len, chunks)) > most
            or (len(payload) + OVERHEAD_BYTES + 2) * 4 // 3 + chars > budget.shared_chars
        ):
            return None
    outside = OutsideCore(
        places, budget.core_chars, (), None, (), last_chunk, (), NO_ROWS, None, (), chunks
    )
    return SavePlan(record, payload, max_age, outside)


def plan_save(
    record: Record,
    changes: Changes,
    parts: Mapping[str, Part] | None,
    arrived: Arrived,
    limits: Limits,
    other_bytes: int,
    now: int,
) -> SavePlan:
    """What a save will do: a pure function.

    `record`: as `identify` makes it. `parts`: those of `changes`, recalled where they cannot
    stay in the store; None if all are in the core. `other_bytes`: what the response's other
    Set-Cookie fields take. Raises SessionTooLarge.
    """
    core, old, candidates = changes.core, arrived.record, arrived.candidates
    # Most sessions: one cookie, and no other cookie, row or id to write, delete or revoke.
    if (
        core is not None
        and (arrived.replaced is None if old is None else old.id == changes.id and not old.overflow)
        and not candidates.overflow
        and limits.delete_legacy is None
        and not limits.former
        and not (limits.policies and Policy.SERVER in map(limits.policies.get, core))
    ):
        terms, is_persistent = record.terms, limits.is_persistent
        if terms is not NO_TERMS and terms.persistent is not None:
            is_persistent = terms.persistent
        room = limits.core_bytes(candidates.foreign_bytes, other_bytes, is_persistent)
        if changes.encoded_bytes <= room:
            payload = encode_record(record, now)
            if len(payload) <= room:
                max_age = max(1, record.expires_at - now) if is_persistent else None
                plan = _new(SavePlan)  # half the cost of `SavePlan(...)`
                plan.record, plan.payload = record, payload
                plan.max_age, plan.outside = max_age, None
                return plan
    parts = _parts_of(changes) if parts is None else parts
    record = record.replace(parts=NO_PARTS)
    return _Planner(record, changes, parts, arrived, limits, other_bytes, now).plan()


class _Attempt(NamedTuple):
    """One attempt of a plan.

    `allowed_bytes`: what our cookies may take however many others there are, as `received_bytes` of
    `profiles.budget_for`. `last_chunk`, `deletions`: what is deleted, as in `OutsideCore`.
    """

    planner: _Planner
    allowed_bytes: int
    last_chunk: int = 0
    deletions: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<_Attempt with {self.allowed_bytes} bytes and {len(self.deletions)} deletions>"


@dataclass(frozen=True, slots=True)
class _Planner:
    """The arguments of `plan_save`, and the steps of a plan that needs more than the core.

    `foreign_bytes`: other cookies of the request, if not as many as it has. `left_out`: names of
    the parts that are not among `parts` any more.
    """

    record: Record
    changes: Changes
    parts: Mapping[str, Part]
    arrived: Arrived
    limits: Limits
    other_bytes: int
    now: int

    foreign_bytes: int = -1
    left_out: tuple[str, ...] = ()

    def plan(self) -> SavePlan:
        """The plan of the first attempt that has room. Raises SessionTooLarge."""
        planner, refused = self, list[SessionTooLarge]()
        for planner, allowed_bytes, last_chunk, deletions in self._attempts():
            try:
                return planner._plan_within(allowed_bytes, last_chunk, deletions)
            except SessionTooLarge as error:
                if planner is self:
                    refused.append(error)
        # Would it fit, what may be left out left out, if the request had no cookies of others?
        try:
            replace(planner, foreign_bytes=0, other_bytes=self.other_bytes)._plan_within(0, 0, ())
        except SessionTooLarge:
            raise refused[-1] from None
        whole = refused[-1]
        raise SessionTooLarge(whole.parts, whole.room, whole.why, is_crowded=True)

    def _attempts(self) -> Iterator[_Attempt]:
        """What a save tries one after another, from what costs least to what costs most."""
        arrived, changes, limits = self.arrived.candidates, self.changes, self.limits
        stale = _last_stale_chunk(self.arrived, limits)
        deletions = _other_deletions(self.arrived, limits)
        # As few bytes as possible: what the profile leaves beside the foreign cookies.
        yield _Attempt(self, 0, stale, deletions)
        # Some of the profile's distance from the limits behind it; at least a session of unchanged
        # size, because this request carried it.
        most = limits.most_bytes(arrived.foreign_bytes, arrived.our_bytes)
        most = max(most, arrived.our_bytes + SLACK_BYTES)
        if changes.is_signed_in and changes.subject is not None:
            most += 2 + len(changes.subject.encode()) * 4 // 3
        yield _Attempt(self, most, stale, deletions)
        # Stray cookies are harmless, and deleting them costs header bytes.
        yield _Attempt(self, most)
        smaller = self
        for wanted in limits.may_drop:
            start = wanted[:-1] if wanted.endswith("*") else None
            found = [
                name
                for name in smaller.parts
                if name == wanted or (start is not None and name.startswith(start))
            ]
            # Of parts that begin alike, those of earlier requests go first.
            for name in sorted(found, key=lambda name: self.parts[name].is_changed):
                parts = {each: part for each, part in smaller.parts.items() if each != name}
                removed = {**smaller.changes.removed, name: smaller.parts[name]}
                smaller = replace(
                    smaller,
                    parts=parts,
                    changes=replace(smaller.changes, removed=removed),
                    left_out=(*smaller.left_out, name),
                )
                yield _Attempt(smaller, most)
        # Other lines of the response are no reason to keep a user out, nor to lose a change that
        # makes a session no larger.
        smaller = replace(smaller, other_bytes=0)
        if not (changes.is_signed_in or changes.is_regenerated or changes.is_ended):
            most = arrived.our_bytes + SLACK_BYTES
            smaller = replace(smaller, foreign_bytes=FULL)
        yield _Attempt(smaller, most)
        policies = map(smaller._policy, smaller.parts)
        if not smaller.parts or (limits.can_spill and Policy.COOKIE not in policies):
            # A login without parts, or a list of parts in the store: nothing can get smaller.
            entries = sum(map(_entry_bytes, [*smaller.parts, *smaller.changes.removed]))
            payload = len(encode_record(self.record, self.now)) + FRAME_BYTES + entries
            chars = (OVERHEAD_BYTES + payload + 2) * 4 // 3
            least = len(limits.cookies.chunk_name(1)) + chars + SLACK_BYTES
            yield _Attempt(smaller, least)

    def find_reserve(self) -> Reserve | None:
        """What the first attempt certainly has room for besides; None if that is unknown."""
        stale = _last_stale_chunk(self.arrived, self.limits)
        deletions = _other_deletions(self.arrived, self.limits)
        budget, _ = self._find_budget(0, stale, deletions)
        try:
            items, room = self._measure(budget, self._find_orphans())
        except SessionTooLarge:
            return None
        # What the request may yet do besides assigning parts.
        later = LOGIN_BYTES if self.changes.subject is None else TERMS_BYTES
        room = replace(room, core=room.core - later, both=room.both - later)
        return find_reserve(items, room, self.limits.spill_order, self.limits.can_spill)

    def _find_budget(
        self, allowed_bytes: int, last_chunk: int, deletions: tuple[str, ...]
    ) -> tuple[Budget, int | None]:
        """What the request and its response leave for our values; and the Max-Age of cookies."""
        cookies = self.limits.cookies
        lifetime = max(1, self.record.expires_at - self.now)
        persistent = self.record.terms.persistent
        is_persistent = self.limits.is_persistent if persistent is None else persistent
        max_age = lifetime if is_persistent else None
        lines = [*deletions, *_chunk_deletions(cookies, 1, last_chunk)]
        longest = cookies.chunk_name(1)
        foreign_bytes = self.arrived.candidates.foreign_bytes
        budget = self.limits.budget(
            foreign_bytes if self.foreign_bytes < 0 else self.foreign_bytes,
            allowed_bytes,
            self.other_bytes + sum(map(field_bytes, lines)),
            len(longest) + 1,
            cookies.line_overhead(longest, max_age),
        )
        return budget, max_age

    def _find_orphans(self) -> dict[str, int]:
        """The rows of parts that this request removed, by part name and version.

        A later save deletes them, once the browser has shown that it carries the new core. If they
        were deleted now and this response were lost, the old core would point at nothing.
        """
        if self._has_new_id or self.changes.is_ended:
            return {}
        versions = {
            name: self._known_version(name)
            for name, part in self.changes.removed.items()
            if part.place is Place.SPILLED
        }
        return {name: version for name, version in versions.items() if version is not None}

    def _plan_within(
        self, allowed_bytes: int, last_chunk: int, deletions: tuple[str, ...]
    ) -> SavePlan:
        budget, max_age = self._find_budget(allowed_bytes, last_chunk, deletions)
        orphaned = self._find_orphans()
        places = self._place_in_core(budget, orphaned) or self._place(budget, orphaned)
        core, overflow = dict[str, bytes](), dict[str, bytes]()
        spilled, spills = dict[str, int](), list[Spill]()
        for name, place in places.items():
            part, known = self.parts[name], self._known_version(name)
            if place is Place.CORE:
                core[name] = part.encoded or b""
            elif place is Place.OVERFLOW:
                overflow[name] = part.encoded or b""
            elif known is not None and part.place is Place.SPILLED and not part.is_changed:
                spilled[name] = known
            else:
                spills.append(Spill(name, part.encoded or b"", known, part.saved))
            if place is not Place.SPILLED and part.place is Place.SPILLED and known is not None:
                orphaned[name] = known
        used = {*orphaned, *(name for name, place in places.items() if place is Place.SPILLED)}
        old = self.arrived.record
        # Rows that an earlier save orphaned, and that this save does not use again.
        earlier = {} if old is None or self._has_new_id else old.orphaned_rows
        unused = {name: version for name, version in earlier.items() if name not in used}
        record = self.record.replace(parts=core, spilled=spilled, orphaned_rows=orphaned)
        # The id that this save replaces. `invalidate` has revoked its own already.
        replaced = old or self.arrived.adopted or self.arrived.replaced
        if self.changes.is_ended or (replaced is not None and replaced.id == self.changes.id):
            replaced = None
        outside = OutsideCore(
            places,
            budget.core_chars,
            tuple(spills),
            overflow,
            (budget.chunk_chars,) * budget.chunks,
            last_chunk,
            deletions,
            unused,
            replaced,
            self.left_out,
        )
        payload = None if spills or overflow else encode_record(record, self.now)
        return SavePlan(record, payload, max_age, outside)

    def _place_in_core(
        self, budget: Budget, orphaned: Mapping[str, int]
    ) -> dict[str, Place] | None:
        """The core for all parts if they fit to the byte: `_place` has to count a few more."""
        room = token_bytes(budget.core_chars) - OVERHEAD_BYTES
        core: dict[str, bytes] = {}
        for name, part in self.parts.items():
            is_outside = part.version is not None or self._policy(name) is Policy.SERVER
            if part.encoded is None or is_outside:
                return None
            core[name] = part.encoded
        if orphaned or sum(map(len, core.values())) > room:
            return None
        fits = len(encode_record(self.record.replace(parts=core), self.now)) <= room
        return dict.fromkeys(core, Place.CORE) if fits else None

    def _place(self, budget: Budget, orphaned: Mapping[str, int]) -> dict[str, Place]:
        items, room = self._measure(budget, orphaned)
        return plan(items, room, self.limits.spill_order, self.limits.can_spill)

    def _measure(
        self, budget: Budget, orphaned: Mapping[str, int]
    ) -> tuple[list[PartSize], Capacity]:
        """The sizes of the parts, and the room for them. Raises SessionTooLarge if it has none."""
        items, policies = list[PartSize](), self.limits.policies
        for name, part in self.parts.items():
            data, name_bytes = part.encoded, len(name.encode())
            head, size = head_bytes(name_bytes) + name_bytes, None
            if data is not None:
                size = head + head_bytes(len(data)) + len(data)
            entry, policy = head + VERSION_BYTES, policies.get(name, Policy.AUTO)
            left = 0 if part.version is None else entry
            items.append(PartSize(name, size, entry, policy, part.place, left))
        fixed = len(encode_record(self.record, self.now)) + FRAME_BYTES
        fixed += sum(map(_entry_bytes, orphaned))
        core = token_bytes(budget.core_chars) - OVERHEAD_BYTES - fixed
        overflow = token_bytes(budget.overflow_chars) - OVERFLOW_BYTES
        both = token_bytes(budget.shared_chars - 2) - OVERHEAD_BYTES - fixed
        if core < 0:
            sizes = {name: len(part.encoded or b"") for name, part in self.parts.items()}
            reason = (
                f"the request has {self.arrived.candidates.foreign_bytes} bytes of other cookies,"
                f" the response {self.other_bytes} bytes of other Set-Cookie lines"
            )
            raise SessionTooLarge(sizes, token_bytes(budget.core_chars), reason)
        room = Capacity(core, max(0, overflow), both - OVERFLOW_BYTES, OVERFLOW_ENTRY_BYTES)
        return items, room

    @property
    def _has_new_id(self) -> bool:
        """Whether nothing opens any more that was sealed for the id that arrived."""
        old = self.arrived.record
        return old is not None and old.id != self.record.id

    def _known_version(self, name: str) -> int | None:
        if self._has_new_id:
            return None
        part = self.parts.get(name) or self.changes.removed[name]
        return self.arrived.versions.get(name, part.version)

    def _policy(self, name: str) -> Policy:
        return self.limits.policies.get(name, Policy.AUTO)


def _last_stale_chunk(arrived: Arrived, limits: Limits) -> int:
    """The highest number of a chunk cookie that the browser may have; 0 for none.

    The whole fixed range, not only what this request carried: another tab may have written more.
    """
    had_overflow = arrived.record is not None and arrived.record.overflow is not None
    if not (arrived.candidates.overflow or had_overflow):
        return 0
    return max([limits.last_chunk, *arrived.candidates.overflow])


def _chunk_deletions(cookies: CookieFamily, first: int, last: int) -> list[str]:
    return [cookies.delete_line(cookies.chunk_name(number)) for number in range(first, last + 1)]


def _other_deletions(arrived: Arrived, limits: Limits) -> tuple[str, ...]:
    """The lines that delete the cookies of another framework, and those of former settings.

    A former cookie may be in the browser even if this request did not bring it, because its path
    or its partition is another.
    """
    lines: list[str] = []
    if limits.delete_legacy is not None:
        lines += map(limits.delete_legacy, arrived.legacy_names)
    for family in limits.former:
        numbers = sorted(family.find(arrived.header).overflow)
        lines += map(family.delete_line, [family.name, *map(family.chunk_name, numbers)])
    return tuple(lines)


def _entry_bytes(name: str) -> int:
    """What the manifest takes for one stored part."""
    name_bytes = len(name.encode())
    return head_bytes(name_bytes) + name_bytes + VERSION_BYTES


# --- carrying it out ----------------------------------------------------------------------------


def commit(
    deployment: Deployment,
    plan: SavePlan,
    session: Session,
    changes: Changes,
    loaded: LoadedSession,
    now: float,
    sealed_at: int,
    event: SaveEvent | None = None,
    began: float | None = None,
) -> list[str] | None:
    """Carry out a plan; returns the Set-Cookie field values, None if a logout came first.

    `sealed_at` (epoch seconds): what the plan was made for. `event`: for hooks, if there are any.
    `began`: when the save began, by the timer of the events, if there is one. Raises
    SessionTooLarge, StorageError or NoPrimaryKey.
    """
    record, payload, max_age = plan.record, plan.payload, plan.max_age
    outside = plan.outside
    chunks: Sequence[str] = ()
    assumed: Mapping[str, int | None] = NO_ROWS
    if outside is not None:
        chunks = outside.chunks
    if payload is None and outside is not None:
        record, chunks, assumed = _write_outside_core(deployment, record, outside, sealed_at)
    payload = payload or encode_record(record, sealed_at)
    text = deployment.codec.seal_core(payload, sealed_at)
    if outside is not None:
        if len(text) > outside.core_chars:
            sizes = {name: len(data) for name, data in record.parts.items()}
            room = token_bytes(outside.core_chars)
            raise SessionTooLarge(sizes, room, "the sealed core is too long")
        if not _replace_old(deployment, outside.replaced, record, changes, loaded):
            deployment.hooks.after_revoke(record.id, now)
            report_not_saved(deployment, session, loaded)
            return None
        if (
            loaded.record is not None
            and is_unproven(loaded.record)
            and not loaded.sent
            and deployment.parts is not None
        ):
            # The browser has sent the cookie back: rows that this save did not write live longer.
            for name in plan.record.spilled:
                deployment.parts.extend(
                    record.id, name, _rows_expire_at(deployment, record, int(now))
                )
    if event is not None:
        deployment.hooks.before_sending(event)
    if outside is not None:
        for name in outside.left_out:
            deployment.emit("part-left-out", session_id=record.id)
            log.warning("a part of a session is left out, because it does not fit: %r", name)
        if outside.unused_rows:
            loaded.delete_rows(record.id, outside.unused_rows)
    cookies, timer = deployment.cookies, deployment.events.timer
    if timer is None or began is None:
        deployment.emit("saved", session_id=record.id)
    else:
        numbers = _measure(deployment, record, loaded, text, chunks)
        deployment.emit("saved", session_id=record.id, seconds=timer() - began, numbers=numbers)
    lines = [cookies.set_line(cookies.name, text, max_age)]
    if outside is not None:
        # Chunks first: a browser that fails half-way keeps the old core rather than a torn set.
        lines[:0] = [
            cookies.set_line(cookies.chunk_name(number), chunk, max_age)
            for number, chunk in enumerate(chunks, 1)
        ]
        lines += _chunk_deletions(cookies, len(chunks) + 1, outside.last_chunk)
        lines += outside.deletions
    session.mark_saved(_resume, loaded, record, sealed_at, outside, lines, assumed)
    return lines


def _measure(
    deployment: Deployment,
    record: Record,
    loaded: LoadedSession,
    text: str,
    chunks: Sequence[str],
) -> dict[str, int]:
    """What the saved session takes in cookies, what it may take, and its parts by place."""
    cookies, profile = deployment.cookies, deployment.profile
    left = max(profile.header_bytes - loaded.candidates.foreign_bytes, FLOOR_BYTES)
    return {
        "cookie_bytes": len(cookies.name)
        + 1
        + len(text)
        + sum(len(cookies.chunk_name(1)) + 1 + len(chunk) for chunk in chunks),
        "room_bytes": min(profile.total_bytes, left),
        "core_parts": len(record.parts),
        "overflow_parts": 0 if record.overflow is None else len(record.overflow.names),
        "spilled_parts": len(record.spilled),
    }


def _resume(
    loaded: LoadedSession,
    record: Record | None,
    sealed_at: int,
    outside: OutsideCore | None,
    lines: list[str],
    assumed: Mapping[str, int | None],
    session: Session,
) -> LoadedSession:
    """Begin again with what a save has written, as if the browser had sent that.

    `record`: None if no session is left. `outside`: None if the core is everything. `lines`: what
    is sent for it. `assumed`: the versions that the next write assumes of stored parts that were
    merged with what another request wrote.
    """
    if record is None:
        loaded.note_saved(None, NO_PARTS, NO_ROWS, lines)
        session.rebase({}, {})
        return loaded
    places: Mapping[str, Place] = dict.fromkeys(record.parts, Place.CORE)
    overflow: Mapping[str, bytes] | None = NO_PARTS
    if outside is not None:
        places, overflow = outside.places, outside.overflow
    key = loaded.deployment.keyring().primary(sealed_at)
    loaded.note_saved(OpenedRecord(record, sealed_at, key), overflow, assumed, lines)
    session.rebase(places, {**record.spilled, **record.orphaned_rows})
    return loaded


def _replace_old(
    deployment: Deployment,
    old: Record | None,
    record: Record,
    changes: Changes,
    loaded: LoadedSession,
) -> bool:
    """Refuse the id of `old`, before the new id is sent; False if the new must not be sent.

    If a logout came first, a session under a new id would outlive it. If another new id came first,
    a second id beside it would not be found by a logout: only a sign-in takes its place, as when a
    user clicks twice, and not the place of another user's sign-in. Then the rows of `record` are
    deleted.
    """
    if old is None:
        return True
    if changes.is_signed_in and changes.subject is None:
        loaded.end()  # a sign-out: what is sent is another visitor's session
        return True
    refused = loaded.replace(old, record, is_signed_in=changes.is_signed_in)
    if refused is None:
        return True
    reason = "replaced" if refused is Ending.REPLACED else "revoked"
    deployment.emit("not-sent", session_id=record.id, reason=reason)
    loaded.delete_rows(record.id, record.spilled)
    return False


def report_not_saved(deployment: Deployment, session: Session, loaded: LoadedSession) -> None:
    """Run the hooks for a session that a logout overtook. Raises StorageError."""
    if loaded.record is not None:
        deployment.hooks.not_saved(session, loaded.record.id, deployment.now())


def _save_event(
    plan: SavePlan, session: Session, changes: Changes, loaded: LoadedSession, now: float
) -> SaveEvent:
    record, arrived_id, sealed_at = plan.record, None, None
    if loaded.opened is not None:
        arrived, sealed_at, _ = loaded.opened
        arrived_id = arrived.id
    in_core = dict.fromkeys(record.parts, Place.CORE)
    places = in_core if plan.outside is None else plan.outside.places
    who = record.replace(parts=NO_PARTS, spilled=NO_ROWS, orphaned_rows=NO_ROWS)
    return SaveEvent(session, who, _parts_of(changes), places, arrived_id, sealed_at, now)


def _write_outside_core(
    deployment: Deployment, record: Record, outside: OutsideCore, now: int
) -> tuple[Record, Sequence[str], Mapping[str, int | None]]:
    """Write the stored parts and seal the overflow; returns the whole record, and the chunks.

    Also, for each part that was merged with what another request wrote, the version before.

    Overflow is sent with every core, changed or not. Otherwise a core that arrives late would
    point at the overflow of before, and neither tab's parts would be left.
    """
    stored = deployment.parts
    versions, expires_at = dict(record.spilled), _rows_expire_at(deployment, record, now)
    merged: dict[str, int | None] = {}
    for spill in outside.spills:
        if stored is None:
            raise ConfigurationError("storage: a part is to spill without a store; set storage")
        deployment.emit("spilled", session_id=record.id)
        versions[spill.name] = stored.spill(
            record.id,
            spill.name,
            spill.data,
            known=spill.known,
            base=spill.base,
            expires_at=expires_at,
            merge=_merge_rule(deployment, spill, merged),
        )
        if is_unproven(record):
            stored.limit_unproven(record.id, spill.name, versions[spill.name], expires_at)
    overflow: OverflowSet | None = None
    chunks: list[str] = []
    if outside.overflow:
        overflow, chunks = deployment.codec.seal_overflow(
            record.id, outside.overflow, outside.chunk_rooms, now
        )
    spilled = {name: versions[name] for name in outside.places if name in versions}
    return record.replace(spilled=spilled, overflow=overflow), chunks, merged


def _rows_expire_at(deployment: Deployment, record: Record, now: int) -> int:
    """Until when the stored parts of a session are kept (epoch seconds)."""
    expires_at = record.expires_at
    if is_unproven(record):
        # Only as long as its first cookie: an agent that keeps no cookies begins a session with
        # each request (docs/adr/0035-rows-of-agents-that-keep-no-cookies.md).
        expires_at = min(expires_at, now + (record.terms.idle or deployment.lifetimes.idle))
    return expires_at + deployment.settings.skew


def _merge_rule(deployment: Deployment, spill: Spill, merged: dict[str, int | None]) -> Merge:
    """The merge rule of a part; `merged` gets its name if the rule is asked."""
    name = spill.name
    rule = deployment.settings.merge.get(name)
    if rule is None:
        return last_writer_wins

    def merge(base: bytes | None, stored: bytes, wanted: bytes) -> bytes:
        merged[name] = spill.known
        try:
            before = None if base is None else cbor.decode(base)
        except MalformedRecord:
            before = None  # what this release could not read, the application did not change
        try:
            found = cbor.decode(stored)
        except MalformedRecord as error:
            # A newer release wrote it meanwhile, and can read it.
            raise RowUnreadable("a stored part is unreadable here (record)") from error
        value = rule(before, found, cbor.decode(wanted))
        return cbor.encode(value, f"session[{name!r}]", deployment.settings.convert)

    return merge
