"""The mapping that an application sees."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import (
    Callable,
    Collection,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Protocol, Self, TypeAlias
from uuid import UUID

from ._wire import cbor
from ._wire.record import DEVICE, Lifetimes, Place, Record, check_name, check_subject, format_id
from .errors import (
    LateRead,
    LateWrite,
    MalformedRecord,
    OperatorError,
    PartUnavailable,
    SessionNotLoaded,
    SessionTooLarge,
    UnreadablePart,
    UnsupportedValue,
    show_value,
)

__all__ = ["Session"]

# The head of a part's name and value, and its name in a list of parts.
PART_BYTES = 16
# What a core has for a part that the browser keeps (experimental): this byte, with which no
# encoding begins, the generation in 6 bytes, and a digest of 16 of generation and encoding. A
# release that does not know it finds a part of a newer release, and keeps it.
IN_BROWSER = b"\xff"
BROWSER_PART_BYTES = 23
_new = object.__new__
# In Python 3.11, looking up a member of an enumeration costs as much as encoding a value.
_CORE = Place.CORE

Refusal: TypeAlias = Literal["expired", "signed-out", "replaced", "withheld"]


class _Unread:
    """The value of a part that the application has not read."""


UNREAD: Final = _Unread()
# Types of values that cannot change without being assigned.
UNCHANGEABLE = frozenset({_Unread, type(None), bool, int, float, str, bytes})


@dataclass(slots=True)
class Part:
    """One part of a session during a request.

    `place`: where it is, None before its first save. `version`: its version in the store. `saved`
    is its encoding as it was loaded, `encoded` its encoding now; None means not recalled or, for
    `saved`, that it is new.
    """

    place: Place | None = None
    version: int | None = None
    saved: bytes | None = field(default=None, repr=False)
    encoded: bytes | None = field(default=None, repr=False)
    value: object = field(default=UNREAD, repr=False)
    is_assigned: bool = False

    @property
    def is_changed(self) -> bool:
        """Whether a save would write something else than what was loaded."""
        return self.is_assigned if self.saved is None else self.encoded != self.saved


def core_part(data: bytes) -> Part:
    """`Part(Place.CORE, None, data, data)`, at a third of its cost."""
    part: Part = _new(Part)
    part.place, part.version = _CORE, None
    part.saved = part.encoded = data
    part.value, part.is_assigned = UNREAD, False
    return part


class Limit(NamedTuple):
    """What `Session.limit` asked for in a request; None for what it left alone.

    `idle` in seconds, `until` in epoch seconds. `began_at`: when the request signed in, or gave
    terms to a new session. `device`: the public key that the session is bound to from now on.
    """

    idle: int | None = None
    until: int | None = None
    persistent: bool | None = None
    began_at: int | None = None
    device: bytes | None = None

    def __repr__(self) -> str:
        return f"<Limit: idle {self.idle}, until {self.until}, persistent {self.persistent}>"


NO_LIMIT: Final = Limit()


# Not frozen, because every save makes one, and a frozen dataclass costs three times as much.
@dataclass(slots=True)
class Changes:
    """What a session says to a save.

    `core`: the encoding of each part if all of them can stay in the core, else None;
    `encoded_bytes`: their size in all. `parts` and `removed`: the parts now, core parts that were
    not read as their bytes, and those that this request removed. `limit`: the terms that this
    request asked for. `is_kept`: it is saved even if nothing is in it.
    """

    is_modified: bool
    id: bytes
    subject: str | None
    is_signed_in: bool
    is_regenerated: bool
    is_ended: bool
    core: dict[str, bytes] | None
    encoded_bytes: int
    parts: Mapping[str, Part | bytes]
    removed: Mapping[str, Part]
    limit: Limit = NO_LIMIT
    is_kept: bool = False

    def __repr__(self) -> str:
        # Reprs end up in logs and tracebacks: no subject, no name, no value.
        return f"<Changes of {len(self.parts)} parts, modified: {self.is_modified}>"


class SizeReserve(Protocol):
    """What a session could certainly carry besides, when its size was last checked."""

    def take(self, name: str, value_bytes: int, /) -> bool:
        """Use it for a part that is new or assigned again. False if it does not suffice."""
        ...


class SessionBackend(Protocol):
    """What a session asks of the request that it was loaded from.

    `record`: the record that the request carries. `withheld`: why its cookies cannot be judged now.
    `adopted`: the record and `adopted_values` the parts that a legacy cookie carries.
    """

    record: Record | None
    withheld: str | None
    adopted: Record | None
    adopted_values: Mapping[str, object]

    @property
    def refusal(self) -> Refusal | None:
        """Why the cookies opened no session, in a word for visitors."""
        ...

    @property
    def convert(self) -> Callable[[object], object] | None:
        """The setting convert."""
        ...

    @property
    def subject_key(self) -> str | None:
        """The setting subject_key."""
        ...

    def recall_ahead(self, names: Collection[str] | None) -> None:
        """Recall stored parts, all of them for None; an error is raised where a part is read."""
        ...

    def free_bytes(self) -> int:
        """By how much the encoded parts may grow without any doubt that they can be sent."""
        ...

    def list_room(self, names: Iterable[str]) -> int:
        """By how much parts of these names may grow if the store takes them all.

        Less than 0 if there is no room to list them, or if parts may not spill.
        """
        ...

    def check_size(self, session: Session) -> SizeReserve | None:
        """Raise SessionTooLarge if no response could carry the session.

        Returns what more it could certainly carry; None if that is unknown.
        """
        ...

    @property
    def lifetimes(self) -> Lifetimes:
        """The lifetimes that the settings give every session."""
        ...

    def recall(self, name: str) -> bytes | None:
        """The encoding of a part outside the core; None if it is lost."""
        ...

    def recall_copy(self, name: str) -> bytes | None:
        """What the store has of a part that the browser keeps; None if it does not have it."""
        ...

    def write_copy(self, name: str, data: bytes | None) -> None:
        """Let a store have a copy of a part that the browser keeps, or, for None, no more."""
        ...

    def note_unreadable(self, name: str) -> None:
        """A part was written by another release."""
        ...

    def end(self) -> None:
        """Make sure that no node opens this request's session again, as far as is promised."""
        ...

    def new_id(self) -> bytes:
        """A random session id."""
        ...

    def now(self) -> float:
        """The deployment's time (epoch seconds)."""
        ...


