"""The mapping that an application sees.

Knows names, values and what was touched. Does not know how a value is encoded, sealed, placed or
stored: all of that it asks of a `Visit`, the floor above, and only when somebody looks.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from .errors import LateRead, LateWrite, UnsupportedValue
from .record import Place, Record, check_name, check_subject

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})


class _Unread:
    """Stands for a value that nobody has looked at."""


_UNREAD = _Unread()


class Arrival(NamedTuple):
    """What a request brought: a record, or nothing and why it is withheld; or adopted values."""

    record: Record | None = None
    withheld: str | None = None
    adopted: Mapping[str, object] | None = None
    adopted_id: bytes | None = None
    adopted_subject: str | None = None

    def __repr__(self) -> str:
        return f"<Arrival, withheld: {self.withheld}>"


class Visit(Protocol):
    """What a session asks during one request."""

    def arrive(self) -> Arrival:
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
    value: object = field(default=_UNREAD, repr=False)
    replaced: bool = False

    @property
    def changed(self) -> bool:
        """Whether saving it would write something else than what arrived."""
        return self.replaced if self.saved is None else self.encoded != self.saved


@dataclass(frozen=True, slots=True)
class PartView:
    """Where a part of an arrived session lives, and its encoded size where that is known."""

    name: str
    place: Place | None
    value_bytes: int | None


class Session(MutableMapping[str, object]):
    """A user's session in one request, opened when it is first looked at.

    Assigning encodes the value, so that what no cookie can carry is refused where it is assigned,
    and changes inside a list or a dict are noticed when the response starts.
    """

    # How it begins. Most requests never look at their session: theirs sets nothing of its own.
    _arrival: Arrival | None = None
    _subject: str | None = None
    _frozen = False
    # For the keeper and the adapters: the 16 bytes behind `id`; whether, in this request, a subject
    # was assigned, `regenerate` was called, `invalidate` was.
    raw_id = b""
    signed_in = False
    renewed = False
    ended = False

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self._parts: dict[str, Part] = {}
        self._gone: dict[str, Part] = {}

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
        return self.ended or (arrival.record is None and arrival.adopted is None)

    @property
    def created_at(self) -> int | None:
        """When the session began or was signed in (epoch seconds); None until it is saved."""
        record = self._opened().record
        return None if record is None or self.signed_in or self.ended else record.created_at

    @property
    def expires_at(self) -> int | None:
        """When its absolute lifetime ends (epoch seconds); None until it is saved."""
        record = self._opened().record
        return None if record is None or self.signed_in or self.ended else record.expires_at

    @property
    def withheld(self) -> str | None:
        """Why the cookies of this request can't be judged now; None in all ordinary cases.

        What is written into such a session is not sent, so that a good cookie is never overwritten
        by a node that lags behind; only signing in replaces it.
        """
        return None if self.ended else self._opened().withheld

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
        self._opened()
        part = self._parts[name]
        if part.value is _UNREAD:
            self._read(name, part)
        return part.value

    def __setitem__(self, name: str, value: object) -> None:
        self._writable()
        if name not in self._parts:
            check_name(name)
        encoded = self.visit.encode(name, value)
        part = self._parts.get(name) or self._gone.pop(name, None) or Part()
        part.encoded, part.value, part.replaced = encoded, value, True
        self._parts[name] = part

    def __delitem__(self, name: str) -> None:
        self._writable()
        self._gone[name] = self._parts.pop(name)

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
        self._gone.update(self._parts)
        self._parts.clear()

    def __repr__(self) -> str:
        # Neither names nor values: reprs end up in logs and tracebacks.
        return "<Session>" if self._arrival is None else f"<Session of {len(self._parts)} parts>"

    # --- for the keeper and the adapters --------------------------------------------------------

    @property
    def touched(self) -> bool:
        """Whether anybody has looked, so that the response depends on the cookie."""
        return self._arrival is not None

    @property
    def parts(self) -> Mapping[str, Part]:
        """The parts as they stand, with nested changes noticed."""
        for name, part in self._parts.items():
            if part.value is not _UNREAD:
                self._encode_again(name, part)
        return self._parts

    @property
    def gone(self) -> Mapping[str, Part]:
        """The parts that this request removed."""
        return self._gone

    def layout(self) -> list[PartView]:
        """Where the parts live that arrived or were assigned."""
        self._opened()
        return [
            PartView(name, part.place, None if part.encoded is None else len(part.encoded))
            for name, part in self._parts.items()
        ]

    def fetch(self, name: str) -> bytes | None:
        """The encoded value of a part, recalled if need be; None, and gone, when it is lost."""
        part = self._parts[name]
        if part.encoded is None:
            part.encoded = part.saved = self.visit.recall(name)
            if part.encoded is None:
                del self._parts[name]
        return part.encoded

    def freeze(self) -> None:
        """The headers are on their way: a write raises LateWrite now, a first look LateRead."""
        self._frozen = True

    def late_changes(self) -> list[str]:
        """The names of parts that were changed in place after `freeze`."""
        return [name for name, part in self._parts.items() if self._changed_late(name, part)]

    # --- helpers --------------------------------------------------------------------------------

    def _opened(self) -> Arrival:
        if self._arrival is None:
            if self._frozen:
                # A cache may keep this response for everybody: it must not tell of one user.
                raise LateRead("the session was first looked at after the response's headers")
            self._arrival = self.visit.arrive()
            self._unpack(self._arrival)
        return self._arrival

    def _unpack(self, arrival: Arrival) -> None:
        record = arrival.record
        if record is None:
            self.raw_id = arrival.adopted_id or self.visit.new_id()
            self._subject = arrival.adopted_subject
            for name, value in (arrival.adopted or {}).items():
                self[name] = value
            for part in self._parts.values():
                # Taking a session over is no change by the application.
                part.saved, part.replaced = part.encoded, False
            return
        self.raw_id, self._subject = record.id, record.subject
        for name, data in record.parts.items():
            self._parts[name] = Part(Place.CORE, None, data, data)
        if record.overflow or record.spilled or record.left:
            self._unpack_manifest(record)

    def _unpack_manifest(self, record: Record) -> None:
        for name in record.overflow.names if record.overflow else ():
            self._parts[name] = Part(Place.OVERFLOW)
        for name, version in record.spilled.items():
            self._parts[name] = Part(Place.SPILLED, version)
        for name, version in record.left.items():
            # A row that is no longer used; if the part is spilled again, its version is known.
            if name in self._parts:
                self._parts[name].version = version
            else:
                self._gone[name] = Part(None, version)

    def _writable(self) -> None:
        if self._frozen:
            raise LateWrite("the session was changed after the response's headers went out")
        if self._arrival is None:
            self._opened()

    def _present(self, name: str) -> bool:
        part = self._parts[name]
        return part.encoded is not None or self.fetch(name) is not None

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
        if part.value is not _UNREAD and type(part.value) not in _SCALARS:
            part.encoded = self.visit.encode(name, part.value)


_ID = str.maketrans("+/", "-_")
