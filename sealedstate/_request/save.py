"""One save of any session: from what was changed to Set-Cookie lines.

Knows the order of the steps: identity, plan, spill, seal, revoke what was replaced, write. Does not
decide whether there is something to save; that is the keeper's. Most sessions need less than this:
see `core_saving`.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._cookies.header import field_bytes
from .._cookies.placement import Item, Room, plan
from .._stored.parts import Merge, last_writer_wins
from .._wire import cbor as codec
from .._wire import encoding as chunking
from .._wire import record as record_codec
from .._wire import token as sealing
from .._wire.record import NO_PARTS, OverflowSet, Place, Policy, Record, encode_record
from ..deployment import Deployment
from ..errors import ConfigurationError, SessionTooLarge
from ..hooks import Save
from ..profiles import Budget
from ..session import Part, Session
from .load import LoadedSession

# FOLD sealedstate.core_saving
# The save of most sessions: all of it in the core, so one Set-Cookie line and nothing to plan.
#
# Knows when that is so, who the saved session is, and the steps then. Does not know overflow,
# stored
# parts or what else a save may leave or replace: `saving` does, for all sessions.


def core_line(
    tools: Deployment,
    session: Session,
    parts: Mapping[str, bytes] | None,
    visit: LoadedSession,
    other_bytes: int,
) -> str | None:
    """The Set-Cookie field value that carries `session` with these encoded parts.

    `parts`: None where one lives elsewhere. `other_bytes`: what the response's other Set-Cookie
    fields take. None where more is to be done than to write this line, or where it might not fit.
    Raises StorageError or NoPrimaryKey.
    """
    if parts is None or not _is_all(tools, session, parts, visit):
        return None
    now = tools.now()
    record = identity(tools, session, visit.record, parts, now)
    payload = encode_record(record, int(now))
    if len(payload) > tools.core_bytes(visit.candidates.foreign_bytes, other_bytes):
        return None
    followers, save = tools.hooks, None
    if followers.all:
        save = save_of(session, record, dict.fromkeys(parts, Place.CORE), visit, now)
        followers.before_save(save)
    text = tools.codec.seal_payload(payload, int(now))
    if save is not None:
        followers.before_sending(save)
    tools.emit("saved", session_id=record.id)
    cookies = tools.cookies
    return cookies.set_line(cookies.name, text, max_age(tools, record, now))


def identity(
    tools: Deployment, session: Session, old: Record | None, parts: Mapping[str, bytes], now: float
) -> Record:
    """The record to save, with these parts in its core. `old`: the one that arrived.

    Raises StorageError or NoPrimaryKey at a sign-in that could not be compared with a sign-out.
    """
    if old is None or session.signed_in or session.ended:
        created_at = _began(tools, session.subject, now)
        expires_at, generation = created_at + tools.lifetimes.absolute, 1
    else:
        created_at, expires_at, generation = old.created_at, old.expires_at, old.generation + 1
    return Record(session.raw_id, session.subject, created_at, expires_at, generation, parts)


def max_age(tools: Deployment, record: Record, now: float) -> int | None:
    """The Max-Age of its cookies in seconds; None for those that end with the browser."""
    return max(1, record.expires_at - int(now)) if tools.settings.persistent else None


def save_of(
    session: Session, record: Record, places: Mapping[str, Place], visit: LoadedSession, now: float
) -> Save:
    """What followers are told of it."""
    opened = visit.opened
    arrived_id = None if opened is None else opened.record.id
    sealed_at = None if opened is None else opened.sealed_at
    return Save(session, record, session.parts, places, arrived_id, sealed_at, now)


def _is_all(
    tools: Deployment, session: Session, parts: Mapping[str, bytes], visit: LoadedSession
) -> bool:
    """Whether no other cookie, row or id is to be written, deleted or refused."""
    old, settings = visit.record, tools.settings
    if old is not None and (old.overflow or old.id != session.raw_id):
        return False
    if visit.candidates.overflow or settings.legacy is not None:
        return False
    policies = tools.policies
    return not (policies and any(policies.get(name) is Policy.SERVER for name in parts))


def _began(tools: Deployment, subject: str | None, now: float) -> int:
    """When a session that begins now counts as begun: after any sign-out of its subject."""
    revocations, settings = tools.revocations, tools.settings
    if subject is None or revocations is None:
        return int(now)
    expires_at = int(now) + settings.absolute_lifetime + settings.skew
    return revocations.begin(subject, expires_at, now)


VERSION_BYTES = 9
# The manifest's frame, and how far the heads of the core's arrays can grow.
FRAME_BYTES = 14
# What sealing and the head of its list put around the parts in overflow.
OVERFLOW_BYTES = sealing.OVERHEAD_BYTES + 3
# set id, count, digest and the head of the list of names.
OVERFLOW_ENTRY_BYTES = 1 + 9 + 1 + 17 + 3
# How much a session of the same size may be planned too large: FRAME_BYTES as text, the longest
# name, a separator.
SLACK_BYTES = 32
_OUTSIDE = (Place.OVERFLOW, Place.SPILLED)
# Chunks that may be about although no profile in force writes so many.
LAST_CHUNK = 3


class Saving:
    """Saves `session`, which has something to save, at `now` (epoch seconds)."""

    def __init__(
        self,
        toolkit: Deployment,
        session: Session,
        visit: LoadedSession,
        other_bytes: int,
    ) -> None:
        self._tools = toolkit
        self._session = session
        self._parts = dict(session.parts)
        self._visit = visit
        self._other_bytes = other_bytes
        self._now = toolkit.now()
        self._max_age: int | None = None
        self._leaves_strays = False

    def lines(self) -> list[str]:
        """The Set-Cookie field values. Raises SessionTooLarge, StorageError or NoPrimaryKey."""
        self._fetch_what_may_move()
        record = identity(self._tools, self._session, self._visit.record, NO_PARTS, self._now)
        self._max_age = max_age(self._tools, record, self._now)
        budget, places = self._placed(record)
        save = save_of(self._session, record, places, self._visit, self._now)
        self._tools.hooks.before_save(save)
        record, text, chunks = self._divided(record, budget, places)
        if not self._old_is_replaced():
            self._tools.emit("not-sent", session_id=record.id, reason="revoked")
            tell_not_saved(self._tools, self._session, self._visit)
            return []
        self._tools.hooks.before_sending(save)
        self._drop_rows_left_before(record)
        self._tools.emit("saved", session_id=record.id)
        return [*self._written(text, chunks), *self._deleted(text, chunks)]

    def _divided(
        self, record: Record, budget: Budget, places: Mapping[str, Place]
    ) -> tuple[Record, str, list[str]]:
        """By plan: what lives in the core, in overflow, in the store."""
        spilled = self._spill(record, places)
        overflow, chunks = self._overflow(record, places, budget)
        record = self._complete(record, places, spilled, overflow)
        text = self._tools.codec.seal_core(record, int(self._now))
        if len(text) > budget.core_chars:
            raise self._too_large(budget)
        return record, text, chunks

    def deletions(self) -> list[str]:
        """The Set-Cookie field values that leave nothing of ours in the browser."""
        self._old_is_replaced()
        return self._deleted(None, [])

    # --- who it is ------------------------------------------------------------------------------

    @property
    def _moved(self) -> bool:
        """Whether the id is another one, so that nothing outside the core opens any more."""
        old = self._visit.record
        return old is not None and old.id != self._session.raw_id

    # --- what goes where ------------------------------------------------------------------------

    def _fetch_what_may_move(self) -> None:
        for name, part in list(self._parts.items()):
            stays = part.place is Place.SPILLED and self._may_stay_spilled(name)
            if part.encoded is None and not stays and self._session.fetch(name) is None:
                del self._parts[name]  # it is lost

    def _may_stay_spilled(self, name: str) -> bool:
        cookie_only = self._policy(name) is Policy.COOKIE
        return not (self._moved or cookie_only) and self._tools.parts is not None

    def _placed(self, record: Record) -> tuple[Budget, dict[str, Place]]:
        """A place for each part, within what the profile leaves beside the foreign cookies.

        Where that is too little, as much as came through with this request comes through again. And
        where it still is, strays stay: they do no harm, and to delete them takes room.
        """
        arrived = self._visit.candidates.our_bytes
        try:
            return self._placed_within(record, 0)
        except SessionTooLarge:
            if not arrived:
                raise
        try:
            return self._placed_within(record, arrived + SLACK_BYTES)
        except SessionTooLarge:
            if not self._deleted("", []):
                raise
        self._leaves_strays = True
        return self._placed_within(record, arrived + SLACK_BYTES)

    def _placed_within(self, record: Record, arrived: int) -> tuple[Budget, dict[str, Place]]:
        budget = self._budget(self._max_age, arrived)
        return budget, self._all_in_core(record, budget) or self._plan(record, budget)

    def _all_in_core(self, record: Record, budget: Budget) -> dict[str, Place] | None:
        """The core for all parts, where they fit there to the byte: the plan counts a few more, for
        what it may have to state.
        """
        core = {}
        for name, part in self._parts.items():
            outside = part.version is not None or self._policy(name) is Policy.SERVER
            if part.encoded is None or outside:
                return None
            core[name] = part.encoded
        whole = record_codec.encode_record(record._replace(parts=core), int(self._now))
        room = chunking.token_bytes(budget.core_chars) - sealing.OVERHEAD_BYTES
        fits = len(whole) <= room and not self._rows_to_leave()
        return dict.fromkeys(core, Place.CORE) if fits else None

    def _budget(self, max_age: int | None, arrived_bytes: int = 0) -> Budget:
        settings, cookies = self._tools.settings, self._tools.cookies
        longest = cookies.chunk_name(1)
        deleted = sum(map(field_bytes, self._deleted("", [])))
        return self._tools.budget(
            self._visit.candidates.foreign_bytes,
            arrived_bytes,
            self._other_bytes + deleted,
            len(longest) + 1,
            cookies.line_overhead(longest, max_age if settings.persistent else None),
        )

    def _plan(self, record: Record, budget: Budget) -> dict[str, Place]:
        items = [self._item(name, part) for name, part in self._parts.items()]
        left = sum(_entry_bytes(name) for name in self._rows_to_leave())
        fixed = len(record_codec.encode_record(record, int(self._now))) + FRAME_BYTES + left
        core = chunking.token_bytes(budget.core_chars) - sealing.OVERHEAD_BYTES - fixed
        overflow = chunking.token_bytes(budget.overflow_chars) - OVERFLOW_BYTES
        both = chunking.token_bytes(budget.shared_chars - 2) - sealing.OVERHEAD_BYTES - fixed
        if core < 0:
            raise self._too_large(budget)
        room = Room(core, max(0, overflow), both - OVERFLOW_BYTES, OVERFLOW_ENTRY_BYTES)
        order = self._tools.settings.spill_order
        return plan(items, room, order, self._tools.parts is not None)

    def _item(self, name: str, part: Part) -> Item:
        entry = _entry_bytes(name)
        size = None if part.encoded is None else record_codec.part_bytes(name, len(part.encoded))
        left = 0 if part.version is None else entry
        return Item(name, size, entry, self._policy(name), part.place, left)

    def _policy(self, name: str) -> Policy:
        return self._tools.policies.get(name, Policy.AUTO)

    # --- carrying it out ------------------------------------------------------------------------

    def _spill(self, record: Record, places: Mapping[str, Place]) -> dict[str, int]:
        """The versions of what lives in the store, after writing what changed."""
        versions = {}
        for name, place in places.items():
            if place is not Place.SPILLED:
                continue
            part, known = self._parts[name], self._known_version(name)
            unmoved = part.place is Place.SPILLED and known is not None
            if unmoved and known is not None and not part.changed:
                versions[name] = known
            else:
                versions[name] = self._write_row(name, part, known, record)
        return versions

    def _write_row(self, name: str, part: Part, known: int | None, record: Record) -> int:
        tools = self._tools
        if tools.parts is None or part.encoded is None:
            raise ConfigurationError("a part is to be spilled without a storage service")
        expires_at = record.expires_at + tools.settings.skew
        tools.emit("spilled", session_id=record.id)
        version = tools.parts.spill(
            record.id,
            name,
            part.encoded,
            known=known,
            base=part.saved,
            expires_at=expires_at,
            merge=self._merge_of(name),
        )
        return version

    def _known_version(self, name: str) -> int | None:
        if self._moved:
            return None
        part = self._parts.get(name) or self._session.gone[name]
        return self._visit.versions.get(name, part.version)

    def _merge_of(self, name: str) -> Merge:
        rule = self._tools.settings.merge.get(name)
        if rule is None:
            return last_writer_wins

        def merge(base: bytes | None, theirs: bytes, ours: bytes) -> bytes:
            before = None if base is None else codec.decode(base)
            merged = rule(before, codec.decode(theirs), codec.decode(ours))
            return codec.encode(merged, f"session[{name!r}]")

        return merge

    def _overflow(
        self, record: Record, places: Mapping[str, Place], budget: Budget
    ) -> tuple[OverflowSet | None, list[str]]:
        """The overflow's entry in the manifest, and its chunks.

        They are written with every core, changed or not: else a core that answers late would state
        the overflow of before, and neither tab's parts would be left.
        """
        names = [name for name, place in places.items() if place is Place.OVERFLOW]
        if not names:
            return None, []
        parts = {name: self._parts[name].encoded or b"" for name in names}
        rooms = (budget.chunk_chars,) * budget.chunks
        return self._tools.codec.seal_overflow(record.id, parts, rooms, int(self._now))

    def _complete(
        self,
        record: Record,
        places: Mapping[str, Place],
        spilled: Mapping[str, int],
        overflow: OverflowSet | None,
    ) -> Record:
        parts = self._parts
        core = {
            name: parts[name].encoded or b""
            for name, place in places.items()
            if place is Place.CORE
        }
        left = self._rows_to_leave() | {
            name: version
            for name, place in places.items()
            if place is not Place.SPILLED
            and parts[name].place is Place.SPILLED
            and (version := self._known_version(name)) is not None
        }
        return Record(
            record.id,
            record.subject,
            record.created_at,
            record.expires_at,
            record.generation,
            core,
            overflow,
            spilled,
            left,
        )

    # --- what is no longer used -----------------------------------------------------------------

    def _rows_to_leave(self) -> dict[str, int]:
        """Rows of parts that this request removed: deleted once the browser carries the new core.

        Were they deleted now and this response lost, the old core would point at nothing.
        """
        if self._moved or self._session.ended:
            return {}
        gone = self._session.gone.items()
        return {
            name: version
            for name, part in gone
            if part.place is Place.SPILLED and (version := self._known_version(name)) is not None
        }

    def _drop_rows_left_before(self, record: Record) -> None:
        old = self._visit.record
        if old is None or not old.left or self._moved:
            return
        used = {**record.spilled, **record.left}
        unused = {name: version for name, version in old.left.items() if name not in used}
        self._visit.forget(old.id, unused)

    def _old_is_replaced(self) -> bool:
        """Before the cookie with the new id is sent, the old id is refused, as `regenerate` says.

        False when a logout came first, which a session under a new id would outlive; a sign-in may.
        """
        old, session = self._visit.record or self._visit.adopted, self._session
        if session.ended or old is None or old.id == session.raw_id:
            return True
        return self._visit.revoke(old, replaced=True) or session.signed_in

    # --- lines ----------------------------------------------------------------------------------

    def _written(self, text: str, chunks: list[str]) -> list[str]:
        cookies = self._tools.cookies
        core = cookies.set_line(cookies.name, text, self._max_age)
        if not chunks:
            return [core]
        # Chunks first: a browser that dies half-way keeps the old core rather than a torn set.
        numbered = enumerate(chunks, 1)
        named = [(cookies.chunk_name(number), chunk) for number, chunk in numbered]
        return [*(cookies.set_line(name, chunk, self._max_age) for name, chunk in named), core]

    def _deleted(self, core: str | None, chunks: list[str]) -> list[str]:
        """Deletions of what this save does not write.

        The whole fixed range goes, not only what this request carried: another tab may have
        written more.
        """
        if self._leaves_strays:
            return []
        cookies, visit = self._tools.cookies, self._visit
        names = [cookies.name] if core is None and visit.candidates.core else []
        had_overflow = visit.record is not None and visit.record.overflow is not None
        if visit.candidates.overflow or had_overflow:
            kept = len(chunks)
            configured = self._tools.profile.cookies - 1
            last = max(LAST_CHUNK, configured, *visit.candidates.overflow)
            names += [cookies.chunk_name(number) for number in range(kept + 1, last + 1)]
        lines = [cookies.delete_line(name) for name in names] if names else []
        reader = self._tools.settings.legacy
        return [*lines, reader.delete_line()] if reader and visit.has_old_cookie else lines

    def _too_large(self, budget: Budget) -> SessionTooLarge:
        sizes = {name: len(part.encoded or b"") for name, part in self._parts.items()}
        foreign = self._visit.candidates.foreign_bytes
        why = (
            f"the request has {foreign} bytes of other cookies, the response"
            f" {self._other_bytes} bytes of other Set-Cookie lines"
        )
        return SessionTooLarge(sizes, chunking.token_bytes(budget.core_chars), why)


def tell_not_saved(tools: Deployment, session: Session, visit: LoadedSession) -> None:
    """Tell all followers that a logout came first. Raises StorageError."""
    if visit.record is not None:
        tools.hooks.not_saved(session, visit.record.id, tools.now())


def _entry_bytes(name: str) -> int:
    """What the manifest takes for one stored part."""
    name_bytes = len(name.encode())
    return record_codec.head_bytes(name_bytes) + name_bytes + VERSION_BYTES
