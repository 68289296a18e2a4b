"""Who proved who they are, when and how; and which services they went to: as values.

Knows authentications, service logins, and how two concurrent sets of them become one. Does not
know bytes, registries, keys or a session.

Of the texts of a service login some need not be kept because they can be made again: `Made` stands
for them. An application never meets one, unless it reads what `columns` decodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias, TypeVar

from ..errors import UnsupportedValue

T = TypeVar("T")

KID_BYTES = MARK_BYTES = 4
# Epoch seconds, and seconds: until the year 36812.
MAX_TIME = 1 << 40
# By how many seconds another node's clock may be ahead of ours.
MAX_AHEAD = 60


class How(IntEnum):
    """How a text is made again. The numbers are part of the format of login records."""

    SUBJECT = 2
    DERIVED = 3
    PAIRWISE = 4


@dataclass(frozen=True, slots=True, order=True)
class Made:
    """Stands for a text that is made again from what is known anyway.

    SUBJECT: it is the session's subject. DERIVED: from the session's id and the entityID, under
    the key `kid`; `mark` (4 bytes) tells the session's id from another. PAIRWISE: from the subject
    and the entityID, under the key `kid`.
    """

    how: How
    kid: bytes = b""
    mark: bytes = b""

    def __post_init__(self) -> None:
        sizes = (len(self.kid), len(self.mark))
        if sizes != (KID_BYTES * (self.how > How.SUBJECT), MARK_BYTES * (self.how is How.DERIVED)):
            raise ValueError("a key and a mark belong to what is made with them")


Text: TypeAlias = str | Made


@dataclass(frozen=True, slots=True)
class Authentication:
    """The user proved at `time` (epoch seconds), by `method`, who they are.

    It counts for `duration` seconds. A method is an authentication context class or another URI.
    """

    method: str
    time: int
    duration: int

    def __post_init__(self) -> None:
        check_text("an authentication's method", self.method)
        _check_number("an authentication's time", self.time)
        _check_number("an authentication's duration", self.duration)

    @property
    def expires_at(self) -> int:
        """From when on it no longer counts (epoch seconds)."""
        return self.time + self.duration

    def is_fresh(self, now: int, within: int | None = None) -> bool:
        """Whether it still counts; with `within` only if it is not older than so many seconds.

        One that is more than a minute in the future does not count yet.
        """
        age = now - self.time
        return age >= -MAX_AHEAD and now < self.expires_at and (within is None or age <= within)


@dataclass(frozen=True, slots=True)
class NameID:
    """The name by which one service knows the user, as logout must send it back."""

    value: Text = field(repr=False)
    format: str | None = None
    name_qualifier: str | None = None
    sp_name_qualifier: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.value, Made):
            check_text("a NameID", self.value)
        if self.format is not None:
            check_text("a NameID's format", self.format)
        if self.name_qualifier is not None:
            check_text("a NameID's qualifier", self.name_qualifier)
        if self.sp_name_qualifier is not None:
            check_text("a NameID's qualifier", self.sp_name_qualifier)


@dataclass(frozen=True, slots=True)
class ServiceLogin:
    """The user went to the service `entity_id` at `time` (epoch seconds).

    `method`: how the user had proved who they are. `session_index` None: the service got none,
    which is something else than an empty one.
    """

    entity_id: str
    method: str
    name_id: NameID
    session_index: Text | None = field(repr=False)
    time: int

    def __post_init__(self) -> None:
        check_text("a service login's entity_id", self.entity_id)
        check_text("a service login's method", self.method)
        if type(self.name_id) is not NameID:
            raise UnsupportedValue("a service login's name_id", "it is a NameID")
        if not (self.session_index is None or isinstance(self.session_index, Made)):
            check_text("a service login's session_index", self.session_index)
        _check_number("a service login's time", self.time)

    @property
    def identity(self) -> tuple[str, NameID, Text | None]:
        """What stays when a login is renewed: a logout of one is a logout of all that share it."""
        return self.entity_id, self.name_id, self.session_index


def latest_only(logins: Iterable[ServiceLogin]) -> frozenset[ServiceLogin]:
    """Of logins that are the same but for time and method, the latest."""
    ordered = sorted(logins, key=lambda login: (login.time, login.method))
    return frozenset({login.identity: login for login in ordered}.values())


def merge_sets(
    before: AbstractSet[T] | None, theirs: AbstractSet[T], ours: AbstractSet[T]
) -> frozenset[T]:
    """What two writers make of a set that both had found as `before`; None: nobody knows.

    What either added is there. What either removed is gone, unless the other renewed it meanwhile,
    which is another member. Where `before` is unknown nothing counts as removed: telling a service
    twice to log out does no harm, not telling it does.
    """
    both = frozenset(theirs | ours)
    return both if before is None else both - (before - theirs) - (before - ours)


def check_text(what: str, text: object) -> None:
    """Raise UnsupportedValue unless `text` is text that has UTF-8."""
    if type(text) is not str:
        raise UnsupportedValue(what, "it is text")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UnsupportedValue(what, "text with a lone surrogate")


def _check_number(what: str, number: object) -> None:
    if type(number) is not int or not 0 <= number < MAX_TIME:
        raise UnsupportedValue(what, f"it is a whole number from 0 to {MAX_TIME - 1}")
