"""Values to CBOR bytes, and back: strict, a closed table of types.

Knows values and CBOR (RFC 8949). Does not know records, keys, cookies or stores. The only door to
cbor2.

A value is None, bool, int, float, str, bytes, list, tuple, dict, set, datetime, date, timedelta,
UUID, Decimal or markupsafe's Markup, of exactly that type. Limits: containers nested 16 deep (a
scalar counts 0, a container one more than what it holds, keys and members included; tags and a
datetime's inner array count nothing), integers of 4096 bits, 1 MiB for a value's encoding, and 1024
members of a set or keys of a dict that are neither text nor bytes. Members and keys are hashable:
no list, dict or set at any depth. Native CBOR carries what it has; the other types stand behind
these tags, and every other tag is refused:

    2, 3  int beyond 64 bits            37   UUID: its 16 bytes
    6     tuple: array                  100  date: days since 1970-01-01 (RFC 8943)
    7     datetime, see below           258  set: array, its members' encodings ascending
    8     timedelta: microseconds            bytewise
    10    Markup: text                  9    dict with any key that is neither str nor bytes:
    11    Decimal: text, as str() gives      all of it, [key, value, key, value, ...]

Tags 6 to 11 are ours, inside sealed tokens only. A datetime is [microseconds, offset, fold?]:
microseconds since 1970-01-01T00:00:00 of its own wall clock; the UTC offset in seconds, an integer
or, where it has a fraction, a float, and null for a naive one; and fold (1) only when set. A time
zone's name is not kept: its offset is.

Encoding is deterministic: the shortest form of each integer, floats in 8 bytes (but infinities and
NaN in 2: f97c00, f9fc00, f97e00), definite lengths, dicts in their own order. Bytes are accepted
only if encoding what they decode to gives the same bytes again, which rules out trailing bytes,
duplicate keys, indefinite lengths, `undefined` and simple values in one stroke.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any
from uuid import UUID

import cbor2
from cbor2 import CBOREncoder, CBORTag
from markupsafe import Markup

from ..errors import MalformedRecord, UnsupportedValue

MAX_DEPTH = 16
MAX_BYTES = 1 << 20
# A record, its manifest, the overflow in it, the names in that.
FRAME_DEPTH = 4
MAX_BIG_INT_BITS = 4096
MAX_SHOWN_CHARS = 40
# Keys and set members with attacker-made hashes cost quadratic time; text and bytes are hashed
# with a secret, so only the others are counted.
MAX_ODD_MEMBERS = 1024

_LEAVES = frozenset({type(None), bool, float, bytes, datetime, date, timedelta, UUID, Decimal})
_TEXTS = (str, Markup)
# What needs no check and no encoder of ours, as no integer of 64 bits does.
_ALWAYS_GOOD = frozenset({type(None), bool, float})
_WORD = 1 << 63
# What needs no encoder of ours.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_EPOCH = datetime(1970, 1, 1)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MICROSECOND = timedelta(microseconds=1)

TUPLE, DATETIME, TIMEDELTA, PAIRS, MARKUP, DECIMAL = 6, 7, 8, 9, 10, 11
UUID_TAG, DATE, SET = 37, 100, 258


# --- one value ----------------------------------------------------------------------------------


def encode(value: object, path: str = "value") -> bytes:
    """The one encoding of `value`. Raises UnsupportedValue, naming the path from `path` on."""
    if type(value) in _ALWAYS_GOOD or (type(value) is int and -_WORD <= value < _WORD):
        return cbor2.dumps(value)
    _check(value, path, MAX_DEPTH)
    data = cbor2.dumps(value) if type(value) in _PLAIN else _dumps(value)
    if len(data) > MAX_BYTES:
        raise UnsupportedValue(path, f"{len(data)} bytes encoded, more than {MAX_BYTES}")
    return data


def decode(data: bytes) -> object:
    """The value behind `data`. Raises MalformedRecord for everything that `encode` never makes."""
    value = _loads(data)
    try:
        again = encode(value)
    except (UnsupportedValue, TypeError, ValueError, OverflowError):
        raise MalformedRecord from None
    if again != data:
        raise MalformedRecord
    return value


def _check(value: object, path: str, depth: int) -> None:
    kind = type(value)
    if kind in _LEAVES:
        return
    if kind in _TEXTS:
        _check_text(value, path)
    elif kind is int:
        _check_int(value, path)
    elif kind not in _CONTAINERS:
        raise UnsupportedValue(path, f"{kind.__name__} is not among the types a session carries")
    elif depth == 0:
        raise UnsupportedValue(path, f"nested deeper than {MAX_DEPTH}")
    else:
        _CONTAINERS[kind](value, path, depth - 1)


def _check_text(value: Any, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnsupportedValue(path, "text with a lone surrogate") from None


def _check_int(value: Any, path: str) -> None:
    if value.bit_length() > MAX_BIG_INT_BITS:
        raise UnsupportedValue(path, f"an integer of more than {MAX_BIG_INT_BITS} bits")


def _check_sequence(value: Any, path: str, depth: int) -> None:
    for index, item in enumerate(value):
        if type(item) not in _LEAVES:
            _check(item, f"{path}[{index}]", depth)


def _check_set(value: Any, path: str, depth: int) -> None:
    _check_odd_members(value, path)
    for item in value:
        _check(item, f"{path}{{...}}", depth)


def _check_dict(value: Any, path: str, depth: int) -> None:
    if not _has_plain_keys(value):
        _check_odd_members(value, path)
    for key, item in value.items():
        # Only short text and numbers are repeated in a path; another key may be content.
        short = type(key) is str and len(key) <= MAX_SHOWN_CHARS
        shown = short or (type(key) is int and key.bit_length() <= 64)
        step = f"{path}[{key!r}]" if shown else f"{path}[...]"
        _check(key, f"{step} (key)", depth)
        if type(item) not in _LEAVES:
            _check(item, step, depth)


def _check_odd_members(value: Any, path: str) -> None:
    odd = sum(type(item) not in (str, bytes) for item in value)
    if odd > MAX_ODD_MEMBERS:
        raise UnsupportedValue(
            path, f"{odd} members that are not text, more than {MAX_ODD_MEMBERS}"
        )


def _has_plain_keys(value: Mapping[Any, Any]) -> bool:
    return all(type(key) is str or type(key) is bytes for key in value)


_CONTAINERS: dict[type, Callable[[Any, str, int], None]] = {
    list: _check_sequence,
    tuple: _check_sequence,
    dict: _check_dict,
    set: _check_set,
}


# --- the table of tags: how each goes out and comes back ------------------------------------------


def _tagged(tag: int, content: Callable[[Any], object]) -> Callable[[CBOREncoder, Any], None]:
    return lambda encoder, value: encoder.encode(CBORTag(tag, content(value)))


def _put_dict(encoder: CBOREncoder, value: dict[Any, Any]) -> None:
    if _has_plain_keys(value):
        encoder.encode_map(value)
    else:
        flat = [side for pair in value.items() for side in pair]
        encoder.encode(CBORTag(PAIRS, flat))


def _from_datetime(value: datetime) -> list[object]:
    micros = (value.replace(tzinfo=None, fold=0) - _EPOCH) // _MICROSECOND
    offset = value.utcoffset()
    seconds = None if offset is None else _offset_seconds(offset)
    return [micros, seconds, 1] if value.fold else [micros, seconds]


def _offset_seconds(offset: timedelta) -> int | float:
    exact = offset / timedelta(seconds=1)
    return int(exact) if exact == int(exact) else exact


def _to_datetime(content: Any) -> datetime:
    micros, seconds, *fold = content
    zone: timezone | None = None
    if seconds is not None:
        zone = UTC if seconds == 0 else timezone(timedelta(seconds=seconds))
    value: datetime = _EPOCH + micros * _MICROSECOND
    return value.replace(tzinfo=zone, fold=fold[0] if fold else 0)


def _to_pairs(content: Any) -> dict[Any, Any]:
    if len(content) % 2:
        raise ValueError("a key without a value")
    return dict(zip(content[::2], content[1::2], strict=True))


def _to_decimal(content: Any) -> Decimal:
    if type(content) is not str:
        raise ValueError("a decimal is text")
    return Decimal(content)


def _sorted_members(value: set[Any]) -> list[Any]:
    return sorted(value, key=_dumps)


def _reader(kind: type, make: Callable[[Any], object]) -> Callable[[Any, bool], object]:
    def read(content: Any, immutable: bool) -> object:
        if type(content) is not kind:
            raise ValueError("a tag over another type")
        return make(content)

    return read


def _refuse(*_: object) -> object:
    raise ValueError("a tag that is not in the table")


_ENCODERS: dict[type, Callable[[CBOREncoder, Any], None]] = {
    tuple: _tagged(TUPLE, list),
    dict: _put_dict,
    set: _tagged(SET, _sorted_members),
    datetime: _tagged(DATETIME, _from_datetime),
    date: _tagged(DATE, lambda value: value.toordinal() - _EPOCH_DAY),
    timedelta: _tagged(TIMEDELTA, lambda value: value // _MICROSECOND),
    UUID: _tagged(UUID_TAG, lambda value: value.bytes),
    Decimal: _tagged(DECIMAL, str),
    Markup: _tagged(MARKUP, lambda value: value.__str__()),
}
# What cbor2 would read by itself, from dates to regular expressions and shared references.
_BUILT_IN = (0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 256, 260, 261, 1004, 43000, 55799, 52, 54)
_DECODERS: dict[int, Callable[[Any, bool], object]] = {
    **dict.fromkeys(_BUILT_IN, _refuse),
    TUPLE: _reader(list, tuple),
    SET: _reader(list, set),
    PAIRS: _reader(list, _to_pairs),
    DATETIME: _reader(list, _to_datetime),
    DATE: _reader(int, lambda days: date.fromordinal(days + _EPOCH_DAY)),
    TIMEDELTA: _reader(int, lambda micros: micros * _MICROSECOND),
    UUID_TAG: _reader(bytes, lambda data: UUID(bytes=data)),
    MARKUP: _reader(str, Markup),
    DECIMAL: _reader(str, _to_decimal),
}


def _dumps(value: object) -> bytes:
    return cbor2.dumps(value, encoders=_ENCODERS)


def _loads(data: bytes) -> Any:
    try:
        return cbor2.loads(
            data,
            max_depth=2 * MAX_DEPTH + 4,  # a tag counts as a level; encode() holds our own limit
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            tag_hook=_refuse,
            semantic_decoders=_DECODERS,
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, InvalidOperation):
        raise MalformedRecord from None


# --- frames: arrays of plain items, authentic when they are read ---------------------------------


dump_frame: Callable[[list[object]], bytes] = cbor2.dumps
"""The encoding of arrays of None, texts, bytes and integers."""


load_frame: Callable[[bytes], Any] = partial(cbor2.loads, max_depth=FRAME_DEPTH)
"""The item behind authentic bytes. Whoever asks makes sure that writing it again gives the same
bytes. Raises one of `NO_FRAME`.
"""
NO_FRAME = (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError)
