"""Session records, and their bytes: an id, one CBOR array with one encoding, and numbered fields.

docs/format.md is the specification of records, fields and overflow.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import MalformedRecord, UnknownField, UnsupportedValue
from .cbor import (
    BYTE_STRINGS,
    BYTES,
    LIST,
    NEGATIVE,
    NO_FRAME,
    SMALL,
    TEXT,
    TEXTS,
    UINT,
    UINTS,
    dump_frame,
    load_frame,
    make_head,
)
from .encoding import has_lone_surrogate

ID_BYTES = 16
ID_CHARS = 22
SET_ID_BYTES = 8
DIGEST_BYTES = 16
# The most chunk cookies that overflow is ever cut into.
MAX_CHUNKS = 7
MAX_NAME_BYTES = 128
# Small enough for a login to fit into one cookie under every profile.
MAX_SUBJECT_BYTES = 512
HOUR = 3600
# The last character of 16 bytes has two bits.
_ID = re.compile("[A-Za-z0-9_-]{21}[AQgw]", re.ASCII)
_TO_ID = bytes.maketrans(b"+/", b"-_")
NO_PARTS: Mapping[str, bytes] = MappingProxyType({})
NO_ROWS: Mapping[str, int] = MappingProxyType({})
NO_FIELDS: Mapping[int, bytes] = MappingProxyType({})
# Ages, lifetimes and generations are below this number, as times of 5 bytes are.
NUMBER_END = 1 << 40
LAST_VERSION = (1 << 63) - 1

# Numbers of fields. Those up to LAST_CRITICAL are refused by releases that do not know them.
TERMS = 1
# The device's public key: a point of P-256, compressed (SEC 1, 2.3.3).
DEVICE = 2
DEVICE_BYTES = 33
LAST_CRITICAL = 127
PADDING = 253
MAX_FIELDS_BYTES = 512
MAX_IDLE_BYTES = 4
# The first byte of terms: the place in this tuple, and OWN_END if the session has its own end.
_PERSISTENT = (None, False, True)
OWN_END = 4
_FLAGS = (b"\0", b"\1", b"\2", b"\4", b"\5", b"\6")

_new = object.__new__
# Numbers from this on take more than the byte of their head.
LONG = 24
# What decoding may raise for arrays that were never written by `encode_record`.
_WRONG_SHAPE = (*NO_FRAME, AttributeError, LookupError, ArithmeticError)
# What reading by hand raises for bytes that it does not know: beyond the end, of another kind.
_UNUSUAL = (LookupError, ValueError)


class Place(Enum):
    """Where a part is kept."""

    CORE = "core"
    OVERFLOW = "overflow"
    SPILLED = "spilled"


class Policy(Enum):
    """Where a part may be kept: only in cookies, only in the store, or in both."""

    COOKIE = "cookie"
    SERVER = "server"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a session lives, in seconds.

    `idle`: since its last seal. `absolute`: since sign-in. `refresh`: the age of a seal from which
    a request that reads the session renews it. `longest`: the most that a session may have
    instead of `idle` and `absolute`.
    """

    idle: int
    absolute: int
    refresh: int
    longest: int


@dataclass(frozen=True, slots=True)
class OverflowSet:
    """The manifest's statement about the parts in further cookies.

    `set_id` (8 random bytes) and `digest` (16 bytes) belong to exactly one sealed token, which was
    cut into `count` chunks.
    """

    set_id: bytes
    count: int
    digest: bytes
    names: tuple[str, ...]


class Terms(NamedTuple):
    """What one session has instead of what the settings say.

    `persistent`: whether its cookies outlive the browser. `idle`: its idle lifetime in seconds.
    None: as the settings say. `has_own_end`: it ends at the record's `expires_at`, even if the
    settings' absolute lifetime is shorter.
    """

    persistent: bool | None = None
    idle: int | None = None
    has_own_end: bool = False


NO_TERMS = Terms()


