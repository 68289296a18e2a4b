"""Service logins, kept in one of three forms: the heart of the demo.

An identity provider must remember where its users went, or its logout cannot reach the services.
The portal keeps that as a login record (`sealedstate.sso`), with identifiers that it derives or
stores, or, for comparison, as the list of dicts that most applications would write.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TypedDict, cast

from sealedstate import Session
from sealedstate.sso import TRANSIENT, LoginRecords, NameID, ServiceLogin

PASSWORD = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"  # noqa: S105
# The parts of the session. The first two are those of the login record.
AUTHENTICATIONS, RECORD, PLAIN, FORM = "authn", "logins", "plain", "form"
WORKING_DAY = 6 * 3600  # seconds


class Form(StrEnum):
    """How service logins are kept."""

    DERIVED = "derived"
    """A login record. NameID and SessionIndex are computed from the session's id: only the number
    of the service and the time are kept."""
    STORED = "stored"
    """A login record. NameID and SessionIndex are random, and kept packed."""
    PLAIN = "plain"
    """A list of dicts."""


class PlainLogin(TypedDict):
    """One service login as a plain dict."""

    entity_id: str
    method: str
    name_id: str
    session_index: str
    at: int


class ServiceLogins:
    """The service logins of a session at `now` (epoch seconds), in the form that it has chosen."""

    def __init__(self, records: LoginRecords, session: Session, now: int) -> None:
        self._records = records
        self._record = records.for_session(session)
        self._session = session
        self._now = now

    @property
    def form(self) -> Form:
        """The form that the visitor has chosen."""
        return Form(str(self._session.get(FORM, Form.DERIVED)))

    @property
    def part(self) -> str:
        """The part of the session that holds them."""
        return PLAIN if self.form is Form.PLAIN else RECORD

    def all(self) -> list[ServiceLogin]:
        """All service logins, from wherever they live. Raises LoginsUnreadable."""
        if self.form is not Form.PLAIN:
            return list(self._record.services())
        return [
            ServiceLogin(
                login["entity_id"],
                login["method"],
                NameID(login["name_id"], TRANSIENT),
                login["session_index"],
                login["at"],
            )
            for login in self._plain()
        ]

    def enter(self, entity_ids: Iterable[str]) -> None:
        """Record that the user went to these services, during the last hours.

        An identity provider calls `record.add_derived_login(entity_id, PASSWORD)` at each login:
        it makes both identifiers, and takes the time from the clock. The demo spreads the times,
        because logins of one second would take less room than those of a working day.
        """
        self.add([self._make(entity_id) for entity_id in entity_ids])

    def add(self, logins: Sequence[ServiceLogin]) -> None:
        """Record these logins."""
        if self.form is not Form.PLAIN:
            self._record.add_service(*logins)
            return
        self._session[PLAIN] = [*self._plain(), *map(_as_dict, logins)]

    def remove(self, entity_id: str) -> None:
        """Forget the login at a service."""
        if self.form is not Form.PLAIN:
            for login in self._record.services(entity_id):
                self._record.remove_service(login)
            return
        self._session[PLAIN] = [one for one in self._plain() if one["entity_id"] != entity_id]

    def clear(self) -> None:
        """Forget all service logins, without reading them."""
        for name in (RECORD, PLAIN):
            with contextlib.suppress(KeyError):
                del self._session[name]

    def keep_as(self, form: Form) -> None:
        """Keep the logins in another form: the same services, with identifiers of that form."""
        visited = self.all()
        self.clear()
        if form is Form.DERIVED:
            self._session.pop(FORM, None)  # the form without this part
        else:
            self._session[FORM] = form.value
        self.enter(login.entity_id for login in visited)

    def _plain(self) -> list[PlainLogin]:
        return cast(list[PlainLogin], self._session.get(PLAIN, []))  # only `add` writes it

    def _make(self, entity_id: str) -> ServiceLogin:
        """A login at a service. Its "random" values are fixed by the user and the service.

        So the page can say beforehand what another form would take. Elsewhere, take
        `secrets.token_hex(16)` for random identifiers.
        """
        session_id, identifiers = self._session.id, self._records.identifiers
        seed = f"{self._session.subject} {entity_id}".encode()
        digest = hashlib.blake2b(seed, digest_size=36).hexdigest()
        name_id, session_index = f"_{digest[:32]}", f"_{digest[32:64]}"
        if self.form is Form.DERIVED and identifiers is not None:
            name_id = identifiers.transient_name_id(session_id, entity_id, self._now)
            session_index = identifiers.session_index(session_id, entity_id, self._now)
        at = self._now - int(digest[64:], 16) % WORKING_DAY
        return ServiceLogin(entity_id, PASSWORD, NameID(name_id, TRANSIENT), session_index, at)


def _as_dict(login: ServiceLogin) -> PlainLogin:
    return {
        "entity_id": login.entity_id,
        "method": login.method,
        "name_id": str(login.name_id.value),
        "session_index": str(login.session_index),
        "at": login.time,
    }


def merge_plain(before: object, theirs: object, ours: object) -> object:
    """The rule for two tabs that write a stored plain mapping at once.

    `before` is what this request found, `theirs` what another has stored since. Keeps what either
    added, drops what either removed. Login records bring their own rules.
    """
    found, stored, wanted = _by_index(before), _by_index(theirs), _by_index(ours)
    added = {index: login for index, login in wanted.items() if index not in found}
    kept = {
        index: login
        for index, login in stored.items()
        if index in wanted or index not in found  # else this request removed it
    }
    return list((kept | added).values())


def _by_index(logins: object) -> dict[str, PlainLogin]:
    entries = cast(list[PlainLogin], logins if isinstance(logins, list) else [])
    return {login["session_index"]: login for login in entries}
