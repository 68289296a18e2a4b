"""Key sources: keys from settings, the environment or a file, and what a variable names.

Keys are one per line or word, as `sealedstate keys generate` prints them. The first key seals, and
all of them open. A list and a variable are read once, at the start; a file is read again when it
changes. To rotate them by hand, add the new key at the end and roll that out, so that every node
can open what it will seal; then put it first and roll that out; and remove the old key when the
longest session has ended. Or put the new key first, with the date from which it seals after ``@``,
and roll that out once, before that date: ``sealedstate-key-1:...@2026-12-01T00:00:00Z``.

A ring that rotates without a roll-out is in `rotation.source`.

A secret in the variable NAME may be in a file instead, which the variable NAME_FILE names.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

from ._forks import ForkSafeLock
from .errors import ConfigurationError, NoPrimaryKey, contains_key, escape_text, hide_secrets
from .keyring import DEFAULT_ANNOUNCE, KEY_LABEL, LOOKUP_LABEL, Key, Keyring, parse_lookup

__all__ = [
    "KEK_VARIABLE",
    "DatedKeySource",
    "KeySource",
    "SeekingKeySource",
    "StaticKeys",
    "parse_keyring",
]

KEK_VARIABLE = "SEALEDSTATE_KEK"
# What names a file behind the name of a variable.
FILE_SUFFIX = "_FILE"
MAX_SECRET_BYTES = 1 << 20
# No key has a dot.
_FILE_NAME = re.compile(r"[\w./~:\\ -]{1,200}\.(?:json|keys?|toml|txt)")
# However many cookies have an unknown kid, a file is read at most this often for them.
SEEK_SECONDS = 1.0

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
    return source.read_at() if is_dated(source) else now


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


def is_key_source(value: object) -> TypeGuard[KeySource]:
    """Whether an object has the method of a key source, its own or by `__getattr__`."""
    return not isinstance(value, type) and callable(getattr(value, "keyring", None))


def is_seeking(source: KeySource) -> TypeGuard[SeekingKeySource]:
    """Whether a key source can look for an unknown key."""
    return callable(getattr(source, "seek", None))


def is_dated(source: KeySource) -> TypeGuard[DatedKeySource]:
    """Whether a key source reports when it last read its keys."""
    return callable(getattr(source, "read_at", None))


class ReloadedKeys:
    """The keys in a file, one a line, which is read again every `reload_every` seconds.

    A request does it, or the first that brings an unknown key; the others continue with the keys in
    memory. Whatever is wrong with the file then (missing, cut, no key active, no lookup key any
    more or another), the last good keys stay in force, and an event `ring-refused` says what to do.
    A file that lacks a former key must stay so for `reload_every`, because it may be half written.
    The path is looked up again each time, so it may be a link that another program exchanges, as
    Kubernetes does.

    `monotonic`: seconds that never go back; `clock`: epoch seconds; `emit`: as `EventLog.emit`.
    Raises ConfigurationError if the file has no keys.
    """

    def __init__(
        self,
        path: Path,
        skew: int,
        announce: int,
        reload_every: float,
        monotonic: Callable[[], float],
        clock: Callable[[], float],
        emit: Callable[..., object],
    ) -> None:
        self._path = path.absolute()  # the process may change its directory
        self._skew = skew
        self._announce = announce
        self._reload_every = reload_every
        self._monotonic = monotonic
        self._clock = clock
        self._emit = emit
        self._lock = ForkSafeLock()
        self._error: str | None = None
        # A text that lacks a key of those in force, and since when the file has it.
        self._shorter: tuple[str, float] | None = None
        self._looked_at, self._sought_at = monotonic(), monotonic() - SEEK_SECONDS
        self._read = ReadMoment(clock(), self._looked_at)
        self._text = read_secret_file("keys", self._path)
        self._ring = parse_key_lines(self._text, self._path, skew, announce)

    def read_at(self) -> float:
        """When the last read began that gave usable keys (epoch seconds)."""
        return self._read.at(self._clock(), self._monotonic())

    @property
    def last_error(self) -> str | None:
        """What is wrong with the file; None if its keys are in use."""
        return self._error

    def keyring(self) -> Keyring:
        """The last good keys."""
        if self._monotonic() - self._looked_at >= self._reload_every:
            self._reload()
        return self._ring

    def seek(self, kid: bytes) -> bool:
        """Whether the file has this key; reads it once a second at most."""
        now = self._monotonic()
        if now - self._sought_at < SEEK_SECONDS:
            return False
        self._sought_at = now
        self._reload()
        return self._ring.find(kid) is not None

    def _reload(self) -> None:
        """Adopt changed keys. While one thread does so, no other thread waits for it."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._looked_at, now = self._monotonic(), self._clock()
            text = read_secret_file("keys", self._path)
            if text != self._text:
                ring = parse_key_lines(text, self._path, self._skew, self._announce)
                ring.primary(int(now))
                if self._ring.lookup not in (None, ring.lookup):
                    # Without it, no "sign out everywhere" from before would be found.
                    problem = "no lookup key" if ring.lookup is None else "another lookup key"
                    raise ConfigurationError(
                        f"keys: the file {escape_text(self._path, 1000)} has {problem}; put the"
                        " former one back, because with it sign-outs everywhere are found"
                    )
                if not self._may_adopt(text, ring):
                    return
                self._text, self._ring = text, ring
                self._emit("ring-reloaded")
            self._shorter, self._read = None, ReadMoment(now, self._looked_at)
            self._error = None
        except (ConfigurationError, NoPrimaryKey) as error:
            problem = f"the last good keys stay in use: {error}"
            if problem != self._error:  # reported once, and not at each look
                self._emit("ring-refused", detail=problem, level=logging.ERROR)
            self._error = problem
        finally:
            self._lock.release()

    def _may_adopt(self, text: str, ring: Keyring) -> bool:
        """Whether another text may be in force: without a former key, only once it stays so.

        A file that is being written may end at the end of a line, and its sessions would be lost.
        """
        kids = {key.kid for key in ring.keys}
        if all(key.kid in kids for key in self._ring.keys):
            return True
        if self._shorter is None or self._shorter[0] != text:
            self._shorter = text, self._looked_at
        return self._looked_at - self._shorter[1] >= self._reload_every


