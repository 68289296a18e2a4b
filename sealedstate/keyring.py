"""Keys, and the ring that says which key seals now and which keys still open.

The state of a key is a pure function of the ring and the time. Where keys come from is in
`key_sources`; docs/format.md has their text forms, and how their subkeys seal.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import NamedTuple, NoReturn, Self

from .errors import (
    ConfigurationError,
    KeyDisabled,
    KeyOutOfUse,
    NoPrimaryKey,
    UnknownKey,
    show_value,
)

__all__ = ["Key", "KeyState", "Keyring", "export_lookup", "parse_lookup"]

KID_BYTES = 4
SECRET_BYTES = 32
KEY_LABEL = "sealedstate-key-1"
LOOKUP_LABEL = "sealedstate-lookup-1"
DEFAULT_SKEW = 60
# Of times (epoch seconds): reached in the year 36812. Milliseconds of today are beyond that.
MAX_TIME = 1 << 40
DEFAULT_ANNOUNCE = 15 * 60
# An `announce` that outlives every key.
FOR_EVER = 1 << 62

# Keys of our documentation and tests, which everyone can read: BLAKE2b-128 of each secret, so that
# this list cannot be used as a list of keys.
_SAMPLE_DIGESTS = frozenset(
    {
        "2f6c9ff29559d7e06a7ad54f284d8e28",
        "2d42bad1d8c13ba3b439ac14edc75616",
        # tests/vectors
        "0c9f0aecda69f0eededd93296db790f2",
        "4c6b09d676cb1327e48f4338cf259b69",
        "ce18c3b0615b593adef80b4691cb31a2",
        "cb83ed5f1e3e7c55dac6d20c3c35585c",
        "93b2ac48a0e01e43ec32b79e07102378",
        "fc09c9cd7866e32a2c99f49265d2bd86",
    }
)

_KEY_TEXT = re.compile(rf"{KEY_LABEL}:([0-9a-f]{{8}}):([A-Za-z0-9_-]{{43}})", re.ASCII)
_LOOKUP_TEXT = re.compile(rf"{LOOKUP_LABEL}:([A-Za-z0-9_-]{{43}})", re.ASCII)


class KeyState(Enum):
    """The state of a key. Only the primary seals.

    Revoked and expired keys open nothing, disabled keys nothing while they are disabled.
    """

    PENDING = "pending"
    PRIMARY = "primary"
    RETIRED = "retired"
    EXPIRED = "expired"
    REVOKED = "revoked"
    DISABLED = "disabled"


class Subkeys(NamedTuple):
    """What seals and opens tokens of one purpose in one realm.

    `seal` is the key of the cipher; `nonce` is BLAKE2b-192 keyed for nonces, to be copied.
    """

    seal: bytes
    nonce: hashlib.blake2b

    def __repr__(self) -> str:
        return "<Subkeys>"


class SubkeyCache(dict[tuple[str, str], Subkeys]):
    """The subkeys of one root secret by (purpose, realm).

    Each is derived at the first look-up. A dict that fills itself, because each request looks up
    two and a method call costs more than the rest of the look-up.
    """

    def __init__(self, secret: bytes) -> None:
        super().__init__()
        self._secret = secret

    def __missing__(self, name: tuple[str, str]) -> Subkeys:
        nonce = hashlib.blake2b(key=_derive(self._secret, "nonce", *name), digest_size=24)
        subkeys = self[name] = Subkeys(_derive(self._secret, "seal", *name), nonce)
        return subkeys

    def __repr__(self) -> str:
        return f"<SubkeyCache of {len(self)}>"


@dataclass(frozen=True, slots=True)
class Key:
    """A root secret and its id in tokens. No repr and no pickle shows the secret.

    `kid` is 4 random bytes that are never used again, `secret` 32 random bytes. `activates_at`,
    `expires_at` and `retires_at` (when another key took over, if that is known) are epoch seconds.
    Raises ConfigurationError for a secret that is short or that no random source would make.
    """

    kid: bytes
    secret: bytes = field(repr=False)
    activates_at: int = 0
    expires_at: int | None = None
    revoked: bool = False
    disabled: bool = False
    retires_at: int | None = None
    # Both hold functions of the secret alone, so the key is the same with or without them.
    subkeys: SubkeyCache = field(init=False, repr=False, compare=False)
    _derived: dict[tuple[str, str, str], bytes] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if len(self.kid) != KID_BYTES:
            raise ConfigurationError(f"key: a kid must be {KID_BYTES} bytes, got {len(self.kid)}")
        check_secret(self.secret)
        for name in ("activates_at", "expires_at", "retires_at"):
            at = getattr(self, name)
            if type(at) is not int and (at is not None or name == "activates_at"):
                raise ConfigurationError(
                    f"key: {name} must be epoch seconds, a whole number; got {show_value(at)}"
                )
        object.__setattr__(self, "subkeys", SubkeyCache(self.secret))

    @classmethod
    def generate(cls, random: Callable[[int], bytes], activates_at: int = 0) -> Self:
        """A new key. `random` returns as many random bytes as it is asked for."""
        return cls(random(KID_BYTES), random(SECRET_BYTES), activates_at)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key of a text such as `sealedstate keys generate` prints.

        The text is `sealedstate-key-1:<kid>:<secret>`. Raises ConfigurationError, which never
        repeats the text.
        """
        found = _KEY_TEXT.fullmatch(text.strip())
        if found is None:
            raise ConfigurationError(
                f"key: expected {KEY_LABEL}:<8 hex digits>:<43 characters>;"
                " `sealedstate keys generate` prints one"
            )
        secret = secret_from_text(found[2])
        _refuse_sample(secret)
        return cls(bytes.fromhex(found[1]), secret)

    def export(self) -> str:
        """The text that `parse` reads. It contains the secret."""
        return f"{KEY_LABEL}:{self.kid.hex()}:{secret_to_text(self.secret)}"

    def subkey(self, use: str, purpose: str, realm: str) -> bytes:
        """32 bytes for each (use, purpose, realm): keyed BLAKE2b of the secret."""
        name = (use, purpose, realm)
        known = self._derived.get(name)
        if known is None:
            known = self._derived[name] = _derive(self.secret, *name)
        return known

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of one deployment.

    `keys`: if two have the same activation date, the first of them seals. `skew`: tolerated clock
    difference between nodes, in seconds. `announce`: seconds by which the keys of a node may lag
    behind those of other nodes. A key is published at least as long before it seals; a node may
    keep sealing with the previous key for that long; and a cookie of an unknown key is left alone
    for that long, because another node may know the key. `lookup`: the secret that names in the
    store are hashed with if they could be guessed. `removed_kids`: kids of revoked or expired keys
    that are no longer in the ring. `revoked_before`: cookies that say they were sealed before this
    time (epoch seconds) are refused; until then, cookies are dated so. `long_term_keys`: keys for
    long-lived data; None if the ordinary keys never expire on their own. `keep`: for how many
    seconds the ring promises to open what its keys seal; 0 for keys that no schedule governs.
    """

    keys: tuple[Key, ...]
    skew: int = DEFAULT_SKEW
    announce: int = DEFAULT_ANNOUNCE
    lookup: bytes | None = field(default=None, repr=False)
    removed_kids: frozenset[bytes] = frozenset()
    revoked_before: int = 0
    long_term_keys: tuple[Key, ...] | None = None
    keep: int = 0
    _by_kid: dict[bytes, Key] = field(init=False, repr=False, compare=False)
    # The last answer of `primary`, and the times from which and before which it holds. The tuple is
    # replaced as a whole, so threads need no lock.
    _primary_cache: tuple[int, float, Key] = field(init=False, repr=False, compare=False)
    # Sealing windows that are the same at every time.
    _windows: dict[bytes, tuple[int, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not self.keys:
            raise ConfigurationError(
                "keys: no key is configured; `sealedstate keys generate` prints one"
            )
        by_kid = {key.kid: key for key in self.keys}
        if len(by_kid) != len(self.keys):
            raise ConfigurationError("keys: two keys of the ring have the same kid")
        if len({key.secret for key in self.keys}) != len(self.keys):
            raise ConfigurationError("keys: two keys of the ring have the same secret")
        object.__setattr__(self, "_by_kid", by_kid)
        object.__setattr__(self, "_primary_cache", (0, 0, self.keys[0]))

    @property
    def long_term(self) -> Keyring:
        """The ring that seals long-lived data. Its keys never expire.

        Each key opens what was sealed at any time since its activation. A session that a node
        seals with an outdated key may be lost, but long-lived data must not be. Raises NoPrimaryKey
        if the ring has no long-term key yet.
        """
        if self.long_term_keys is None:
            return self
        if not self.long_term_keys:
            raise NoPrimaryKey(
                "keys: the ring has no key for long-lived data;"
                " `sealedstate keys rotate --lasting` adds one"
            )
        return Keyring(self.long_term_keys, self.skew, FOR_EVER, self.lookup)

    def find(self, kid: bytes) -> Key | None:
        """The key with this kid, in any state."""
        return self._by_kid.get(kid)

    def find_usable(self, kid: bytes, now: float) -> Key:
        """The key with this kid, if it may open at `now`.

        Raises UnknownKey, KeyOutOfUse (revoked or expired, perhaps no longer in the ring) or
        KeyDisabled.
        """
        key = self.find_verifying(kid, now)
        if key.disabled:
            raise KeyDisabled(kid=kid)
        return key

    def find_verifying(self, kid: bytes, now: float, claimed_at: int | None = None) -> Key:
        """The key with this kid, if it may open at `now` or may open again: it may be disabled.

        Raises UnknownKey, which repeats `claimed_at`, or KeyOutOfUse.
        """
        key = self._by_kid.get(kid)
        if key is None:
            raise (
                KeyOutOfUse(kid=kid) if kid in self.removed_kids else UnknownKey(kid, claimed_at)
            )
        if key.revoked or (key.expires_at is not None and now >= key.expires_at):
            raise KeyOutOfUse(kid=kid)
        return key

    def primary(self, now: int) -> Key:
        """The key that seals at `now`. Raises NoPrimaryKey."""
        begins, ends, primary = self._primary_cache
        if begins <= now < ends:
            return primary
        usable = [
            key
            for key in self.keys
            if not (key.revoked or key.disabled)
            and key.activates_at <= now
            and (key.expires_at is None or now < key.expires_at)
        ]
        if not usable:
            raise NoPrimaryKey(
                "keys: no key is active; check the activation and expiry dates, and the clock"
            )
        primary = max(usable, key=lambda key: key.activates_at)  # the first of equals
        dates = [key.activates_at for key in self.keys]
        dates += [key.expires_at for key in self.keys if key.expires_at is not None]
        begins = max((date for date in dates if date <= now), default=now)
        ends = min((date for date in dates if date > now), default=FOR_EVER)
        object.__setattr__(self, "_primary_cache", (begins, ends, primary))
        return primary

    def sealing_time(self, now: int) -> int:
        """What a cookie that is sealed at `now` says when it was sealed (epoch seconds).

        Later than `now` for at most the skew after everything sealed until then was revoked, so
        that a user who signs in right after that stays signed in.
        """
        return max(now, self.revoked_before)

    def state(self, key: Key, now: int) -> KeyState:
        """The state of one of the ring's keys at `now`."""
        if key.revoked:
            return KeyState.REVOKED
        if key.expires_at is not None and now >= key.expires_at:
            return KeyState.EXPIRED
        if key.disabled:
            return KeyState.DISABLED
        if now < key.activates_at:
            return KeyState.PENDING
        return KeyState.PRIMARY if key is self.primary(now) else KeyState.RETIRED

    def may_have_sealed(self, key: Key, sealed_at: int) -> bool:
        """Whether `key` was allowed to seal at `sealed_at`, give or take the skew."""
        first, last = self._windows.get(key.kid) or self.sealing_window(key, sealed_at)
        return first <= sealed_at <= last

    def sealing_window(self, key: Key, at: int) -> tuple[int, float]:
        """The first and the last second in which `key` may have sealed.

        `at`: the time by which successors count or have expired (epoch seconds).
        """
        later = [other for other in self.keys if other.activates_at > key.activates_at]
        retires_at: float | None = key.retires_at
        if retires_at is None:
            # A successor that has expired does not count: `key` seals again.
            dates = (
                other.activates_at
                for other in later
                if not (other.revoked or other.disabled)
                and (other.expires_at is None or at < other.expires_at)
            )
            retires_at = min(dates, default=math.inf)
        window = key.activates_at - self.skew, retires_at + self.announce + self.skew
        # Without a stated end the window changes when a successor expires.
        if key.retires_at is not None or all(other.expires_at is None for other in later):
            self._windows[key.kid] = window
        return window


