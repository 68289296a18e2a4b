"""The login record of an identity provider's user, in two parts of a session.

    login = records.for_session(session)
    login.authenticate(PASSWORD, duration=8 * 3600)
    if login.is_fresh(MFA, within=15 * 60): ...
    login.add_service(ServiceLogin(entity_id, PASSWORD, NameID(name), session_index, now))
    for service in login.services(): ...

Authentications are in the small part `head`. Service logins are in the part `columns`, which is
decoded only when they are needed. Where this node lacks a registry or a key for them, reading them
raises `LoginsUnreadable`, and the login itself continues.

Two concurrent requests lose no service login; `merge_sets` has the rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import (
    ConfigurationError,
    IdentifierKeyMissing,
    LoginsUnreadable,
    NotSignedIn,
    SessionIdChanged,
    show_value,
)
from ..hooks import SaveEvent
from ..session import Session, id_bytes
from ..settings import MergeRule
from ._codec.authentications import Head, compact, decode_head, encode_head, expand
from ._codec.columns import decode_logins, encode_logins
from .identifiers import NAME_ID, PAIRWISE_CHARS, SESSION_INDEX, Identifiers, parse_kid
from .logins import (
    MARK_BYTES,
    Authentication,
    Derivation,
    Derived,
    NameID,
    ServiceLogin,
    StoredText,
    check_seconds,
    check_text,
    keep_latest,
    merge_sets,
    sort_key,
)
from .registry import Registry

__all__ = ["PERSISTENT", "TRANSIENT", "LoginRecord", "LoginRecords"]

TRANSIENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
PERSISTENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"


@dataclass(frozen=True, slots=True)
class IdentifierDeriver:
    """Replaces a session's identifiers by placeholders, and derives them again.

    An identifier is replaced only if deriving it again, with the same key, gives the same text.
    `session_id` has 16 bytes.
    """

    session_id: bytes = field(repr=False)
    subject: str = field(repr=False)
    identifiers: Identifiers | None

    def compact(self, login: ServiceLogin) -> ServiceLogin:
        """Return the login with placeholders for its derivable identifiers."""
        return self._replace(login, self._compact_text)

    def expand(self, login: ServiceLogin) -> ServiceLogin:
        """Return the login with all identifiers as texts. Raises LoginsUnreadable."""
        return self._replace(login, self._expand_text)

    def _replace(
        self, login: ServiceLogin, change: Callable[[str, StoredText, str], StoredText]
    ) -> ServiceLogin:
        """Return the login with changed identifiers; itself if they are unchanged."""
        name_id, entity_id, index = login.name_id, login.entity_id, login.session_index
        name = change(NAME_ID, name_id.value, entity_id)
        if index is not None:
            index = change(SESSION_INDEX, index, entity_id)
        if name is name_id.value and index is login.session_index:
            return login
        # Constructed by hand: dataclasses.replace costs more than the rest.
        name_id = NameID(name, name_id.format, name_id.name_qualifier, name_id.sp_name_qualifier)
        return ServiceLogin(entity_id, login.method, name_id, index, login.time)

    def _compact_text(self, label: str, text: StoredText, entity_id: str) -> StoredText:
        if isinstance(text, Derived):
            return text
        keys = self.identifiers
        if label == NAME_ID:
            if text == self.subject:
                return Derived(Derivation.SUBJECT)
            # The length is compared first: deriving costs more.
            if (
                len(text) == PAIRWISE_CHARS
                and keys is not None
                and keys.pairwise is not None
                and text == keys.pairwise_name_id(self.subject, entity_id)
            ):
                return Derived(Derivation.PAIRWISE, keys.pairwise.kid)
        kid = parse_kid(text)
        if kid is None or self._derive_handle(kid, label, entity_id) != text:
            return text
        return Derived(Derivation.DERIVED, kid, self._mark())

    def _expand_text(self, label: str, stored: StoredText, entity_id: str) -> str:
        text: str | None = None
        if not isinstance(stored, Derived):
            return stored
        if stored.derivation is Derivation.SUBJECT:
            text = self.subject
        elif stored.derivation is Derivation.PAIRWISE:
            keys = self.identifiers
            if keys is not None and keys.pairwise and keys.pairwise.kid == stored.kid:
                text = keys.pairwise_name_id(self.subject, entity_id)
        elif stored.mark != self._mark():
            raise SessionIdChanged("derived identifiers belong to an earlier id of this session")
        else:
            text = self._derive_handle(stored.kid, label, entity_id)
        if text is None:
            raise IdentifierKeyMissing(stored.kid)
        return text

    def _derive_handle(self, kid: bytes, label: str, entity_id: str) -> str | None:
        if self.identifiers is None:
            return None
        return self.identifiers.derive_with(kid, label, self.session_id, entity_id)

    def _mark(self) -> bytes:
        return hashlib.blake2b(self.session_id, digest_size=MARK_BYTES).digest()


def needs_subject(login: ServiceLogin) -> bool:
    """Whether some identifier can't be derived again without the subject."""
    return any(
        isinstance(text, Derived) and text.derivation is not Derivation.DERIVED
        for text in (login.name_id.value, login.session_index)
    )


