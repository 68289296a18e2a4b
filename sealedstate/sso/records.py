"""The login record of an identity provider's user, in two parts of a session.

    login = records.of(session, now)
    login.authenticate(PASSWORD, duration=8 * 3600)
    if login.is_fresh(MFA, within=15 * 60): ...
    login.add_service(ServiceLogin(entity_id, PASSWORD, NameID(name), session_index, now))
    for service in login.services(): ...

Knows which part of a session holds what, and the rule for two requests at once. Does not know bytes
on the wire, requests or stores; `now` is told.

Authentications stand in the small part `head`, service logins in the part `columns`, which nobody
decodes who does not ask for them. Both are bytes. Where the second can't be read (a registry or a
key is missing), `LoginsUnreadable` says so, and the login itself goes on.

Two requests at once: no service login is lost, and the rules of `merge_sets` decide the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..errors import (
    ConfigurationError,
    IdentifierKeyMissing,
    LoginsUnreadable,
    NotSignedIn,
    SessionIdChanged,
)
from ..hooks import SaveEvent
from ..session import Session
from ._codec.authentications import Head, complete, decode_head, encode_head, keep
from ._codec.columns import decode_logins, encode_logins
from .identifiers import NAME_ID, PAIRWISE_CHARS, SESSION_INDEX, Identifiers, kid_of
from .logins import (
    MARK_BYTES,
    Authentication,
    How,
    Made,
    NameID,
    ServiceLogin,
    Text,
    check_text,
    latest_only,
    merge_sets,
)
from .registry import Registry

# FOLD sealedstate.sso.making
# Texts of a service login that need not be kept, because they can be made again.
#
# Knows the session's id and subject, and the identifiers made of them. Does not know bytes.
#
# A text is left out only if making it again gives exactly that text, and it is made with the key
# that
# made it first.


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


MergeRule: TypeAlias = Callable[[object, object, object], object]
TRANSIENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
PERSISTENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"


@dataclass(frozen=True, slots=True)
class LoginRecords:
    """How the login records of one deployment are kept.

    `head` and `columns` name the parts; short names take less. `time_step`: the time of a service
    login is rounded down to a multiple of so many seconds when it is added. Whole minutes take six
    bits less than seconds; 1 keeps what is given.
    """

    registry: Registry = field(default=Registry(), repr=False)
    identifiers: Identifiers | None = None
    head: str = "a"
    columns: str = "l"
    time_step: int = 60

    def __post_init__(self) -> None:
        if self.head == self.columns or not self.head or not self.columns:
            raise ConfigurationError("head and columns are two names of parts")
        if self.time_step < 1:
            raise ConfigurationError("time_step: at least one second")

    def of(self, session: Session, now: float) -> LoginRecord:
        """The login record of a session at `now` (epoch seconds)."""
        return LoginRecord(self, session, int(now))

    @property
    def merge_rules(self) -> Mapping[str, MergeRule]:
        """For ``Settings(merge=...)``."""
        return {self.head: merge_heads, self.columns: self.merge_columns}

    def merge_columns(self, before: object, theirs: object, ours: object) -> bytes:
        """The service logins of two requests. Raises LoginsUnreadable, and nothing is written."""
        known = None if before is None else self.read_columns(before)
        merged = merge_sets(known, self.read_columns(theirs), self.read_columns(ours))
        return encode_logins(latest_only(merged), self.registry)

    def read_columns(self, value: object) -> frozenset[ServiceLogin]:
        """The service logins of the part's value, without what can be made again."""
        return decode_logins(_bytes(value), self.registry)

    def whole(self, value: object, session_id: bytes, subject: str) -> frozenset[ServiceLogin]:
        """The service logins of the part's value, with all texts. Raises LoginsUnreadable."""
        owner = Owner(session_id, subject, self.identifiers)
        return frozenset(owner.make_again(login) for login in self.read_columns(value))

    def added_by(self, save: SaveEvent) -> frozenset[ServiceLogin]:
        """The service logins that are new with a save: those of no earlier one under its id.

        Raises LoginsUnreadable.
        """
        part, record = save.parts.get(self.columns), save.record
        changed = part is not None and (part.is_changed or save.has_new_id)
        if part is None or part.encoded is None or not changed or record.subject is None:
            return frozenset()
        ours = self._decoded(save, part.encoded, record.subject)
        if part.saved is None or save.has_new_id:
            return ours
        known = {login.identity for login in self._decoded(save, part.saved, record.subject)}
        return frozenset(login for login in ours if login.identity not in known)

    def _decoded(self, save: SaveEvent, data: bytes, subject: str) -> frozenset[ServiceLogin]:
        value = save.session.decode(self.columns, data)
        return self.whole(value, save.record.id, subject)


def merge_heads(before: object, theirs: object, ours: object) -> bytes:
    """The authentications of two requests."""
    known = None if before is None else decode_head(_bytes(before))
    return encode_head(merge_sets(known, decode_head(_bytes(theirs)), decode_head(_bytes(ours))))


