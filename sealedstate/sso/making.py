"""Texts of a service login that need not be kept, because they can be made again.

Knows the session's id and subject, and the identifiers made of them. Does not know bytes.

A text is left out only if making it again gives exactly that text, and it is made with the key that
made it first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from .derived import NAME_ID, PAIRWISE_CHARS, SESSION_INDEX, Identifiers, kid_of
from .errors import IdentifierKeyMissing, SessionIdChanged
from .logins import MARK_BYTES, How, Made, NameID, ServiceLogin, Text


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose logins they are: the session's id (16 bytes) and subject."""

    session_id: bytes = field(repr=False)
    subject: str = field(repr=False)
    identifiers: Identifiers | None

    def leave_out(self, login: ServiceLogin) -> ServiceLogin:
        """The login without the texts that can be made again."""
        name_id, index = login.name_id, login.session_index
        name = self._name_left_out(name_id.value, login.entity_id)
        if isinstance(index, str):
            index = self._derived(SESSION_INDEX, index, login.entity_id) or index
        return _with_texts(login, name, index)

    def make_again(self, login: ServiceLogin) -> ServiceLogin:
        """The login with all texts. Raises LoginsUnreadable of some kind."""
        name_id, index = login.name_id, login.session_index
        name = self._made(NAME_ID, name_id.value, login.entity_id)
        if index is not None:
            index = self._made(SESSION_INDEX, index, login.entity_id)
        return _with_texts(login, name, index)

    def _name_left_out(self, text: Text, entity_id: str) -> Text:
        if not isinstance(text, str):
            return text
        if text == self.subject:
            return Made(How.SUBJECT)
        # What has another length need not be made to see that it is another text.
        pairwise = self._pairwise(entity_id) if len(text) == PAIRWISE_CHARS else None
        if pairwise is not None and text == pairwise[1]:
            return Made(How.PAIRWISE, pairwise[0])
        return self._derived(NAME_ID, text, entity_id) or text

    def _derived(self, label: str, text: str, entity_id: str) -> Made | None:
        kid = kid_of(text)
        if kid is None or self._handle(kid, label, entity_id) != text:
            return None
        return Made(How.DERIVED, kid, self._mark())

    def _made(self, label: str, text: Text, entity_id: str) -> str:
        if isinstance(text, str):
            return text
        if text.how is How.SUBJECT:
            return self.subject
        if text.how is How.PAIRWISE:
            pairwise = self._pairwise(entity_id)
            made = pairwise[1] if pairwise is not None and pairwise[0] == text.kid else None
        elif text.mark != self._mark():
            raise SessionIdChanged("derived identifiers belong to an earlier id of this session")
        else:
            made = self._handle(text.kid, label, entity_id)
        if made is None:
            raise IdentifierKeyMissing(text.kid)
        return made

    def _handle(self, kid: bytes, label: str, entity_id: str) -> str | None:
        if self.identifiers is None:
            return None
        return self.identifiers.handle_under(kid, label, self.session_id, entity_id)

    def _pairwise(self, entity_id: str) -> tuple[bytes, str] | None:
        """The kid of the pairwise key, and the subject's pairwise NameID."""
        if self.identifiers is None or self.identifiers.pairwise is None:
            return None
        made = self.identifiers.pairwise_name_id(self.subject, entity_id)
        return self.identifiers.pairwise.kid, made

    def _mark(self) -> bytes:
        return hashlib.blake2b(self.session_id, digest_size=MARK_BYTES).digest()


def _with_texts(login: ServiceLogin, name: Text, index: Text | None) -> ServiceLogin:
    """The login with these texts: itself where they are its own, as most are."""
    known = login.name_id
    if name is known.value and index is login.session_index:
        return login
    name_id = NameID(name, known.format, known.name_qualifier, known.sp_name_qualifier)
    return ServiceLogin(login.entity_id, login.method, name_id, index, login.time)


def needs_subject(login: ServiceLogin) -> bool:
    """Whether one of its texts can only be made again by who knows the subject."""
    texts = (login.name_id.value, login.session_index)
    return any(isinstance(text, Made) and text.how is not How.DERIVED for text in texts)