class Session(MutableMapping[str, object]):
    """A user's session in one request, loaded when the application first uses it.

    Assigning encodes the value, so that an unsupported value raises UnsupportedValue where it is
    assigned, and so does SessionTooLarge for a value for which the cookies have no room and that
    may neither spill nor be left out; the session is then as before. Changes inside a list or a
    dict are found when the response starts, or by `check_size`. Membership, length, truth and
    iteration answer from the cookie; `keys`, `values`, `items` and reading a value recall parts
    from the store, and only they notice that the store lost one.
    """

    # The state before the session is loaded. As class attributes these cost nothing in the
    # requests that never use their session.
    # The request that the session was loaded from; None before its first use, also after a save.
    backend: SessionBackend | None = None
    # How the session begins again with what was saved, until its next use; the first arguments.
    _resume: tuple[Callable[..., SessionBackend], tuple[object, ...]] | None = None
    _id = b""
    _subject: str | None = None
    # Core parts stay encoded until they are read.
    _parts: dict[str, Part | bytes]
    _removed: dict[str, Part]
    _is_signed_in = False
    _is_regenerated = False
    _is_ended = False
    _are_headers_sent = False
    # Whether `changes` may find any: a pure read, as most requests are, is saved without looking.
    is_touched = False
    # Whether reading it in this request does not renew it; see `peek`.
    is_peeked = False
    # The size of the encoded parts when `check_size` last refused them.
    refused_bytes = -1
    # By how much assignments may make the encoded parts grow before their sizes are added up; None
    # if that is not known yet.
    _free_bytes: int | None = None
    _reserve: SizeReserve | None = None
    _limit = NO_LIMIT
    _is_limited = False
    _is_kept = False
    # Whether this request has signed a user in, also after it was saved.
    has_signed_in = False
    # The state before a logout whose end is not recorded yet.
    _before_logout: dict[str, Any] | None = None
    # The name and generation of a part that this request would have needed from the browser.
    missing_part: tuple[str, int] | None = None
    # Whether a part was read from the copy that the store has of it.
    _has_copies = False
    # What `load_ahead` loaded, until the first use.
    _ahead: SessionBackend | None = None

    def __init__(self, load: Callable[[str], SessionBackend], cookie_header: str) -> None:
        self.loader = load
        self._cookie_header = cookie_header

    # --- who it is ------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """22 characters that stay the same until `regenerate`, `invalidate` or a sign-in.

        Not a secret: knowing it opens nothing.
        """
        return format_id(id_bytes(self))

    @property
    def subject(self) -> str | None:
        """The user that this session belongs to; None for a visitor.

        Assigning a user signs in, also the user who is signed in already: the session gets a new id
        and lives its full lifetimes from now. Assigning another user, or None, also drops every
        part, so that no user inherits a cart. With the setting subject_key it assigns or removes
        that part, too. In a request whose cookies opened no session (`refusal`), None does what
        `invalidate` does. Raises UnsupportedValue for an empty subject, and for None what
        `invalidate` raises there.
        """
        if self.backend is None:
            self._use()
        return self._subject

    @subject.setter
    def subject(self, subject: str | None) -> None:
        loaded = self._use_to_write()
        if subject is not None:
            check_subject(subject)
        elif loaded.refusal is not None and not self._is_ended:
            # The session of the browser is not here, and may be alive elsewhere.
            self.invalidate()
            return
        if loaded.subject_key is not None:
            self._assign_subject(loaded.subject_key, subject)
            return
        # A user signs in once in a request; a visitor cannot sign out.
        if subject == self._subject and (subject is None or self._is_signed_in):
            return
        if self._subject not in (None, subject):
            self.clear()
        self._subject, self._is_signed_in = subject, True
        self.has_signed_in = subject is not None
        self._id = loaded.new_id()
        self._limit = self._limit._replace(began_at=int(loaded.now()))

    @property
    def is_new(self) -> bool:
        """Whether the request brought no session that could be opened."""
        loaded = self._use()
        return self._is_ended or (loaded.record is None and loaded.adopted is None)

    @property
    def created_at(self) -> int | None:
        """When the session began or was signed in (epoch seconds); None until it is saved."""
        record = self._continued_record()
        return None if record is None else record.created_at

    @property
    def expires_at(self) -> int | None:
        """When it ends even if it is in use (epoch seconds), with what this request changed.

        After a sign-in it is what the new session will have. None for any other session that was
        not saved yet and has no limit.
        """
        record, lifetimes = self._continued_record(), self.load().lifetimes
        began_at, until = self._limit.began_at, self._limit.until
        if record is not None:
            created_at, ends_at = record.created_at, record.ends_at(lifetimes)
        elif began_at is not None:
            created_at, ends_at = began_at, began_at + lifetimes.absolute
        else:
            return None
        return ends_at if until is None else min(until, created_at + lifetimes.longest)

    @property
    def persistent(self) -> bool | None:
        """Whether its cookies outlive the browser's window; None: as the settings say."""
        record, limit = self._continued_record(), self._limit
        if limit.persistent is not None or record is None:
            return limit.persistent
        return record.terms.persistent

    @property
    def is_bound(self) -> bool:
        """Whether it opens only in the browser that has its key (experimental)."""
        record = self._continued_record()
        is_known = record is not None and DEVICE in record.fields
        return is_known or self._limit.device is not None

    @property
    def refusal(self) -> Refusal | None:
        """Why the cookies of this request opened no session, in a word for visitors.

        ``"expired"``, ``"signed-out"``, ``"replaced"`` (another request gave the session a new id,
        whose cookie may be on its way) or ``"withheld"`` (it cannot be judged now). None if they
        opened one, and if there was none or it was not authentic.
        """
        loaded = self._use()
        return "signed-out" if self._is_ended else loaded.refusal

    @property
    def withheld(self) -> str | None:
        """Why the cookies of this request cannot be judged now; None in all ordinary cases.

        What is written into such a session is not sent, so that a node that lags behind never
        overwrites a good cookie; only a sign-in replaces it.
        """
        loaded = self._use()
        return None if self._is_ended else loaded.withheld

    def peek(self) -> Self:
        """Say that this request is no activity of the user, and return the session.

        For pages that poll: reading it in this request does not renew it, so its idle lifetime
        runs on, and sends no cookie; the response still depends on the cookie (Vary). A write is an
        activity, and renews it as ever.
        """
        self._use()
        self.is_peeked = True
        return self

    def keep(self) -> None:
        """Let the session exist although nothing is in it: its id stays for the next requests."""
        self._use_to_write()
        self._is_kept = True

    def check_size(self) -> None:
        """Raise SessionTooLarge if the cookies have no room for the session as it is now.

        Assigning a part checks that. This also finds changes inside lists and dicts, which a
        response would not carry. A response of the application to this error carries the session as
        it was, and the event `no-room` is a warning, unless it signs in or out, or grows further.
        """
        try:
            self._use().check_size(self)
        except SessionTooLarge:
            self.refused_bytes = self.changes().encoded_bytes
            raise

    def regenerate(self) -> None:
        """Give the session a new id, at a change of privilege; its parts and lifetimes stay.

        The old id is revoked in the store, if there is one, before the new cookie is sent.
        """
        self._id = self._use_to_write().new_id()
        self._is_regenerated = True

    def limit(
        self,
        *,
        idle: int | None = None,
        until: float | datetime | None = None,
        persistent: bool | None = None,
    ) -> None:
        """Give this session lifetimes that differ from the settings: "remember me", a short visit.

        `idle`: it ends this many seconds after its last seal. `until`: it ends then (epoch seconds,
        or an aware datetime). `persistent`: whether its cookies outlive the browser's window. None
        leaves a term as it is. Terms may be shorter or longer than the settings, but a session ends
        at the latest longest_lifetime after its sign-in, whatever `until` says.

        The terms stay until they are changed, and end with the session: a sign-in begins with those
        of the settings, unless they are given in its request, before or after `subject` is
        assigned. Another `idle` or `until` for a session that exists gives it a new id, as
        `regenerate` does, so that its earlier cookies lose their terms; without a store they keep
        them. Raises UnsupportedValue for a time that is not positive, over, or too long.
        """
        loaded = self._use_to_write()
        longest = loaded.lifetimes.longest
        if idle is not None and (type(idle) is not int or not 0 < idle <= longest):
            raise UnsupportedValue(
                "idle",
                f"must be 1 to {longest} whole seconds (the setting longest_lifetime), or None;"
                f" got {show_value(idle)}",
            )
        if until is not None:
            until = _check_until(until, int(loaded.now()), longest)
        if persistent is not None and type(persistent) is not bool:
            kind = type(persistent).__name__
            raise UnsupportedValue("persistent", f"must be True, False or None; got {kind}")
        record, old = self._continued_record(), self._limit
        began_at = old.began_at
        if record is None and began_at is None:
            began_at = int(loaded.now())
        new = self._limit = Limit(
            old.idle if idle is None else idle,
            old.until if until is None else until,
            old.persistent if persistent is None else persistent,
            began_at,
        )
        if record is None:
            return
        idle, ends_at = record.terms.idle or loaded.lifetimes.idle, record.ends_at(loaded.lifetimes)
        has_new_times = new.idle not in (None, idle) or (
            new.until is not None and min(new.until, record.created_at + longest) != ends_at
        )
        # One id has one set of times: an end that is recorded for it covers all of its cookies,
        # and its stored parts live as long as it does.
        if has_new_times and self._id == record.id:
            self.regenerate()
        if new.persistent is not None and new.persistent != record.terms.persistent:
            self._is_limited = True

    def invalidate(self) -> None:
        """Log out: revoke the session in the store, if there is one, and empty it.

        When this returns, the revocation is recorded. Raises StorageError, NoPrimaryKey or
        SessionWithheld if it could not be; the session is then unchanged.
        """
        self._use_to_write().end()
        self.begin_logout()
        self.finish_logout()

    # --- the mapping ----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> object:
        loaded = self.backend or self._use()
        part = self._parts[name]
        if not isinstance(part, Part):
            part = self._parts[name] = core_part(part)
        if part.value is UNREAD:
            data = part.encoded
            if data is None:
                data = part.encoded = part.saved = loaded.recall(name)
                if data is None:  # the store lost it
                    del self._parts[name]
                    raise KeyError(name)
            part.value = self.decode(name, data)
        value = part.value
        if type(value) not in UNCHANGEABLE:
            self.is_touched = True
        return value

    def __setitem__(self, name: str, value: object) -> None:
        loaded, self.is_touched = self.backend, True
        if self._are_headers_sent or loaded is None:
            loaded = self._use_to_write()
        part = self._parts.get(name)
        if part is None:
            check_name(name)
        encoded = _encode(name, value, loaded)
        free = self._free_bytes
        if free is None:
            free = loaded.free_bytes()
        self._free_bytes = free = free - len(encoded) - 4 * len(name) - PART_BYTES
        if free < 0:
            self._assign_within(name, value, encoded, loaded)
            return
        if part is None:
            removed = self._removed.pop(name, None)
            part = self._parts[name] = Part() if removed is None else removed
        elif not isinstance(part, Part):
            part = self._parts[name] = core_part(part)
        part.encoded, part.value, part.is_assigned = encoded, value, True

    def _assign_within(
        self, name: str, value: object, encoded: bytes, loaded: SessionBackend
    ) -> None:
        """Assign a value if the cookies have room for it. Raises SessionTooLarge."""
        before, removed = self._parts.get(name), self._removed.get(name)
        known = before if before is not None else removed
        if known is None:
            part = Part()
        else:
            part = replace(known) if isinstance(known, Part) else core_part(known)
        part.encoded, part.value, part.is_assigned = encoded, value, True
        self._removed.pop(name, None)
        self._parts[name] = part
        if self._reserve is not None and self._reserve.take(name, len(encoded)):
            return
        # A part in the store takes only its name in the cookie.
        self._free_bytes = loaded.list_room([*self._parts, *self._removed])
        if self._free_bytes >= 0:
            return
        try:
            self._reserve = loaded.check_size(self)
        except SessionTooLarge:
            del self._parts[name]
            if before is not None:
                self._parts[name] = before
            if removed is not None:
                self._removed[name] = removed
            raise

    def __delitem__(self, name: str) -> None:
        self._use_to_write()
        self._removed[name] = self._part(name)
        del self._parts[name]

    def __contains__(self, name: object) -> bool:
        self._use()
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        self._use()
        return iter(list(self._parts))

    def __len__(self) -> int:
        self._use()
        return len(self._parts)

    def __reversed__(self) -> Iterator[str]:
        self._use()
        return reversed(list(self._parts))

    def __or__(self, other: object) -> dict[str, object]:
        return dict(self.items()) | dict(other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: object) -> dict[str, object]:
        return dict(other) | dict(self.items()) if isinstance(other, Mapping) else NotImplemented

    # As a dict's, it also takes pairs, and returns the session.
    def __ior__(  # type: ignore[misc]
        self, other: Mapping[str, object] | Iterable[tuple[str, object]]
    ) -> Self:
        self.update(other)
        return self

    def copy(self) -> dict[str, object]:
        """A dict of all parts that can be read, with copies of their values.

        Changing it changes nothing in the session. `copy.copy`, `copy.deepcopy` and `pickle` make
        the same dict: no second object writes to this session.
        """
        return copy.deepcopy(dict(self.items()))

    def __reduce__(self) -> tuple[type[dict[str, object]], tuple[dict[str, object]]]:
        return dict, (self.copy(),)

    def popitem(self) -> tuple[str, object]:
        """Remove the last part that can be read and return its name and value.

        Raises KeyError if there is none.
        """
        self._use_to_write()
        for name in reversed(self):
            value = self.get(name, UNREAD)  # the store may have lost it
            if value is not UNREAD:
                del self[name]
                return name, value
        raise KeyError("popitem(): the session is empty")

    def keys(self) -> _Keys:
        """The names of all parts that can be read; recalls parts from the store."""
        self._recall_all()
        return _Keys(self)

    def values(self) -> _Values:
        """The values of all parts that can be read; recalls parts from the store."""
        self._recall_all()
        return _Values(self)

    def items(self) -> _Items:
        """Names and values of all parts that can be read; recalls parts from the store."""
        self._recall_all()
        return _Items(self)

    def clear(self) -> None:
        """Remove every part, without recalling any. It is no logout: see `invalidate`."""
        self._use_to_write()
        self._removed.update((name, self._part(name)) for name in self._parts)
        self._parts.clear()

    def __repr__(self) -> str:
        # Reprs end up in logs and tracebacks: no name, no value.
        return f"<Session of {len(self._parts)} parts>" if self.accessed else "<Session>"

    # --- for the keeper and the adapters --------------------------------------------------------

    @property
    def accessed(self) -> bool:
        """Whether the application used the session, so that the response depends on the cookie."""
        return self.backend is not None or self._resume is not None

    def load(self) -> SessionBackend:
        """The request that the session was loaded from. Raises LateRead as every first use."""
        return self.backend or self._use()

    def changes(self) -> Changes:
        """What to save. Finds the changes inside lists and dicts; loads no part."""
        loaded = self.backend or self._use()
        # Read once: attributes of the class are the slowest to read.
        is_signed_in, is_regenerated = self._is_signed_in, self._is_regenerated
        is_ended, is_kept, has_copies = self._is_ended, self._is_kept, self._has_copies
        is_modified = is_signed_in or is_regenerated or is_ended or self._is_limited
        if is_kept and loaded.record is None:
            is_modified = True
        core: dict[str, bytes] = {}
        is_all_in_core, size = True, 0
        for name, part in self._parts.items():
            if isinstance(part, bytes):
                core[name] = part
                size += len(part)
                continue
            if type(part.value) not in UNCHANGEABLE:
                encoded = _encode(name, part.value, loaded)
                # A part that was read from its copy, and not changed, stays in the browser.
                if not has_copies or not _is_in_browser(part.encoded, encoded):
                    part.encoded = encoded
            data, place = part.encoded, part.place
            if not is_modified and data is not part.saved:
                is_modified = part.is_changed
            if part.version is not None or (place is not _CORE and place is not None):
                is_all_in_core = False
            data = core[name] = data or b""
            size += len(data)
        for part in self._removed.values():
            is_modified = is_modified or part.place is not None
            if part.version is not None or part.place not in (None, _CORE):
                is_all_in_core = False
        # A third of the cost of `Changes(...)`.
        changes: Changes = _new(Changes)
        changes.is_modified = is_modified
        changes.id = self._id
        changes.subject = self._subject
        changes.is_signed_in = is_signed_in
        changes.is_regenerated = is_regenerated
        changes.is_ended = is_ended
        changes.core = core if is_all_in_core else None
        changes.encoded_bytes = size
        changes.parts = self._parts
        changes.removed = self._removed
        changes.limit = self._limit
        changes.is_kept = is_kept
        return changes

    def read_unwatched(self) -> tuple[dict[str, object], dict[str, Exception]]:
        """The values of all parts, in which no save looks for changes until `watch`.

        Also the errors of those that cannot be read. A part that the store has lost is in neither.
        """
        if self.backend is None:
            self._use()
        values: dict[str, object] = {}
        errors: dict[str, Exception] = {}
        for name, part in list(self._parts.items()):
            try:
                values[name] = self[name] if isinstance(part, Part) else self.decode(name, part)
            except KeyError:
                pass  # the store has lost it
            except (SessionNotLoaded, OperatorError) as error:
                errors[name] = error
        return values, errors

    def begin_logout(self) -> None:
        """Become the new session that a logout leaves, whose end the caller has yet to record.

        For event loops, which record it later, by `SessionBackend.end`, and then call
        `finish_logout`.
        """
        loaded = self._use_to_write()
        if self._before_logout is None:
            before = self._before_logout = dict(vars(self))
            for name in ("_parts", "_removed"):
                parts: dict[str, Part | bytes] = before[name]
                before[name] = {
                    name: replace(part) if isinstance(part, Part) else part
                    for name, part in parts.items()
                }
        self.clear()
        self._subject, self._is_ended = None, True
        self._is_signed_in = self._is_regenerated = self._is_limited = self._is_kept = False
        self.has_signed_in = False
        self._limit = NO_LIMIT
        self._id = loaded.new_id()

    def finish_logout(self, is_recorded: bool = True) -> None:
        """Keep what `begin_logout` has made; or, if the end is not recorded, be as before it."""
        before, self._before_logout = self._before_logout, None
        if before is not None and not is_recorded:
            vars(self).clear()
            vars(self).update(before)

    def watch(self, name: str, value: object) -> None:
        """Find the changes inside `value`, which `read_unwatched` has returned for a part."""
        if name in self._parts:
            part = self._part(name)
            if part.value is UNREAD:
                part.value = value
            self.is_touched = True

    def load_ahead(self, parts: Collection[str] | None = None) -> SessionBackend:
        """Load the session, and its stored `parts` (None: all), without using it.

        Returns the request that it was loaded from, as `load` does. The response does not depend on
        the cookie because of that. What the store does not answer is raised where a part is read.
        """
        loaded = self.backend or self._ahead
        if loaded is None:
            loaded = self._ahead = self.loader(self._cookie_header)
        loaded.recall_ahead(parts)
        return loaded

    @property
    def idle_limit(self) -> int | None:
        """It ends this many seconds after its last seal; None: as the settings say.

        Assigned, it counts from the next save that has something to seal. Unlike `limit` that gives
        no new id, so cookies of before keep what they have.
        """
        record, idle = self._continued_record(), self._limit.idle
        return record.terms.idle if idle is None and record is not None else idle

    @idle_limit.setter
    def idle_limit(self, seconds: int) -> None:
        self._limit = self._limit._replace(idle=seconds)

    def follow_subject(self, name: str) -> None:
        """Sign in the user whom the part `name` names, or sign out if there is none.

        Assigning the part is a sign-in, also of the user who is signed in. Raises UnsupportedValue
        for a value that names no user.
        """
        self._use()
        part = self._parts.get(name)
        value = self[name] if part is not None else None
        subject: str | None
        if value is None:
            subject = None
        elif isinstance(value, str):
            subject = str.__str__(value) or None
        elif isinstance(value, int | UUID) and not isinstance(value, bool):
            subject = str(value)
        else:
            kind = type(value).__name__
            raise UnsupportedValue(
                f"session[{name!r}]", f"names a user as text, a whole number or a UUID; got {kind}"
            )
        is_assigned = isinstance(part, Part) and part.is_assigned and subject is not None
        if subject == self._subject and (self._is_signed_in or not is_assigned):
            return
        if subject is not None:
            check_subject(subject)
        # Unlike an assignment of `subject`, it leaves the other parts: the application, which has
        # set or removed this part, has decided what stays.
        loaded = self._use_to_write()
        self._subject, self._is_signed_in = subject, True
        self.has_signed_in = subject is not None
        self._id = loaded.new_id()
        self._limit = self._limit._replace(began_at=int(loaded.now()))

    def bind_device(self, key: bytes) -> None:
        """Let it open only in the browser that has the key, from now on, and under a new id.

        `key`: a point of P-256, compressed. The old id is revoked in the store, if there is one.
        """
        self.regenerate()
        self._limit = self._limit._replace(device=key)

    def mark_saved(self, resume: Callable[..., SessionBackend], *arguments: object) -> None:
        """Call `resume` at the next use, to begin again with what a save has written.

        With `arguments`, and this session behind them.
        """
        self._resume, self.backend = (resume, arguments), None

    def rebase(self, places: Mapping[str, Place], rows: Mapping[str, int]) -> None:
        """Take the parts as a save has written them.

        `places`: where each part is now. `rows`: the versions of rows in the store, by part name.
        """
        self._is_signed_in = self._is_regenerated = self._is_ended = self._is_limited = False
        self._limit, self._free_bytes, self._reserve = NO_LIMIT, None, None
        self._removed = {
            name: Part(None, version) for name, version in rows.items() if name not in places
        }
        for name, part in self._parts.items():
            if isinstance(part, Part) and name in places:
                part.place, part.version = places[name], rows.get(name)
                part.saved, part.is_assigned = part.encoded, False

    def mark_headers_sent(self) -> None:
        """From now on, a write raises LateWrite and a first use LateRead."""
        self._are_headers_sent = True

    def late_changes(self) -> list[str]:
        """The names of parts that were changed in place after the headers were sent."""
        late: list[str] = []
        # Every value that can change inside touches the session when it is read.
        if not (self.is_touched and self.accessed):
            return late
        for name, part in self._parts.items():
            if not isinstance(part, Part) or type(part.value) in UNCHANGEABLE:
                continue
            try:
                # Loaded here only: most saved sessions need not begin again for this.
                data = _encode(name, part.value, self.load())
                if data == part.encoded or _is_in_browser(part.encoded, data):
                    continue
            except UnsupportedValue:
                pass  # it was changed into something that no cookie can carry
            late.append(name)
        return late

    # --- helpers --------------------------------------------------------------------------------

    def _assign_subject(self, name: str, subject: str | None) -> None:
        """Sign in or out by the part that names the user, which a save follows."""
        # What the application has assigned to the part already is no change to another user.
        with contextlib.suppress(UnsupportedValue):
            self.follow_subject(name)
        if self._subject not in (None, subject):
            self.clear()
        if subject is not None:
            self[name] = subject
        elif name in self._parts:
            del self[name]
        self.follow_subject(name)

    def _use(self) -> SessionBackend:
        """The loaded request; loads it at the first use."""
        if self.backend is not None:
            return self.backend
        if self._resume is not None:
            (resume, arguments), self._resume = self._resume, None
            self.backend = resume(*arguments, self)
            return self.backend
        if self._are_headers_sent:
            # A cache may keep this response for all visitors, so it must not depend on one.
            raise LateRead("the session was first used after the response's headers were sent")
        loaded = self.backend = self._ahead or self.loader(self._cookie_header)
        self._removed = {}
        record = loaded.record
        if record is None:
            adopted, self._parts = loaded.adopted, {}
            if adopted is None:
                self._id = loaded.new_id()
                return loaded
            self._id, self._subject = adopted.id, adopted.subject
            for name, value in loaded.adopted_values.items():
                # Adopting a session is no change by the application.
                encoded = _encode(name, value, loaded)
                self._parts[name] = Part(None, None, encoded, encoded, value)
            return loaded
        self._id, self._subject = record.id, record.subject
        parts: dict[str, Part | bytes] = dict(record.parts)
        self._parts = parts
        if record.overflow or record.spilled or record.orphaned_rows:
            for name in record.overflow.names if record.overflow else ():
                parts[name] = Part(Place.OVERFLOW)
            for name, version in record.spilled.items():
                parts[name] = Part(Place.SPILLED, version)
            # Rows that are no longer used. If such a part spills again, its version is known.
            for name, version in record.orphaned_rows.items():
                if name in parts:
                    self._part(name).version = version
                else:
                    self._removed[name] = Part(None, version)
        return loaded

    def _use_to_write(self) -> SessionBackend:
        if self._are_headers_sent:
            raise LateWrite("the session was changed after the response's headers were sent")
        self.is_touched = True
        return self.backend or self._use()

    def _part(self, name: str) -> Part:
        """A part as more than its bytes. Raises KeyError."""
        part = self._parts[name]
        if not isinstance(part, Part):
            part = self._parts[name] = core_part(part)
        return part

    def decode(self, name: str, data: bytes) -> object:
        """The value of a part's encoding. Raises UnreadablePart."""
        try:
            return cbor.decode(data)
        except MalformedRecord as error:
            if (generation := browser_generation(data)) is not None:
                copy = self.load().recall_copy(name)
                if copy is not None and _is_in_browser(data, copy):
                    self._has_copies = True
                    return cbor.decode(copy)
                self.missing_part = (name, generation)
                raise PartUnavailable(
                    f"session[{name!r}] is kept by the browser, which brings it to a navigation"
                ) from None
            self.load().note_unreadable(name)
            raise UnreadablePart(f"session[{name!r}] was written by another release") from error

    def move_to_browser(self, name: str, generation: int, value: object) -> bool:
        """Whether the core now names what the browser keeps in place of the part.

        `value`: what was read back from the browser. False if the part is another by now. With a
        store, a copy stays there, for requests to which the browser brings nothing. Raises
        StorageError or NoPrimaryKey.
        """
        loaded = self._use_to_write()
        if name not in self._parts:
            return False
        part, data = self._part(name), _encode(name, value, loaded)
        if part.encoded is None:
            part.encoded = part.saved = loaded.recall(name)
        wanted = _name_in_browser(generation, data)
        if part.encoded not in (data, wanted):
            return False
        loaded.write_copy(name, data)
        part.encoded, part.value, part.is_assigned = wanted, UNREAD, True
        return True

    def take_from_browser(self, name: str, generation: int, value: object) -> bool:
        """Whether the part has the value that the browser has brought.

        False unless it is what the core names. Raises SessionTooLarge.
        """
        loaded = self._use_to_write()
        if name not in self._parts:
            return False
        part, data = self._part(name), _encode(name, value, loaded)
        if part.encoded == data:
            return True  # another tab has brought it
        if part.encoded != _name_in_browser(generation, data):
            return False
        self[name] = value
        return True

    def _recall_all(self) -> None:
        loaded = self.backend or self._use()
        for name, part in list(self._parts.items()):
            if isinstance(part, Part) and part.encoded is None:
                part.encoded = part.saved = loaded.recall(name)
                if part.encoded is None:
                    del self._parts[name]

    def _continued_record(self) -> Record | None:
        """The record that was loaded, unless another session has taken its place."""
        record = self._use().record
        return None if self._is_signed_in or self._is_ended else record


