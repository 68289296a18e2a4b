"""Makes the frozen vectors of format 1 at the edges of its rules.

What a key may have sealed, overflow that is lost, texts with a byte order mark, values of a
mebibyte, decimals of zero, and protected texts.

    python -m tests.vectors.make_edges        writes the file
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import cbor2
from markupsafe import Markup

from sealedstate import Key, Protector
from sealedstate._wire import cbor as codec
from sealedstate._wire.encoding import to_text
from sealedstate._wire.record import Record, encode_parts
from sealedstate._wire.token import TokenContext, seal
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import secret_to_text
from tests.support.spec_decoder import as_json
from tests.vectors.make import (
    ACTIVATION,
    ANNOUNCE,
    BAD_VALUES,
    COOKIE,
    CORE,
    CURRENT,
    DISABLED,
    EXPIRED,
    GOOD_PAYLOADS,
    HERE,
    KEYS,
    NEXT,
    NOW,
    REALM,
    RING,
    SESSION_ID,
    SKEW,
    SUCCESSION,
    Recorded,
    bytes_of,
    core_vector,
    key,
    key_entry,
    sealed,
    spell,
)

BOM = "\ufeff"


def edges() -> dict[str, Any]:
    return {
        "about": "Format 1 at the edges of its rules. Bytes are hexadecimal.",
        "windows": [*windows()],
        "values": [
            {"name": name, "cbor": codec.encode(value).hex(), "value": as_json(value)}
            for name, value in VALUES.items()
        ],
        "bad_values": [{"name": name, "cbor": cbor} for name, cbor in bad_values().items()],
        "long_values": [*long_values()],
        "cores": [core_vector("texts with a byte order mark", MARKED, NOW)],
        "overflows": [*overflows()],
        "protected": [*protected()],
    }


# --- when a key may have sealed -------------------------------------------------------------------

OLD = key("old", 1_600_000_000)
LATER = key("later", SUCCESSION)
SHORT = key("short", 1_700_000_000, expires_at=1_710_000_000)
ALIKE = key("alike", 1_600_000_000)
STATED = key("stated", 1_600_000_000, expires_at=1_900_000_000, retires_at=1_650_000_000)
LATE = key("late", 1_600_000_000, expires_at=2_000_000_000, retires_at=1_850_000_000)
REVOKED_LATER = key("revoked later", 1_650_000_000, revoked=True)
DISABLED_LATER = key("disabled later", 1_660_000_000, disabled=True)
OFF = key("off", 1_600_000_000, disabled=True)


def windows() -> Iterator[dict[str, Any]]:
    """Cores, sealed at the first and the last second in which their keys may have sealed."""
    lag = ANNOUNCE + SKEW
    last, passed = SUCCESSION + lag, [(SUCCESSION + lag, None), (SUCCESSION + lag + 1, OUT)]
    yield window("the first second", KEYS, CURRENT, [(ACTIVATION - SKEW - 1, OUT)])
    yield window("the first second", KEYS, CURRENT, [(ACTIVATION - SKEW, None)])
    yield window("the first second of the next key", KEYS, NEXT, [(SUCCESSION - SKEW, None)])
    yield window("the last second", KEYS, CURRENT, passed)
    yield window("the last second of a disabled key", KEYS, DISABLED, [(ACTIVATION + lag, OFFED)])
    yield window("after it, a disabled key", KEYS, DISABLED, [(ACTIVATION + lag + 1, OUT)])
    # Of `KEYS`, only `current` takes over.
    taken = [(ACTIVATION + lag, None), (ACTIVATION + lag + 1, OUT)]
    yield window("revoked and disabled keys do not take over", KEYS, EXPIRED, taken, 1_739_999_999)
    ignored = (OLD, REVOKED_LATER, DISABLED_LATER, LATER)
    yield window("nor as the next keys of a list", ignored, OLD, [(1_700_000_000, None), *passed])
    without = (OLD, REVOKED_LATER, DISABLED_LATER)
    yield window("without a later key there is no end", without, OLD, [((1 << 40) - 1, None)])
    # What counts is the second of the seal, not the moment at which the token is opened.
    expired = [(1_700_000_090, None), (1_700_000_091, OUT), (1_709_999_999, OUT)]
    expired += [(1_710_000_000, None), (1_750_000_000, None), *passed]
    yield window("an expired key does not take over", (OLD, SHORT, LATER), OLD, expired, last + 1)
    yield window("nor if it is the last", (OLD, SHORT), OLD, [(1_710_000_000, None)], last)
    alike = [(1_700_000_000, None), *passed]
    yield window("nor does a key of the same date", (OLD, ALIKE, LATER), OLD, alike)
    stated = [(1_650_000_000 + lag, None), (1_650_000_000 + lag + 1, OUT)]
    yield window("retires_at counts", (STATED, LATER), STATED, stated)
    stated = [(last + 1, None), (1_850_000_000 + lag, None), (1_850_000_000 + lag + 1, OUT)]
    yield window("also if it is later", (LATE, LATER), LATE, stated)
    yield window("expires_at is no end", (SHORT,), SHORT, [(1_710_000_000, None)], 1_709_999_999)
    yield window("but refuses from then on", (SHORT,), SHORT, [(1_705_000_000, OUT)], 1_710_000_000)
    exact = [(SUCCESSION, None), (SUCCESSION + 1, OUT), (1_600_000_000, None), (1_599_999_999, OUT)]
    yield window("without skew and announce", (OLD, LATER), OLD, exact, skew=0, announce=0)
    yield window("a disabled key alone", (OFF,), OFF, [(1_700_000_000, OFFED)])


OUT, OFFED = "KeyOutOfUse", "KeyDisabled"


def window(
    name: str,
    keys: tuple[Key, ...],
    sealer: Key,
    seals: list[tuple[int, str | None]],
    now: int | None = None,
    skew: int = SKEW,
    announce: int = ANNOUNCE,
) -> dict[str, Any]:
    payload = GOOD_PAYLOADS[CORE]
    return {
        "name": name,
        "keys": [key_entry(each) | {"retires_at": each.retires_at} for each in keys],
        "skew": skew,
        "announce": announce,
        "tokens": [
            {
                "now": at if now is None else now,
                "text": to_text(sealed(payload, key=sealer, sealed_at=at)),
                "outcome": outcome,
            }
            for at, outcome in seals
        ],
    }


# --- values ---------------------------------------------------------------------------------------

VALUES: dict[str, object] = {
    "a byte order mark": BOM,
    "text behind a byte order mark": f"{BOM}text",
    "text before a byte order mark": f"text{BOM}",
    "two byte order marks": BOM * 2,
    "a byte order mark the other way round": "\ufffe",
    "markup behind a byte order mark": Markup(f"{BOM}<b>"),
    "keys with and without a byte order mark": {"k": 1, f"{BOM}k": 2, f"{BOM}k".encode(): 3},
    "members with and without a byte order mark": {"m", f"{BOM}m"},
    **{
        f"the decimal {text}": Decimal(text)
        for text in ("-0", "-0.00", "-0.000000", "-0E-7", "-0E-10", "-0E+1", "-0E+3", "0.0")
    },
    "the decimal -0 of the largest exponent": Decimal("-0E+999999"),
    "the decimal -0 of the smallest exponent": Decimal("-0E-999999"),
    "the decimal -0 as a member": {Decimal("-0"), 1},
    "the decimal -0.0 as a key": {Decimal("-0.0"): "zero"},
}


def bad_values() -> dict[str, str]:
    def decimal(text: str) -> bytes:
        return cbor2.dumps(cbor2.CBORTag(11, text))

    def members(*encodings: bytes) -> str:
        return (b"\xd9\x01\x02" + bytes([0x80 + len(encodings)]) + b"".join(encodings)).hex()

    minus, zero, float_zero = decimal("-0"), b"\x00", b"\xfb" + bytes(8)
    found = {
        "set of 0 and the decimal -0": members(zero, minus),
        "set of the decimals -0 and 0": members(decimal("0"), minus),
        "set of the decimals -0 and -0.0": members(minus, decimal("-0.0")),
        "set of the decimal -0 and false": members(minus, b"\xf4"),
        "set of the decimal -0 and the float 0": members(minus, float_zero),
        "set of the decimal -0 and the float -0": members(minus, b"\xfb\x80" + bytes(7)),
        "set of the decimals -0E+3 and 0": members(decimal("0"), decimal("-0E+3")),
        "pairs with 0 and the decimal -0 for keys": (
            b"\xc9\x84" + zero + b"\x01" + minus + b"\x02"
        ).hex(),
        **{
            f"decimal written {text}": decimal(text).hex()
            for text in ("-00", "-0.", "-.0", "-0E0", "-0E+0", "-0E-6", "-0.0000000", "-0e+1")
        },
        "decimal -0 of too large an exponent": decimal("-0E+1000000").hex(),
        "decimal -0 of too small an exponent": decimal("-0E-1000000").hex(),
        "decimal with the sign of Unicode": decimal("\N{MINUS SIGN}0").hex(),
        "decimal behind a byte order mark": decimal(f"{BOM}-0").hex(),
        "half a byte order mark": b"\x62\xef\xbb".hex(),
        "text of another encoding with its byte order mark": b"\x64\xff\xfet\0".hex(),
    }
    assert not set(found) & set(BAD_VALUES)
    return found


def long_values() -> Iterator[dict[str, Any]]:
    """The encoding is `head`, and `count` times `byte`."""
    limit = codec.MAX_BYTES
    for more in (0, 1):
        for name, head, byte, count in (
            ("text", b"\x7a" + (limit + more - 5).to_bytes(4, "big"), b"a", limit + more - 5),
            ("bytes", b"\x5a" + (limit + more - 5).to_bytes(4, "big"), b"\0", limit + more - 5),
            ("list", b"\x81\x7a" + (limit + more - 6).to_bytes(4, "big"), b"a", limit + more - 6),
            ("markup", b"\xca\x7a" + (limit + more - 6).to_bytes(4, "big"), b"a", limit + more - 6),
        ):
            yield {
                "name": f"{name} of {limit + more} bytes",
                "type": name,
                "head": head.hex(),
                "byte": byte.hex(),
                "count": count,
                "error": "MalformedRecord" if more else None,
            }


MARKED = Record(
    SESSION_ID,
    f"{BOM}alice",
    NOW - 1000,
    NOW + 42200,
    7,
    {"n": codec.encode(1), f"{BOM}n": codec.encode(BOM)},
    None,
    {f"{BOM}cart": 5, "cart": 6},
)


# --- overflow -------------------------------------------------------------------------------------

SET_ID = bytes_of("edges", 8)
PARTS = {"big": codec.encode("x" * 60), f"{BOM}big": codec.encode([1, 2, 3])}


def overflows() -> Iterator[dict[str, Any]]:
    """What opens in the overflow of a session, or null if it is lost."""
    place = TokenContext("overflow", REALM, (COOKIE, SESSION_ID, SET_ID))
    payload, names = encode_parts(PARTS), list(PARTS)
    token = sealed(payload, place)
    text = to_text(token)

    def vector(
        name: str,
        texts: list[str],
        parts: dict[str, bytes] | None,
        made: bytes = token,
        now: int = NOW,
        revoked_before: int = 0,
        **changes: Any,
    ) -> dict[str, Any]:
        digest = hashlib.blake2b(made, digest_size=16).hexdigest()
        entry = {"set_id": SET_ID.hex(), "count": 1, "digest": digest, "names": names}
        return {
            "name": name,
            "now": now,
            "revoked_before": revoked_before,
            "session_id": SESSION_ID.hex(),
            "overflow": entry | changes,
            "texts": texts,
            "parts": parts and {part: data.hex() for part, data in parts.items()},
        }

    halves = [text[:100], text[100:]]
    yield vector("in one cookie", [text], PARTS)
    yield vector("in two cookies", halves, PARTS, count=2)
    yield vector("behind an empty chunk", ["", text], PARTS, count=2)
    yield vector("before six empty chunks", [text, *[""] * 6], PARTS, count=7)
    yield vector("more cookies than the manifest says", [text, text[:9]], PARTS)
    nothing = sealed(b"\x80", place)
    yield vector("no parts", [to_text(nothing)], {}, nothing, names=[])
    yield vector("fewer cookies than the manifest says", [text], None, count=2)
    yield vector("no cookie", [], None)
    yield vector("cookies in another order", halves[::-1], None, count=2)
    yield vector("padding behind", [f"{text}="], None)
    other = sealed(payload, place, sealed_at=NOW - 1)
    assert len(token) % 3  # so that its last letter has bits to spare
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*_"
    yield vector("bits to spare", [text[:-1] + letters[letters.index(text[-1]) | 1]], None)
    yield vector("the digest of another seal", [text], None, other)
    of_text = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    yield vector("the digest of the text", [text], None, digest=of_text)
    keyed = hashlib.blake2b(token, digest_size=16, key=CURRENT.secret).hexdigest()
    yield vector("a keyed digest", [text], None, digest=keyed)
    longer = hashlib.blake2b(token, digest_size=32).hexdigest()
    yield vector("the begin of a longer digest", [text], None, digest=longer[:32])
    yield vector("another set id", [text], None, set_id=bytes(8).hex())
    yield vector("names in another order", [text], None, names=names[::-1])
    yield vector("a name less", [text], None, names=names[:1])
    yield vector("a name more", [text], None, names=[*names, "more"])
    yield vector("names without the byte order mark", [text], None, names=["big", "bigger"])
    for name, content in (
        ("a name twice, with one value", ["big", b"\1", "big", b"\1"]),
        ("a name twice, with two values", ["big", b"\1", "big", b"\2"]),
        ("a value that is no byte string", ["big", 1]),
    ):
        odd = sealed(cbor2.dumps(content), place)
        yield vector(name, [to_text(odd)], None, odd, names=["big"])
    undecoded = sealed(cbor2.dumps(["big", b"\xff"]), place)
    lost = "a value that does not decode is a part all the same"
    yield vector(lost, [to_text(undecoded)], {"big": b"\xff"}, undecoded, names=["big"])
    off = sealed(payload, place, DISABLED, 1_665_000_000)
    yield vector("a disabled key", [to_text(off)], None, off)
    early = sealed(payload, place, sealed_at=ACTIVATION - SKEW - 1)
    yield vector("sealed before its key's time", [to_text(early)], None, early)
    altered = token[:-1] + bytes([token[-1] ^ 1])
    yield vector("a forged token with its digest", [to_text(altered)], None, altered)
    yield vector("sealed before the revoked moment", [text], PARTS, revoked_before=NOW + 1)
    yield vector("too far ahead", [text], PARTS, now=NOW - 10_000)


# --- protected texts ------------------------------------------------------------------------------

MAX_AGE = 3600
ANY: Any = {"user": 7, "mail": "bob@example.org"}


def protected() -> Iterator[dict[str, Any]]:
    """Texts of the protector `password-reset`."""
    yield written("a text", ANY)
    yield written("in the last second", ANY, now=NOW + MAX_AGE - 1)
    yield written("too old", ANY, outcome="too old", now=NOW + MAX_AGE)
    yield written("ahead by twice the skew", ANY, now=NOW - 2 * SKEW)
    yield written("too far ahead", ANY, outcome="FutureSession", now=NOW - 2 * SKEW - 1)
    yield written("sealed at the revocation", ANY, revoked_before=NOW)
    yield written("sealed before", ANY, outcome="SealedBefore", revoked_before=NOW + 1)
    both: dict[str, Any] = {"revoked_before": NOW + 1, "outcome": "SealedBefore"}
    yield written("sealed before, and too far ahead", ANY, now=NOW - 2 * SKEW - 1, **both)
    yield written("sealed before, and too old", ANY, now=NOW + MAX_AGE, **both)
    for size in (0, 1, 2):
        yield written(f"a value of {size + 1} bytes", "x" * size)
    for name, value in (("none", None), ("a byte order mark", BOM), ("a list", [1, (2,), {3}])):
        yield written(f"a value: {name}", value)
    for name, bound in (("text", "hash"), ("no text", ""), ("bytes", b"\x00\xff"), ("a mark", BOM)):
        yield written(f"bound to {name}", ANY, bound)
    wrongly: tuple[tuple[str, str | None, str | None], ...] = (
        ("bound to another text", "hash", "hash2"),
        ("bound, and opened without", "hash", None),
        ("not bound, and opened with a text", None, "hash"),
        ("not bound, and opened with no text", None, ""),
        ("bound to text before a byte order mark", "hash", f"{BOM}hash"),
    )
    for name, sealed_with, other in wrongly:
        yield written(name, ANY, sealed_with, opened_with=[other], outcome="ForgedToken")
    yield written(
        "bound to text, and opened with its bytes", ANY, "hä", opened_with=["hä".encode()]
    )
    yield written("of another protector", ANY, protector="invitation", outcome="ForgedToken")
    yield written("in another realm", ANY, realm="other", outcome="ForgedToken")

    encoded = codec.encode(ANY)
    plain, filled = b"\x01" + encoded, b"\0\x01" + encoded
    assert (50 + len(plain)) % 3, "choose a value without a zero byte before it"
    yield raw("a zero byte that is not needed", filled, value=as_json(ANY))
    short = b"\x01" + codec.encode("x" * 2)
    assert (50 + len(short)) % 3 == 0
    yield raw("a zero byte that is missing", short, value="xx")
    yield raw("two zero bytes", b"\0" + filled, "MalformedRecord")
    yield raw("a zero byte alone", b"\0", "MalformedRecord")
    yield raw("nothing", b"", "MalformedRecord")
    yield raw("no value", b"\x01", "MalformedRecord")
    yield raw("the value alone", encoded, "MalformedRecord")
    yield raw("another first byte", b"\x02" + encoded, "MalformedRecord")
    yield raw("a byte behind the value", plain + b"\0", "MalformedRecord")
    yield raw("a value that is refused", b"\x01\xff", "MalformedRecord")
    old = {"now": NOW + MAX_AGE}
    yield raw("too old, and no payload of a protector", b"\x02", "too old", **old)
    core = to_text(sealed(GOOD_PAYLOADS[CORE])).replace("*", "-")
    yield text_vector("the core of a session", core, "ForgedToken")
    good = make_text(plain)
    assert len(good) % 4
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spare = good[:-1] + letters[letters.index(good[-1]) | 1]
    yield text_vector("bits to spare", spare, "MalformedToken")
    for name, text in (
        ("padding", good + "=" * (-len(good) % 4)),
        ("a blank behind", f"{good} "),
        ("a line feed behind", f"{good}\n"),
        ("a byte order mark before it", f"{BOM}{good}"),
        ("the letter of a cookie", f"{good[:8]}*{good[9:]}"),
        ("the letter of base64", f"{good[:8]}+{good[9:]}"),
        ("no text", ""),
    ):
        yield text_vector(name, text, "MalformedToken")
    token = sealed(plain, PLACE)
    yield text_vector("a newer format", secret_to_text(b"\2" + token[1:]), "UnknownFormat")
    unknown = secret_to_text(token[:1] + bytes(4) + token[5:])
    yield text_vector("an unknown key", unknown, "UnknownKey")
    altered = secret_to_text(token[:-1] + bytes([token[-1] ^ 1]))
    yield text_vector("another tag", altered, "ForgedToken")
    off = secret_to_text(sealed(plain, PLACE, DISABLED, 1_665_000_000))
    yield text_vector("a disabled key", off, "KeyDisabled", now=1_665_000_000)


PLACE = TokenContext("protector/password-reset", REALM, ())


def written(
    name: str,
    value: object,
    bound: str | bytes | None = None,
    *,
    opened_with: list[str | bytes | None] | None = None,
    protector: str = "password-reset",
    realm: str = REALM,
    outcome: str | None = None,
    **given: int,
) -> dict[str, Any]:
    """A text as `Protector.seal` writes it at NOW. `given`: `now` and `revoked_before`."""
    random = Recorded(f"protected {name}")
    source = StaticKeys(RING)
    text = Protector(protector, MAX_AGE, realm, source, lambda: NOW, random).seal(value, bound)
    vector = text_vector(name, text, outcome, **given)
    sealed_as = {"name": protector, "realm": realm, "bound": _fields([bound])}
    opened_as = sealed_as if opened_with is None else sealed_as | {"bound": _fields(opened_with)}
    if outcome == "ForgedToken" and opened_with is None:
        opened_as = {"name": "password-reset", "realm": REALM, "bound": _fields([bound])}
    made = {"random": random.given, "sealed_as": sealed_as, "sealed_at": NOW}
    return vector | {"place": opened_as, "value": as_json(value)} | made


def _fields(bound: list[str | bytes | None]) -> list[dict[str, str]]:
    return [
        {"text": each} if isinstance(each, str) else {"hex": each.hex()}
        for each in bound
        if each is not None
    ]


def raw(
    name: str, payload: bytes, outcome: str | None = None, value: object = None, **given: int
) -> dict[str, Any]:
    return text_vector(name, make_text(payload), outcome, **given) | {"value": value}


def make_text(payload: bytes) -> str:
    return secret_to_text(seal(payload, PLACE, CURRENT, NOW, bytes_of("edges", 32)))


def text_vector(
    name: str, text: str, outcome: str | None, now: int = NOW, revoked_before: int = 0
) -> dict[str, Any]:
    return {
        "name": name,
        "place": {"name": "password-reset", "realm": REALM, "bound": []},
        "max_age": MAX_AGE,
        "now": now,
        "revoked_before": revoked_before,
        "text": text,
        "outcome": outcome,
        "value": None,
    }


def files() -> dict[str, dict[str, Any]]:
    return {"format1-edges.json": edges()}


if __name__ == "__main__":
    for file, vectors in files().items():
        (HERE / file).write_text(spell(vectors), "utf-8")
