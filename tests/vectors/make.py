"""Makes the frozen vectors of format 1, which never change.

A token that opened once opens for ever, and a refused token stays refused: a test compares what is
made here with the files. New vectors need a new file, after the first release.

    python -m tests.vectors.make        writes the files; the test fails if a frozen vector changed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import cbor2
from markupsafe import Markup

from sealedstate import Key
from sealedstate._cookies.codec import CookieCodec
from sealedstate._stored.parts import CONTEXT, StoredParts
from sealedstate._stored.revocations import (
    SESSIONS,
    SUBJECTS,
    Ending,
    Revocations,
    Successor,
    subject_mark,
)
from sealedstate._wire import cbor as codec
from sealedstate._wire.encoding import from_text, to_text
from sealedstate._wire.record import NO_TERMS, OverflowSet, Record, Terms, encode_record
from sealedstate._wire.token import TokenContext, seal
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring, length_prefixed
from sealedstate.storage import MemoryStorage
from tests.support.spec_decoder import as_json
from tests.support.stored import PartRow, access_of

HERE = Path(__file__).parent
SKEW, ANNOUNCE = 60, 30
REALM, COOKIE = "vectors", "__Host-Http-s"
# `current` seals at NOW; `next` takes over at 1800000000.
NOW = 1_750_000_000
ACTIVATION, SUCCESSION = 1_700_000_000, 1_800_000_000
SESSION_ID = bytes(range(0xA0, 0xB0))


def bytes_of(label: str, size: int) -> bytes:
    """Fixed bytes without a pattern."""
    return hashlib.blake2b(label.encode(), digest_size=size).digest()


def key(name: str, activates_at: int, **given: Any) -> Key:
    label = f"sealedstate test vector key {name}"
    return Key(bytes_of(label, 4), bytes_of(label, 32), activates_at, **given)


CURRENT = key("current", ACTIVATION)
KEYS = (
    CURRENT,
    key("next", SUCCESSION),
    key("expired", 1_600_000_000, expires_at=1_740_000_000),
    key("revoked", 1_650_000_000, revoked=True),
    key("disabled", 1_660_000_000, disabled=True),
)
NEXT, EXPIRED, REVOKED, DISABLED = KEYS[1:]
RING = Keyring(KEYS, SKEW, ANNOUNCE)


class Recorded:
    """A random source of numbered bytes, which records what it returned."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.given: list[str] = []

    def __call__(self, size: int) -> bytes:
        made = bytes_of(f"{self.label} {len(self.given)}", size)
        self.given.append(made.hex())
        return made


NAN = float("nan")


def nested(value: object, depth: int) -> object:
    for _ in range(depth):
        value = (value,)
    return value


VALUES: dict[str, object] = {
    "none": None,
    "true": True,
    "false": False,
    **{
        f"int {number:#x}": number
        for edge in (0, 24, 1 << 8, 1 << 16, 1 << 32, 1 << 63, 1 << 64)
        for number in (edge - 1, edge, -edge, -edge - 1)
    },
    "int of 4096 bits": (1 << 4096) - 1,
    "negative int of 4096 bits": 1 - (1 << 4096),
    "float 0": 0.0,
    "float -0": -0.0,
    "float 1.5": 1.5,
    "float 0.1": 0.1,
    "float smallest": 5e-324,
    "float largest": 1.7976931348623157e308,
    "float infinity": float("inf"),
    "float -infinity": float("-inf"),
    "float nan": float("nan"),
    "text empty": "",
    "text": "Grüße, ☃ und 😀",
    "text of 24": "x" * 24,
    "text of 256": "ab" * 128,
    "text with a zero": "a\0b",
    "bytes empty": b"",
    "bytes": bytes(range(256)),
    "list empty": [],
    "list": [1, "two", b"three", 4.0, None, [True, [False]]],
    "list of 24": list(range(24)),
    "tuple empty": (),
    "tuple": (1, ("two", (b"three",)), [4]),
    "dict empty": {},
    "dict in its own order": {"b": 1, "a": {"nested": [2]}, "": 3},
    "dict with bytes for a key": {b"k": 1, "k": 2},
    "dict with odd keys": {1: "one", (2, 3): "two", None: "none", "text": "text", b"b": b"b"},
    "dict with a date for a key": {date(2026, 1, 1): {"x": 1}},
    "set empty": set(),
    "set": {3, 1, 2, 24, 256, -1},
    "set of all kinds": {1.5, "a", b"a", None, (1, (2, "b")), UUID(int=7), Decimal("1.50")},
    "set with NaN, alone, in a tuple and as a decimal": {NAN, (NAN,), Decimal("NaN"), 1},
    "set of two NaN decimals": {Decimal("NaN"), Decimal("-NaN")},
    "set of text, markup and bytes": {"a", Markup("b"), b"a"},
    "set of an instant with and without an offset": {
        datetime(2026, 1, 1),
        datetime(2026, 1, 1, tzinfo=UTC),
    },
    "set of tuples": {(), (1,), (1, 2), (1, (2,))},
    "set of 1024 integers and a text": {*range(1024), "text"},
    "set of 1025 texts": {f"{number}" for number in range(1025)},
    "dict with 1024 integers and a text for keys": dict.fromkeys([*range(1024), "text"]),
    "dict with NaN for a key": {NAN: 1},
    "datetime naive": datetime(2026, 1, 2, 3, 4, 5, 678901),
    "datetime utc": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "datetime east": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    "datetime west": datetime(1969, 7, 20, 20, 17, tzinfo=timezone(-timedelta(hours=4))),
    "datetime folded": datetime(2025, 10, 26, 2, 30, tzinfo=timezone(timedelta(hours=1)), fold=1),
    "datetime naive and folded": datetime(2025, 10, 26, 2, 30, fold=1),
    "datetime odd offset": datetime(
        1900, 1, 1, tzinfo=timezone(timedelta(seconds=1172, microseconds=500000))
    ),
    "datetime the farthest offsets": [
        datetime(2026, 1, 1, tzinfo=timezone(sign * timedelta(hours=24, microseconds=-1)))
        for sign in (1, -1)
    ],
    "datetime a microsecond's offset": datetime(
        2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))
    ),
    "datetime first": datetime.min,
    "datetime last": datetime.max,
    "date": date(2026, 10, 11),
    "date of the epoch": date(1970, 1, 1),
    "date first": date.min,
    "date last": date.max,
    "timedelta": timedelta(days=1, seconds=2, microseconds=3),
    "timedelta negative": timedelta(microseconds=-1),
    "timedelta smallest": timedelta.min,
    "timedelta largest": timedelta.max,
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
    "decimal": Decimal("-12.3400"),
    "decimal zero": Decimal("0E-10"),
    "decimal -0": Decimal("-0"),
    "decimal exponent": Decimal("1E+30"),
    "decimal nan": Decimal("NaN"),
    "decimal infinity": Decimal("-Infinity"),
    **{
        f"decimal {text}": Decimal(text)
        for text in (
            *(
                "0",
                "1",
                "-1",
                "1.5",
                "0.000001",
                "1E-7",
                "1.5E-7",
                "-0.0",
                "0E+3",
                "1E+1",
                "1.0E+2",
            ),
            *(
                "100",
                "1E+999999",
                "1E-999999",
                "0.000000",
                "0E-7",
                "123456789012345678901234567890",
            ),
            *("Infinity", "-NaN", "NaN42", "sNaN", "-sNaN7"),
        )
    },
    "markup": Markup("<b>&amp;</b>"),
    "markup empty": Markup(""),
    "16 lists deep": [[[[[[[[[[[[[[[["deep"]]]]]]]]]]]]]]]],
    "16 tuples deep": nested(datetime(2026, 1, 1, fold=1), 16),
}


