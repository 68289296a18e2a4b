"""Hooks that run when a session is saved or ended.

before_save -> stored parts are written -> sealed -> a replaced id is revoked -> before_sending
                                                                       -> after_save -> the cookie
a revocation is recorded -> after_revoke -> stored parts are deleted
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ._wire.record import Place, Record
from .errors import NoPrimaryKey, StorageError
from .session import Part, Session

__all__ = ["HookList", "SaveEvent", "SessionHooks"]

log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class SaveEvent:
    """One save of `session` at `now` (epoch seconds).

    `record`: the session without its parts. `parts`: all parts; `places`: where each will be.
    `arrived_id`: the id that the request brought, and `sealed_at` (epoch seconds) when that was
    sealed; None for a new session.
    """

    session: Session
    record: Record
    parts: Mapping[str, Part]
    places: Mapping[str, Place]
    arrived_id: bytes | None = field(repr=False)
    sealed_at: int | None
    now: float

    @property
    def has_new_id(self) -> bool:
        """Whether no session was saved under this id before."""
        return self.arrived_id != self.record.id


class SessionHooks:
    """Does nothing; override what you need.

    If `before_save`, `before_sending` or `not_saved` raises an error, the save fails and no cookie
    is sent.
    """

    def before_save(self, event: SaveEvent) -> None:
        """Nothing of this save was written yet."""

    def before_sending(self, event: SaveEvent) -> None:
        """Everything was written and the cookie is sealed; no other hook has refused to send it."""

    def after_save(self, event: SaveEvent) -> None:
        """Nothing keeps the cookie from being sent. A StorageError or NoPrimaryKey is logged."""

    def after_failed_save(self, event: SaveEvent) -> None:
        """The save has raised an error, so no cookie is sent. A StorageError is logged."""

    def not_saved(self, session: Session, arrived_id: bytes, now: float) -> None:
        """The session of this request was ended meanwhile, and its changes are not sent."""

    def after_revoke(self, session_id: bytes, now: float) -> None:
        """A session is refused from now on. A StorageError is logged."""

    def after_revoke_subject(self, subject: str, now: float) -> None:
        """All sessions of a subject that began until now are refused. A StorageError is logged."""


class HookList(SessionHooks):
    """All hooks of one application, run one after the other."""

    def __init__(self) -> None:
        self.all: list[SessionHooks] = []

    def before_save(self, event: SaveEvent) -> None:
        for hooks in self.all:
            hooks.before_save(event)

    def before_sending(self, event: SaveEvent) -> None:
        for hooks in self.all:
            hooks.before_sending(event)

    def after_save(self, event: SaveEvent) -> None:
        for hooks in self.all:
            with _log_errors("what follows a save"):
                hooks.after_save(event)

    def after_failed_save(self, event: SaveEvent) -> None:
        for hooks in self.all:
            with _log_errors("a clean-up after a failed save"):
                hooks.after_failed_save(event)

    def not_saved(self, session: Session, arrived_id: bytes, now: float) -> None:
        for hooks in self.all:
            hooks.not_saved(session, arrived_id, now)

    def after_revoke(self, session_id: bytes, now: float) -> None:
        for hooks in self.all:
            with _log_errors("a clean-up after a revocation"):
                hooks.after_revoke(session_id, now)

    def after_revoke_subject(self, subject: str, now: float) -> None:
        for hooks in self.all:
            with _log_errors("a clean-up after a revocation"):
                hooks.after_revoke_subject(subject, now)


@contextlib.contextmanager
def _log_errors(what: str) -> Iterator[None]:
    """What came before is done, and does not fail because of `what`."""
    try:
        yield
    except (StorageError, NoPrimaryKey) as error:
        log.warning("%s failed: %s", what, error)
