"""A second decoder of format 1, written from its specification alone.

It imports nothing of sealedstate and shares no code with it: if the two disagree, one of them or
the specification is wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
from nacl.exceptions import CryptoError

FORMAT = 0x01
OVERHEAD = 50
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*_"
T = TypeVar("T")
EPOCH = datetime(1970, 1, 1)
NAN = float("nan")
NAN_DECIMALS: dict[str, Decimal] = {}
MICROSECOND = timedelta(microseconds=1)


class Refused(Exception):
    """The text, the token or the payload is not format 1. The message says why."""


class Newer(Refused):
    """An authentic record with a critical field of a newer release: its id and its expiry."""

    def __init__(self, id: bytes, expires_at: int) -> None:
        super().__init__("a critical field of a newer release")
        self.id = id
        self.expires_at = expires_at


class SpecKey(NamedTuple):
    """A key of the ring: its secret, and when it was allowed to seal.

    `later`: when each later key activates that is neither revoked nor disabled, and when it
    expires. `retires_at`: when another key took over, if that is known.
    """

    secret: bytes
    opens: bool = True
    activation: int | None = None
    later: tuple[tuple[int, int | None], ...] = ()
    retires_at: int | None = None
    announcement: int = 0
    skew: int = 0

    def allows(self, sealed_at: int) -> bool:
        if self.activation is not None and sealed_at < self.activation - self.skew:
            return False
        taken_over = self.retires_at
        if taken_over is None:
            in_use = (at for at, over in self.later if over is None or sealed_at < over)
            taken_over = min(in_use, default=None)
        return taken_over is None or sealed_at <= taken_over + self.announcement + self.skew


@dataclass(frozen=True, slots=True)
class SpecOverflow:
    set_id: bytes
    count: int
    digest: bytes
    names: list[str]


class SpecCore(NamedTuple):
    """The content of a core token, with its parts decoded."""

    id: bytes
    subject: str | None
    sealed_at: int
    created_at: int
    expires_at: int
    generation: int
    parts: dict[str, Any]
    overflow: SpecOverflow | None
    spilled: dict[str, int]
    orphaned: dict[str, int]
    terms: tuple[bool | None, int | None, bool]
    fields: dict[int, bytes]


Ring = Mapping[bytes, SpecKey]


def ring_of(keys: Iterable[Mapping[str, Any]], now: int, skew: int, announce: int) -> Ring:
    """The keys of vectors as they are at `now`."""
    described = list(keys)
    usable = [
        (key["activates_at"], key["expires_at"])
        for key in described
        if not (key.get("revoked") or key.get("disabled"))
    ]
    return {
        bytes.fromhex(key["kid"]): SpecKey(
            bytes.fromhex(key["secret"]),
            not (key.get("revoked") or key.get("disabled"))
            and (key["expires_at"] is None or now < key["expires_at"]),
            key["activates_at"],
            tuple((at, over) for at, over in usable if at > key["activates_at"]),
            key.get("retires_at"),
            announce,
            skew,
        )
        for key in described
    }


# -- tokens -----------------------------------------------------------------------------------


def open_core(text: str, ring: Ring, realm: str, cookie_name: str) -> SpecCore:
    sealed_at, payload = open_sealed(token_of(text), ring, "core", realm, [cookie_name])
    return core_of(payload, sealed_at)


def open_overflow(
    texts: Iterable[str], ring: Ring, realm: str, cookie_name: str, id: bytes, set_id: bytes
) -> dict[str, Any]:
    name: list[str | bytes] = [cookie_name, id, set_id]
    _, payload = open_sealed(token_of("".join(texts)), ring, "overflow", realm, name)
    return parts_of(value_of(payload))


def open_set(
    texts: Sequence[str], ring: Ring, realm: str, cookie_name: str, id: bytes, entry: SpecOverflow
) -> dict[str, bytes] | None:
    """The encodings of the parts in a session's overflow; None if they are lost."""
    try:
        expect(len(texts) >= entry.count, "every cookie of the set")
        token = token_of("".join(texts[: entry.count]))
        expect(hashlib.blake2b(token, digest_size=16).digest() == entry.digest, "the digest")
        name: list[str | bytes] = [cookie_name, id, entry.set_id]
        _, payload = open_sealed(token, ring, "overflow", realm, name)
        parts = named_pairs(value_of(payload))
        expect(all(type(value) is bytes for value in parts.values()), "values are byte strings")
        expect(list(parts) == entry.names, "the names of the manifest, in its order")
    except Refused:
        return None
    return parts