# The views of a dict can be reversed; those of collections.abc cannot.


class _Keys(KeysView[str]):
    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self))


class _Values(ValuesView[object]):
    def __reversed__(self) -> Iterator[object]:
        return reversed(list(self))


class _Items(ItemsView[str, object]):
    def __reversed__(self) -> Iterator[tuple[str, object]]:
        return reversed(list(self))


def browser_generation(data: bytes | None) -> int | None:
    """The generation of a part that the browser keeps, by what the core has; None for any other."""
    if data is None or len(data) != BROWSER_PART_BYTES or data[:1] != IN_BROWSER:
        return None
    return int.from_bytes(data[1:7], "big")


def _name_in_browser(generation: int, data: bytes) -> bytes:
    head = generation.to_bytes(6, "big")
    return IN_BROWSER + head + hashlib.blake2b(head + data, digest_size=16).digest()


def _is_in_browser(named: bytes | None, data: bytes) -> bool:
    """Whether `named` is what a core has for a part that the browser keeps with this encoding."""
    generation = browser_generation(named)
    return generation is not None and named == _name_in_browser(generation, data)


def id_bytes(session: Session) -> bytes:
    """The 16 bytes of the session's id."""
    if session.backend is None:
        session.load()
    return session._id


def _check_until(until: object, now: int, longest: int) -> int:
    """The time as whole epoch seconds. Raises UnsupportedValue."""
    if isinstance(until, datetime) and until.utcoffset() is not None:
        seconds = until.timestamp()
    elif isinstance(until, int | float) and not isinstance(until, bool):
        seconds = until
    else:
        kind = "a datetime without a zone" if isinstance(until, datetime) else type(until).__name__
        raise UnsupportedValue("until", f"must be epoch seconds or an aware datetime; got {kind}")
    # The comparison is also false for NaN.
    if not now < seconds <= now + longest + 1:
        raise UnsupportedValue(
            "until",
            f"must be later than now ({now}) and by at most {longest} s (the setting"
            f" longest_lifetime); got {show_value(seconds)}",
        )
    return int(seconds)


def _encode(name: str, value: object, loaded: SessionBackend) -> bytes:
    try:
        return cbor.encode(value)
    except UnsupportedValue:
        # The path is only needed for the error, and building it costs more than encoding a small
        # value.
        return cbor.encode(value, f"session[{name!r}]", loaded.convert)
