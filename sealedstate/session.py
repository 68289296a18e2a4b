"""The mapping that an application sees.

Knows names, values and what was touched. Does not know how a value is encoded, sealed, placed or
stored: all of that it asks of a `Visit`, the floor above, and only when somebody looks.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from ._wire.record import Place, Record, check_name, check_subject
from .errors import LateRead, LateWrite, UnsupportedValue

# FOLD sealedstate.part
# One part of a session during a request: where it lives, what it was and what it is now.
#
# Knows places and encoded bytes. Does not know how a value is encoded, nor its session.


_SCALARS = frozenset({type(None), bool, int, float, str, bytes})


class _Unread:
    """Stands for a value that nobody has looked at."""


UNREAD = _Unread()


@dataclass(slots=True)
class Part:
    """One part of a session during a request.

    `saved` is its encoding as it arrived, `encoded` as it stands now; None means not recalled, or
    for `saved` also: not there before. `version` is the one in the store.
    """

    place: Place | None = None
    version: int | None = None
    saved: bytes | None = field(default=None, repr=False)
    encoded: bytes | None = field(default=None, repr=False)
    value: object = field(default=UNREAD, repr=False)
    replaced: bool = False

    @property
    def changed(self) -> bool:
        """Whether saving it would write something else than what arrived."""
        return self.replaced if self.saved is None else self.encoded != self.saved

    @property
    def is_in_core(self) -> bool:
        """Whether it lives in the core or nowhere yet, and has left nothing in the store."""
        return self.version is None and (self.place is None or self.place is Place.CORE)

    @property
    def may_have_changed(self) -> bool:
        """Whether its value was looked at and can change without being assigned."""
        return self.value is not UNREAD and type(self.value) not in _SCALARS


@dataclass(frozen=True, slots=True)
class PartView:
    """Where a part of an arrived session lives, and its encoded size where that is known."""

    name: str
    place: Place | None
    value_bytes: int | None


class LoadResult(NamedTuple):
    """What a request brought that is no record: nothing, maybe withheld, or adopted values."""

    withheld: str | None = None
    adopted: Mapping[str, object] | None = None
    adopted_id: bytes | None = None
    adopted_subject: str | None = None

    def __repr__(self) -> str:
        return f"<Arrival, withheld: {self.withheld}>"


class Visit(Protocol):
    """What a session asks during one request."""

    def arrive(self) -> Record | LoadResult:
        """Open what the request carries; called at most once."""
        ...

    def recall(self, name: str) -> bytes | None:
        """The encoded value of a part outside the core; None when it is lost."""
        ...

    def encode(self, name: str, value: object) -> bytes:
        """The encoding of a part's value. Raises UnsupportedValue."""
        ...

    def decode(self, name: str, data: bytes) -> object:
        """The value of an encoding."""
        ...

    def end(self) -> None:
        """Make sure that this request's session is never opened again, as far as is promised."""
        ...

    def new_id(self) -> bytes:
        """A fresh session id."""
        ...

    def now(self) -> float:
        """The deployment's time (epoch seconds)."""
        ...