def open_protected(
    text: str,
    ring: Ring,
    realm: str,
    protector: str,
    bound: Iterable[str | bytes],
    *,
    now: int,
    max_age: int,
    revoked_before: int,
    skew: int,
) -> Any:
    """The value of a protected text."""
    expect("*" not in text, "letters of base64url")
    token = token_of(text.replace("-", "*"))
    sealed_at, payload = open_sealed(token, ring, f"protector/{protector}", realm, bound)
    expect(sealed_at >= revoked_before, "a seal that is not revoked")
    expect(sealed_at <= now + 2 * skew, "no seal in the future")
    expect(now < sealed_at + max_age, "a text that is not too old")
    first = 1 if payload[:1] == b"\0" else 0
    expect(payload[first : first + 1] == b"\1", "the payload of a protected text")
    return value_of(payload[first + 1 :])


def open_row(
    token: bytes, ring: Ring, realm: str, context: str, key: str, version: int
) -> tuple[int, Any]:
    """The time a row was sealed at, and what it contains.

    That is a value, for a watermark a time in epoch seconds, or for the mark of the lookup secret
    its hex digits. For the row of a session it is its
    kind, and for a session that was replaced also the time, and the successor's expiry, its id,
    the mark of its subject, and the mark of the subject of before.
    """
    name: list[str | bytes] = [context, key, version.to_bytes(8, "big")]
    sealed_at, payload = open_sealed(token, ring, "stored", realm, name)
    if context not in ("sealedstate.revoked", "sealedstate.watermark"):
        return sealed_at, value_of(payload)
    if context == "sealedstate.revoked":
        if payload in (b"", b"\0"):
            return sealed_at, ["revoked" if payload else "logged out"]
        expect(len(payload) == 49 and payload[0] == 1, "a successor")
        times = [int.from_bytes(payload[at : at + 8], "big") for at in (1, 9)]
        rest = [payload[begin:end].hex() for begin, end in ((17, 33), (33, 41), (41, 49))]
        return sealed_at, ["replaced", *times, *rest]
    if key == lookup_key(realm):
        return sealed_at, payload.hex()
    expect(len(payload) == 8, "a time of 8 bytes")
    return sealed_at, int.from_bytes(payload, "big")


def subject_mark(subject: str | None) -> str:
    if subject is None:
        return "0" * 16
    return hashlib.blake2b(lp(subject), digest_size=8).hexdigest()


def part_key(session_id: bytes, name: str) -> str:
    return row_key(lp("sealedstate/1", "part", session_id, name))


def revoked_key(realm: str, session_id: bytes) -> str:
    return row_key(lp("sealedstate/1", "revoked", realm, session_id))


def watermark_key(lookup: bytes, realm: str, subject: str) -> str:
    return row_key(lp("sealedstate/1", "watermark", realm, subject), lookup)


def lookup_key(realm: str) -> str:
    return row_key(lp("sealedstate/1", "lookup", realm))


def lookup_mark(lookup: bytes) -> str:
    return hashlib.blake2b(lp("sealedstate/1", "lookup"), key=lookup, digest_size=16).hexdigest()


def row_key(message: bytes, secret: bytes = b"") -> str:
    """A digest of 24 bytes as text, which has no bits to spare."""
    number = int.from_bytes(hashlib.blake2b(message, key=secret, digest_size=24).digest(), "big")
    text = "".join(LETTERS[number >> 6 * place & 63] for place in reversed(range(32)))
    return text.replace("*", ".")


