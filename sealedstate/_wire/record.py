"""Records and overflow to CBOR bytes, and back: positional arrays, one encoding for each.

Knows records and how CBOR (RFC 8949) is written, item by item. Does not know values, keys, cookies
or stores. Writing by hand takes half of what a general encoder does, for so few kinds of items.

The payload of a core is the session's id, 16 bytes as they are, and behind it a CBOR array:

    [subject, age, lifetime, generation, parts, manifest?]

subject: text or null; age: sealed_at - created_at in seconds, negative only by clock skew;
lifetime: expires_at - created_at, which is never negative, as a number of hours where it is one
without a rest, and only else -1 less the seconds (-1801 for half an hour); generation: how many
times the session was saved; parts: [name, value, name, value, ...] with each value encoded on its
own, as a byte string. manifest stands only where there is something to state: [overflow, spilled,
left] with overflow null or [set id, count, digest, [name, ...]]; spilled and left: [name, version,
name, version, ...]. Names are unique in each list. The set id has 8 bytes, the digest is
BLAKE2b-128 of the overflow token's bytes, and the count is 1 to 7. The rule of encoding again holds
for all of this too. The payload of overflow is its parts, in the same form as the core's. The
payload of a stored part is its encoded value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from ..errors import ExpiredSession, FutureSession, MalformedRecord, UnsupportedValue
from .cbor import NO_FRAME, dump_frame, load_frame
from .encoding import has_lone_surrogate

# FOLD sealedstate.record
# The record behind a session: who it is, its times, its parts and where they live.
#
# Plain values. Knows no bytes on the wire, no cookie, no store.


ID_BYTES = 16
SET_ID_BYTES = 8
DIGEST_BYTES = 16
# The most chunks that overflow is ever cut into.
MAX_CHUNKS = 7
MAX_NAME_BYTES = 128
# A login always fits into one cookie, of every profile.
MAX_SUBJECT_BYTES = 512
NO_PARTS: Mapping[str, bytes] = MappingProxyType({})
NO_ROWS: Mapping[str, int] = MappingProxyType({})


class Place(Enum):
    """Where a part lives."""

    CORE = "core"
    OVERFLOW = "overflow"
    SPILLED = "spilled"


class Policy(Enum):
    """Where a part may live: in cookies only, in the store only, or wherever it fits."""

    COOKIE = "cookie"
    SERVER = "server"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a session lives, in seconds: `idle` since its last seal, `absolute` since sign-in.

    `refresh` is how old a seal may get before a request that reads the session renews it.
    """

    idle: int
    absolute: int
    refresh: int


@dataclass(frozen=True, slots=True)
class OverflowSet:
    """What the manifest states about the parts in further cookies.

    `set_id` (8 random bytes) and `digest` (16 bytes) belong to exactly one sealed token, which was
    cut into `count` chunks.
    """

    set_id: bytes
    count: int
    digest: bytes
    names: tuple[str, ...]


class Record(NamedTuple):
    """The core of a session. Times are epoch seconds.

    `parts` holds encoded values by name. `spilled` remembers the version of each part in the store;
    `left` the versions of rows that are no longer used and that a later save deletes, once the
    browser has shown that it carries this record.
    """

    id: bytes
    subject: str | None
    created_at: int
    expires_at: int
    generation: int
    parts: Mapping[str, bytes] = NO_PARTS
    overflow: OverflowSet | None = None
    spilled: Mapping[str, int] = NO_ROWS
    left: Mapping[str, int] = NO_ROWS

    def __repr__(self) -> str:
        # Neither whose it is nor what is in it: reprs end up in logs and tracebacks.
        return f"<Record of generation {self.generation}>"

    def check_times(self, sealed_at: int, now: int, lifetimes: Lifetimes, skew: int) -> None:
        """Raise FutureSession or ExpiredSession when the record can't be used at `now`."""
        if sealed_at > now + skew:
            raise FutureSession
        if (
            now >= self.expires_at
            or now >= self.created_at + lifetimes.absolute
            or now >= sealed_at + lifetimes.idle
        ):
            raise ExpiredSession