# --- what opens -----------------------------------------------------------------------------------


def accepted() -> dict[str, Any]:
    return {
        "about": "Format 1: what opens, for ever. Bytes are hexadecimal.",
        "keys": [key_entry(key) for key in KEYS],
        "skew": SKEW,
        "announce": ANNOUNCE,
        "realm": REALM,
        "cookie_name": COOKIE,
        "values": [
            {"name": name, "cbor": codec.encode(value).hex(), "value": as_json(value)}
            for name, value in VALUES.items()
        ],
        "cores": [core_vector(name, record, now) for name, record, now in records()],
        "derivation": derivation(*next(records())),
        "padded": [*padded()],
        "overflows": [overflow_vector(1, (4000,)), overflow_vector(3, (1200, 1200, 1200))],
        "stored": [stored_vector("cart"), stored_vector("ключ")],
        "sessions": [*sessions()],
    }


def key_entry(key: Key) -> dict[str, Any]:
    return {
        "kid": key.kid.hex(),
        "secret": key.secret.hex(),
        "activates_at": key.activates_at,
        "expires_at": key.expires_at,
        "revoked": key.revoked,
        "disabled": key.disabled,
    }


def records() -> Iterator[tuple[str, Record, int]]:
    began = NOW - 1000
    every = {name: codec.encode(value) for name, value in VALUES.items() if len(name) < 30}
    small = {"csrf": codec.encode(b"\x00\xff" * 16), "n": codec.encode(3)}
    overflow = OverflowSet(bytes_of("set", 8), 2, bytes_of("digest", 16), ("big", "größer"))
    yield "a visitor", Record(SESSION_ID, None, NOW, NOW + 43200, 1), NOW
    yield "a user", Record(SESSION_ID, "alice", began, began + 43200, 7, small), NOW
    yield "a user named in Greek", Record(SESSION_ID, "Ἀλίκη", began, began + 60, 70000), NOW
    yield "every type of value", Record(SESSION_ID, "alice", began, began + 60, 2, every), NOW
    alone = Record(SESSION_ID, "alice", began, began + 60, 2, small, overflow)
    yield "overflow alone", alone, NOW
    spilled, left = {"cart": 180_000_000_000_000, "b": 1}, {"old": 179_999_999_999_999}
    everywhere = replace(alone, generation=300, spilled=spilled, orphaned_rows=left)
    yield "overflow, spilled and left", everywhere, NOW
    yield "spilled alone", Record(SESSION_ID, "a", began, NOW, 3, {}, None, {"cart": 5}), NOW
    yield "left alone", Record(SESSION_ID, "a", began, NOW, 3, {}, None, {}, {"cart": 5}), NOW
    yield "sealed by the next key", Record(SESSION_ID, "a", began, NOW, 3), SUCCESSION + 5
    user = Record(SESSION_ID, "alice", began, began + 43200, 7, small)
    for name, terms in TERMS.items():
        yield name, replace(user, terms=terms), NOW
    long = {128: bytes_of("field", 64) * 4, 252: bytes(253)}
    long[128] = long[128][:255]
    for name, fields in (
        ("a field that is not known", {200: b"known to a newer release"}),
        ("the first and the last field that is not critical", {128: b"", 254: b"\xff"}),
        ("512 bytes of fields", long),
    ):
        yield name, replace(user, fields=fields), NOW
    both = replace(alone, terms=TERMS["an hour idle"], fields={254: b"\0"})
    yield "terms, a field and overflow", both, NOW
    key = bytes([2]) + bytes_of("device", 32)
    yield "the key of a device", user.replace(fields={2: key}), NOW
    bound = {2: bytes([3]) + key[1:], 200: b"known to a newer release"}
    kept = user.replace(terms=TERMS["an hour idle"], fields=bound)
    yield "terms, the key of a device and a field", kept, NOW