def token_of(text: str) -> bytes:
    """The token of a text."""
    expect(len(text) % 4 != 1, "a text of another length")
    bits = 0
    for letter in text:
        expect(letter in LETTERS, "letters of the alphabet")
        bits = bits << 6 | LETTERS.index(letter)
    size, rest = divmod(len(text) * 6, 8)
    expect(bits & ((1 << rest) - 1) == 0, "no bits after the last byte")
    return (bits >> rest).to_bytes(size, "big")


def name_of(text: str) -> bytes:
    """The bytes of a name in a store."""
    expect("*" not in text, "letters of names")
    return token_of(text.replace(".", "*"))


def open_sealed(
    token: bytes, ring: Ring, purpose: str, realm: str, name: Iterable[str | bytes]
) -> tuple[int, bytes]:
    """The time a token was sealed at, and its payload."""
    expect(len(token) >= OVERHEAD, "a token of at least 50 bytes")
    kid, nonce, header, sealed = token[1:5], token[10:34], token[:34], token[34:]
    expect(token[0] == FORMAT, "format 1")
    expect(kid in ring, "a known key")
    key = ring[kid]
    expect(key.opens, "a key that is in use")
    seal_key = subkey(key.secret, "seal", purpose, realm)
    context = lp("sealedstate/1", purpose, realm, *name)
    try:
        payload = crypto_aead_xchacha20poly1305_ietf_decrypt(
            sealed, context + header, nonce, seal_key
        )
    except CryptoError as error:
        raise Refused("not sealed with this key for this place") from error
    sealed_at = int.from_bytes(token[5:10], "big")
    expect(key.allows(sealed_at), "sealed while its key was allowed to seal")
    return sealed_at, payload


def hedged_nonce(
    secret: bytes,
    purpose: str,
    realm: str,
    name: Iterable[str | bytes],
    random32: bytes,
    prefix: bytes,
    payload: bytes,
) -> bytes:
    """The nonce of a token. Only sealing needs it, and vectors with fixed random bytes."""
    nonce_key = subkey(secret, "nonce", purpose, realm)
    message = random32 + lp(lp("sealedstate/1", purpose, realm, *name)) + prefix + payload
    return hashlib.blake2b(message, key=nonce_key, digest_size=24).digest()


def subkey(secret: bytes, use: str, purpose: str, realm: str) -> bytes:
    fields = lp("sealedstate/1", use, purpose, realm)
    return hashlib.blake2b(fields, key=secret, digest_size=32).digest()


def lp(*fields: str | bytes) -> bytes:
    """Each field after its length, so that two lists of fields never encode alike."""
    raw = [item.encode() if isinstance(item, str) else item for item in fields]
    return b"".join(len(item).to_bytes(4, "big") + item for item in raw)


# -- records ----------------------------------------------------------------------------------


def core_of(payload: bytes, sealed_at: int) -> SpecCore:
    reader = _Reader(payload[16:])
    id, array = payload[:16], reader.value(depth=16)
    if type(array) is not list or len(array) not in (5, 6):
        raise Refused("expected an array of 5 or 6 items after the id")
    subject, age, lifetime, generation, parts = array[:5]
    expect(subject is None or type(subject) is str, "a subject of text or null")
    for number in (age, lifetime, generation):
        expect(type(number) is int and -(1 << 40) <= number < 1 << 40, "an integer in its range")
    expect(generation >= 0, "a generation that is not negative")
    created_at = sealed_at - age
    overflow, spilled, orphaned = manifest_of(array[5]) if len(array) == 6 else (None, {}, {})
    expect(lifetime >= 0 or (-1 - lifetime) % 3600 != 0, "hours are written as hours")
    expires_at = created_at + (lifetime * 3600 if lifetime >= 0 else -1 - lifetime)
    decoded = parts_of(parts)
    placed = [*decoded, *spilled, *(overflow.names if overflow else ())]
    if len(array) == 6:
        expect(len(set(placed)) == len(placed), "one place for each part")
        expect(not set(spilled) & set(orphaned), "no row that is used and unused")
    fields = fields_of(reader.raw[reader.at :])
    expect(not any(fields.pop(253, b"")), "padding of zeros")
    terms = terms_of(fields.pop(1)) if 1 in fields else (None, None, False)
    device = fields.get(2, b"")
    known = {2} if len(device) == 33 and device[:1] in (b"\2", b"\3") else set()
    if min(fields.keys() - known, default=128) < 128:
        raise Newer(id, expires_at)
    times = (sealed_at, created_at, expires_at)
    stored = (overflow, spilled, orphaned)
    return SpecCore(id, subject, *times, generation, decoded, *stored, terms, fields)


