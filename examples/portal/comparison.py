"""What the session would take with its service logins in each of the three forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sealedstate import Keeper, Session, SessionInfo, SessionTooLarge
from sealedstate.sso import LoginRecords

from .logins import FORM, PLAIN, RECORD, Form, ServiceLogins


@dataclass(frozen=True, slots=True)
class FormSize:
    """What service logins take in one form.

    `logins_bytes`: their share of the cookies. `cookies`: the sizes of all our cookies, the session
    saved in that form; None if the logins would have to leave them for the store.
    """

    form: Form
    logins_bytes: int
    cookies: Sequence[int] | None


def compare_forms(
    keeper: Keeper,
    records: LoginRecords,
    session: Session,
    arrived: SessionInfo,
    entity_ids: Sequence[str],
    now: int,
) -> list[FormSize]:
    """Save a copy of `session` in each form, with logins at `entity_ids`, and weigh it.

    `keeper` has no store, so that a copy either fits into the cookies or is refused.
    """
    copied = {
        name: value
        for name, part in arrived.parts.items()
        if part.place != "spilled" and name not in (RECORD, PLAIN, FORM)
        if (value := session.get(name)) is not None
    }
    sizes = []
    for form in Form:
        # Cookies of others take room, so the copy arrives beside as many bytes of them.
        copy = keeper.session("x" * arrived.foreign_bytes)
        copy.subject = session.subject
        logins = ServiceLogins(records, copy, now)
        try:
            copy.update(copied)
            logins.keep_as(form)
            logins.enter(entity_ids)
            lines = keeper.save(copy)
        except SessionTooLarge as error:
            size, cookies = round(error.parts.get(logins.part, 0) * 4 / 3), None
        else:
            part = keeper.info(copy).parts.get(logins.part)
            size = part.cookie_bytes if part else 0
            cookies = [len(line.partition(";")[0]) for line in lines if "Max-Age=0" not in line]
        sizes.append(FormSize(form, size, cookies))
    return sizes