# --- parsing ------------------------------------------------------------------------------------


def parse_keyring(lines: Sequence[str], skew: int, announce: int = DEFAULT_ANNOUNCE) -> Keyring:
    """The keyring of keys and at most one lookup key. Raises ConfigurationError.

    `announce`: seconds within which a new list of keys is on every node. No error repeats a key.
    """
    named = ((f"keys: key {number}", line) for number, line in enumerate(lines, 1))
    return _parse_keys(named, "keys", skew, announce)


def parse_key_lines(
    text: str, path: Path, skew: int, announce: int = DEFAULT_ANNOUNCE, name: str = "keys"
) -> Keyring:
    """The keyring of a file with one key a line.

    Empty lines and lines that begin with # are ignored. `name`: of the setting or variable that
    names the file. Raises ConfigurationError, which names the file and the line.
    """
    where = f"{name}: the file {escape_text(path, 1000)}"
    lines = [
        (f"{where}, line {number}", line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise ConfigurationError(f"{where} contains no key; `sealedstate keys generate` prints one")
    if lines[0][1].startswith("{"):
        raise ConfigurationError(f"{where} contains a ring now; restart the process to use it")
    return _parse_keys(lines, where, skew, announce)


def from_environment(
    environ: Mapping[str, str], name: str, skew: int, announce: int = DEFAULT_ANNOUNCE
) -> Keyring:
    """The keyring in the variable `name`, or in the file that NAME_FILE names.

    In a variable, keys are separated by white space or commas. Raises ConfigurationError, also for
    a missing variable.
    """
    secret = read_secret(environ, name)
    if secret is None:
        raise ConfigurationError(
            f"keys: the environment variable {escape_text(name)} is not set;"
            " `sealedstate keys generate` prints a key for it"
        )
    if secret.path is not None:
        return parse_key_lines(secret.text, secret.path, skew, announce, f"{name}{FILE_SUFFIX}")
    words = secret.text.replace(",", " ").split()
    lines = [(f"{secret.where}, key {number}", word) for number, word in enumerate(words, 1)]
    return _parse_keys(lines, secret.where, skew, announce)


def wrapping_keyring(environ: Mapping[str, str], skew: int) -> Keyring | None:
    """The key-encryption keys in SEALEDSTATE_KEK, or in the file that SEALEDSTATE_KEK_FILE names.

    None if neither is set. Raises ConfigurationError.
    """
    if KEK_VARIABLE not in environ and f"{KEK_VARIABLE}{FILE_SUFFIX}" not in environ:
        return None
    try:
        return from_environment(environ, KEK_VARIABLE, skew)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}; `sealedstate keys generate --kek` prints a key-encryption key"
        ) from None


def _parse_keys(lines: Iterable[tuple[str, str]], where: str, skew: int, announce: int) -> Keyring:
    """The keyring of texts, each with its place in errors."""
    keys: list[Key] = []
    lookups: list[bytes] = []
    for place, text in lines:
        try:
            if text.strip().startswith(f"{LOOKUP_LABEL}:"):
                lookups.append(parse_lookup(text))
            else:
                keys.append(_parse_key(text))
        except ConfigurationError as error:
            problem = _explain(text) or str(error).removeprefix("key: ").removeprefix("keys: ")
            raise ConfigurationError(f"{place}: {problem}") from None
    if any(key.activates_at < later.activates_at for key, later in pairwise(keys)):
        raise ConfigurationError(
            f"{where}: the newest key must be first; a key before one with a date needs a later"
            " date"
        )
    if len(lookups) > 1:
        raise ConfigurationError(f"{where}: there must be at most one lookup key")
    try:
        lookup = lookups[0] if lookups else None
        return Keyring(tuple(keys), skew=skew, announce=announce, lookup=lookup)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {str(error).removeprefix('keys: ')}") from None


