"""Authentications and service logins, as values.

An identifier of a service login that can be derived again is stored as a `Derived` placeholder
(see `records.IdentifierDeriver`). Applications never meet placeholders.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias, TypeVar

from .._wire.encoding import has_lone_surrogate
from ..errors import UnsupportedValue, show_value
from ..keyring import MAX_TIME

__all__ = ["Authentication", "NameID", "ServiceLogin"]

T = TypeVar("T")

KID_BYTES = MARK_BYTES = 4
# By how many seconds another node's clock may be ahead.
MAX_AHEAD = 60


class Derivation(IntEnum):
    """What an identifier is derived from.

    The numbers are part of the format of login records.
    """

    SUBJECT = 2
    DERIVED = 3
    PAIRWISE = 4


@dataclass(frozen=True, slots=True, order=True)
class Derived:
    """A placeholder for an identifier that can be derived again.

    SUBJECT: the session's subject itself. DERIVED: from the session's id and the entityID, with the
    key `kid`; `mark` (4 bytes) is a hash of the session's id, to notice when that has changed.
    PAIRWISE: from the subject and the entityID, with the key `kid`.
    """

    derivation: Derivation
    kid: bytes = b""
    mark: bytes = b""

    def __post_init__(self) -> None:
        kid_bytes = 0 if self.derivation is Derivation.SUBJECT else KID_BYTES
        mark_bytes = MARK_BYTES if self.derivation is Derivation.DERIVED else 0
        if (len(self.kid), len(self.mark)) != (kid_bytes, mark_bytes):
            raise ValueError(
                f"{self.derivation.name}: expected a kid of {kid_bytes} bytes and a mark of"
                f" {mark_bytes}, got {len(self.kid)} and {len(self.mark)}"
            )


StoredText: TypeAlias = str | Derived


@dataclass(frozen=True, slots=True)
class Authentication:
    """The user proved their identity at `time` (epoch seconds) by `method`.

    It counts for `duration` seconds. A method is an authentication context class or another URI.
    Raises UnsupportedValue.
    """

    method: str
    time: int
    duration: int

    def __post_init__(self) -> None:
        check_text("Authentication.method", self.method)
        _check_time("Authentication.time", self.time)
        _check_time("Authentication.duration", self.duration, "seconds")

    @property
    def expires_at(self) -> int:
        """From when it no longer counts (epoch seconds)."""
        return self.time + self.duration

    def is_fresh(self, now: int, within: int | None = None) -> bool:
        """Whether it counts at `now` (epoch seconds), and is at most `within` seconds old.

        An authentication that is more than a minute in the future does not count yet. Raises
        UnsupportedValue for a time that is no number.
        """
        check_seconds("now", now, "epoch seconds")
        if within is not None:
            check_seconds("within", within)
        age = now - self.time
        return age >= -MAX_AHEAD and now < self.expires_at and (within is None or age <= within)


@dataclass(frozen=True, slots=True)
class NameID:
    """The name by which a service knows the user.

    A logout must send it back unchanged. Raises UnsupportedValue.
    """

    value: StoredText = field(repr=False)
    format: str | None = None
    name_qualifier: str | None = None
    sp_name_qualifier: str | None = None

    def __post_init__(self) -> None:
        # One line each and no loop: hundreds are constructed whenever login records are decoded.
        if not isinstance(self.value, Derived):
            check_text("NameID.value", self.value)
        if self.format is not None:
            check_text("NameID.format", self.format)
        if self.name_qualifier is not None:
            check_text("NameID.name_qualifier", self.name_qualifier)
        if self.sp_name_qualifier is not None:
            check_text("NameID.sp_name_qualifier", self.sp_name_qualifier)


@dataclass(frozen=True, slots=True)
class ServiceLogin:
    """The user went to the service `entity_id` at `time` (epoch seconds).

    `method` is how the user had authenticated. `session_index` is None where the service was given
    none, which differs from an empty one. Raises UnsupportedValue.
    """

    entity_id: str
    method: str
    name_id: NameID
    session_index: StoredText | None = field(repr=False)
    time: int

    def __post_init__(self) -> None:
        check_text("ServiceLogin.entity_id", self.entity_id)
        check_text("ServiceLogin.method", self.method)
        if type(self.name_id) is not NameID:
            raise make_type_error("ServiceLogin.name_id", "a NameID", self.name_id)
        if not (self.session_index is None or isinstance(self.session_index, Derived)):
            check_text("ServiceLogin.session_index", self.session_index)
        _check_time("ServiceLogin.time", self.time)

    @property
    def identity(self) -> tuple[str, NameID, StoredText | None]:
        """What a renewed login keeps. A logout ends all logins of the same identity."""
        return self.entity_id, self.name_id, self.session_index


def keep_latest(logins: Iterable[ServiceLogin]) -> frozenset[ServiceLogin]:
    """Return the latest login of each identity."""
    ordered = sorted(logins, key=lambda login: (login.time, login.method))
    return frozenset({login.identity: login for login in ordered}.values())


def sort_key(login: ServiceLogin) -> tuple[object, ...]:
    """Return a key for a total order of logins without placeholders, by time.

    Rows of logouts rely on this order (see `logout.progress`).
    """
    name_id = login.name_id
    texts = (name_id.format, name_id.name_qualifier, name_id.sp_name_qualifier, login.session_index)
    optional = [(text is not None, str(text or "")) for text in texts]
    return (login.time, login.entity_id, str(name_id.value), *optional)


def merge_sets(
    base: AbstractSet[T] | None, remote: AbstractSet[T], local: AbstractSet[T]
) -> frozenset[T]:
    """Merge what two writers made of the set `base`, or of an unknown set (None).

    An addition by either is kept. A removal by either holds, unless the other renewed the member
    meanwhile, which makes it another member. With an unknown base nothing counts as removed:
    notifying a service of a logout twice does no harm, not notifying it does.
    """
    both = frozenset(remote | local)
    return both if base is None else both - (base - remote) - (base - local)


def check_text(path: str, text: object) -> None:
    """Raise UnsupportedValue, naming `path`, unless `text` is valid Unicode text."""
    if type(text) is not str:
        raise make_type_error(path, "text", text)
    if has_lone_surrogate(text):
        raise UnsupportedValue(path, "must be valid Unicode (lone surrogate found)")


def check_integer(path: str, number: object, expected: str = "a whole number") -> None:
    """Raise UnsupportedValue, naming `path`, unless `number` is a whole number."""
    # A bool is an int to Python, but True is not a time or a version.
    if type(number) is not int:
        raise make_type_error(path, expected, number)


def check_seconds(path: str, number: object, expected: str = "seconds") -> None:
    """Raise UnsupportedValue, naming `path`, unless `number` is a number of seconds.

    `expected`: what it is, such as ``"epoch seconds"``. A datetime, a timedelta or a text has no
    place here; `datetime.timestamp()` of an aware datetime gives epoch seconds.
    """
    if type(number) is bool or not isinstance(number, int | float):
        raise make_type_error(path, f"{expected}, a number", number)


def _check_time(path: str, number: int, expected: str = "epoch seconds") -> None:
    check_integer(path, number, f"{expected}, a whole number")
    # Milliseconds of today are beyond the limit.
    if not 0 <= number < MAX_TIME:
        raise UnsupportedValue(
            path, f"expected {expected}, 0 to {MAX_TIME - 1}, got {show_value(number)}"
        )


def make_type_error(path: str, expected: str, value: object) -> UnsupportedValue:
    """Make the error for a value of another type than expected."""
    return UnsupportedValue(path, f"expected {expected}, got {type(value).__name__}")