def derivation(name: str, record: Record, now: int) -> dict[str, Any]:
    """The intermediate results of a core."""
    payload, context = encode_record(record, now), CORE.encoded
    token = from_text(core_vector(name, record, now)["text"])
    return {
        "secret": CURRENT.secret.hex(),
        "K_seal": CURRENT.subkey("seal", "core", REALM).hex(),
        "K_nonce": CURRENT.subkey("nonce", "core", REALM).hex(),
        "context": context.hex(),
        "payload": payload.hex(),
        "prefix": token[:10].hex(),
        "nonce": token[10:34].hex(),
        "AD": (context + token[:34]).hex(),
        "token": token.hex(),
    }


def sessions() -> Iterator[dict[str, Any]]:
    """Cookies that open or not, by time."""
    hour, began = 3600, NOW - 10 * 3600
    record = Record(SESSION_ID, "alice", began, began + 12 * hour, 7)
    own_end = replace(record, expires_at=began + 720 * hour, terms=Terms(None, None, True))

    def session(
        name: str, outcome: str | None, record: Record, later: int, **given: int
    ) -> dict[str, Any]:
        settings = {
            "idle_lifetime": 2 * hour,
            "absolute_lifetime": 12 * hour,
            "longest_lifetime": 720 * hour,
            "revoked_before": 0,
        }
        text = to_text(sealed(encode_record(record, NOW)))
        vector = {"name": name, "text": text, "now": NOW + later}
        return vector | settings | given | {"outcome": outcome}

    yield session("in the second of its seal", None, record, 0)
    yield session("ahead by twice the skew", None, record, -2 * SKEW)
    yield session("too far ahead", "FutureSession", record, -2 * SKEW - 1)
    yield session("last second of the absolute lifetime", None, record, 2 * hour - 1)
    idle = {"idle_lifetime": hour}
    yield session("last second of the idle lifetime", None, record, hour - 1, **idle)
    yield session("idle too long", "ExpiredSession", record, hour, **idle)
    longer = {"idle_lifetime": 9 * hour, "absolute_lifetime": 20 * hour}
    yield session("past its end", "ExpiredSession", record, 2 * hour, **longer)
    shorter = {"absolute_lifetime": 11 * hour}
    yield session("settings end it", "ExpiredSession", record, hour, **shorter)
    yield session("settings end it soon", None, record, hour - 1, **shorter)
    yield session("its own end counts", None, own_end, hour, **shorter)
    month = {"absolute_lifetime": 9 * hour, "longest_lifetime": 11 * hour}
    yield session("its own end, and the longest lifetime", "ExpiredSession", own_end, hour, **month)
    yield session("its own end, before the longest lifetime", None, own_end, hour - 1, **month)
    quick = replace(record, terms=Terms(idle=600))
    yield session("its own idle lifetime", None, quick, 599)
    yield session("its own idle lifetime is over", "ExpiredSession", quick, 600)
    slow = replace(record, terms=Terms(idle=7200))
    yield session("its own, longer idle lifetime", None, slow, 7199, **idle)
    yield session("sealed at the revocation", None, record, 0, revoked_before=NOW)
    yield session("sealed before", "SealedBefore", record, 0, revoked_before=NOW + 1)
    both = {"revoked_before": NOW + 1}
    yield session("sealed before, and too far ahead", "SealedBefore", record, -600, **both)


TERMS = {
    "ends with the browser": Terms(False),
    "outlives the browser": Terms(True),
    "an hour idle": Terms(None, 3600),
    "a second idle": Terms(None, 1),
    "the longest idle": Terms(None, (1 << 32) - 1),
    "an end of its own": Terms(None, None, True),
    "outlives the browser, a month idle, an end of its own": Terms(True, 30 * 86400, True),
}


def padded() -> Iterator[dict[str, Any]]:
    """What opens as the core of another record, and is never written."""
    for name, tail in {
        "padding": b"\xfd\x05" + bytes(5),
        "padding of no bytes": b"\xfd\0",
        "the longest padding": b"\xfd\xff" + bytes(255),
    }.items():
        token = sealed(GOOD + tail)
        yield {"name": name, "now": NOW, "text": to_text(token)} | described_record(GOOD_RECORD)
    record = replace(GOOD_RECORD, terms=Terms(True), fields={254: b"x"})
    token = sealed(GOOD + b"\x01\x01\x02\xfd\x01\0\xfe\x01x")
    name = "padding between other fields"
    yield {"name": name, "now": NOW, "text": to_text(token)} | described_record(record)


def core_vector(name: str, record: Record, now: int) -> dict[str, Any]:
    random = Recorded(name)
    text = tokens(random).seal_core(encode_record(record, now), now)
    made = {"name": name, "random": random.given, "now": now, "text": text}
    return made | described_record(record)