def fields_of(tail: bytes) -> dict[int, bytes]:
    """The numbered fields behind the array of a core."""
    expect(len(tail) <= 512, "at most 512 bytes of fields")
    fields: dict[int, bytes] = {}
    while tail:
        expect(len(tail) >= 2 and len(tail) >= 2 + tail[1], "a field as long as it says")
        expect(max(fields, default=0) < tail[0] < 255, "rising numbers from 1 to 254")
        fields[tail[0]], tail = tail[2 : 2 + tail[1]], tail[2 + tail[1] :]
    return fields


def terms_of(value: bytes) -> tuple[bool | None, int | None, bool]:
    """Persistence, idle lifetime and whether the end is the session's own."""
    expect(1 <= len(value) <= 5, "1 to 5 bytes")
    expect(value[0] in (0, 1, 2, 4, 5, 6), "a known first byte")
    expect(value != b"\0" and value[1:2] != b"\0", "no zero that says nothing")
    idle = int.from_bytes(value[1:], "big") if len(value) > 1 else None
    return {0: None, 1: False, 2: True}[value[0] % 4], idle, value[0] >= 4


def manifest_of(item: Any) -> tuple[SpecOverflow | None, dict[str, int], dict[str, int]]:
    expect(type(item) is list and len(item) == 3, "a manifest of three")
    spilled, orphaned = versions_of(item[1]), versions_of(item[2])
    expect(item != [None, [], []], "a manifest with something to state")
    return (None if item[0] is None else overflow_of(item[0])), spilled, orphaned


def overflow_of(item: Any) -> SpecOverflow:
    expect(type(item) is list and len(item) == 4, "an overflow of four")
    set_id, count, digest, names = item
    expect(type(set_id) is bytes and len(set_id) == 8, "a set id of 8 bytes")
    expect(type(count) is int and 1 <= count <= 7, "a count of chunks")
    expect(type(digest) is bytes and len(digest) == 16, "a digest of 16 bytes")
    expect(type(names) is list and all(type(name) is str for name in names), "a list of names")
    return SpecOverflow(set_id, count, digest, names)


def versions_of(item: Any) -> dict[str, int]:
    pairs = named_pairs(item)
    expect(all(type(version) is int for version in pairs.values()), "versions are integers")
    expect(all(0 < version < 1 << 63 for version in pairs.values()), "versions from 1 to 2**63 - 1")
    return pairs


def parts_of(item: Any) -> dict[str, Any]:
    pairs = named_pairs(item)
    expect(all(type(value) is bytes for value in pairs.values()), "values are byte strings")
    return {name: value_of(value) for name, value in pairs.items()}


def named_pairs(item: Any) -> dict[str, Any]:
    expect(type(item) is list and len(item) % 2 == 0, "an array of pairs")
    names = item[::2]
    expect(all(type(name) is str for name in names), "names are text")
    expect(len(set(names)) == len(names), "each name once")
    return dict(zip(names, item[1::2], strict=True))


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(f"expected {what}")


def make(what: str, made: Callable[[], T]) -> T:
    """The value, or Refused where Python makes no such value."""
    try:
        return made()
    except (ValueError, OverflowError, TypeError, InvalidOperation) as error:
        raise Refused(f"expected {what}") from error


# -- keys and rings ----------------------------------------------------------------------------

SECONDS = 3_153_600_000
KEY_LETTERS = LETTERS.replace("*", "-")


