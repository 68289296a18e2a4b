"""Records and overflow to CBOR bytes, and back: positional arrays, one encoding for each.

Knows records and how CBOR is written, item by item. Does not know values, keys, cookies or stores.

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
from typing import Any

from .codec import dump_frame, load_frame
from .errors import MalformedRecord
from .record import DIGEST_BYTES, ID_BYTES, MAX_CHUNKS, SET_ID_BYTES, OverflowSet, Record

# The array, its manifest, the overflow in it, the names in that.
RECORD_DEPTH = 4
PARTS_DEPTH = 1
HOUR = 3600


def encode_record(record: Record, sealed_at: int) -> bytes:
    """The payload of a core that is sealed at `sealed_at` (epoch seconds)."""
    session_id, subject, created_at, expires_at, generation, parts, overflow, spilled, left = record
    lifetime = _shortened(expires_at - created_at)
    row: list[object] = [subject, sealed_at - created_at, lifetime, generation, _flat(parts)]
    if overflow or spilled or left:
        stated = None if overflow is None else _overflow_row(overflow)
        row.append([stated, _flat(spilled), _flat(left)])
    return session_id + dump_frame(row)


def decode_record(payload: bytes, sealed_at: int) -> Record:
    """The record behind an authentic payload. Raises MalformedRecord."""
    row = load_frame(payload[ID_BYTES:], RECORD_DEPTH)
    try:
        return _record(payload[:ID_BYTES], row, sealed_at)
    except (TypeError, ValueError):
        raise MalformedRecord from None


def encode_parts(parts: Mapping[str, bytes]) -> bytes:
    """The payload of overflow."""
    return dump_frame(_flat(parts))


def decode_parts(payload: bytes) -> dict[str, bytes]:
    """The parts of an authentic overflow. Raises MalformedRecord."""
    try:
        return _pairs(load_frame(payload, PARTS_DEPTH), bytes)
    except (TypeError, ValueError):
        raise MalformedRecord from None


def head_bytes(value: int) -> int:
    """How many bytes CBOR puts before a string of `value` bytes, or takes for the number itself."""
    return 1 if value < 24 else 2 if value < 1 << 8 else 3 if value < 1 << 16 else 5


def part_bytes(name: str, value_bytes: int) -> int:
    """How many bytes a part takes in a core or in overflow."""
    name_bytes = len(name.encode())
    return head_bytes(name_bytes) + name_bytes + head_bytes(value_bytes) + value_bytes


def _shortened(seconds: int) -> int:
    """A lifetime as it is written: hours where it is so many, else the seconds, below 0."""
    return -1 - seconds if seconds % HOUR else seconds // HOUR


def _lifetime(written: int) -> int:
    """What was written so. Raises ValueError for hours that were written as seconds."""
    if written >= 0:
        return written * HOUR
    if (written + 1) % HOUR == 0:
        raise ValueError("these are hours")
    return -1 - written


def _record(session_id: bytes, row: Any, sealed_at: int) -> Record:
    if type(row) is not list or len(session_id) != ID_BYTES:
        raise ValueError("no record")
    subject, age, lifetime, generation, parts, *manifest = row
    if not (type(subject) is str or subject is None):
        raise ValueError("no subject")
    if not (type(age) is type(lifetime) is type(generation) is int):
        raise ValueError("no numbers")
    created_at = sealed_at - age
    expires_at, values = created_at + _lifetime(lifetime), _pairs(parts, bytes)
    if not manifest:
        return Record(session_id, subject, created_at, expires_at, generation, values)
    overflow, spilled, left = _manifest(*manifest)
    return Record(
        session_id, subject, created_at, expires_at, generation, values, overflow, spilled, left
    )


def _overflow_row(overflow: OverflowSet) -> list[object]:
    return [overflow.set_id, overflow.count, overflow.digest, list(overflow.names)]


def _manifest(row: Any) -> tuple[OverflowSet | None, dict[str, int], dict[str, int]]:
    overflow, spilled, left = row
    found = None if overflow is None else _overflow_set(overflow)
    if not (found or spilled or left):
        raise ValueError("a manifest of nothing")
    return found, _pairs(spilled, int), _pairs(left, int)


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


def _pairs(flat: Any, kind: type) -> dict[str, Any]:
    if type(flat) is not list:
        raise ValueError("no pairs")
    pairs, items = {}, iter(flat)
    for name, value in zip(items, items, strict=True):
        if type(name) is not str or type(value) is not kind:
            raise ValueError("no name or no value")
        pairs[name] = value
    if 2 * len(pairs) != len(flat):
        raise ValueError("a name stands twice")
    return pairs


def _flat(pairs: Mapping[str, object]) -> list[object]:
    return [side for pair in pairs.items() for side in pair]