# Not frozen, because opening and saving make one each, and read it thirty times: the attributes of
# a frozen dataclass cost three times as much to set, and those of a named tuple to read.
@dataclass(slots=True)
class Record:
    """The core of a session. Times are epoch seconds.

    `parts` maps names to encoded values, `spilled` names to the versions of parts in the store.
    `orphaned_rows` has the versions of rows that are no longer used; a later save deletes them,
    once the browser has shown that it received this record. `fields`, by number: the key of a
    device, and those of a newer release, which are written again as long as the session keeps its
    id.
    """

    id: bytes
    subject: str | None
    created_at: int
    expires_at: int
    generation: int
    parts: Mapping[str, bytes] = field(default_factory=lambda: NO_PARTS)
    overflow: OverflowSet | None = None
    spilled: Mapping[str, int] = field(default_factory=lambda: NO_ROWS)
    orphaned_rows: Mapping[str, int] = field(default_factory=lambda: NO_ROWS)
    terms: Terms = NO_TERMS
    fields: Mapping[int, bytes] = field(default_factory=lambda: NO_FIELDS)

    def replace(self, **changes: Any) -> Record:
        """A copy with these fields changed, at a third of the cost of `dataclasses.replace`."""
        record: Record = _new(Record)
        for name in Record.__slots__:
            setattr(record, name, changes[name] if name in changes else getattr(self, name))
        return record

    def ends_at(self, lifetimes: Lifetimes) -> int:
        """When the session ends at the latest, under these lifetimes of the settings."""
        longest = lifetimes.longest if self.terms.has_own_end else lifetimes.absolute
        return min(self.expires_at, self.created_at + longest)

    def __repr__(self) -> str:
        # Reprs end up in logs and tracebacks, so this repr shows neither the user nor the content.
        return f"<Record of generation {self.generation}>"


def check_subject(subject: object) -> None:
    """Raise UnsupportedValue unless `subject` may name a user."""
    if type(subject) is not str:
        problem = f"expected str or None, got {type(subject).__name__}"
    elif has_lone_surrogate(subject):
        problem = "text with a lone surrogate"
    elif not subject:
        problem = "must not be empty; None is the subject of a visitor"
    elif len(subject.encode()) > MAX_SUBJECT_BYTES:
        problem = f"must be at most {MAX_SUBJECT_BYTES} bytes of UTF-8"
    else:
        return
    raise UnsupportedValue("session.subject", problem)


def format_id(session_id: bytes) -> str:
    """The 22 characters of a session id: base64url (RFC 4648) without padding."""
    return binascii.b2a_base64(session_id, newline=False)[:ID_CHARS].translate(_TO_ID).decode()


def parse_id(text: object) -> bytes:
    """The 16 bytes of `Session.id`. Raises UnsupportedValue for anything else."""
    if type(text) is str and _ID.fullmatch(text) is not None:
        return base64.urlsafe_b64decode(text + "==")
    raise UnsupportedValue("session_id", f"expected the {ID_CHARS} characters of a Session.id")


def check_name(name: object) -> None:
    """Raise UnsupportedValue unless `name` may name a part."""
    if type(name) is not str or not name:
        problem = "the name of a part must be non-empty text"
    elif name.isascii() and len(name) <= MAX_NAME_BYTES:
        return
    elif has_lone_surrogate(name):
        problem = "the name of a part has a lone surrogate"
    elif len(name.encode()) > MAX_NAME_BYTES:
        problem = f"the name of a part must be at most {MAX_NAME_BYTES} bytes of UTF-8"
    else:
        return
    raise UnsupportedValue("session[...]", problem)


# --- the payload of a core ------------------------------------------------------------------------
#
# Written by hand, item by item: a general encoder takes twice as long for the few kinds of items
# here.


def encode_record(record: Record, sealed_at: int) -> bytes:
    """The payload of a core that is sealed at `sealed_at` (epoch seconds)."""
    subject, created_at, generation = record.subject, record.created_at, record.generation
    overflow, spilled, orphaned = record.overflow, record.spilled, record.orphaned_rows
    terms, fields = record.terms, record.fields
    age, lifetime = sealed_at - created_at, record.expires_at - created_at
    hours = lifetime // HOUR
    lifetime = hours if hours * HOUR == lifetime else -1 - lifetime
    has_manifest = overflow or spilled or orphaned
    if subject is None:
        head, text = b"", _NULL
    else:
        text = subject.encode()
        size = len(text)
        head = TEXTS[size] if size < SMALL else make_head(TEXT, size)
    out = [
        record.id,
        _SIX if has_manifest else _FIVE,
        head,
        text,
        UINTS[age] if 0 <= age < SMALL else _int(age),
        UINTS[lifetime] if 0 <= lifetime < SMALL else _int(lifetime),
        UINTS[generation] if 0 <= generation < SMALL else _int(generation, 0),
    ]
    _put_parts(out, record.parts)
    if has_manifest:
        stated = None
        if overflow is not None:
            stated = [overflow.set_id, overflow.count, overflow.digest, list(overflow.names)]
        rows = [list(chain.from_iterable(versions.items())) for versions in (spilled, orphaned)]
        out.append(dump_frame([stated, *rows]))
    if terms is not NO_TERMS or fields is not NO_FIELDS:
        out.append(_encode_fields(terms, fields))
    return b"".join(out)


