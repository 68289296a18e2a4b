"""What follows sessions into the store: told before one is saved or sent, and when it was ended.

Knows when a follower is told, and what. Does not know who follows, or what is kept of it.

    before_save -> stored parts are written -> sealed -> an old id is refused -> before_sending
                                                                                  -> the cookie
    a revocation is recorded -> after_revoke -> stored parts are deleted
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ._wire.record import Place, Record
from .errors import StorageError
from .session import Part, Session

log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class Save:
    """One save of `session` at `now` (epoch seconds).

    `record`: who it will be, without parts. `parts`: they as they stand; `places`: where each will
    live. `arrived_id`: the
    id that the request brought, and `sealed_at` (epoch seconds) when that was sealed; None for a
    session that is new.
    """

    session: Session
    record: Record
    parts: Mapping[str, Part]
    places: Mapping[str, Place]
    arrived_id: bytes | None
    sealed_at: int | None
    now: float

    @property
    def has_new_id(self) -> bool:
        """Whether nobody has saved a session under this id before."""
        return self.arrived_id != self.record.id


class SessionHooks:
    """Does nothing; whoever follows sessions overrides what he wants to be told.

    What the first three raise, StorageError say, goes to whoever saves, and no cookie is sent.
    """

    def before_save(self, save: Save) -> None:
        """Nothing of this save was written yet."""

    def before_sending(self, save: Save) -> None:
        """All was written, and the cookie is sealed; it is sent when this returns."""

    def not_saved(self, session: Session, arrived_id: bytes, now: float) -> None:
        """The session that the request brought was ended meanwhile: its changes are not sent."""

    def after_revoke(self, session_id: bytes, now: float) -> None:
        """A session is refused from now on. A StorageError is logged."""

    def after_revoke_subject(self, subject: str, now: float) -> None:
        """All sessions of a subject that began until now are refused. A StorageError is logged."""


class HookList(SessionHooks):
    """All that follow the sessions of one application, each told in turn."""

    def __init__(self) -> None:
        self.all: list[SessionHooks] = []

    def before_save(self, save: Save) -> None:
        for follower in self.all:
            follower.before_save(save)

    def before_sending(self, save: Save) -> None:
        for follower in self.all:
            follower.before_sending(save)

    def not_saved(self, session: Session, arrived_id: bytes, now: float) -> None:
        for follower in self.all:
            follower.not_saved(session, arrived_id, now)

    def after_revoke(self, session_id: bytes, now: float) -> None:
        for follower in self.all:
            with _logged():
                follower.after_revoke(session_id, now)

    def after_revoke_subject(self, subject: str, now: float) -> None:
        for follower in self.all:
            with _logged():
                follower.after_revoke_subject(subject, now)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """A revocation is recorded: what could not be removed for it costs no logout."""
    try:
        yield
    except StorageError as error:
        log.warning("what followed a session could not be removed: %s", error)
