"""Keys from a plain file, one a line, read once at start.

Knows files. Does not watch them: a ring that rotates by itself is another source.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

from .errors import ConfigurationError
from .keyring import LOOKUP_LABEL, Key, Keyring, parse_lookup


@runtime_checkable
class KeySource(Protocol):
    """Gives the ring that is in force now."""

    def keyring(self) -> Keyring:
        """The current ring, without I/O."""
        ...


@runtime_checkable
class SeekingKeySource(KeySource, Protocol):
    """A source that can look for a key which it does not know yet."""

    def seek(self, kid: bytes) -> bool:
        """Whether the current ring knows `kid` after a look, which may be refused as too often."""
        ...


# FOLD sealedstate.key_sources.static
# A ring that stands in the configuration and stays as it is.
#
# Knows the text of keys. Does not know files or the environment.
#
# The first key seals, the others open. To rotate: put the new key last and roll that out, so that
# every node can open what it will seal; then put it first and roll that out; remove the old one
# when
# the longest session is over. Or put it first with the date from which it seals, after ``@``, and
# roll out once, before that date: ``sealedstate-key-1:...@2026-12-01T00:00:00Z``.


@dataclass(frozen=True, slots=True)
class StaticKeys:
    """A key source with one ring."""

    ring: Keyring

    def keyring(self) -> Keyring:
        return self.ring


def parse_keyring(lines: Sequence[str], skew: int) -> Keyring:
    """The ring of keys and at most one lookup key, one a line. Raises ConfigurationError."""
    lookups = [line for line in lines if line.strip().startswith(f"{LOOKUP_LABEL}:")]
    keys = tuple(_parse(line) for line in lines if line not in lookups)
    if any(key.activates_at < later.activates_at for key, later in pairwise(keys)):
        raise ConfigurationError(
            "keys: the newest stands first; a key in front of one with a date needs a later date"
        )
    if len(lookups) > 1:
        raise ConfigurationError("keys: more than one lookup key")
    return Keyring(keys, skew=skew, lookup=parse_lookup(lookups[0]) if lookups else None)


def _parse(line: str) -> Key:
    text, at, date = line.partition("@")
    key = Key.parse(text)
    return replace(key, activates_at=_epoch(date)) if at else key


def _epoch(date: str) -> int:
    try:
        moment = datetime.fromisoformat(date.strip())
    except ValueError:
        raise ConfigurationError("keys: behind '@' stands an ISO 8601 date and time") from None
    if moment.tzinfo is None:
        raise ConfigurationError("keys: a date needs a time zone, such as Z for UTC")
    return int(moment.timestamp())


# FOLD sealedstate.key_sources.environment
# Keys from an environment variable, separated by white space or commas.
#
# Knows a mapping of variables. Does not read the process's environment by itself.


def from_environment(environ: Mapping[str, str], name: str, skew: int) -> Keyring:
    """The ring in variable `name`. Raises ConfigurationError when it is missing or empty."""
    lines = environ.get(name, "").replace(",", " ").split()
    if not lines:
        raise ConfigurationError(
            f"the environment variable {name} holds no key; `sealedstate keys generate` prints one"
        )
    return parse_keyring(lines, skew)


_log = logging.getLogger("sealedstate.keys")

KEK_VARIABLE = "SEALEDSTATE_KEK"


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
            f"{KEK_VARIABLE}: {error} (`sealedstate keys generate --kek`)"
        ) from None


def from_secrets_file(path: Path, skew: int) -> Keyring:
    """The ring in the file at `path`; empty lines and lines that begin with # don't count.

    Raises ConfigurationError when it can't be read or holds no key. A file that everybody may read
    is used, for mounted secrets often are, and named in the log.
    """
    try:
        text = path.read_text("utf-8-sig")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the key file {path} can't be read: {error}") from None
    if mode & stat.S_IROTH:
        _log.warning("the key file %s can be read by everybody; chmod o-r it", path)
    lines = [line.strip() for line in text.splitlines()]
    return parse_keyring([line for line in lines if line and not line.startswith("#")], skew)
