"""The ring's text form: JSON that a person can read, and that is not cut or mixed up unnoticed.

Knows JSON, times as text, and how secrets are wrapped. Does not know where the text is kept.

    format      "sealedstate-ring-1"
    ring        16 hex digits, for ever the same: tells one ring from another
    sequence    grows by one with each write
    updated_at  when it was written, by the writer's clock. All times are UTC: 2026-11-22T08:00:00Z
    schedule    rotate_every, announce, keep, skew, in seconds: what all nodes go by
    keys        the newest first: kid (8 hex digits), created_at, activates_at, disabled_at (only
                where it is), and either secret (43 characters of base64url) or wrapped
    lookup      {secret} or {wrapped}: the key behind names in the store, which does not rotate
    lasting     as keys, never disabled: those of what is stored for years (only where there are)
    tombstones  kid, activates_at, at, sealed, revoked, reason: keys that are no more
    revoked_before  cookies sealed before it are refused, or null
    wrapped_by  the kid of the key-encryption key, or null
    checksum    32 hex digits: BLAKE2b-128 of everything else as JSON with sorted keys and no blanks

A wrapped secret is a token of `sealing`, for the purpose "ring-secret" in the realm of the ring's
id, and named by the kid (or "lookup"). Where there is a key-encryption key the checksum is keyed
by its subkey ("checksum", "ring", ring), so that nobody without it can write a ring.

One ring has one spelling: the fields in this order, indented by two blanks, ASCII, and a line break
at the end. A document that is spelt otherwise, or has a field more, is refused like an altered one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

from .._wire.encoding import from_text, to_text
from .._wire.token import ENTROPY_BYTES, TokenContext, open_token, seal
from ..errors import CapacityError, ConfigurationError, OperatorError, UnreadableError
from ..keyring import KID_BYTES, Key, Keyring, check_secret, secret_from_text, secret_to_text
from ..storage.contract import Clock
from .ring import Ring, RingKey, Schedule, Tombstone

FORMAT = "sealedstate-ring-1"
MAX_BYTES = 1 << 22
MAX_NUMBER = (1 << 63) - 1

# How a secret is kept in the document: by its name to {"secret": ...} or {"wrapped": ...}.
Kept: TypeAlias = Callable[[str, bytes], dict[str, str]]
T = TypeVar("T")

# What a value of another kind, size or spelling makes Python raise somewhere below.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,  # ConfigurationError too
)


class RingUnreadable(OperatorError):
    """A document that is cut short, altered, of another format, or wrapped by a foreign key."""


class RingUnwrapped(RingUnreadable):
    """A document in clear, where a key-encryption key is set: anybody may have written it."""


def dump_ring(ring: Ring, wrapping: Keyring | None, random: Callable[[int], bytes]) -> str:
    """The document of a ring. `wrapping`: the key-encryption keys, of which the first wraps."""
    kek = None if wrapping is None else wrapping.primary(ring.updated_at)

    def kept(name: str, secret: bytes) -> dict[str, str]:
        if kek is None:
            return {"secret": secret_to_text(secret)}
        place = _place(ring.ring_id, name)
        token = seal(secret, place, kek, ring.updated_at, random(ENTROPY_BYTES))
        return {"wrapped": to_text(token)}

    return _text(ring, kek, kept)


def parse_ring(text: str | bytes, wrapping: Keyring | None, now: int) -> Ring:
    """The ring of a document. Raises RingUnreadable, whose message tells no secret."""
    if len(text) > MAX_BYTES:
        raise RingUnreadable(f"the ring is larger than {MAX_BYTES} bytes")
    try:
        # Decoded here: json would take UTF-16 as well.
        text = text if isinstance(text, str) else text.decode()
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise RingUnreadable("the ring is no JSON: cut short, or something else") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RingUnreadable(f"the ring does not say {FORMAT!r}: of another release, or no ring")
    try:
        ring, again = _read(document, wrapping, now)
    except _MALFORMED as error:
        raise RingUnreadable(
            f"the ring lacks a field, or one is malformed ({_kind(error)})"
        ) from None
    if again != text:
        raise RingUnreadable("the ring is not spelt as it was written: it was altered or cut")
    return ring


def _text(ring: Ring, kek: Key | None, kept: Kept) -> str:
    """The one spelling of a ring, given its secrets as they are kept."""
    document = {
        "format": FORMAT,
        "ring": ring.ring_id,
        "sequence": ring.sequence,
        "updated_at": _time(ring.updated_at),
        "schedule": _schedule_out(ring.schedule),
        "keys": [_key_out(key) | kept(key.kid.hex(), key.secret) for key in ring.keys],
        "lookup": None if ring.lookup is None else kept("lookup", ring.lookup),
        **_lasting_out(ring, kept),
        "tombstones": [_tombstone_out(dead) for dead in ring.tombstones],
        "revoked_before": _time(ring.revoked_before) if ring.revoked_before else None,
        "wrapped_by": None if kek is None else kek.kid.hex(),
    }
    return json.dumps(document | {"checksum": _checksum(document, kek)}, indent=2) + "\n"


def _read(document: dict[str, Any], wrapping: Keyring | None, now: int) -> tuple[Ring, str]:
    """The ring, and how it is spelt."""
    kek = _kek(document["wrapped_by"], wrapping)
    rest = {name: value for name, value in document.items() if name != "checksum"}
    if not hmac.compare_digest(_a(str, document["checksum"]), _checksum(rest, kek)):
        raise RingUnreadable("the ring's checksum does not match: it was altered or cut")
    field = "secret" if kek is None else "wrapped"
    held = [*document["keys"], *document.get("lasting", ())]
    found = {key["kid"]: key[field] for key in held}
    lookup = document["lookup"]
    if lookup is not None:
        found["lookup"] = lookup[field]

    def secret(name: str) -> bytes:
        if wrapping is None or kek is None:
            return secret_from_text(found[name])
        return _unwrapped(found[name], _place(document["ring"], name), wrapping, now)

    ring = _ring(document, secret)
    _check(ring)
    return ring, _text(ring, kek, lambda name, _: {field: found[name]})


def _ring(document: Mapping[str, Any], secret: Callable[[str], bytes]) -> Ring:
    return Ring(
        _a(str, document["ring"]),
        _number(document["sequence"], least=1),
        _epoch(document["updated_at"]),
        Schedule(**{name: _number(each) for name, each in document["schedule"].items()}),
        tuple(_key_in(key, secret(key["kid"])) for key in document["keys"]),
        tuple(_tombstone_in(dead) for dead in document["tombstones"]),
        None if document["lookup"] is None else secret("lookup"),
        _epoch(document["revoked_before"]) if document["revoked_before"] else 0,
        tuple(_key_in(key, secret(key["kid"])) for key in document.get("lasting", ())),
    )


def _check(ring: Ring) -> None:
    """Raise ConfigurationError where values that are good one by one make no ring."""
    ring.keyring()
    if ring.lookup is not None:
        check_secret(ring.lookup)
    if re.fullmatch("[0-9a-f]{16}", ring.ring_id) is None:
        raise ConfigurationError("a ring's id has 16 hex digits")
    if ring.lasting:
        ring.keyring().long_term.primary(MAX_NUMBER)  # its keys are keys, and differ
    kids = [key.kid for key in (*ring.keys, *ring.lasting)]
    kids += [dead.kid for dead in ring.tombstones]
    if len(set(kids)) < len(kids) or any(len(kid) != KID_BYTES for kid in kids):
        raise ConfigurationError(f"each kid has {KID_BYTES} bytes and stands once")


def _kek(named: str | None, wrapping: Keyring | None) -> Key | None:
    if named is None:
        if wrapping is not None:
            raise RingUnwrapped(
                "the ring is not wrapped, and a key-encryption key is set; where it is your own,"
                " `sealedstate keys wrap` wraps it"
            )
        return None
    kid = bytes.fromhex(named)
    kek = None if wrapping is None else wrapping.find(kid)
    if kek is None:
        shown = kid[:KID_BYTES].hex()
        raise RingUnreadable(f"the ring is wrapped by the key-encryption key {shown}: not set here")
    return kek


def _unwrapped(text: str, place: TokenContext, wrapping: Keyring, now: int) -> bytes:
    try:
        return open_token(from_text(_a(str, text)), place, wrapping, now).payload
    except UnreadableError as error:
        raise RingUnreadable(f"a wrapped secret does not open ({error.reason})") from None


def _place(ring_id: str, name: str) -> TokenContext:
    return TokenContext("ring-secret", ring_id, (name,))


def _checksum(document: Mapping[str, Any], kek: Key | None) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    key = b"" if kek is None else kek.subkey("checksum", "ring", str(document["ring"]))
    return hashlib.blake2b(text.encode(), key=key, digest_size=16).hexdigest()


# --- values -------------------------------------------------------------------------------------


def _schedule_out(schedule: Schedule) -> dict[str, int]:
    return {
        "rotate_every": schedule.rotate_every,
        "announce": schedule.announce,
        "keep": schedule.keep,
        "skew": schedule.skew,
    }


def _key_out(key: RingKey) -> dict[str, str]:
    shown = {
        "kid": key.kid.hex(),
        "created_at": _time(key.created_at),
        "activates_at": _time(key.activates_at),
    }
    return shown if key.disabled_at is None else shown | {"disabled_at": _time(key.disabled_at)}


def _lasting_out(ring: Ring, kept: Kept) -> dict[str, Any]:
    """The field, where there is any: rings were made without."""
    keys = [_key_out(key) | kept(key.kid.hex(), key.secret) for key in ring.lasting]
    return {"lasting": keys} if keys else {}


def _key_in(shown: Mapping[str, str], secret: bytes) -> RingKey:
    kid, disabled = bytes.fromhex(shown["kid"]), shown.get("disabled_at")
    return RingKey(
        kid,
        secret,
        _epoch(shown["created_at"]),
        _epoch(shown["activates_at"]),
        None if disabled is None else _epoch(disabled),
    )


def _tombstone_out(dead: Tombstone) -> dict[str, Any]:
    return {
        "kid": dead.kid.hex(),
        "activates_at": _time(dead.activates_at),
        "at": _time(dead.at),
        "sealed": dead.sealed,
        "revoked": dead.revoked,
        "reason": dead.reason,
    }


def _tombstone_in(shown: Mapping[str, Any]) -> Tombstone:
    kid = bytes.fromhex(shown["kid"])
    activates_at, at = _epoch(shown["activates_at"]), _epoch(shown["at"])
    sealed, revoked = _a(bool, shown["sealed"]), _a(bool, shown["revoked"])
    return Tombstone(kid, activates_at, at, sealed, revoked, _a(str, shown["reason"]))


def _time(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat().replace("+00:00", "Z")


def _epoch(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return _number(int(moment.timestamp()))


def _number(value: Any, least: int = 0) -> int:
    if not least <= _a(int, value) <= MAX_NUMBER:
        raise ValueError("a number out of range")
    return int(value)


def _a(kind: type[T], value: Any) -> T:
    """The value, if it is of this kind and not of one that only behaves like it, as True does."""
    if type(value) is not kind:
        raise TypeError
    return value


def _kind(error: Exception) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)  # by the modules of keys and schedules: it tells no secret
    return f"{error.args[0]!r}" if isinstance(error, KeyError) else type(error).__name__


# FOLD sealedstate.key_sources.ring_text
# A ring's document as bytes and back, the same for every place that holds one.
#
# Knows the document, its key-encryption keys and the last ring that was read. Does not know
# where the
# bytes are kept.


class RingCodec:
    """The documents of one place, which errors call `where`.

    `wrapping`: the key-encryption keys, of which the first wraps; None where secrets are in clear.
    `takes_clear`: whether one in clear is read all the same, to be wrapped by the next write.
    """

    def __init__(
        self,
        where: str,
        wrapping: Keyring | None,
        random: Callable[[int], bytes],
        clock: Clock,
        takes_clear: bool = False,
    ) -> None:
        self.where = where
        self._wrapping = wrapping
        self._random = random
        self._clock = clock
        self._takes_clear = takes_clear
        self._last: tuple[bytes, Ring] | None = None

    def read(self, content: bytes | None) -> Ring | None:
        """The ring of a document, the same object while the bytes are the same. None is none.

        Raises RingUnreadable.
        """
        if content is None:
            return None
        last = self._last  # once: other threads read, too
        if last is not None and last[0] == content:
            return last[1]
        try:
            ring = self._parsed(content)
        except RingUnreadable as error:
            raise RingUnreadable(f"{self.where}: {error}") from None
        self._last = (content, ring)
        return ring

    def _parsed(self, content: bytes) -> Ring:
        now = int(self._clock())
        try:
            return parse_ring(content, self._wrapping, now)
        except RingUnwrapped:
            if not self._takes_clear:
                raise
            return parse_ring(content, None, now)

    def written(self, ring: Ring) -> bytes:
        """A document that is known to read back as `ring`.

        Raises CapacityError where it is larger than a document may be, and OperatorError.
        """
        content = dump_ring(ring, self._wrapping, self._random).encode()
        if len(content) > MAX_BYTES:
            raise too_large(self.where, content, MAX_BYTES)
        # What nobody could read again would end every session: better not to rotate.
        if self.read(content) != ring:
            raise OperatorError(f"{self.where}: the new ring would not read back as it is")
        return content


def too_large(where: str, content: bytes, most: int) -> CapacityError:
    """What is to be done about a ring that does not fit."""
    return CapacityError(
        f"{where}: the ring of {len(content)} bytes does not fit into {most};"
        " with a longer rotate_every or a shorter keep it has fewer keys"
    )
