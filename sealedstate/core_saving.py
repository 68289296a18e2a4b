"""The save of most sessions: all of it in the core, so one Set-Cookie line and nothing to plan.

Knows when that is so, who the saved session is, and the steps then. Does not know overflow, stored
parts or what else a save may leave or replace: `saving` does, for all sessions.
"""

from __future__ import annotations

from collections.abc import Mapping

from .followers import Save
from .record import Place, Policy, Record
from .record_codec import encode_record
from .session import Session
from .toolkit import Toolkit
from .visit import RequestVisit


def core_line(
    tools: Toolkit,
    session: Session,
    parts: Mapping[str, bytes] | None,
    visit: RequestVisit,
    other_bytes: int,
) -> str | None:
    """The Set-Cookie field value that carries `session` with these encoded parts.

    `parts`: None where one lives elsewhere. `other_bytes`: what the response's other Set-Cookie
    fields take. None where more is to be done than to write this line, or where it might not fit.
    Raises StorageError or NoPrimaryKey.
    """
    if parts is None or not _is_all(tools, session, parts, visit):
        return None
    now = tools.now()
    record = identity(tools, session, visit.record, parts, now)
    payload = encode_record(record, int(now))
    if len(payload) > tools.core_bytes(visit.candidates.foreign_bytes, other_bytes):
        return None
    followers, save = tools.followers, None
    if followers.all:
        save = save_of(session, record, dict.fromkeys(parts, Place.CORE), visit, now)
        followers.before_save(save)
    text = tools.tokens.seal_payload(payload, int(now))
    if save is not None:
        followers.before_sending(save)
    tools.note("saved", session_id=record.id)
    cookies = tools.cookies
    return cookies.set_line(cookies.name, text, max_age(tools, record, now))


def identity(
    tools: Toolkit, session: Session, old: Record | None, parts: Mapping[str, bytes], now: float
) -> Record:
    """The record to save, with these parts in its core. `old`: the one that arrived.

    Raises StorageError or NoPrimaryKey at a sign-in that could not be compared with a sign-out.
    """
    if old is None or session.signed_in or session.ended:
        created_at = _began(tools, session.subject, now)
        expires_at, generation = created_at + tools.settings.lifetimes.absolute, 1
    else:
        created_at, expires_at, generation = old.created_at, old.expires_at, old.generation + 1
    return Record(session.raw_id, session.subject, created_at, expires_at, generation, parts)


def max_age(tools: Toolkit, record: Record, now: float) -> int | None:
    """The Max-Age of its cookies in seconds; None for those that end with the browser."""
    return max(1, record.expires_at - int(now)) if tools.settings.persistent else None


def save_of(
    session: Session, record: Record, places: Mapping[str, Place], visit: RequestVisit, now: float
) -> Save:
    """What followers are told of it."""
    opened = visit.opened
    arrived_id = None if opened is None else opened.record.id
    sealed_at = None if opened is None else opened.sealed_at
    return Save(session, record, session.parts, places, arrived_id, sealed_at, now)


def _is_all(
    tools: Toolkit, session: Session, parts: Mapping[str, bytes], visit: RequestVisit
) -> bool:
    """Whether no other cookie, row or id is to be written, deleted or refused."""
    old, settings = visit.record, tools.settings
    if old is not None and (old.overflow or old.id != session.raw_id):
        return False
    if visit.candidates.overflow or settings.legacy is not None:
        return False
    policies = settings.policies
    return not (policies and any(policies.get(name) is Policy.SERVER for name in parts))


def _began(tools: Toolkit, subject: str | None, now: float) -> int:
    """When a session that begins now counts as begun: after any sign-out of its subject."""
    revocations, settings = tools.revocations, tools.settings
    if subject is None or revocations is None:
        return int(now)
    expires_at = int(now) + settings.absolute_lifetime + settings.skew
    return revocations.begin(subject, expires_at, now)