def described_record(record: Record) -> dict[str, Any]:
    overflow, terms = record.overflow, record.terms
    return {
        "record": {
            "id": record.id.hex(),
            "subject": record.subject,
            "created_at": record.created_at,
            "expires_at": record.expires_at,
            "generation": record.generation,
            "parts": hexed(record.parts),
            "overflow": None if overflow is None else overflow_entry(overflow),
            "spilled": dict(record.spilled),
            "left": dict(record.orphaned_rows),
            "terms": None if terms is NO_TERMS else terms._asdict(),
            "fields": hexed(record.fields),
        },
    }


def overflow_vector(factor: int, rooms: tuple[int, ...]) -> dict[str, Any]:
    parts = {
        "big": codec.encode(["entity"] * 100 * factor),
        "größer": codec.encode({"x": bytes_of("größer", 64) * 2 * factor}),
    }
    random = Recorded(f"overflow {factor}")
    overflow, texts = tokens(random).seal_overflow(SESSION_ID, parts, rooms, NOW)
    return {
        "name": f"overflow of {len(texts)}",
        "random": random.given,
        "now": NOW,
        "session_id": SESSION_ID.hex(),
        "rooms": list(rooms),
        "parts": hexed(parts),
        "overflow": overflow_entry(overflow),
        "texts": texts,
    }


def stored_vector(name: str) -> dict[str, Any]:
    random, row = Recorded(name), PartRow(SESSION_ID, name)
    storage = MemoryStorage(lambda: NOW)
    data = codec.encode({"items": [1, 2, (3,)], "name": name})
    access = access_of(storage, RING, lambda: NOW, REALM, random)
    StoredParts(access).spill(*row, data, known=None, base=None, expires_at=NOW + 60)
    vector = {"name": name, "session_id": SESSION_ID.hex(), "cbor": data.hex()}
    return vector | row_vector(storage, CONTEXT, random)


def tokens(random: Recorded) -> CookieCodec:
    return CookieCodec(COOKIE, REALM, StaticKeys(RING), random)


def overflow_entry(overflow: OverflowSet) -> dict[str, Any]:
    return {
        "set_id": overflow.set_id.hex(),
        "count": overflow.count,
        "digest": overflow.digest.hex(),
        "names": list(overflow.names),
    }


def hexed(parts: Any) -> dict[str, str]:
    return {str(name): data.hex() for name, data in parts.items()}


# --- what is refused ------------------------------------------------------------------------------

GOOD_RECORD = Record(SESSION_ID, "alice", NOW - 10, NOW + 90, 2, {"n": b"\x03"})
GOOD_ROW: list[Any] = ["alice", 10, -101, 2, ["n", b"\x03"]]
CORE = TokenContext("core", REALM, (COOKIE,))
SET_ID = bytes_of("set", 8)
OVERFLOW = TokenContext("overflow", REALM, (COOKIE, SESSION_ID, SET_ID))
ROW, OTHER_ROW = PartRow(SESSION_ID, "n").key, PartRow(SESSION_ID, "m").key
STORED = TokenContext("stored", REALM, (CONTEXT, ROW, (5).to_bytes(8, "big")))
GOOD_FRAME = cbor2.dumps(GOOD_ROW)
GOOD = SESSION_ID + GOOD_FRAME
GOOD_PAYLOADS = {CORE: GOOD, OVERFLOW: cbor2.dumps(["n", b"\x03"]), STORED: b"\3"}


def sealed(
    payload: bytes, place: TokenContext = CORE, key: Key = CURRENT, sealed_at: int = NOW
) -> bytes:
    return seal(payload, place, key, sealed_at, bytes_of("entropy", 32))


def refused() -> dict[str, Any]:
    return {
        "about": "Format 1: what is refused, for ever, and with which error.",
        "tokens": [*altered(), *misplaced(), *mistimed(), *malformed()],
        "values": [{"name": name, "cbor": cbor} for name, cbor in BAD_VALUES.items()],
    }


def refusal(
    name: str, error: str, text: str | bytes, place: TokenContext = CORE, now: int = NOW
) -> dict[str, Any]:
    return {
        "name": name,
        "error": error,
        "purpose": place.purpose,
        "realm": place.realm,
        "place": [
            {"text": field} if isinstance(field, str) else {"hex": field.hex()}
            for field in place.name
        ],
        "now": now,
        "text": text if isinstance(text, str) else to_text(text),
    }


