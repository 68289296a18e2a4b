"""The record behind a session: who it is, its times, its parts and where they live.

Plain values. Knows no bytes on the wire, no cookie, no store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from .errors import ExpiredSession, FutureSession, UnsupportedValue

ID_BYTES = 16
SET_ID_BYTES = 8
DIGEST_BYTES = 16
# The most chunks that overflow is ever cut into.
MAX_CHUNKS = 7
MAX_NAME_BYTES = 128
# A login always fits into one cookie, of every profile.
MAX_SUBJECT_BYTES = 512
NO_PARTS: Mapping[str, bytes] = MappingProxyType({})
NO_ROWS: Mapping[str, int] = MappingProxyType({})


class Place(Enum):
    """Where a part lives."""

    CORE = "core"
    OVERFLOW = "overflow"
    SPILLED = "spilled"


class Policy(Enum):
    """Where a part may live: in cookies only, in the store only, or wherever it fits."""

    COOKIE = "cookie"
    SERVER = "server"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a session lives, in seconds: `idle` since its last seal, `absolute` since sign-in.

    `refresh` is how old a seal may get before a request that reads the session renews it.
    """

    idle: int
    absolute: int
    refresh: int


@dataclass(frozen=True, slots=True)
class OverflowSet:
    """What the manifest states about the parts in further cookies.

    `set_id` (8 random bytes) and `digest` (16 bytes) belong to exactly one sealed token, which was
    cut into `count` chunks.
    """

    set_id: bytes
    count: int
    digest: bytes
    names: tuple[str, ...]


class Record(NamedTuple):
    """The core of a session. Times are epoch seconds.

    `parts` holds encoded values by name. `spilled` remembers the version of each part in the store;
    `left` the versions of rows that are no longer used and that a later save deletes, once the
    browser has shown that it carries this record.
    """

    id: bytes
    subject: str | None
    created_at: int
    expires_at: int
    generation: int
    parts: Mapping[str, bytes] = NO_PARTS
    overflow: OverflowSet | None = None
    spilled: Mapping[str, int] = NO_ROWS
    left: Mapping[str, int] = NO_ROWS

    def __repr__(self) -> str:
        # Neither whose it is nor what is in it: reprs end up in logs and tracebacks.
        return f"<Record of generation {self.generation}>"

    def check_times(self, sealed_at: int, now: int, lifetimes: Lifetimes, skew: int) -> None:
        """Raise FutureSession or ExpiredSession when the record can't be used at `now`."""
        if sealed_at > now + skew:
            raise FutureSession
        if (
            now >= self.expires_at
            or now >= self.created_at + lifetimes.absolute
            or now >= sealed_at + lifetimes.idle
        ):
            raise ExpiredSession


def check_subject(subject: object) -> None:
    """Raise UnsupportedValue unless `subject` may name a user."""
    if type(subject) is not str:
        raise UnsupportedValue("session.subject", "a subject is text or None")
    if any("\ud800" <= letter <= "\udfff" for letter in subject):
        raise UnsupportedValue("session.subject", "a subject has a lone surrogate")
    if len(subject.encode()) > MAX_SUBJECT_BYTES:
        raise UnsupportedValue(
            "session.subject", f"a subject has more than {MAX_SUBJECT_BYTES} bytes"
        )


def check_name(name: object) -> None:
    """Raise UnsupportedValue unless `name` may name a part."""
    if type(name) is not str or not name:
        raise UnsupportedValue("session[...]", "a part's name is non-empty text")
    if name.isascii() and len(name) <= MAX_NAME_BYTES:
        return
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise UnsupportedValue("session[...]", "a part's name has a lone surrogate")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise UnsupportedValue(
            "session[...]", f"a part's name has more than {MAX_NAME_BYTES} bytes"
        )