def key_of(text: str) -> tuple[bytes, bytes]:
    """The kid and the secret of a key's text."""
    found = re.fullmatch("sealedstate-key-1:([0-9a-f]{8}):(.*)", text.strip("\t\n\v\f\r "))
    if found is None:
        raise Refused("expected the text of a key")
    return bytes.fromhex(found[1]), secret_of(found[2])


def lookup_of(text: str) -> bytes:
    """The secret of a lookup secret's text."""
    found = re.fullmatch("sealedstate-lookup-1:(.*)", text.strip("\t\n\v\f\r "))
    if found is None:
        raise Refused("expected the text of a lookup secret")
    return secret_of(found[1])


def secret_of(text: Any) -> bytes:
    expect(type(text) is str and len(text) == 43, "43 characters")
    expect(all(letter in KEY_LETTERS for letter in text), "letters of base64url")
    return good_secret(token_of(text.replace("-", "*")))


def good_secret(secret: bytes) -> bytes:
    steps = {(after - before) % 256 for before, after in pairwise(secret)}
    expect(len(secret) == 32, "32 bytes")
    expect(len(set(secret)) >= 16 and len(steps) > 1, "random bytes")
    expect(not all(0x20 <= byte <= 0x7E for byte in secret), "no passphrase")
    return secret