def altered() -> Iterator[dict[str, Any]]:
    good = sealed(GOOD_PAYLOADS[CORE])
    other = sealed(SESSION_ID + cbor2.dumps(["mallory", 10, -101, 2, []]))
    text = to_text(good)
    body, tag = good[:-16], good[-16:]
    flipped = bytes([good[1] ^ 1]) + good[2:5]
    yield refusal("the last bit of the tag", "ForgedToken", body + tag[:-1] + bytes([tag[-1] ^ 1]))
    yield refusal("the first bit of the tag", "ForgedToken", body + bytes([tag[0] ^ 128]) + tag[1:])
    yield refusal("a tag of zeros", "ForgedToken", body + bytes(16))
    yield refusal("a tag of ones", "ForgedToken", body + b"\xff" * 16)
    yield refusal("a tag shifted left", "ForgedToken", body + tag[1:] + tag[:1])
    yield refusal("a tag shifted right", "ForgedToken", body + tag[-1:] + tag[:-1])
    yield refusal("a tag reversed", "ForgedToken", body + tag[::-1])
    yield refusal("the tag first", "ForgedToken", good[:34] + tag + good[34:-16])
    yield refusal("another token's tag", "ForgedToken", body + other[-16:])
    yield refusal("another token's nonce", "ForgedToken", good[:10] + other[10:34] + good[34:])
    yield refusal("another token's header", "ForgedToken", other[:34] + good[34:])
    later = sealed(GOOD_PAYLOADS[CORE], sealed_at=NOW + 1)
    yield refusal("another token's time", "ForgedToken", later[:10] + good[10:])
    yield refusal("the last bit of the time", "ForgedToken", flip(good, 9))
    for missing in (1, 8, 12, 15, 16):
        yield refusal(f"{missing} bytes cut off its tag", "ForgedToken", good[:-missing])
    yield refusal("no ciphertext and no tag", "MalformedToken", good[:34])
    yield refusal("one byte less than the shortest", "MalformedToken", good[:49])
    yield refusal("as short as the shortest", "ForgedToken", good[:34] + tag)
    yield refusal("nothing", "MalformedToken", b"")
    yield refusal("a zero byte behind", "ForgedToken", good + b"\0")
    yield refusal("a zero byte before", "MalformedToken", b"\0" + good)
    yield refusal("the token twice", "ForgedToken", good + good)
    yield refusal("the first bit of the ciphertext", "ForgedToken", flip(good, 34))
    yield refusal("the last bit of the ciphertext", "ForgedToken", flip(good, len(good) - 17))
    yield refusal("a bit of the nonce", "ForgedToken", flip(good, 10))
    for format in (0x02, 0x0F):
        yield refusal(f"format {format}", "UnknownFormat", bytes([format]) + good[1:])
    yield refusal("format 2, a kid and a time", "UnknownFormat", b"\x02" + good[1:10])
    yield refusal("format 2, less than a time", "MalformedToken", b"\x02" + good[1:9])
    for first in (0x00, 0x10, 0x7B, 0x81, 0xFF):
        yield refusal(f"{first:#04x} first", "MalformedToken", bytes([first]) + good[1:])
    yield refusal("a bit of the kid", "UnknownKey", good[:1] + flipped + good[5:])
    yield refusal("a kid of zeros", "UnknownKey", good[:1] + bytes(4) + good[5:])
    yield refusal("another key's kid", "ForgedToken", good[:1] + NEXT.kid + good[5:])
    yield refusal("a revoked key's kid", "KeyOutOfUse", good[:1] + REVOKED.kid + good[5:])
    yield from miswritten(text)


def flip(token: bytes, at: int) -> bytes:
    return token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]


