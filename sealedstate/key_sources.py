"""Key sources, and keys from settings, the environment or a file.

They are read once, at the start. Keys are one per line or word, as `sealedstate keys generate`
prints them. The first key seals, and all of them open. To rotate them by hand, add the new key at
the end and roll that out, so that every node can open what it will seal; then put it first and roll
that out; and remove the old key when the longest session has ended. Or put the new key first, with
the date from which it seals after ``@``, and roll that out once, before that date:
``sealedstate-key-1:...@2026-12-01T00:00:00Z``.

A ring that rotates without a roll-out is in `rotation.source`.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from .errors import ConfigurationError, NoPrimaryKey
from .keyring import DEFAULT_ANNOUNCE, LOOKUP_LABEL, Key, Keyring, parse_lookup

__all__ = [
    "KEK_VARIABLE",
    "DatedKeySource",
    "KeySource",
    "SeekingKeySource",
    "StaticKeys",
    "parse_keyring",
]

KEK_VARIABLE = "SEALEDSTATE_KEK"

_log = logging.getLogger("sealedstate.keys")


@runtime_checkable
class KeySource(Protocol):
    """Gives the keyring that is in force now."""

    def keyring(self) -> Keyring:
        """The current keyring. It is asked at each request and must do no I/O."""
        ...


@runtime_checkable
class SeekingKeySource(KeySource, Protocol):
    """A key source that can look for an unknown key."""

    def seek(self, kid: bytes) -> bool:
        """Whether the keyring has `kid` after a look, which may be skipped."""
        ...


@runtime_checkable
class DatedKeySource(KeySource, Protocol):
    """A key source that reads its keys again and again, and may fail to.

    A cookie of an unknown key is left alone until the keys were read long enough after its seal.
    The keys of a source without this method count as read at every moment: they must not lag
    behind those of other nodes by more than the `announce` of its keyring.
    """

    def read_at(self) -> float:
        """When the last read began that gave the keys in force or newer keys (epoch seconds).

        A keyring that is asked for after this call is at least as new.
        """
        ...


def last_read(source: KeySource, now: float) -> float:
    """When `source` last read its keys; `now` if it does not report that (epoch seconds)."""
    return source.read_at() if isinstance(source, DatedKeySource) else now


class ReadMoment(NamedTuple):
    """When a read began: epoch seconds, and seconds of a clock that nothing sets."""

    wall: float
    running: float

    def at(self, now: float, running: float) -> float:
        """The moment as epoch seconds, given both clocks now.

        The wall clock may have been ahead then, or may be ahead now: the earlier moment counts.
        """
        return min(self.wall, now - (running - self.running))


@dataclass(frozen=True, slots=True)
class StaticKeys:
    """A key source whose keyring never changes. Its keys count as read at every moment."""

    ring: Keyring

    def keyring(self) -> Keyring:
        return self.ring


class NoKeys:
    """A key source for what neither seals nor opens."""

    def keyring(self) -> Keyring:
        raise NoPrimaryKey("keys: no keys are used here")


def parse_keyring(lines: Sequence[str], skew: int, announce: int = DEFAULT_ANNOUNCE) -> Keyring:
    """The keyring of keys and at most one lookup key. Raises ConfigurationError.

    `announce`: seconds within which a new list of keys is on every node. No error repeats a key.
    """
    lookups = [line for line in lines if line.strip().startswith(f"{LOOKUP_LABEL}:")]
    keys = tuple(_parse_key(line) for line in lines if line not in lookups)
    if any(key.activates_at < later.activates_at for key, later in pairwise(keys)):
        raise ConfigurationError(
            "keys: the newest key must be first; a key before one with a date needs a later date"
        )
    if len(lookups) > 1:
        raise ConfigurationError("keys: there must be at most one lookup key")
    lookup = parse_lookup(lookups[0]) if lookups else None
    return Keyring(keys, skew=skew, announce=announce, lookup=lookup)


def _parse_key(line: str) -> Key:
    text, at, date = line.partition("@")
    key = Key.parse(text)
    if not at:
        return key
    try:
        moment = datetime.fromisoformat(date.strip())
    except ValueError:
        raise ConfigurationError("keys: expected an ISO 8601 date and time after '@'") from None
    if moment.tzinfo is None:
        raise ConfigurationError("keys: a date must have a time zone, such as Z for UTC")
    return replace(key, activates_at=int(moment.timestamp()))


def from_environment(
    environ: Mapping[str, str], name: str, skew: int, announce: int = DEFAULT_ANNOUNCE
) -> Keyring:
    """The keyring in a variable.

    Keys are separated by white space or commas. Raises ConfigurationError, also for a missing or
    empty variable.
    """
    lines = environ.get(name, "").replace(",", " ").split()
    if not lines:
        raise ConfigurationError(
            f"keys: the environment variable {name} contains no key; `sealedstate keys generate`"
            " prints one"
        )
    return parse_keyring(lines, skew, announce)


def wrapping_keyring(environ: Mapping[str, str], skew: int) -> Keyring | None:
    """The key-encryption keys in SEALEDSTATE_KEK; None if it is not set or empty.

    Raises ConfigurationError.
    """
    if not environ.get(KEK_VARIABLE, "").strip():
        return None
    try:
        return from_environment(environ, KEK_VARIABLE, skew)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{KEK_VARIABLE}: {error}; `sealedstate keys generate --kek` prints one"
        ) from None


def from_secrets_file(path: Path, skew: int, announce: int = DEFAULT_ANNOUNCE) -> Keyring:
    """The keyring in the file at `path`.

    Empty lines and lines that begin with # are ignored. Raises ConfigurationError if the file
    cannot be read or contains no key. A file that all users may read is accepted, because mounted
    secrets often are, and named in the log.
    """
    try:
        text = path.read_text("utf-8-sig")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"keys: the file {path} cannot be read: {error}") from None
    if mode & stat.S_IROTH:
        _log.warning("the key file %s is readable by all users; run chmod o-r on it", path)
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    return parse_keyring(keys, skew, announce)