def parse_lookup(text: str) -> bytes:
    """The secret of `sealedstate-lookup-1:<secret>`. Raises ConfigurationError."""
    found = _LOOKUP_TEXT.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(
            f"lookup key: expected {LOOKUP_LABEL}:<43 characters>;"
            " `sealedstate keys generate --lookup` prints one"
        )
    secret = secret_from_text(found[1])
    check_secret(secret)
    _refuse_sample(secret)
    return secret


def export_lookup(secret: bytes) -> str:
    """The text that `parse_lookup` reads. It contains the secret."""
    return f"{LOOKUP_LABEL}:{secret_to_text(secret)}"


def check_secret(secret: bytes) -> None:
    """Refuse a secret that no random source makes, such as a passphrase.

    32 random bytes have fewer than 16 different values, one constant step, or only printable
    characters with a probability below 2**-40 each. Raises ConfigurationError.
    """
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(f"key: a secret must be {SECRET_BYTES} bytes, got {len(secret)}")
    steps = {(after - before) % 256 for before, after in pairwise(secret)}
    if len(set(secret)) < 16 or len(steps) == 1 or all(32 <= byte < 127 for byte in secret):
        raise ConfigurationError(
            "key: the secret is not random; `sealedstate keys generate` prints one that is"
        )


def length_prefixed(*fields: str | bytes) -> bytes:
    """Each field after its length in 4 bytes: LP in the specification."""
    parts = []
    for value in fields:
        data = value.encode() if isinstance(value, str) else value
        parts.append(len(data).to_bytes(4, "big") + data)
    return b"".join(parts)


def secret_from_text(text: str) -> bytes:
    """The bytes of canonical, unpadded base64url. Raises ConfigurationError."""
    try:
        secret = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except binascii.Error:
        raise ConfigurationError("key: the secret is not base64url") from None
    if secret_to_text(secret) != text:
        raise ConfigurationError("key: the secret is not canonical base64url")
    return secret


def secret_to_text(secret: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(secret).decode().rstrip("=")


def _derive(secret: bytes, use: str, purpose: str, realm: str) -> bytes:
    message = length_prefixed("sealedstate/1", use, purpose, realm)
    return hashlib.blake2b(message, key=secret, digest_size=32).digest()


def _refuse_sample(secret: bytes) -> None:
    if hashlib.blake2b(secret, digest_size=16).hexdigest() in _SAMPLE_DIGESTS:
        raise ConfigurationError(
            "key: this key is published in the documentation;"
            " `sealedstate keys generate` prints a secret one"
        )