def decode_record(payload: bytes, sealed_at: int) -> Record:
    """The record of an authentic payload. Raises MalformedRecord or UnknownField."""
    try:
        record, end = _read_record(payload, sealed_at)
    except _UNUSUAL:
        record, end = decode_array(payload, sealed_at)
    if end == len(payload):
        return record
    return add_fields(record, payload[end:], sealed_at)


def _read_record(payload: bytes, sealed_at: int) -> tuple[Record, int]:
    """The record without its fields, and where they begin.

    Accepts a part of what `decode_array` accepts, in a third of the time: records without a
    manifest that end in whole hours and are not from the future. Each head is read in its only
    form, so no other bytes give the same record. Raises an error of `_UNUSUAL` for any others.
    """
    if payload[ID_BYTES] != _FIVE[0]:
        raise ValueError("it has a manifest")
    at = ID_BYTES + 2
    size = _TEXT_SIZES[payload[ID_BYTES + 1]]
    subject: str | None = None
    if size < LONG or payload[ID_BYTES + 1] != _NULL[0]:
        if size >= LONG:
            size, at = _read_number(payload, ID_BYTES + 1, TEXT)
        end = at + size
        subject, at = payload[at:end].decode(), end
    age = payload[at]
    at += 1
    if age >= LONG:
        age, at = _read_number(payload, at - 1, UINT)
    hours = payload[at]
    at += 1
    if hours >= LONG:
        hours, at = _read_number(payload, at - 1, UINT)
    generation = payload[at]
    at += 1
    if generation >= LONG:
        generation, at = _read_number(payload, at - 1, UINT)
    parts, at = _read_parts(payload, at)
    created_at = sealed_at - age
    expires_at = created_at + hours * HOUR
    # Half the cost of `Record(...)`.
    record = _new(Record)
    record.id, record.subject = payload[:ID_BYTES], subject
    record.created_at, record.expires_at = created_at, expires_at
    record.generation, record.parts = generation, parts
    record.overflow, record.spilled, record.orphaned_rows = None, NO_ROWS, NO_ROWS
    record.terms, record.fields = NO_TERMS, NO_FIELDS
    return record, at


def decode_array(payload: bytes, sealed_at: int) -> tuple[Record, int]:
    """The record without its fields, and where they begin. Raises MalformedRecord.

    Most types are not checked one by one: only the right types give the same bytes again.
    """
    try:
        row = load_frame(payload[ID_BYTES:])
        subject, age, lifetime, generation, parts = row[:5]
        created_at, items = sealed_at - age, iter(parts)
        expires_at = created_at + (lifetime * HOUR if lifetime >= 0 else -1 - lifetime)
        named = dict(zip(items, items, strict=True))
        overflow, spilled, orphaned = None, NO_ROWS, NO_ROWS
        if len(row) > 5:
            # A seventh item, or a manifest that states nothing, is absent when encoded again.
            stated, flat_spilled, flat_orphaned = row[5]
            overflow = None if stated is None else _read_overflow_set(stated)
            spilled, orphaned = _read_versions(flat_spilled), _read_versions(flat_orphaned)
            names = [*named, *spilled, *(overflow.names if overflow else ())]
            if len(set(names)) != len(names) or not spilled.keys().isdisjoint(orphaned):
                raise ValueError("a part has two places")
        session_id = payload[:ID_BYTES]
        record = Record(
            session_id,
            subject,
            created_at,
            expires_at,
            generation,
            named,
            overflow,
            spilled,
            orphaned,
        )
        again = encode_record(record, sealed_at)
    except _WRONG_SHAPE:
        raise MalformedRecord from None
    # An array has one encoding, so what differs can only be fields behind it.
    if not payload.startswith(again):
        raise MalformedRecord
    return record, len(again)


