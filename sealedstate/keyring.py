"""Keys, and the ring that says which of them seals now and which still open.

A key's state is a pure function of (ring, now). Knows no file, no environment, no clock and no
cipher: where keys come from is `key_sources`, what they do to bytes is `sealing`.
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
from typing import NoReturn, Self

from .errors import ConfigurationError, KeyDisabled, KeyOutOfUse, NoPrimaryKey, UnknownKey

KID_BYTES = 4
SECRET_BYTES = 32
KEY_LABEL = "sealedstate-key-1"
LOOKUP_LABEL = "sealedstate-lookup-1"
DEFAULT_SKEW = 60
FOR_EVER = 1 << 62

# Keys that stand in our documentation and tests: BLAKE2b-128 of the secret, so that the list
# itself can't be used as one.
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
    """Where a key stands in its life. Only the primary seals; revoked and expired open nothing."""

    PENDING = "pending"
    PRIMARY = "primary"
    RETIRED = "retired"
    EXPIRED = "expired"
    REVOKED = "revoked"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Key:
    """A root secret with its id on the wire. The secret stays out of the repr and of pickles.

    `secret` is 32 random bytes, `kid` 4 random bytes that are never used again. `activates_at`,
    `expires_at` and `retires_at` (when another took over, where that is known) are epoch seconds.
    Raises ConfigurationError for a secret that is short or that no random source would make.
    """

    kid: bytes
    secret: bytes = field(repr=False)
    activates_at: int = 0
    expires_at: int | None = None
    revoked: bool = False
    disabled: bool = False
    retires_at: int | None = None
    _subkeys: dict[tuple[str, str, str], bytes] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    # For `sealing`: what `lane` gave, by purpose and realm.
    lanes: dict[tuple[str, str], tuple[bytes, hashlib.blake2b]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if len(self.kid) != KID_BYTES:
            raise ConfigurationError(f"a kid has {KID_BYTES} bytes")
        check_secret(self.secret)

    @classmethod
    def generate(cls, random: Callable[[int], bytes], activates_at: int = 0) -> Self:
        """A new key from `random`, a function from a number of bytes to that many random ones."""
        return cls(random(KID_BYTES), random(SECRET_BYTES), activates_at)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key behind `sealedstate-key-1:<kid>:<secret>`, as `sealedstate keys generate` prints.

        Raises ConfigurationError, which never repeats the text.
        """
        found = _KEY_TEXT.fullmatch(text.strip())
        if found is None:
            raise ConfigurationError(
                f"a key reads {KEY_LABEL}:<8 hex digits>:<43 characters>;"
                " `sealedstate keys generate` prints one"
            )
        secret = secret_from_text(found[2])
        _refuse_samples(secret)
        return cls(bytes.fromhex(found[1]), secret)

    def export(self) -> str:
        """The text that `parse` reads. It holds the secret."""
        return f"{KEY_LABEL}:{self.kid.hex()}:{secret_to_text(self.secret)}"

    def subkey(self, use: str, purpose: str, realm: str) -> bytes:
        """32 bytes of its own for each (use, purpose, realm): keyed BLAKE2b of the root secret."""
        name = (use, purpose, realm)
        known = self._subkeys.get(name)
        if known is None:
            known = self._subkeys[name] = hashlib.blake2b(
                length_prefixed("sealedstate/1", *name), key=self.secret, digest_size=32
            ).digest()
        return known

    def lane(self, purpose: str, realm: str) -> tuple[bytes, hashlib.blake2b]:
        """The subkey that seals, and BLAKE2b-192 keyed with the one that makes nonces, to copy."""
        nonce = hashlib.blake2b(key=self.subkey("nonce", purpose, realm), digest_size=24)
        self.lanes[purpose, realm] = found = (self.subkey("seal", purpose, realm), nonce)
        return found

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of one deployment, the one listed first winning a tie of activation dates.

    `skew` (seconds) is how far clocks of nodes may differ; `announce` (seconds) is how long before
    its use a key is published, and so how long a node that has not reloaded may still seal with its
    predecessor. `lookup` is the secret behind names in the store that could be guessed. `gone`: the
    kids of keys that are no more, revoked or expired. `revoked_before`: cookies sealed before it
    (epoch seconds) are refused. `lasting_keys`: those of `lasting`; None where these keys don't go
    by themselves.
    """

    keys: tuple[Key, ...]
    skew: int = DEFAULT_SKEW
    announce: int = 0
    lookup: bytes | None = field(default=None, repr=False)
    gone: frozenset[bytes] = frozenset()
    revoked_before: int = 0
    lasting_keys: tuple[Key, ...] | None = None
    by_kid: dict[bytes, Key] = field(default_factory=dict, init=False, repr=False, compare=False)
    # The last answer of `primary`, and from when until when it holds.
    _reigns: list[tuple[int, float, Key]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    # When a key may have sealed, where that does not depend on what else has expired.
    turns: dict[bytes, tuple[int, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not self.keys:
            raise ConfigurationError("no key is configured; `sealedstate keys generate` prints one")
        self.by_kid.update((key.kid, key) for key in self.keys)
        if len(self.by_kid) != len(self.keys):
            raise ConfigurationError("two keys of the ring have the same kid")
        if len({key.secret for key in self.keys}) != len(self.keys):
            raise ConfigurationError("two keys of the ring have the same secret")

    @property
    def lasting(self) -> Keyring:
        """The ring that seals what is stored for years. No key of it expires.

        Each opens what it sealed at any time since its turn: what a node has sealed that lagged
        behind for longer than it may must not be lost, as a session may. Raises NoPrimaryKey where
        there is none yet.
        """
        if self.lasting_keys is None:
            return self
        if not self.lasting_keys:
            raise NoPrimaryKey(
                "the ring has no key yet for what is stored for years;"
                " `sealedstate keys rotate --lasting` adds one"
            )
        return Keyring(self.lasting_keys, self.skew, FOR_EVER, self.lookup)

    def find(self, kid: bytes) -> Key | None:
        """The one key that a kid selects, whatever its state."""
        return self.by_kid.get(kid)

    def usable_key(self, kid: bytes, now: float) -> Key:
        """Return the key that may open what it sealed, at `now` (epoch seconds).

        Raises UnknownKey, KeyOutOfUse (revoked, expired or removed) or KeyDisabled.
        """
        key = self.by_kid.get(kid)
        if key is None:
            raise KeyOutOfUse(kid) if kid in self.gone else UnknownKey(kid)
        if key.revoked or (key.expires_at is not None and now >= key.expires_at):
            raise KeyOutOfUse(kid)
        if key.disabled:
            raise KeyDisabled(kid)
        return key

    def primary(self, now: int) -> Key:
        """The key that seals at `now`. Raises NoPrimaryKey."""
        for begins, ends, key in self._reigns:
            if begins <= now < ends:
                return key
        usable = [key for key in self.keys if self._may_seal(key, now)]
        if not usable:
            raise NoPrimaryKey("no key of the ring may seal now")
        primary = max(usable, key=lambda key: key.activates_at)  # max keeps the first of equals
        self._reigns[:] = [(*self._unchanged_around(now), primary)]
        return primary

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

    def retires_at(self, key: Key, at: int = 0) -> int | None:
        """When the next key takes over (epoch seconds); None where no later date says so.

        A successor that has expired at `at` is none: `key` seals again.
        """
        if key.retires_at is not None:
            return key.retires_at
        later = [
            other.activates_at
            for other in self.keys
            if other.activates_at > key.activates_at
            and not (other.revoked or other.disabled)
            and (other.expires_at is None or at < other.expires_at)
        ]
        return min(later, default=None)

    def may_have_sealed(self, key: Key, sealed_at: int) -> bool:
        """Whether `key` was allowed to seal at `sealed_at`, give or take the skew."""
        first, last = self.turn(key, sealed_at)
        return first <= sealed_at <= last

    def turn(self, key: Key, at: int) -> tuple[int, float]:
        """The first and the last moment at which `key` may have sealed, as it looks at `at`."""
        retires_at = self.retires_at(key, at)
        latest = math.inf if retires_at is None else retires_at + self.announce + self.skew
        found = key.activates_at - self.skew, latest
        if self._is_settled(key):
            self.turns[key.kid] = found
        return found

    def _is_settled(self, key: Key) -> bool:
        """Whether `retires_at` gives the same whenever it is asked."""
        later = (other for other in self.keys if other.activates_at > key.activates_at)
        return key.retires_at is not None or all(other.expires_at is None for other in later)

    def _unchanged_around(self, now: int) -> tuple[int, float]:
        """From when until when no key begins or ends, around `now`."""
        dates = [key.activates_at for key in self.keys]
        dates += [key.expires_at for key in self.keys if key.expires_at is not None]
        begins = max((date for date in dates if date <= now), default=now)
        return begins, min((date for date in dates if date > now), default=math.inf)

    def _may_seal(self, key: Key, now: int) -> bool:
        expired = key.expires_at is not None and now >= key.expires_at
        return not (key.revoked or key.disabled or expired) and key.activates_at <= now


def parse_lookup(text: str) -> bytes:
    """The secret behind `sealedstate-lookup-1:<secret>`. Raises ConfigurationError."""
    found = _LOOKUP_TEXT.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(f"a lookup key reads {LOOKUP_LABEL}:<43 characters>")
    secret = secret_from_text(found[1])
    check_secret(secret)
    _refuse_samples(secret)
    return secret


def export_lookup(secret: bytes) -> str:
    """The text that `parse_lookup` reads. It holds the secret."""
    return f"{LOOKUP_LABEL}:{secret_to_text(secret)}"


def check_secret(secret: bytes) -> None:
    """Refuse what no random source makes: wrong length, zeros, patterns, a typed passphrase.

    32 random bytes have fewer than 16 different values, one constant step, or only printable
    characters with a chance below 2**-40 each. Raises ConfigurationError.
    """
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(f"a key's secret has {SECRET_BYTES} bytes, not {len(secret)}")
    steps = {(after - before) % 256 for before, after in pairwise(secret)}
    if len(set(secret)) < 16 or len(steps) == 1 or all(32 <= byte < 127 for byte in secret):
        raise ConfigurationError(
            "a key's secret is not random; `sealedstate keys generate` prints one that is"
        )


def length_prefixed(*fields: str | bytes) -> bytes:
    """Each field behind its length in 4 bytes, so that no two lists of fields read alike."""
    parts = []
    for value in fields:
        data = value.encode() if isinstance(value, str) else value
        parts.append(len(data).to_bytes(4, "big") + data)
    return b"".join(parts)


def _refuse_samples(secret: bytes) -> None:
    digest = hashlib.blake2b(secret, digest_size=16).hexdigest()
    if digest in _SAMPLE_DIGESTS:
        raise ConfigurationError("this key stands in the documentation: everybody has it")


def secret_from_text(text: str) -> bytes:
    """The bytes behind canonical base64url without padding. Raises ConfigurationError."""
    try:
        secret = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except binascii.Error:
        raise ConfigurationError("a key's secret is not base64url") from None
    if secret_to_text(secret) != text:
        raise ConfigurationError("a key's secret is not canonical base64url")
    return secret


def secret_to_text(secret: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(secret).decode().rstrip("=")