def _parse_key(text: str) -> Key:
    text, at, date = text.partition("@")
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


def _explain(text: str) -> str | None:
    """Why a text is no key, if it is a common mistake."""
    before, label, _ = text.partition("sealedstate-")
    if is_quoted(text):
        return "it is in quotes, which are no part of a key; remove them"
    if text.count(KEY_LABEL) + text.count(LOOKUP_LABEL) > 1:
        return "there are two keys; give a list of keys, or a file with a line for each"
    odd = next((letter for letter in text.strip() if not letter.isprintable()), None)
    if odd is not None:
        return f"it contains the invisible character U+{ord(odd):04X}; remove it"
    if "#" in text:
        return "a comment is only possible in a file, on a separate line; remove it here"
    if _FILE_NAME.fullmatch(text.strip()):
        return f"it is the name of a file; write file:{hide_secrets(text.strip())}"
    if label and "=" in before:
        return "there is a name with '=' before the key; only the key is expected"
    return None


# --- secrets in variables and in files ----------------------------------------------------------


class Secret(NamedTuple):
    """The text of a secret, the setting or variable that gave it, and the file, if it was one."""

    where: str
    text: str
    path: Path | None = None

    def __repr__(self) -> str:
        return f"<Secret of {self.where}>"


def read_secret(environ: Mapping[str, str], name: str) -> Secret | None:
    """What the variable `name` contains, or the file that NAME_FILE names; None without both.

    Raises ConfigurationError.
    """
    path = secret_path(environ, name)
    if path is not None:
        variable = f"{name}{FILE_SUFFIX}"
        where = f"{variable}: the file {escape_text(path, 1000)}"
        return Secret(where, read_secret_file(variable, path), path)
    if name not in environ:
        return None
    return Secret(name, clean_value(name, environ[name]))


def secret_path(environ: Mapping[str, str], name: str) -> Path | None:
    """The file that NAME_FILE names. Raises ConfigurationError, also if NAME is set, too."""
    variable = f"{name}{FILE_SUFFIX}"
    if variable not in environ:
        return None
    if name in environ:
        raise ConfigurationError(f"{variable}: {name} is set, too; remove one of them")
    return Path(clean_value(variable, environ[variable]))


def read_secret_file(where: str, path: Path) -> str:
    """The text of a file, without a byte order mark. `where`: what names the file, for errors.

    Raises ConfigurationError. A file that all users may read is accepted, because mounted secrets
    often are, and named in the log.
    """
    shown = f"{where}: the file {escape_text(path, 1000)}"
    if contains_key(str(path)):
        raise ConfigurationError(
            f"{where}: expected the path of a file, got a key; put it into a file"
        )
    mode, content = 0, b""
    try:
        # O_NONBLOCK, because opening a pipe would wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode):
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    content = file.read(MAX_SECRET_BYTES + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"{shown} cannot be read: {problem}; name a file that this process may read"
        ) from None
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{shown} is not a regular file; name the file itself")
    if len(content) > MAX_SECRET_BYTES:
        raise ConfigurationError(
            f"{shown} is larger than {MAX_SECRET_BYTES} bytes; name the file with the secret"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{shown} is not UTF-8; save it as UTF-8 text") from None
    if mode & stat.S_IROTH and str(path) not in _warned:
        _warned.add(str(path))
        _log.warning("%s is readable by all users; run chmod o-r on it", shown)
    return text


def clean_value(name: str, text: str) -> str:
    """The text of a variable without a byte order mark and without blanks and line ends around it.

    `echo` and editors add them. Raises ConfigurationError for quotes around it, and if it is empty.
    """
    text = text.strip().removeprefix("\ufeff").strip()
    if not text:
        raise ConfigurationError(f"{name}: is empty; set it, or remove the variable")
    if is_quoted(text):
        raise ConfigurationError(
            f"{name}: is in quotes, which `docker --env-file` keeps; remove them"
        )
    return text


def clean_secret(secret: Secret) -> str:
    """The text of a secret as `clean_value` gives it, also if it comes from a file."""
    if secret.path is None:
        return clean_value(secret.where, secret.text)
    text = secret.text.strip()
    if not text:
        raise ConfigurationError(f"{secret.where} is empty; write the value into it")
    if is_quoted(text):
        raise ConfigurationError(f"{secret.where} contains quotes around the value; remove them")
    return text


def is_quoted(text: str) -> bool:
    """Whether a text begins or ends with a quote, as no value of a setting does."""
    text = text.strip()
    return text[:1] in ("'", '"') or text[-1:] in ("'", '"')


_warned: set[str] = set()