def check_subject(subject: object) -> None:
    """Raise UnsupportedValue unless `subject` may name a user."""
    if type(subject) is not str:
        raise UnsupportedValue("session.subject", "a subject is text or None")
    if has_lone_surrogate(subject):
        raise UnsupportedValue("session.subject", "a subject has a lone surrogate")
    if len(subject.encode()) > MAX_SUBJECT_BYTES:
        raise UnsupportedValue(
            "session.subject", f"a subject has more than {MAX_SUBJECT_BYTES} bytes"
        )


def check_name(name: object) -> None:
    """Raise UnsupportedValue unless `name` may name a part."""
    if type(name) is not str or not name:
        raise UnsupportedValue("session[...]", "a part's name is non-empty text")
    if name.isascii() and len(name) <= MAX_NAME_BYTES:
        return
    if has_lone_surrogate(name):
        raise UnsupportedValue("session[...]", "a part's name has a lone surrogate")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise UnsupportedValue(
            "session[...]", f"a part's name has more than {MAX_NAME_BYTES} bytes"
        )


HOUR = 3600

_Manifest: TypeAlias = tuple[OverflowSet | None, Mapping[str, int], Mapping[str, int]]
_NO_MANIFEST: _Manifest = (None, NO_ROWS, NO_ROWS)


def encode_record(record: Record, sealed_at: int) -> bytes:
    """The payload of a core that is sealed at `sealed_at` (epoch seconds)."""
    session_id, subject, created_at, expires_at, generation, parts, overflow, spilled, left = record
    age, lifetime = sealed_at - created_at, expires_at - created_at
    lifetime = -1 - lifetime if lifetime % HOUR else lifetime // HOUR
    has_manifest = overflow or spilled or left
    out = [session_id, _SIX if has_manifest else _FIVE]
    if subject is None:
        out.append(_NULL)
    else:
        text = subject.encode()
        size = len(text)
        out += (_TEXTS[size] if size < SMALL else _head(TEXT, size), text)
    out += (
        _UINTS[age] if 0 <= age < SMALL else _int(age),
        _UINTS[lifetime] if 0 <= lifetime < SMALL else _int(lifetime),
        _UINTS[generation] if 0 <= generation < SMALL else _int(generation),
    )
    _put_parts(out, parts)
    if has_manifest:
        stated = None if overflow is None else _overflow_row(overflow)
        out.append(dump_frame([stated, _flat(spilled), _flat(left)]))
    return b"".join(out)


def decode_record(payload: bytes, sealed_at: int) -> Record:
    """The record behind an authentic payload. Raises MalformedRecord.

    Types are not asked for one by one: what gives the same bytes again has the right ones.
    """
    try:
        row = load_frame(payload[ID_BYTES:])
        subject, age, lifetime, generation, parts = row[:5]
        created_at, items = sealed_at - age, iter(parts)
        expires_at = created_at + (lifetime * HOUR if lifetime >= 0 else -1 - lifetime)
        found = dict(zip(items, items, strict=True))
        overflow, spilled, left = _NO_MANIFEST if len(row) == 5 else _manifest(row[5])
        session_id = payload[:ID_BYTES]
        record = Record(
            session_id, subject, created_at, expires_at, generation, found, overflow, spilled, left
        )
        again = encode_record(record, sealed_at)
    except _WRONG:
        raise MalformedRecord from None
    if again != payload:
        raise MalformedRecord
    return record


def encode_parts(parts: Mapping[str, bytes]) -> bytes:
    """The payload of overflow."""
    out: list[bytes] = []
    _put_parts(out, parts)
    return b"".join(out)