def open_ring(text: str, keks: Mapping[bytes, bytes] | None, now: int) -> dict[str, Any]:
    """What a ring document says, as the vectors have it. `keks`: the secret of each kid."""
    document = make("JSON", lambda: json.loads(text))
    lasting = ["lasting"] if type(document) is dict and "lasting" in document else []
    expect_members(
        document,
        *("format", "ring", "sequence", "updated_at", "schedule", "keys", "lookup", *lasting),
        *("tombstones", "revoked_before", "wrapped_by", "checksum"),
    )
    expect(len(text.encode()) <= 4_194_304, "at most 4 MiB")
    expect(json.dumps(document, indent=2) + "\n" == text, "the one spelling")
    expect(document["format"] == "sealedstate-ring-1", "the format")
    ring_id, schedule = document["ring"], document["schedule"]
    expect_text("[0-9a-f]{16}", ring_id)
    expect(type(document["sequence"]) is int, "a number of writes")
    expect(1 <= document["sequence"] < 1 << 63, "a number of writes")
    time_of(document["updated_at"])
    expect_members(schedule, "rotate_every", "announce", "keep", "skew")
    for name, seconds in schedule.items():
        expect(type(seconds) is int and (name != "skew") <= seconds <= SECONDS, "seconds")

    named = document["wrapped_by"]
    if named is None:
        expect(keks is None, "a wrapped document")
        checksum_key, field = b"", "secret"
    else:
        expect_text("[0-9a-f]{8}", named)
        expect(keks is not None and bytes.fromhex(named) in keks, "a known key-encryption key")
        secret = (keks or {})[bytes.fromhex(named)]
        checksum_key, field = subkey(secret, "checksum", "ring", ring_id), "wrapped"
    rest = {name: value for name, value in document.items() if name != "checksum"}
    plain = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
    checksum = hashlib.blake2b(plain, key=checksum_key, digest_size=16).hexdigest()
    expect(document["checksum"] == checksum, "the checksum")

    def unwrap(holder: Mapping[str, Any], name: str) -> bytes:
        if field == "secret":
            return secret_of(holder[field])
        expect(type(holder[field]) is str, "a wrapped secret")
        wrapping = {
            kid: SpecKey(secret, activation=0, announcement=900, skew=60)
            for kid, secret in (keks or {}).items()
        }
        token = token_of(holder[field])
        _, secret = open_sealed(token, wrapping, "ring-secret", ring_id, [name])
        return good_secret(secret)

    def key(found: Any, may_be_disabled: bool) -> dict[str, Any]:
        is_disabled = may_be_disabled and type(found) is dict and "disabled_at" in found
        disabled = ["disabled_at"] if is_disabled else []
        expect_members(found, "kid", "created_at", "activates_at", *disabled, field)
        expect_text("[0-9a-f]{8}", found["kid"])
        time_of(found["created_at"])
        return {
            "kid": found["kid"],
            "secret": unwrap(found, found["kid"]).hex(),
            "activates_at": time_of(found["activates_at"]),
            "disabled_at": time_of(found["disabled_at"]) if is_disabled else None,
        }

    for name in ("keys", "tombstones", *lasting):
        expect(type(document[name]) is list, "an array")
        expect(bool(document[name]) or name == "tombstones", "a key at least")
    keys = [key(found, True) for found in document["keys"]]
    long_term = [key(found, False) for found in document.get("lasting", ())]
    successions = []
    for dead in document["tombstones"]:
        expect_members(dead, "kid", "activates_at", "at", "sealed", "revoked", "reason")
        expect_text("[0-9a-f]{8}", dead["kid"])
        expect(type(dead["sealed"]) is type(dead["revoked"]) is bool, "true or false")
        expect(type(dead["reason"]) is str, "a reason")
        time_of(dead["at"])
        if (activates_at := time_of(dead["activates_at"])) and dead["sealed"]:
            successions.append(activates_at)
    kids = [each["kid"] for each in (*keys, *long_term, *document["tombstones"])]
    expect(len(set(kids)) == len(kids), "each kid once")
    for several in (keys, long_term):
        secrets = {each["secret"] for each in several}
        expect(len(secrets) == len(several), "each secret once")
    lookup = document["lookup"]
    if lookup is not None:
        expect_members(lookup, field)
        lookup = unwrap(lookup, "lookup").hex()
    revoked_before = 0
    if document["revoked_before"] is not None:
        revoked_before = time_of(document["revoked_before"])
        expect(revoked_before > 0, "a time after 1970 began")
        revoked_before += schedule["skew"]

    successions += [
        each["activates_at"]
        for each in keys
        if each["disabled_at"] is None or each["disabled_at"] >= each["activates_at"]
    ]
    announce, keep, skew = schedule["announce"], schedule["keep"], schedule["skew"]
    for each in keys:
        later = (at for at in successions if at > each["activates_at"])
        retires_at = each["retires_at"] = min(later, default=None)
        over = None if retires_at is None else retires_at + announce + keep + 2 * skew
        each["expires_at"], each["disabled"] = over, each.pop("disabled_at") is not None
    return {
        "skew": skew,
        "announce": announce,
        "revoked_before": revoked_before,
        "removed": sorted(dead["kid"] for dead in document["tombstones"]),
        "lookup": lookup,
        "keys": keys,
        "long_term": [{k: v for k, v in each.items() if k != "disabled_at"} for each in long_term],
    }


def expect_members(found: Any, *names: str) -> None:
    expect(type(found) is dict and list(found) == list(names), f"the members {names}")


def expect_text(pattern: str, found: Any) -> None:
    expect(type(found) is str and re.fullmatch(pattern, found) is not None, pattern)