class Session(MutableMapping[str, object]):
    """A user's session in one request, opened when it is first looked at.

    Assigning encodes the value, so that what no cookie can carry is refused where it is assigned,
    and changes inside a list or a dict are noticed when the response starts.
    """

    # Most requests never look at their session: theirs has a visit, which the keeper gives it, and
    # nothing else of its own. How it begins:
    visit: Visit
    # A part of the core that nobody has looked at stands as its bytes.
    _parts: dict[str, Part | bytes]
    _gone: dict[str, Part]
    _arrival: Record | LoadResult | None = None
    _subject: str | None = None
    # For the keeper and the adapters: the 16 bytes behind `id`; whether, in this request, anybody
    # has looked, so that the response depends on the cookie; a subject was assigned; `regenerate`
    # was called; `invalidate` was.
    raw_id = b""
    touched = False
    # Set once the headers are on their way: a write raises LateWrite then, a first look LateRead.
    frozen = False
    signed_in = False
    renewed = False
    ended = False

    # --- who it is ------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """22 characters that stay the same until `regenerate`, `invalidate` or a new subject.

        Not a secret: knowing it opens nothing.
        """
        self._opened()
        return (
            binascii.b2a_base64(self.raw_id, newline=False).rstrip(b"=\n").decode().translate(_ID)
        )

    @property
    def subject(self) -> str | None:
        """The user that this session belongs to; None for a visitor.

        Assigning a user signs in: the session gets a new id and lives its full lifetimes from now.
        Assigning another user, or None, also drops every part: nobody inherits a cart.
        """
        if self._arrival is None:
            self._opened()
        return self._subject

    @subject.setter
    def subject(self, subject: str | None) -> None:
        self._writable()
        if subject is not None:
            check_subject(subject)
        if subject == self._subject:
            return
        if self._subject is not None:
            self.clear()
        self._subject, self.signed_in = subject, True
        self.raw_id = self.visit.new_id()

    @property
    def is_new(self) -> bool:
        """Whether the request brought no session that could be read."""
        arrival = self._opened()
        return self.ended or (isinstance(arrival, LoadResult) and arrival.adopted is None)

    @property
    def created_at(self) -> int | None:
        """When the session began or was signed in (epoch seconds); None until it is saved."""
        record = self._kept_record()
        return None if record is None else record.created_at

    @property
    def expires_at(self) -> int | None:
        """When its absolute lifetime ends (epoch seconds); None until it is saved."""
        record = self._kept_record()
        return None if record is None else record.expires_at

    @property
    def withheld(self) -> str | None:
        """Why the cookies of this request can't be judged now; None in all ordinary cases.

        What is written into such a session is not sent, so that a good cookie is never overwritten
        by a node that lags behind; only signing in replaces it.
        """
        arrival = self._opened()
        return arrival.withheld if isinstance(arrival, LoadResult) and not self.ended else None

    def regenerate(self) -> None:
        """Give the session a new id, at a change of privilege; its parts and lifetimes stay.

        The old id is revoked in the store, where there is one, before the new cookie is sent.
        """
        self._writable()
        self.raw_id = self.visit.new_id()
        self.renewed = True

    def invalidate(self) -> None:
        """Log out: revoke the session in the store, where there is one, and empty it.

        When this returns, the revocation is recorded. Raises StorageError, NoPrimaryKey or
        SessionWithheld when it could not be; the session is then as it was.
        """
        self._writable()
        self.visit.end()
        self.clear()
        self._subject, self.ended, self.signed_in, self.renewed = None, True, False, False
        self.raw_id = self.visit.new_id()

    # --- the mapping ----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> object:
        if self._arrival is None:
            self._opened()
        part = self._part(name)
        if part.value is UNREAD:
            self._read(name, part)
        return part.value

    def __setitem__(self, name: str, value: object) -> None:
        if self.frozen or self._arrival is None:
            self._writable()
        is_new = name not in self._parts
        if is_new:
            check_name(name)
        encoded = self.visit.encode(name, value)
        if is_new:
            self._parts[name] = self._gone.pop(name) if name in self._gone else Part()
        part = self._part(name)
        part.encoded, part.value, part.replaced = encoded, value, True

    def __delitem__(self, name: str) -> None:
        self._writable()
        self._gone[name] = self._part(name)
        del self._parts[name]

    def __contains__(self, name: object) -> bool:
        self._opened()
        if name not in self._parts or not isinstance(name, str):
            return False
        return self._present(name)

    def __iter__(self) -> Iterator[str]:
        self._opened()
        return iter([name for name in list(self._parts) if self._present(name)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __ior__(self, other: Mapping[str, object]) -> Self:
        self.update(other)
        return self

    def clear(self) -> None:
        """Remove every part, without recalling any. It is no logout: see `invalidate`."""
        self._writable()
        self._gone.update(self._all())
        self._parts.clear()

    def __repr__(self) -> str:
        # Neither names nor values: reprs end up in logs and tracebacks.
        return "<Session>" if self._arrival is None else f"<Session of {len(self._parts)} parts>"

    # --- for the keeper and the adapters --------------------------------------------------------

    @property
    def parts(self) -> Mapping[str, Part]:
        """The parts as they stand, with the nested changes that `standing` has noticed."""
        return self._all() if self.touched else {}

    def standing(self) -> tuple[bool, dict[str, bytes] | None]:
        """Whether anything was changed, with nested changes noticed; and the encoding of each part,
        or None where one lives outside the core or leaves something there. Of a touched session.
        """
        changed = self.signed_in or self.renewed or self.ended
        core, is_all = dict[str, bytes](), True
        for name, part in self._parts.items():
            if isinstance(part, Part):
                self._encode_again(name, part)
                changed = changed or part.changed
                is_all = is_all and part.is_in_core
                core[name] = part.encoded or b""
            else:
                core[name] = part
        for gone in self._gone.values():
            changed = changed or gone.place is not None
            is_all = is_all and gone.is_in_core
        return changed, core if is_all else None

    @property
    def gone(self) -> Mapping[str, Part]:
        """The parts that this request removed."""
        return self._gone if self.touched else {}

    def layout(self) -> list[PartView]:
        """Where the parts live that arrived or were assigned."""
        self._opened()
        return [
            PartView(name, part.place, None if part.encoded is None else len(part.encoded))
            for name, part in self._all().items()
        ]

    def fetch(self, name: str) -> bytes | None:
        """The encoded value of a part, recalled if need be; None, and gone, when it is lost."""
        part = self._part(name)
        if part.encoded is None:
            part.encoded = part.saved = self.visit.recall(name)
            if part.encoded is None:
                del self._parts[name]
        return part.encoded

    def late_changes(self) -> list[str]:
        """The names of parts that were changed in place when it was `frozen`."""
        if not self.touched:
            return []
        looked_at = [(name, part) for name, part in self._parts.items() if isinstance(part, Part)]
        return [name for name, part in looked_at if self._changed_late(name, part)]

    # --- helpers --------------------------------------------------------------------------------

    def _opened(self) -> Record | LoadResult:
        if self._arrival is None:
            if self.frozen:
                # A cache may keep this response for everybody: it must not tell of one user.
                raise LateRead("the session was first looked at after the response's headers")
            arrival = self._arrival = self.visit.arrive()
            self.touched, self._gone = True, {}
            if isinstance(arrival, LoadResult):
                self._begin(arrival)
                return arrival
            self.raw_id, self._subject = arrival.id, arrival.subject
            self._parts = dict(arrival.parts)
            if arrival.overflow or arrival.spilled or arrival.left:
                self._unpack_manifest(arrival)
        return self._arrival

    def _begin(self, arrival: LoadResult) -> None:
        self._parts = {}
        self.raw_id = arrival.adopted_id or self.visit.new_id()
        self._subject = arrival.adopted_subject
        for name, value in (arrival.adopted or {}).items():
            self[name] = value
        for part in self._all().values():
            # Taking a session over is no change by the application.
            part.saved, part.replaced = part.encoded, False

    def _unpack_manifest(self, record: Record) -> None:
        for name in record.overflow.names if record.overflow else ():
            self._parts[name] = Part(Place.OVERFLOW)
        for name, version in record.spilled.items():
            self._parts[name] = Part(Place.SPILLED, version)
        for name, version in record.left.items():
            # A row that is no longer used; if the part is spilled again, its version is known.
            if name in self._parts:
                self._part(name).version = version
            else:
                self._gone[name] = Part(None, version)

    def _writable(self) -> None:
        if self.frozen:
            raise LateWrite("the session was changed after the response's headers went out")
        if self._arrival is None:
            self._opened()

    def _part(self, name: str) -> Part:
        """A part of which more is to be known than its bytes. Raises KeyError."""
        part = self._parts[name]
        if isinstance(part, Part):
            return part
        found = self._parts[name] = Part(Place.CORE, None, part, part)
        return found

    def _all(self) -> dict[str, Part]:
        return {name: self._part(name) for name in self._parts}

    def _kept_record(self) -> Record | None:
        """The record that arrived, unless another session has taken its place."""
        arrival = self._opened()
        is_replaced = self.signed_in or self.ended
        return None if is_replaced or isinstance(arrival, LoadResult) else arrival

    def _present(self, name: str) -> bool:
        return isinstance(self._parts[name], bytes) or self.fetch(name) is not None

    def _read(self, name: str, part: Part) -> None:
        data = self.fetch(name)
        if data is None:
            raise KeyError(name)
        part.value = self.visit.decode(name, data)

    def _changed_late(self, name: str, part: Part) -> bool:
        before = part.encoded
        try:
            self._encode_again(name, part)
        except UnsupportedValue:
            return True
        return part.encoded != before

    def _encode_again(self, name: str, part: Part) -> None:
        if part.may_have_changed:
            part.encoded = self.visit.encode(name, part.value)


_ID = str.maketrans("+/", "-_")