class LoginRecord:
    """Who the user proved to be and where they went, in one session during one request."""

    def __init__(self, records: LoginRecords, session: Session, now: int) -> None:
        self._records = records
        self._session = session
        self._now = now

    # --- authentications ------------------------------------------------------------------------

    def authenticate(self, method: str, duration: int, time: int | None = None) -> Authentication:
        """Record that the user proved who they are, now or at `time` (epoch seconds).

        It replaces an earlier one by the same method; those that no longer count are dropped.
        """
        self._subject()
        mine = Authentication(method, self._now if time is None else time, duration)
        others = (
            other
            for other in self.authentications()
            if other.method != method and self._now < other.expires_at
        )
        self._save_head({mine, *others})
        return mine

    def authentications(self) -> tuple[Authentication, ...]:
        """All that are recorded, the earliest first."""
        found = (complete(kept, self._start()) for kept in self._head())
        return tuple(sorted(found, key=lambda one: (one.time, one.duration, one.method)))

    def is_fresh(self, method: str, within: int | None = None) -> bool:
        """Whether an authentication by `method` counts; `within`: of the last so many seconds.

        One that is more than a minute in the future does not count yet.
        """
        return any(
            one.method == method and one.is_fresh(self._now, within)
            for one in self.authentications()
        )

    def forget_authentication(self, method: str) -> None:
        """The user will have to prove it again."""
        self._save_head({one for one in self.authentications() if one.method != method})

    # --- service logins -------------------------------------------------------------------------

    def add_service(self, *logins: ServiceLogin) -> None:
        """Record that the user went to a service, or to several. The same again only renews it.

        Raises LoginsUnreadable when the logins until now can't be read: `forget_services` goes on
        without them.
        """
        step = self._records.time_step
        added = [replace(login, time=login.time // step * step) for login in logins]
        self._save_columns([*added, *self._others(*logins)])

    def enter(self, entity_id: str, method: str) -> ServiceLogin:
        """Make a transient NameID and a SessionIndex for a service, and record the login.

        Raises ConfigurationError without identifiers, UnsupportedValue for what is no text,
        NoPrimaryKey, or what `add_service` raises.
        """
        made, session_id = self._records.identifiers, self._owner().session_id
        if made is None:
            raise ConfigurationError(
                "identifiers are made with keys: LoginRecords(identifiers=...)"
            )
        check_text("a service login's entity_id", entity_id)
        name = made.transient_name_id(session_id, entity_id, self._now)
        index = made.session_index(session_id, entity_id, self._now)
        login = ServiceLogin(entity_id, method, NameID(name, TRANSIENT), index, self._now)
        self.add_service(login)
        return login

    def services(self, entity_id: str | None = None) -> tuple[ServiceLogin, ...]:
        """All service logins, or those at one service; the earliest first.

        Raises LoginsUnreadable of some kind.
        """
        columns = self._columns()
        chosen = [one for one in columns if entity_id is None or one.entity_id == entity_id]
        owner = self._owner() if chosen else None
        found = [owner.make_again(login) for login in chosen] if owner else []
        return tuple(sorted(found, key=_order))

    def remove_service(self, login: ServiceLogin) -> None:
        """The user is no longer there, as `login` (one of `services`) says."""
        self._save_columns(self._others(login))

    def forget_services(self) -> None:
        """Drop all service logins unread: when they can't be read, or all were told to log out."""
        self._put(self._records.columns, b"")

    def regenerate(self) -> None:
        """Give the session a new id. Identifiers derived from the old one are kept as texts."""
        services = self.services()
        self._session.regenerate()
        self._save_columns(services)

    # --- the session's parts --------------------------------------------------------------------

    def _head(self) -> Head:
        value = self._session.get(self._records.head)
        return frozenset() if value is None else decode_head(_bytes(value))

    def _columns(self) -> frozenset[ServiceLogin]:
        value = self._session.get(self._records.columns)
        return frozenset() if value is None else self._records.read_columns(value)

    def _save_head(self, authentications: set[Authentication]) -> None:
        start = self._start()
        self._put(self._records.head, encode_head(keep(one, start) for one in authentications))

    def _others(self, *logins: ServiceLogin) -> list[ServiceLogin]:
        """The service logins that none of `logins` is the same as."""
        owner = self._owner()
        mine = {owner.leave_out(login).identity for login in logins}
        services = {login.entity_id for login in logins}
        # What was kept as text may by now be something that can be made again.
        return [
            one
            for one in self._columns()
            if one.entity_id not in services or owner.leave_out(one).identity not in mine
        ]

    def _save_columns(self, logins: Sequence[ServiceLogin]) -> None:
        if logins:
            owner = self._owner()
            logins = [owner.leave_out(login) for login in logins]
        self._put(self._records.columns, encode_logins(logins, self._records.registry))

    def _put(self, name: str, data: bytes) -> None:
        # What is empty now stays as an empty part: only what is there can be merged with what
        # another request adds to it meanwhile.
        if data or name in self._session:
            self._session[name] = data

    def _start(self) -> int:
        created_at = self._session.created_at
        return self._now if created_at is None else created_at

    def _owner(self) -> Owner:
        subject = self._subject()  # opens the session: before that it has no id
        return Owner(self._session.raw_id, subject, self._records.identifiers)

    def _subject(self) -> str:
        subject = self._session.subject
        if subject is None:
            raise NotSignedIn("login records belong to a user: set session.subject first")
        return subject


def _order(login: ServiceLogin) -> tuple[int, str, str, str]:
    name, index = login.name_id.value, login.session_index
    return login.time, login.entity_id, str(name), str(index or "")


def _bytes(value: object) -> bytes:
    if type(value) is not bytes:
        raise LoginsUnreadable("login records are bytes")
    return value