@dataclass(frozen=True, slots=True)
class LoginRecords:
    """How the login records of one deployment are stored in its sessions.

    registry: the numbers of entityIDs and methods; what has none is stored as text.
    identifiers: derives identifiers instead of storing them.
    head, columns: the names of the two parts; short names take less.
    time_step: the time of a service login is rounded down to a multiple of this many seconds when
        the login is added. Whole minutes take six bits less than seconds; 1 keeps the exact time.
    """

    registry: Registry = field(default=Registry(), repr=False)
    identifiers: Identifiers | None = None
    head: str = "a"
    columns: str = "l"
    time_step: int = 60

    def __post_init__(self) -> None:
        if self.head == self.columns or not self.head or not self.columns:
            raise ConfigurationError(
                "LoginRecords.head, columns: must be two different names of parts"
            )
        if type(self.time_step) is not int or self.time_step < 1:
            raise ConfigurationError(
                f"LoginRecords.time_step: must be a whole number of seconds, at least 1;"
                f" got {show_value(self.time_step)}"
            )

    def for_session(self, session: Session) -> LoginRecord:
        """Return the login record of a session, without loading the session."""
        return LoginRecord(self, session)

    @property
    def merge_rules(self) -> Mapping[str, MergeRule]:
        """The rules for ``Settings(merge=...)``."""
        return {self.head: merge_heads, self.columns: self.merge_columns}

    def merge_columns(self, base: object, remote: object, local: object) -> bytes:
        """Merge the service logins of two requests. Raises LoginsUnreadable."""
        known = None if base is None else self.read_columns(base)
        merged = merge_sets(known, self.read_columns(remote), self.read_columns(local))
        return encode_logins(keep_latest(merged), self.registry)

    def read_columns(self, value: object, entity_id: str | None = None) -> frozenset[ServiceLogin]:
        """Return the part's logins, with placeholders; all, or those at one service.

        Raises LoginsUnreadable.
        """
        return decode_logins(_check_bytes(value), self.registry, entity_id)

    def read_logins(
        self, value: object, session_id: bytes, subject: str
    ) -> frozenset[ServiceLogin]:
        """Return the part's logins, without placeholders. Raises LoginsUnreadable."""
        deriver = IdentifierDeriver(session_id, subject, self.identifiers)
        return frozenset(deriver.expand(login) for login in self.read_columns(value))

    def find_new_logins(self, event: SaveEvent) -> frozenset[ServiceLogin]:
        """Return the logins that a save adds to its id. Raises LoginsUnreadable."""
        part, record, decode = event.parts.get(self.columns), event.record, event.session.decode
        if part is None or part.encoded is None or record.subject is None:
            return frozenset()
        if not (part.is_changed or event.has_new_id):
            return frozenset()
        value = decode(self.columns, part.encoded)
        logins = self.read_logins(value, record.id, record.subject)
        if part.saved is None or event.has_new_id:
            return logins
        value = decode(self.columns, part.saved)
        known = {login.identity for login in self.read_logins(value, record.id, record.subject)}
        return frozenset(login for login in logins if login.identity not in known)


def merge_heads(base: object, remote: object, local: object) -> bytes:
    """Merge the authentications of two requests. Raises LoginsUnreadable."""
    known = None if base is None else _read_head(base)
    return encode_head(merge_sets(known, _read_head(remote), _read_head(local)))


def _read_head(value: object) -> Head:
    return decode_head(_check_bytes(value))