def decode_parts(payload: bytes) -> dict[str, bytes]:
    """The parts of an authentic overflow. Raises MalformedRecord."""
    try:
        items = iter(load_frame(payload))
        parts = dict(zip(items, items, strict=True))
        again = encode_parts(parts)
    except _WRONG:
        raise MalformedRecord from None
    if again != payload:
        raise MalformedRecord
    return parts


def head_bytes(value: int) -> int:
    """How many bytes CBOR puts before a string of `value` bytes, or takes for the number itself."""
    return 1 if value < 24 else 2 if value < 1 << 8 else 3 if value < 1 << 16 else 5


def part_bytes(name: str, value_bytes: int) -> int:
    """How many bytes a part takes in a core or in overflow."""
    name_bytes = len(name.encode())
    return head_bytes(name_bytes) + name_bytes + head_bytes(value_bytes) + value_bytes


def _put_parts(out: list[bytes], parts: Mapping[str, bytes]) -> None:
    count = 2 * len(parts)
    out.append(_LISTS[count] if count < SMALL else _head(LIST, count))
    for name, value in parts.items():
        text = name.encode()
        name_bytes, value_bytes = len(text), len(value)
        out += (
            _TEXTS[name_bytes] if name_bytes < SMALL else _head(TEXT, name_bytes),
            text,
            _BYTES[value_bytes] if value_bytes < SMALL else _head(BYTES, value_bytes),
            value,
        )


def _int(number: int) -> bytes:
    return _head(UINT, number) if number >= 0 else _head(NEGATIVE, -1 - number)


def _head(kind: int, number: int) -> bytes:
    """The head of an item: its major type, and the shortest form of its number (RFC 8949, 3)."""
    if number < 24:
        return bytes([kind << 5 | number])
    size = 1 if number < 1 << 8 else 2 if number < 1 << 16 else 4 if number < 1 << 32 else 8
    return bytes([kind << 5 | 23 + size.bit_length()]) + number.to_bytes(size, "big")


def _heads(kind: int) -> tuple[bytes, ...]:
    return tuple(_head(kind, number) for number in range(SMALL))


def _overflow_row(overflow: OverflowSet) -> list[object]:
    return [overflow.set_id, overflow.count, overflow.digest, list(overflow.names)]


def _manifest(row: Any) -> _Manifest:
    overflow, spilled, left = row
    found = None if overflow is None else _overflow_set(overflow)
    if not (found or spilled or left):
        raise ValueError("a manifest of nothing")
    return found, _pairs(spilled), _pairs(left)


def _overflow_set(row: Any) -> OverflowSet:
    set_id, count, digest, names = row
    if not (type(set_id) is bytes and type(count) is int and type(digest) is bytes):
        raise ValueError("no overflow set")
    # The count decides how many cookies are joined: it is capped here, before anybody counts.
    if len(set_id) != SET_ID_BYTES or len(digest) != DIGEST_BYTES or not 0 < count <= MAX_CHUNKS:
        raise ValueError("no overflow set")
    if type(names) is not list or not all(type(name) is str for name in names):
        raise ValueError("no names")
    return OverflowSet(set_id, count, digest, tuple(names))


def _pairs(flat: Any) -> dict[str, int]:
    items = iter(flat)
    pairs = dict(zip(items, items, strict=True))
    if not all(type(name) is str and type(version) is int for name, version in pairs.items()):
        raise ValueError("no names or no versions")
    return pairs


def _flat(pairs: Mapping[str, object]) -> list[object]:
    return list(chain.from_iterable(pairs.items()))


UINT, NEGATIVE, BYTES, TEXT, LIST = range(5)
# The heads that are made beforehand: of nearly all names, values and numbers but ages.
SMALL = 1024
_UINTS, _BYTES, _TEXTS, _LISTS = (_heads(kind) for kind in (UINT, BYTES, TEXT, LIST))
_FIVE, _SIX, _NULL = _head(LIST, 5), _head(LIST, 6), b"\xf6"
# What reading items that were never written so may raise.
_WRONG = (*NO_FRAME, AttributeError, LookupError, ArithmeticError)