def miswritten(text: str) -> Iterator[dict[str, Any]]:
    lengths = {len(from_text(text)) % 3: text}
    for more in (1, 2):
        longer = sealed(GOOD_PAYLOADS[CORE][:-1] + b"\x18\x19\x1a"[:more])
        lengths.setdefault(len(longer) % 3, to_text(longer))
    for rest, whole in sorted(lengths.items()):
        if rest:  # its last letter has bits to spare
            letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*_"
            twin = letters[letters.index(whole[-1]) | 1]
            yield refusal(f"bits to spare are set ({rest})", "MalformedToken", whole[:-1] + twin)
        for padding in ("=", "=="):
            yield refusal(f"{padding} behind ({rest})", "MalformedToken", whole + padding)
    for letter in ("\n", " ", "\t", "-", "+", "/", '"', "\0", "ä", "１", ","):
        yield refusal(f"{letter!a} behind", "MalformedToken", text + letter)
        yield refusal(f"{letter!a} inside", "MalformedToken", text[:8] + letter + text[9:])
    yield refusal("quoted", "MalformedToken", f'"{text}"')
    trailing = "MalformedToken" if len(text) % 4 == 0 else "ForgedToken"
    yield refusal("a letter behind", trailing, text + "A")
    yield refusal("four letters behind", "ForgedToken", text[: len(text) // 4 * 4] + "AAAA")


def misplaced() -> Iterator[dict[str, Any]]:
    for place, payload in GOOD_PAYLOADS.items():
        token = sealed(payload, place)
        for other in GOOD_PAYLOADS:
            if other != place:
                name = f"{place.purpose} as {other.purpose}"
                yield refusal(name, "ForgedToken", token, other)
        purpose = {"core": "overflow", "overflow": "stored", "stored": "core"}[place.purpose]
        renamed = TokenContext(purpose, place.realm, place.name)
        yield refusal(f"{place.purpose} with another purpose", "ForgedToken", token, renamed)
        for realm in ("", "vector", "vectors2", "VECTORS"):
            elsewhere = TokenContext(place.purpose, realm, place.name)
            name = f"{place.purpose} in realm {realm!r}"
            yield refusal(name, "ForgedToken", token, elsewhere)
    core = sealed(GOOD_PAYLOADS[CORE])
    for cookie in ("__Host-t", "__Host-", "__host-http-s", "s", "", "__Host-Http-s-1"):
        named = TokenContext("core", REALM, (cookie,))
        yield refusal(f"under the name {cookie!r}", "ForgedToken", core, named)
    yield refusal("name moved into the realm", "ForgedToken", core, TokenContext("core", REALM, ()))
    joined = TokenContext("core", REALM + COOKIE, ())
    yield refusal("name joined to the realm", "ForgedToken", core, joined)
    overflow, stored = sealed(GOOD_PAYLOADS[OVERFLOW], OVERFLOW), sealed(b"\3", STORED)
    context, row_key, version = STORED.name
    older, newer = (number.to_bytes(8, "big") for number in (4, 6))
    others: tuple[tuple[Any, ...], ...] = (
        ("overflow of another session", overflow, COOKIE, bytes(16), SET_ID),
        ("overflow of another set", overflow, COOKIE, SESSION_ID, bytes(8)),
        ("overflow of another cookie", overflow, "s", SESSION_ID, SET_ID),
        ("overflow with fields swapped", overflow, COOKIE, SET_ID, SESSION_ID),
        ("stored in another context", stored, "sealedstate.revoked", row_key, version),
        ("stored in another row", stored, context, OTHER_ROW, version),
        ("stored under an older version", stored, context, row_key, older),
        ("stored under a newer version", stored, context, row_key, newer),
    )
    for name, token, *fields in others:
        elsewhere = TokenContext(name.split()[0], REALM, tuple(fields))
        yield refusal(name, "ForgedToken", token, elsewhere)
    wrong = Key(CURRENT.kid, bytes_of("another secret", 32))
    yield refusal("another secret", "ForgedToken", sealed(GOOD_PAYLOADS[CORE], key=wrong))


def mistimed() -> Iterator[dict[str, Any]]:
    payload = GOOD_PAYLOADS[CORE]
    last = SUCCESSION + ANNOUNCE + SKEW
    for name, sealer, sealed_at, now, error in (
        ("before its key's time", CURRENT, ACTIVATION - SKEW - 1, NOW, "KeyOutOfUse"),
        ("at 1970", CURRENT, 0, NOW, "KeyOutOfUse"),
        ("after its key's time", CURRENT, last + 1, last + 1, "KeyOutOfUse"),
        ("in the year 36812", CURRENT, (1 << 40) - 1, NOW, "KeyOutOfUse"),
        ("by the next key too early", NEXT, SUCCESSION - SKEW - 1, SUCCESSION, "KeyOutOfUse"),
        ("by an expired key", EXPIRED, 1_650_000_000, 1_740_000_000, "KeyOutOfUse"),
        ("by a key after it expired", EXPIRED, 1_745_000_000, 1_739_999_999, "KeyOutOfUse"),
        ("by a revoked key", REVOKED, 1_655_000_000, 1_655_000_000, "KeyOutOfUse"),
        ("by a disabled key", DISABLED, 1_665_000_000, NOW, "KeyDisabled"),
        ("by a key of no ring", key("of no ring", 0), NOW, NOW, "UnknownKey"),
    ):
        token = sealed(payload, key=sealer, sealed_at=sealed_at)
        yield refusal(f"sealed {name}", error, token, now=now)


def malformed() -> Iterator[dict[str, Any]]:
    for place, payloads in ((CORE, BAD_CORES), (OVERFLOW, BAD_PARTS)):
        for name, content in payloads.items():
            payload = content if isinstance(content, bytes) else cbor2.dumps(content)
            if place is CORE and not isinstance(content, bytes):
                payload = SESSION_ID + payload
            token = sealed(payload, place)
            yield refusal(f"{place.purpose}: {name}", "MalformedRecord", token, place)
    for name, cbor in BAD_VALUES.items():
        token = sealed(bytes.fromhex(cbor), STORED)
        yield refusal(f"stored: {name}", "MalformedRecord", token, STORED)

    for name, tail in UNKNOWN_FIELDS.items():
        yield refusal(f"core: {name}", "UnknownField", sealed(GOOD + tail))


def row(**changes: Any) -> list[Any]:
    names = ("subject", "age", "lifetime", "generation", "parts")
    values = dict(zip(names, GOOD_ROW, strict=True)) | changes
    return list(values.values())


def manifest(**changes: Any) -> list[Any]:
    given = {"overflow": list(ENTRY.values()), "spilled": ["cart", 5], "left": []} | changes
    return [*GOOD_ROW, list(given.values())]


def entry(**changes: Any) -> list[Any]:
    return manifest(overflow=list((ENTRY | changes).values()))


ENTRY: dict[str, Any] = {"set_id": SET_ID, "count": 2, "digest": bytes(16), "names": ["big"]}
BAD_CORES: dict[str, Any] = {
    "nothing": b"",
    "one byte less": GOOD[:-1],
    "one byte more": GOOD + b"\0",
    "the record twice": GOOD + GOOD,
    "four fields": GOOD_ROW[:4],
    "seven fields": [*manifest(), None],
    "a map": {"id": SESSION_ID},
    "an integer": 7,
    "null": None,
    "text of five letters": "abcde",
    "an indefinite array": SESSION_ID + b"\x9f" + GOOD_FRAME[1:] + b"\xff",
    "a longer head than needed": SESSION_ID + b"\x98\x05" + GOOD_FRAME[1:],
    "a tag around": SESSION_ID + b"\xd9\xd9\xf7" + GOOD_FRAME,
    "a tuple": SESSION_ID + b"\xc6" + GOOD_FRAME,
    "an id of 15 bytes": GOOD[1:],
    "an id of 17 bytes": b"\0" + GOOD,
    "an id and nothing": SESSION_ID,
    "half an id": SESSION_ID[:8],
    "no id": GOOD_FRAME,
    "a subject of bytes": row(subject=b"alice"),
    "a subject that is a number": row(subject=5),
    "a subject of markup": GOOD.replace(b"\x65alice", b"\xca\x65alice"),
    "a subject that is no UTF-8": GOOD.replace(b"alice", b"alic\xff"),
    "a subject with a surrogate": GOOD.replace(b"\x65alice", b"\x65\xed\xa0\x80ce"),
    "a subject that is undefined": GOOD.replace(b"\x65alice", b"\xf7"),
    "an age of text": row(age="10"),
    "an age with a fraction": row(age=10.5),
    "an age that is true": row(age=True),
    "an age in a longer form": GOOD.replace(b"\x0a\x38\x64", b"\x18\x0a\x38\x64"),
    "no lifetime": row(lifetime=None),
    "a lifetime in a longer form": GOOD.replace(b"\x38\x64", b"\x39\x00\x64"),
    "hours in seconds": row(lifetime=-3601),
    "no lifetime in seconds": row(lifetime=-1),
    "a generation that is false": row(generation=False),
    "parts as a map": row(parts={"n": b"\x03"}),
    "parts as text": row(parts="ab"),
    "no parts": row(parts=None),
    "a part without a value": row(parts=["n"]),
    "a part named in bytes": row(parts=[b"n", b"\x03"]),
    "a part of text": row(parts=["n", "3"]),
    "a part that is a number": row(parts=["n", 3]),
    "a part twice": row(parts=["n", b"\x03", "n", b"\x04"]),
    "a manifest that states nothing": manifest(overflow=None, spilled=[]),
    "no manifest": [*GOOD_ROW, None],
    "a manifest of two": [*GOOD_ROW, [None, ["cart", 5]]],
    "a manifest of four": [*GOOD_ROW, [None, ["cart", 5], [], []]],
    "a manifest as a map": [*GOOD_ROW, {"a": 1, "b": 2, "c": 3}],
    "overflow of three": manifest(overflow=[SET_ID, 2, bytes(16)]),
    "overflow of five": manifest(overflow=[SET_ID, 2, bytes(16), ["big"], 0]),
    "overflow that is false": manifest(overflow=False),
    "a set id of text": entry(set_id="a" * 8),
    "a set id of 7 bytes": entry(set_id=bytes(7)),
    "a count of text": entry(count="2"),
    "a count with a fraction": entry(count=2.0),
    "a count of 0": entry(count=0),
    "a negative count": entry(count=-1),
    "a count of 8": entry(count=8),
    "a count of 2**70": entry(count=1 << 70),
    "a digest of 15 bytes": entry(digest=bytes(15)),
    "a digest of text": entry(digest="a" * 16),
    "names as text": entry(names="ab"),
    "a name that is a number": entry(names=["big", 3]),
    "a version of text": manifest(spilled=["cart", "5"]),
    "a version that is null": manifest(spilled=["cart", None]),
    "a version with a fraction": manifest(left=["cart", 5.0]),
    "spilled twice": manifest(spilled=["cart", 5, "cart", 6]),
    "spilled without a version": manifest(spilled=["cart"]),
    "spilled that is null": manifest(spilled=None),
    "a name in bytes": manifest(left=[b"cart", 5]),
    "an age of 2**40": row(age=1 << 40),
    "an age of -2**40 - 1": row(age=-(1 << 40) - 1),
    "a lifetime of 2**40 hours": row(lifetime=1 << 40),
    "a lifetime of 2**40 seconds": row(lifetime=-1 - (1 << 40)),
    "a negative generation": row(generation=-1),
    "a generation of 2**40": row(generation=1 << 40),
    "a version of 0": manifest(spilled=["cart", 0]),
    "a negative version": manifest(left=["cart", -1]),
    "a version of 2**63": manifest(spilled=["cart", 1 << 63]),
    "a name twice in overflow": entry(names=["big", "big"]),
    "a part in the core and in overflow": entry(names=["big", "n"]),
    "a part in the core and spilled": manifest(spilled=["n", 5]),
    "a part in overflow and spilled": manifest(spilled=["big", 5]),
    "a row that is spilled and orphaned": manifest(left=["cart", 4]),
    "a field 0": GOOD + b"\0\1\0",
    "a field 255": GOOD + b"\xff\1\0",
    "a field without a length": GOOD + b"\xc8",
    "a field shorter than it says": GOOD + b"\xc8\2\0",
    "a field twice": GOOD + b"\xc8\1\0\xc8\1\0",
    "fields in falling order": GOOD + b"\xc9\1\0\xc8\1\0",
    "513 bytes of fields": GOOD + b"\xc8\xff" + bytes(255) + b"\xc9\xfe" + bytes(254),
    "513 bytes of fields, a critical one": GOOD + b"\2\xff" + bytes(255) + b"\3\xfe" + bytes(254),
    "padding that is not zero": GOOD + b"\xfd\2\0\1",
    "padding that is not zero, behind a critical field": GOOD + b"\x7f\0\xfd\1\1",
    "terms of no bytes": GOOD + b"\1\0",
    "terms that say nothing": GOOD + b"\1\1\0",
    **{f"terms that begin with {flags}": GOOD + bytes([1, 1, flags]) for flags in (3, 7, 8, 255)},
    "an idle lifetime that begins with a zero": GOOD + b"\1\3\0\0\1",
    "an idle lifetime of 0": GOOD + b"\1\2\1\0",
    "an idle lifetime of 5 bytes": GOOD + b"\1\6\0\1\0\0\0\0",
    "terms of a wrong form, before a critical field": GOOD + b"\1\1\3\x7f\0",
}
UNKNOWN_FIELDS: dict[str, bytes] = {
    "field 2": b"\2\1\0",
    "the key of a device of 32 bytes": b"\2\x20\2" + bytes(31),
    "the key of a device of 34 bytes": b"\2\x22\2" + bytes(33),
    "the key of a device that is not compressed": b"\2\x21\4" + bytes(32),
    "field 127": b"\x7f\0",
    "terms and field 127": b"\1\1\2\x7f\1\0",
    "field 127 and others": b"\x7f\1\0\x80\1\0\xfd\1\0",
}
BAD_PARTS: dict[str, Any] = {
    "nothing": b"",
    "null": None,
    "a map": {"n": b"\x03"},
    "text": "ab",
    "a name without a value": ["n"],
    "a value of text": ["n", "3"],
    "a name of bytes": [b"n", b"\x03"],
    "a name twice": ["n", b"\x03", "n", b"\x03"],
    "one byte more": b"\x82\x61n\x41\x03\x00",
    "one byte less": b"\x82\x61n\x41",
    "an indefinite array": b"\x9f\x61n\x41\x03\xff",
    "a longer head than needed": b"\x98\x02\x61n\x41\x03",
    "a tuple": b"\xc6\x82\x61n\x41\x03",
}
# Written by hand, and kept in the file of the vectors themselves.
BAD_VALUES: dict[str, str] = {
    vector["name"]: vector["cbor"]
    for vector in json.loads((HERE / "format1-refused.json").read_text("utf-8"))["values"]
}


# --- rows of logouts ------------------------------------------------------------------------------


def rows() -> dict[str, Any]:
    return {
        "about": "Format 1: what logouts leave in a store, which opens for ever.",
        "lookup": LOOKUP.hex(),
        "revoked": [
            revoked_vector("logged out", [Ending.LOGGED_OUT.value]),
            revoked_vector("ended by its id", [Ending.REVOKED.value]),
            *(
                revoked_vector(
                    f"replaced, {subject}",
                    [Ending.REPLACED.value, NOW, NOW + 3600, SUCCESSOR_ID.hex(), mark, ALICE],
                )
                for subject, mark in (("the same subject", ALICE), ("no subject", "0" * 16))
            ),
        ],
        "watermarks": [watermark_vector(subject) for subject in ("alice", "Ἀλίκη")],
        "lookup_marks": [lookup_vector()],
    }


LOOKUP = bytes_of("sealedstate test vector lookup", 32)


SUCCESSOR_ID = bytes(range(0xB0, 0xC0))
ALICE = subject_mark("alice").hex()


def revoked_vector(name: str, says: list[Any]) -> dict[str, Any]:
    random, storage = Recorded(f"revoked {name}"), MemoryStorage(lambda: NOW)
    write_revoked(revocations(storage, random), SESSION_ID, NOW + 60, says)
    row = {"name": name, "session_id": SESSION_ID.hex(), "says": says}
    return row | row_vector(storage, SESSIONS, random)


def write_revoked(write: Revocations, session_id: bytes, until: int, says: list[Any]) -> None:
    """The row of a session that says `says`: its kind, and for a replaced session the rest."""
    how = Ending(says[0])
    if how is Ending.REPLACED:
        id_, *marks = map(bytes.fromhex, says[3:])
        successor = Successor(id_, says[2], *marks)
        assert write.replace(session_id, until, successor) == session_id
    else:
        assert write.end(session_id, until, how) == session_id


def watermark_vector(subject: str) -> dict[str, Any]:
    random, storage = Recorded(f"watermark {subject}"), MemoryStorage(lambda: NOW)
    revocations(storage, random).revoke_subject(subject, 60)
    row = {"name": subject, "subject": subject, "says": NOW + SKEW}
    return row | row_vector(storage, SUBJECTS, random)


def lookup_vector() -> dict[str, Any]:
    random, storage = Recorded("mark of the lookup key"), MemoryStorage(lambda: NOW)
    revocations(storage, random).mark_lookup(60)
    says = hashlib.blake2b(
        length_prefixed("sealedstate/1", "lookup"), key=LOOKUP, digest_size=16
    ).hexdigest()
    return {"name": "the lookup key", "says": says} | row_vector(storage, SUBJECTS, random)


def revocations(storage: MemoryStorage, random: Recorded) -> Revocations:
    ring = Keyring(KEYS, SKEW, ANNOUNCE, LOOKUP)
    return Revocations(access_of(storage, ring, lambda: NOW, REALM, random), SKEW)


def row_vector(storage: MemoryStorage, context: str, random: Recorded) -> dict[str, Any]:
    (key,) = storage.keys(context)
    stored = storage.read(context, key)
    assert stored is not None
    return {
        "random": random.given,
        "now": NOW,
        "context": context,
        "key": key,
        "version": stored.version,
        "token": stored.value.hex(),
    }


# --- the files ------------------------------------------------------------------------------------


def files() -> dict[str, dict[str, Any]]:
    return {
        "format1.json": accepted(),
        "format1-refused.json": refused(),
        "format1-rows.json": rows(),
    }


def spell(vectors: dict[str, Any]) -> str:
    """JSON with one vector in a line."""
    lines = []
    for name, value in vectors.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            lines.append(f" {json.dumps(name)}: [\n{rows}\n ]")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    for name, vectors in files().items():
        (HERE / name).write_text(spell(vectors), "utf-8")