def time_of(text: Any) -> int:
    expect_text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", text)
    moment = make("a time", lambda: datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    expect(moment >= EPOCH, "a time since 1970")
    return (moment - EPOCH) // timedelta(seconds=1)


# -- values, compared --------------------------------------------------------------------------


def described(value: Any) -> str:
    """A text that is equal for two values only if type and content are, at every depth."""
    kind = type(value)
    if kind in (list, tuple):
        return f"{kind.__name__}[{', '.join(described(item) for item in value)}]"
    if kind is set:
        return f"set{{{', '.join(sorted(described(item) for item in value))}}}"
    if kind is dict:
        pairs = (f"{described(key)}: {described(item)}" for key, item in value.items())
        return f"dict{{{', '.join(pairs)}}}"
    if kind is int:
        return hex(value)
    return repr(value)


def as_json(value: Any) -> Any:
    """What vectors say of a value, as the specification has it."""
    if value is None or type(value) in (bool, str):
        return value
    if type(value) in (list, tuple):
        return {type(value).__name__: [as_json(item) for item in value]}
    if type(value) is set:
        return {"set": sorted((as_json(item) for item in value), key=json.dumps)}
    if type(value) is dict:
        return {"dict": [[as_json(key), as_json(item)] for key, item in value.items()]}
    if type(value) is datetime:
        offset, wall = value.utcoffset(), value.replace(tzinfo=None, fold=0)
        seconds = None if offset is None else offset / timedelta(seconds=1)
        micros = str((wall - EPOCH) // MICROSECOND)
        return {"datetime": [micros, seconds, value.fold]}
    name, content = _SCALARS[type(value)]
    return {name: content(value)}


_SCALARS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    int: ("int", str),
    float: ("float", lambda value: struct.pack(">d", value).hex()),
    bytes: ("bytes", bytes.hex),
    date: ("date", lambda value: (value - date(1970, 1, 1)).days),
    timedelta: ("timedelta", lambda value: str(value // MICROSECOND)),
    uuid.UUID: ("uuid", str),
    Decimal: ("decimal", str),
    Markup: ("markup", lambda value: value.__str__()),
}


# -- CBOR -------------------------------------------------------------------------------------


def value_of(raw: bytes) -> Any:
    """The value of one encoding: strict, and nothing may follow."""
    expect(len(raw) <= 1_048_576, "at most a mebibyte")
    reader = _Reader(raw)
    value = reader.value(depth=16)
    expect(reader.at == len(raw), "no trailing bytes")
    return value


class _Reader:
    """The part of RFC 8949 that the specification allows."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def value(self, depth: int) -> Any:
        major, number, simple = self.head()
        if major == 0:
            return number
        if major == 1:
            return -1 - number
        if major == 2:
            return self.take(number)
        if major == 3:
            return make("UTF-8", self.take(number).decode)
        if major == 6:
            return self.tagged(number, depth)
        if major == 7:
            return simple
        expect(depth > 0, "at most 16 containers in each other")
        return (self.items if major == 4 else self.map)(number, depth - 1)

    def head(self) -> tuple[int, int, Any]:
        """Major type, number, and the value itself for major type 7."""
        initial = self.take(1)[0]
        major, info = initial >> 5, initial & 31
        if major == 7:
            return major, 0, self.simple(info)
        if info < 24:
            return major, info, None
        expect(info <= 27, "a definite length")
        size = 1 << (info - 24)
        number = int.from_bytes(self.take(size), "big")
        expect(number >= (24 if size == 1 else 1 << (4 * size)), "the shortest form")
        return major, number, None

    def simple(self, info: int) -> Any:
        if info in (20, 21, 22):
            return {20: False, 21: True, 22: None}[info]
        if info == 25:
            return self.no_number()
        expect(info == 27, "false, true, null or a float")
        number = struct.unpack(">d", self.take(8))[0]
        expect(math.isfinite(number), "an infinity or a NaN in its short form")
        return number

    def no_number(self) -> float:
        """The infinities and NaN have 2 bytes, every other float has 8."""
        half = self.take(2)
        expect(half in (b"\x7c\0", b"\xfc\0", b"\x7e\0"), "no other short float")
        # One object for all: a NaN is one member of a set, as it equals itself only by identity.
        return NAN if half == b"\x7e\0" else float(struct.unpack(">e", half)[0])

    def take(self, count: int) -> bytes:
        taken = self.raw[self.at : self.at + count]
        expect(len(taken) == count, "more bytes")
        self.at += count
        return taken

    def items(self, count: int, depth: int) -> list[Any]:
        expect(count <= len(self.raw) - self.at, "no more items than bytes")
        return [self.value(depth) for _ in range(count)]

    def map(self, count: int, depth: int) -> dict[Any, Any]:
        items = self.items(2 * count, depth)
        expect(all(type(key) in (str, bytes) for key in items[::2]), "keys of text or bytes")
        return unique(list(zip(items[::2], items[1::2], strict=True)))

    def tagged(self, tag: int, depth: int) -> Any:
        if tag in (6, 9, 258):
            expect(depth > 0, "at most 16 containers in each other")
            return self.container(tag, depth - 1)
        if tag == 7:
            return self.moment(depth)
        inner = self.value(depth)
        if tag in (2, 3):
            return big_int(tag, inner)
        if tag == 8:
            expect(type(inner) is int, "microseconds")
            return make("a timedelta", lambda: inner * MICROSECOND)
        if tag == 10:
            expect(type(inner) is str, "text")
            return Markup(inner)
        if tag == 11:
            return decimal(inner)
        if tag == 37:
            expect(type(inner) is bytes and len(inner) == 16, "the 16 bytes of a UUID")
            return uuid.UUID(bytes=inner)
        if tag == 100:
            expect(type(inner) is int, "days")
            return make("a date", lambda: date(1970, 1, 1) + timedelta(days=inner))
        raise Refused("a foreign tag")

    def container(self, tag: int, depth: int) -> Any:
        major, count, _ = self.head()
        expect(major == 4, "an array behind this tag")
        if tag == 6:
            return tuple(self.items(count, depth))
        if tag == 258:
            return self.members(count, depth)
        items = self.items(count, depth)
        expect(len(items) % 2 == 0, "keys and values")
        keys = items[::2]
        # A dict with only text or bytes for keys is a map.
        expect(any(type(key) not in (str, bytes) for key in keys), "a key of another type")
        return unique(list(zip(keys, items[1::2], strict=True)))

    def members(self, count: int, depth: int) -> set[Any]:
        members: list[Any] = []
        last = b""
        for _ in range(min(count, len(self.raw) - self.at + 1)):
            start = self.at
            members.append(self.value(depth))
            encoding = self.raw[start : self.at]
            expect(encoding >= last, "members in order")
            last = encoding
        return set(unique([(member, None) for member in members]))

    def moment(self, depth: int) -> datetime:
        items = self.value(max(depth, 1))
        expect(type(items) is list and len(items) in (2, 3), "two or three fields of a datetime")
        microseconds, offset, *fold = items
        expect(type(microseconds) is int, "microseconds")
        expect(not fold or (type(fold[0]) is int and fold[0] == 1), "a fold of 1")
        moment: datetime = make("a moment", lambda: EPOCH + microseconds * MICROSECOND)
        return moment.replace(tzinfo=zone_of(offset), fold=len(fold))


def zone_of(offset: Any) -> timezone | None:
    if offset is None:
        return None
    expect(type(offset) is int or type(offset) is float, "an offset in seconds or null")
    distance = make("an offset", lambda: timedelta(seconds=offset))
    zone = make("an offset", lambda: timezone(distance))
    if type(offset) is float:  # whole seconds are an integer
        is_exact = distance / timedelta(seconds=1) == offset
        expect(is_exact and not offset.is_integer(), "microseconds")
    return zone


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    odd = sum(type(key) not in (str, bytes) for key, _ in pairs)
    expect(odd <= 1024, "at most 1024 keys or members that are neither text nor bytes")
    mapping = make("keys and members that can be hashed", lambda: dict(pairs))
    expect(len(mapping) == len(pairs), "each key or member once")
    return mapping


def big_int(tag: int, raw: Any) -> int:
    expect(type(raw) is bytes and len(raw) > 8 and raw[0] != 0, "an integer beyond 64 bits")
    expect(len(raw) <= 512, "an integer of at most 4096 bits")
    number = int.from_bytes(raw, "big")
    expect(tag == 2 or number < (1 << 4096) - 1, "a magnitude of at most 4096 bits")
    return number if tag == 2 else -1 - number


def decimal(text: Any) -> Decimal:
    expect(type(text) is str, "text")
    number = make("a decimal", lambda: Decimal(text))
    expect(str(number) == text, "a decimal as str() gives it")
    expect(abs(number.adjusted()) <= 999_999, "an exponent in its range")
    return NAN_DECIMALS.setdefault(text, number) if number.is_nan() else number