def _read_overflow_set(row: Any) -> OverflowSet:
    # Each type is checked: `dump_frame` writes every type, so encoding again would reveal nothing.
    set_id, count, digest, names = row
    if not (type(set_id) is bytes and type(count) is int and type(digest) is bytes):
        raise ValueError("an item of the overflow set has a wrong type")
    # The count decides how many cookies are joined, so it is limited before anything counts to it.
    if len(set_id) != SET_ID_BYTES or len(digest) != DIGEST_BYTES or not 0 < count <= MAX_CHUNKS:
        raise ValueError("an item of the overflow set has a wrong size")
    if type(names) is not list or not all(type(name) is str for name in names):
        raise ValueError("the names are not a list of texts")
    return OverflowSet(set_id, count, digest, tuple(names))


def _read_versions(flat: Any) -> dict[str, int]:
    items = iter(flat)
    versions = dict(zip(items, items, strict=True))
    if not all(type(name) is str and type(version) is int for name, version in versions.items()):
        raise ValueError("the versions are not pairs of a text and an integer")
    if not all(0 < version <= LAST_VERSION for version in versions.values()):
        raise ValueError("no row has such a version")
    return versions


# --- fields: what follows the array ---------------------------------------------------------------


def _encode_fields(terms: Terms, fields: Mapping[int, bytes]) -> bytes:
    """The bytes of all fields. Raises ValueError for more than a record holds."""
    values = dict(fields)
    if terms != NO_TERMS:
        persistent, idle, has_own_end = terms
        flags = _PERSISTENT.index(persistent) + OWN_END * has_own_end
        idle = idle or 0
        values[TERMS] = bytes([flags]) + idle.to_bytes((idle.bit_length() + 7) // 8, "big")
    tail = b"".join(bytes([number, len(value)]) + value for number, value in sorted(values.items()))
    if len(tail) > MAX_FIELDS_BYTES:
        raise ValueError(f"fields: must be at most {MAX_FIELDS_BYTES} bytes, got {len(tail)}")
    return tail


def add_fields(record: Record, tail: bytes, sealed_at: int) -> Record:
    """The record with the fields behind its array. Raises MalformedRecord or UnknownField."""
    if len(tail) > MAX_FIELDS_BYTES:
        raise MalformedRecord
    fields: dict[int, bytes] = {}
    at, last = 0, 0
    while at < len(tail):
        number, size = tail[at], tail[at + 1] if at + 1 < len(tail) else 0
        start, at = at + 2, at + 2 + size
        if not last < number < 255 or at > len(tail):
            raise MalformedRecord
        fields[number], last = tail[start:at], number
    if any(fields.pop(PADDING, b"")):
        raise MalformedRecord
    terms = NO_TERMS
    if (value := fields.pop(TERMS, None)) is not None:
        flags, idle = value[:1], value[1:]
        # One form for each content: no number with a zero before it, no field that says nothing.
        if flags not in _FLAGS or len(idle) > MAX_IDLE_BYTES or idle[:1] == b"\0" or value == b"\0":
            raise MalformedRecord
        persistent, has_own_end = _PERSISTENT[flags[0] & 3], flags[0] >= OWN_END
        terms = Terms(persistent, int.from_bytes(idle, "big") or None, has_own_end)
    # Whether it is on the curve shows when it verifies a proof.
    device = fields.get(DEVICE, b"")
    is_known = len(device) == DEVICE_BYTES and device[0] in (2, 3)
    # A newer release enforces something by such a field: this release must not open the session.
    if any(number <= LAST_CRITICAL and not (number == DEVICE and is_known) for number in fields):
        raise UnknownField(
            record.id, record.subject, record.created_at, record.expires_at, sealed_at
        )
    return record.replace(terms=terms, fields=fields)


def kept_fields(fields: Mapping[int, bytes]) -> Mapping[int, bytes]:
    """The fields that a session keeps when it gets a new id: the key of its device.

    What a newer release wrote for the old id is not known to hold for a new one.
    """
    return {DEVICE: fields[DEVICE]} if DEVICE in fields else NO_FIELDS


# --- parts: in a core, and the payload of overflow ------------------------------------------------


def encode_parts(parts: Mapping[str, bytes]) -> bytes:
    """The payload of overflow."""
    out: list[bytes] = []
    _put_parts(out, parts)
    return b"".join(out)


def decode_parts(payload: bytes) -> dict[str, bytes]:
    """The parts of an authentic overflow. Raises MalformedRecord."""
    try:
        parts, end = _read_parts(payload, 0)
    except _UNUSUAL:
        raise MalformedRecord from None
    if end != len(payload):
        raise MalformedRecord
    return parts


def _read_parts(payload: bytes, at: int) -> tuple[dict[str, bytes], int]:
    """The parts whose array begins at `at`, and where it ends.

    Raises an error of `_UNUSUAL` unless each head has its only form and each name is there once.
    """
    parts: dict[str, bytes] = {}
    text_sizes, bytes_sizes = _TEXT_SIZES, _BYTES_SIZES
    count = _LIST_SIZES[payload[at]]
    at += 1
    if count >= LONG:
        count, at = _read_number(payload, at - 1, LIST)
    end = at
    for _ in range(count >> 1):
        size, at = text_sizes[payload[end]], end + 1
        if size >= LONG:
            size, at = _read_number(payload, end, TEXT)
        end = at + size
        name = payload[at:end].decode()
        size, at = bytes_sizes[payload[end]], end + 1
        if size >= LONG:
            size, at = _read_number(payload, end, BYTES)
        end = at + size
        parts[name] = payload[at:end]
    if 2 * len(parts) != count or end > len(payload):
        raise ValueError("a name or a value is missing")
    return parts, end


def _read_number(payload: bytes, at: int, kind: int) -> tuple[int, int]:
    """The number in the head of several bytes at `at`, and where it ends."""
    size, least = _LONG_HEADS[payload[at] - (kind << 5)]
    end = at + 1 + size
    number = int.from_bytes(payload[at + 1 : end])
    if number < least:
        raise ValueError("a head is longer than it must be")
    return number, end


def part_bytes(name: str, value_bytes: int) -> int:
    """How many bytes a part takes in a core or in overflow."""
    name_bytes = len(name.encode())
    return head_bytes(name_bytes) + name_bytes + head_bytes(value_bytes) + value_bytes


def head_bytes(value: int) -> int:
    """The bytes of a number in CBOR, or before a string of that length."""
    return 1 if value < 24 else 2 if value < 1 << 8 else 3 if value < 1 << 16 else 5


def _put_parts(out: list[bytes], parts: Mapping[str, bytes]) -> None:
    count = 2 * len(parts)
    out.append(_LISTS[count] if count < SMALL else make_head(LIST, count))
    for name, value in parts.items():
        text = name.encode()
        name_bytes, value_bytes = len(text), len(value)
        out += (
            TEXTS[name_bytes] if name_bytes < SMALL else make_head(TEXT, name_bytes),
            text,
            BYTE_STRINGS[value_bytes] if value_bytes < SMALL else make_head(BYTES, value_bytes),
            value,
        )


def _int(number: int, least: int = -NUMBER_END) -> bytes:
    """Raises ValueError for a number beyond the limits of ages, lifetimes and generations."""
    if not least <= number < NUMBER_END:
        raise ValueError("a number is out of its range")
    return make_head(UINT, number) if number >= 0 else make_head(NEGATIVE, -1 - number)


_LISTS = tuple(make_head(LIST, number) for number in range(SMALL))
# The size in a head of one byte, by that byte; LONG for any other head, also of another kind.
_BYTES_SIZES, _TEXT_SIZES, _LIST_SIZES = (
    tuple(byte ^ kind << 5 if byte ^ kind << 5 < LONG else LONG for byte in range(256))
    for kind in (BYTES, TEXT, LIST)
)
# By the low bits of a head of several bytes: how many bytes its number takes, and the least number
# that needs them.
_LONG_HEADS = {24: (1, 24), 25: (2, 1 << 8), 26: (4, 1 << 16)}
_FIVE, _SIX, _NULL = make_head(LIST, 5), make_head(LIST, 6), b"\xf6"
