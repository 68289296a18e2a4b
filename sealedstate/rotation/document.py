"""The text form of a ring: readable JSON in which any alteration is noticed.

docs/format.md is the specification of the document, and of what it says about each key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

from .._wire.encoding import from_text, to_text
from .._wire.token import ENTROPY_BYTES, TokenContext, open_token, seal
from ..errors import CapacityError, ConfigurationError, OperatorError, UnreadableError
from ..keyring import KID_BYTES, Key, Keyring, check_secret, secret_from_text, secret_to_text
from ..storage.contract import Clock
from .ring import Ring, RingKey, Schedule, Tombstone

__all__ = ["RingUnreadable", "dump_ring", "parse_ring"]

FORMAT = "sealedstate-ring-1"
MAX_BYTES = 1 << 22
MAX_NUMBER = (1 << 63) - 1

WriteSecret: TypeAlias = Callable[[str, bytes], dict[str, str]]
"""From the name of a secret and the secret to {"secret": ...} or {"wrapped": ...}."""

T = TypeVar("T")

# What is raised below for a value of another kind, size or spelling: a ConfigurationError, too, is
# a ValueError.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class RingUnreadable(OperatorError):
    """The document is cut, altered, of another format, or not unwrapped here."""


def dump_ring(ring: Ring, wrapping: Keyring | None, random: Callable[[int], bytes]) -> str:
    """The document of a ring.

    `wrapping`: the key-encryption keys, of which the first wraps.
    """
    kek = None if wrapping is None else wrapping.primary(ring.updated_at)

    def write_secret(name: str, secret: bytes) -> dict[str, str]:
        if kek is None:
            return {"secret": secret_to_text(secret)}
        context = _wrapping_context(ring.ring_id, name)
        return {
            "wrapped": to_text(seal(secret, context, kek, ring.updated_at, random(ENTROPY_BYTES)))
        }

    return _dump(ring, kek, write_secret)


def parse_ring(
    text: str | bytes, wrapping: Keyring | None, now: int, takes_clear: bool = False
) -> Ring:
    """The ring of a document.

    `takes_clear`: whether to read a plaintext document although there is a key-encryption key.
    Raises RingUnreadable, whose message contains no secret.
    """
    if len(text) > MAX_BYTES:
        raise RingUnreadable(f"the ring is larger than {MAX_BYTES} bytes")
    try:
        # Decoded here, because json would accept UTF-16 as well.
        text = text if isinstance(text, str) else text.decode()
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise RingUnreadable("the ring is not JSON: it was cut, or it is another file") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RingUnreadable(
            f"the format of the ring is not {FORMAT!r}: it is of another release, or no ring"
        )
    try:
        ring, spelling = _load(document, wrapping, now, takes_clear)
    except _MALFORMED as error:
        raise RingUnreadable(
            f"a field of the ring is missing or malformed ({_describe(error)})"
        ) from None
    if spelling != text:
        raise RingUnreadable("the ring is not spelled as it was written: it was altered or cut")
    return ring


def _dump(ring: Ring, kek: Key | None, write_secret: WriteSecret) -> str:
    """The one spelling of a ring."""

    def keys(keys: tuple[RingKey, ...]) -> list[dict[str, str]]:
        documents = []
        for key in keys:
            fields = {
                "kid": key.kid.hex(),
                "created_at": _dump_time(key.created_at),
                "activates_at": _dump_time(key.activates_at),
            }
            if key.disabled_at is not None:
                fields["disabled_at"] = _dump_time(key.disabled_at)
            documents.append(fields | write_secret(fields["kid"], key.secret))
        return documents

    document = {
        "format": FORMAT,
        "ring": ring.ring_id,
        "sequence": ring.sequence,
        "updated_at": _dump_time(ring.updated_at),
        "schedule": asdict(ring.schedule),
        "keys": keys(ring.keys),
        "lookup": None if ring.lookup is None else write_secret("lookup", ring.lookup),
        # Rings of earlier releases do not have the field.
        **({"lasting": keys(ring.long_term)} if ring.long_term else {}),
        "tombstones": [
            {
                "kid": dead.kid.hex(),
                "activates_at": _dump_time(dead.activates_at),
                "at": _dump_time(dead.at),
                "sealed": dead.sealed,
                "revoked": dead.revoked,
                "reason": dead.reason,
            }
            for dead in ring.tombstones
        ],
        "revoked_before": _dump_time(ring.revoked_before) if ring.revoked_before else None,
        "wrapped_by": None if kek is None else kek.kid.hex(),
    }
    return json.dumps(document | {"checksum": _checksum(document, kek)}, indent=2) + "\n"


def _load(
    document: dict[str, Any], wrapping: Keyring | None, now: int, takes_clear: bool
) -> tuple[Ring, str]:
    """The ring, and its one spelling."""
    kek, named = None, document["wrapped_by"]
    if named is not None:
        kid = bytes.fromhex(named)
        kek = None if wrapping is None else wrapping.find(kid)
        if kek is None:
            raise RingUnreadable(
                f"the ring is wrapped by the key-encryption key {kid[:KID_BYTES].hex()},"
                " which is not set here"
            )
    elif wrapping is not None and not takes_clear:
        # Anyone can have written it.
        raise RingUnreadable(
            "the ring is not wrapped, but a key-encryption key is set; if the ring is yours,"
            " `sealedstate keys wrap` wraps it"
        )
    rest = {name: value for name, value in document.items() if name != "checksum"}
    if not hmac.compare_digest(_exactly(str, document["checksum"]), _checksum(rest, kek)):
        raise RingUnreadable("the checksum of the ring does not match: it was altered or cut")
    field = "secret" if kek is None else "wrapped"
    holders = [*document["keys"], *document.get("lasting", ())]
    texts = {key["kid"]: key[field] for key in holders}
    lookup = document["lookup"]
    if lookup is not None:
        texts["lookup"] = lookup[field]

    def read_secret(name: str) -> bytes:
        if wrapping is None or kek is None:
            return secret_from_text(texts[name])
        context = _wrapping_context(document["ring"], name)
        try:
            return open_token(from_text(_exactly(str, texts[name])), context, wrapping, now).payload
        except UnreadableError as error:
            raise RingUnreadable(f"a wrapped secret does not open ({error.reason})") from None

    ring = Ring(
        _exactly(str, document["ring"]),
        _load_number(document["sequence"], least=1),
        _load_time(document["updated_at"]),
        Schedule(**{name: _load_number(each) for name, each in document["schedule"].items()}),
        tuple(_load_key(key, read_secret(key["kid"])) for key in document["keys"]),
        tuple(
            Tombstone(
                bytes.fromhex(fields["kid"]),
                _load_time(fields["activates_at"]),
                _load_time(fields["at"]),
                _exactly(bool, fields["sealed"]),
                _exactly(bool, fields["revoked"]),
                _exactly(str, fields["reason"]),
            )
            for fields in document["tombstones"]
        ),
        None if lookup is None else read_secret("lookup"),
        _load_time(document["revoked_before"]) if document["revoked_before"] else 0,
        tuple(_load_key(key, read_secret(key["kid"])) for key in document.get("lasting", ())),
    )
    _check(ring)
    # Secrets are taken from the document as they are: a wrapped secret has many spellings.
    return ring, _dump(ring, kek, lambda name, _: {field: texts[name]})


def _check(ring: Ring) -> None:
    """Raise ConfigurationError for values that are valid alone and not together."""
    ring.keyring()
    if ring.lookup is not None:
        check_secret(ring.lookup)
    if re.fullmatch("[0-9a-f]{16}", ring.ring_id) is None:
        raise ConfigurationError("the id of a ring must be 16 hex digits")
    if ring.long_term:
        ring.keyring().long_term.primary(MAX_NUMBER)  # checks the keys, and that they differ
    kids = [key.kid for key in (*ring.keys, *ring.long_term)]
    kids += [dead.kid for dead in ring.tombstones]
    if len(set(kids)) < len(kids) or any(len(kid) != KID_BYTES for kid in kids):
        raise ConfigurationError(f"each kid must be {KID_BYTES} bytes and occur once")


def _wrapping_context(ring_id: str, name: str) -> TokenContext:
    return TokenContext("ring-secret", ring_id, (name,))


def _checksum(document: Mapping[str, Any], kek: Key | None) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    key = b"" if kek is None else kek.subkey("checksum", "ring", str(document["ring"]))
    return hashlib.blake2b(text.encode(), key=key, digest_size=16).hexdigest()


def _load_key(fields: Mapping[str, str], secret: bytes) -> RingKey:
    kid, disabled_at = bytes.fromhex(fields["kid"]), fields.get("disabled_at")
    return RingKey(
        kid,
        secret,
        _load_time(fields["created_at"]),
        _load_time(fields["activates_at"]),
        None if disabled_at is None else _load_time(disabled_at),
    )


def _dump_time(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat().replace("+00:00", "Z")


def _load_time(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return _load_number(int(moment.timestamp()))


def _load_number(value: Any, least: int = 0) -> int:
    if not least <= _exactly(int, value) <= MAX_NUMBER:
        raise ValueError("a number out of range")
    return int(value)


def _exactly(kind: type[T], value: Any) -> T:
    """The value, if its type is `kind` and no subclass: True must not pass for 1."""
    if type(value) is not kind:
        raise TypeError
    return value


def _describe(error: Exception) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)  # from `keyring` and `Schedule`, whose messages contain no secret
    return f"{error.args[0]!r}" if isinstance(error, KeyError) else type(error).__name__


class RingCodec:
    """Reads and writes the documents of one storage.

    `location`: the name of the storage in errors. `wrapping`: the key-encryption keys, of which the
    first wraps; None for plaintext secrets. `takes_clear`: whether to read a plaintext document
    anyway; the next write wraps it.
    """

    def __init__(
        self,
        location: str,
        wrapping: Keyring | None,
        random: Callable[[int], bytes],
        clock: Clock,
        takes_clear: bool = False,
    ) -> None:
        self.location = location
        self._wrapping = wrapping
        self._random = random
        self._clock = clock
        self._takes_clear = takes_clear
        self._last: tuple[bytes, Ring] | None = None

    def load(self, content: bytes | None) -> Ring | None:
        """The ring of a document; None for None.

        It is the same object as long as the bytes are the same. Raises RingUnreadable.
        """
        if content is None:
            return None
        last = self._last  # read once, because other threads write it
        if last is not None and last[0] == content:
            return last[1]
        now = int(self._clock())
        try:
            ring = parse_ring(content, self._wrapping, now, self._takes_clear)
        except RingUnreadable as error:
            raise RingUnreadable(f"{self.location}: {error}") from None
        self._last = (content, ring)
        return ring

    def dump(self, ring: Ring, limit: int = MAX_BYTES) -> bytes:
        """A document of at most `limit` bytes that was read back and gives `ring`.

        Raises CapacityError for a larger document, and OperatorError.
        """
        content = dump_ring(ring, self._wrapping, self._random).encode()
        limit = min(limit, MAX_BYTES)
        if len(content) > limit:
            raise CapacityError(
                f"{self.location}: the ring of {len(content)} bytes does not fit into {limit};"
                " with a longer rotate_every or a shorter keep it has fewer keys"
            )
        # An unreadable ring would end every session: it is better not to rotate.
        if self.load(content) != ring:
            raise OperatorError(f"{self.location}: the new ring would not read back as it is")
        return content