class LoginRecord:
    """The authentications and service logins of one session during one request."""

    def __init__(self, records: LoginRecords, session: Session) -> None:
        self._records = records
        self._session = session

    # --- authentications ------------------------------------------------------------------------

    def authenticate(self, method: str, duration: int, time: int | None = None) -> Authentication:
        """Record an authentication of the user, now or at `time` (epoch seconds).

        It replaces an earlier authentication by the same method; expired ones are dropped. Raises
        NotSignedIn, UnsupportedValue or LoginsUnreadable.
        """
        self._check_subject()
        now = self._now()
        mine = Authentication(method, now if time is None else time, duration)
        others = (
            other
            for other in self.authentications()
            if other.method != method and now < other.expires_at
        )
        self._save_head({mine, *others})
        return mine

    def authentications(self) -> tuple[Authentication, ...]:
        """Return all authentications, the earliest first. Raises LoginsUnreadable."""
        value = self._session.get(self._records.head)
        head = frozenset() if value is None else _read_head(value)
        found = (expand(stored, self._start()) for stored in head)
        return tuple(sorted(found, key=lambda each: (each.time, each.duration, each.method)))

    def is_fresh(self, method: str, within: int | None = None) -> bool:
        """Whether an authentication by `method` counts.

        With `within`, only if it is at most that many seconds old. An authentication that is more
        than a minute in the future does not count yet. Raises UnsupportedValue for a `within` that
        is no number.
        """
        if within is not None:
            check_seconds("within", within)
        now, known = self._now(), self.authentications()
        return any(each.method == method and each.is_fresh(now, within) for each in known)

    def forget_authentication(self, method: str) -> None:
        """Remove the authentication by `method`: the user has to repeat it."""
        self._save_head({each for each in self.authentications() if each.method != method})

    # --- service logins -------------------------------------------------------------------------

    def add_service(self, *logins: ServiceLogin) -> None:
        """Record that the user went to services. A known login is only renewed.

        Raises NotSignedIn, or LoginsUnreadable if the earlier logins can't be read;
        `forget_services` drops these.
        """
        step = self._records.time_step
        added = [replace(login, time=login.time // step * step) for login in logins]
        self._save_columns([*added, *self._find_others(*logins)])

    def add_derived_login(self, entity_id: str, method: str) -> ServiceLogin:
        """Record a login with a derived transient NameID and SessionIndex.

        Raises ConfigurationError without identifiers, UnsupportedValue for values that are no
        text, NoPrimaryKey, or what `add_service` raises.
        """
        identifiers, session_id = self._records.identifiers, self._session.id
        if identifiers is None:
            raise ConfigurationError(
                "LoginRecords.identifiers: derived identifiers need keys; pass Identifiers(...)"
            )
        check_text("entity_id", entity_id)
        self._check_subject()
        now = self._now()
        name = identifiers.transient_name_id(session_id, entity_id, now)
        index = identifiers.session_index(session_id, entity_id, now)
        login = ServiceLogin(entity_id, method, NameID(name, TRANSIENT), index, now)
        self.add_service(login)
        return login

    def services(self, entity_id: str | None = None) -> tuple[ServiceLogin, ...]:
        """Return all service logins, or those at one service, the earliest first.

        Raises LoginsUnreadable.
        """
        chosen = self._read_columns(entity_id)
        if not chosen:  # then there may be no subject either
            return ()
        return tuple(sorted(map(self._deriver().expand, chosen), key=sort_key))

    def remove_service(self, login: ServiceLogin) -> None:
        """Remove one of `services`: the user has left it. Raises LoginsUnreadable."""
        self._save_columns(self._find_others(login))

    def forget_services(self) -> None:
        """Remove all service logins without reading them."""
        self._put(self._records.columns, b"")

    def sign_in(self, subject: str) -> None:
        """Sign a user in, as assigning `Session.subject` does, which gives the session a new id.

        The service logins of a user who is signed in already stay, with the identifiers that were
        derived from the old id. Raises UnsupportedValue or LoginsUnreadable.
        """
        services = self.services() if subject == self._session.subject else ()
        self._session.subject = subject
        if services:
            self._save_columns(services)

    def regenerate(self) -> None:
        """Give the session a new id, and keep identifiers derived from the old id.

        These are then stored as texts. Raises LoginsUnreadable.
        """
        services = self.services()
        self._session.regenerate()
        self._save_columns(services)

    # --- the session's parts --------------------------------------------------------------------

    def _read_columns(self, entity_id: str | None = None) -> frozenset[ServiceLogin]:
        value = self._session.get(self._records.columns)
        return frozenset() if value is None else self._records.read_columns(value, entity_id)

    def _find_others(self, *logins: ServiceLogin) -> list[ServiceLogin]:
        """Return the recorded logins that have another identity than all of `logins`."""
        deriver = self._deriver()
        identities = {deriver.compact(login).identity for login in logins}
        services = {login.entity_id for login in logins}
        # Recorded logins are compacted again: what was stored as text, before this node had a key,
        # may be derivable by now.
        return [
            login
            for login in self._read_columns()
            if login.entity_id not in services or deriver.compact(login).identity not in identities
        ]

    def _save_head(self, authentications: set[Authentication]) -> None:
        start = self._start()
        self._put(self._records.head, encode_head(compact(each, start) for each in authentications))

    def _save_columns(self, logins: Sequence[ServiceLogin]) -> None:
        if logins:
            logins = [*map(self._deriver().compact, logins)]
        self._put(self._records.columns, encode_logins(logins, self._records.registry))

    def _put(self, name: str, data: bytes) -> None:
        # A part that became empty stays: only an existing part can be merged with what another
        # request adds to it meanwhile.
        if data or name in self._session:
            self._session[name] = data

    def _start(self) -> int:
        created_at = self._session.created_at
        return self._now() if created_at is None else created_at

    def _now(self) -> int:
        return int(self._session.load().now())

    def _deriver(self) -> IdentifierDeriver:
        subject = self._check_subject()  # opens the session: before that it has no id
        return IdentifierDeriver(id_bytes(self._session), subject, self._records.identifiers)

    def _check_subject(self) -> str:
        subject = self._session.subject
        if subject is None:
            raise NotSignedIn("login records belong to a user; set session.subject first")
        return subject


def _check_bytes(value: object) -> bytes:
    if type(value) is not bytes:
        raise LoginsUnreadable(f"login records: expected bytes, got {type(value).__name__}")
    return value
