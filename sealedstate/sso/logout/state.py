"""Which services of an ended session were told so, kept in the store until the session is over.

Knows a row's content, and how two nodes change it at once. Does not know cookies, the index, or how
a service is told.

A row of the context ``sealedstate.sso.logout`` is named by the text (see `chunking`) of BLAKE2b-192
of LP("sealedstate/1", "sso.logout", realm, session id), and sealed like every stored value. It is
the CBOR list of: the format (1), the session's id, its subject or null, the 16 random bytes of the
token, when it was written (epoch seconds), whether service logins may still be in the browser's
cookie, the requests that began it (each the service, the NameID, its format and qualifiers, and a
list of SessionIndexes), the service logins as `columns` writes them, and one letter for each of
them, in ascending order: r remains, t was told, f could not be told.

A row is written before its session is revoked, so that no crash loses what is to be told. Every
change is a checked write: what somebody else wrote meanwhile is kept. It stays, with nothing to do,
as long as a cookie of the session could be shown again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..._wire import cbor as codec
from ..._wire.encoding import to_text
from ...deployment import Deployment
from ...errors import (
    LoginsUnreadable,
    OutcomeUnknown,
    RowUnreadable,
    StorageUnavailable,
    UnreadableError,
    VersionMismatch,
)
from ...keyring import length_prefixed
from ...storage.contract import Storage, Stored, next_version
from .._codec.columns import decode_logins, encode_logins
from ..logins import NameID, ServiceLogin, StoredText, keep_latest, sort_key
from ..records import IdentifierDeriver, LoginRecords
from .index import LogoutRequest, meant

CONTEXT = "sealedstate.sso.logout"
FORMAT = 1
NAME_BYTES, SECRET_BYTES = 24, 16
WRITE_TRIES = 64
REMAINS, TOLD, FAILED = b"rtf"

Identity: TypeAlias = tuple[str, NameID, StoredText | None]


@dataclass(frozen=True, slots=True)
class State:
    """What is known of one logout. `standing` has a letter for each of `logins`, which are whole.

    `owed`: there may be service logins in the browser's cookie that are not among them.
    `written_at`: epoch seconds.
    """

    session_id: bytes = field(repr=False)
    subject: str | None = field(repr=False)
    secret: bytes = field(repr=False)
    owed: bool
    asked: tuple[LogoutRequest, ...] = field(default=(), repr=False)
    logins: tuple[ServiceLogin, ...] = field(default=(), repr=False)
    standing: bytes = b""
    written_at: int = field(default=0, compare=False)

    def which(self, standing: int) -> tuple[ServiceLogin, ...]:
        """The logins that stand so."""
        pairs = zip(self.logins, self.standing, strict=True)
        return tuple(login for login, letter in pairs if letter == standing)

    def begun_again(self) -> State:
        """With the same logins, of which nobody was told or has asked yet."""
        return replace(self, owed=True, asked=(), standing=bytes([REMAINS]) * len(self.logins))

    def joined(self, logins: Iterable[ServiceLogin]) -> State:
        """With further logins; those of a service that asked for the logout count as told."""
        letters = dict(zip(self._identities(), self.standing, strict=True))
        fresh = [login for login in keep_latest(logins) if login.identity not in letters]
        letters |= {
            login.identity: TOLD if self._was_asked_by(login) else REMAINS for login in fresh
        }
        return self._with({*self.logins, *fresh}, letters) if fresh else self

    def asked_by(self, request: LogoutRequest) -> State:
        """With one more service that asked, and so need not be told."""
        if request in self.asked:
            return self
        asking = replace(self, asked=(*self.asked, request))
        letters = {
            login.identity: TOLD if asking._was_asked_by(login) else letter
            for login, letter in zip(self.logins, self.standing, strict=True)
        }
        return asking._with(set(self.logins), letters)

    def marked(self, identities: Iterable[Identity], standing: int) -> State:
        """With some logins told, or failed; what was told stays told."""
        wanted = set(identities)
        letters = {
            login.identity: standing if login.identity in wanted and letter != TOLD else letter
            for login, letter in zip(self.logins, self.standing, strict=True)
        }
        return self._with(set(self.logins), letters)

    def knows_all(self, identities: Iterable[Identity]) -> bool:
        """Whether all of them are of the logins."""
        return set(identities) <= set(self._identities())

    def _identities(self) -> list[Identity]:
        return [login.identity for login in self.logins]

    def _was_asked_by(self, login: ServiceLogin) -> bool:
        return any(is_meant(login, request) for request in self.asked)

    def _with(self, logins: set[ServiceLogin], letters: dict[Identity, int]) -> State:
        ordered = tuple(sorted(logins, key=sort_key))
        standing = bytes(letters[login.identity] for login in ordered)
        return replace(self, logins=ordered, standing=standing)


Change: TypeAlias = Callable[[State | None], State | None]


class Ledger:
    """The rows of one deployment. What reads or changes them raises StorageError, or
    LoginsUnreadable where this node lacks the registry or a key.
    """

    def __init__(self, toolkit: Deployment, storage: Storage, records: LoginRecords) -> None:
        self._tools, self._storage, self._records = toolkit, storage, records

    def begun(self, session_id: bytes, subject: str | None, owed: bool) -> State:
        """The state in which a logout begins."""
        secret = self._tools.settings.random(SECRET_BYTES)
        return State(session_id, subject, secret, owed)

    def name(self, session_id: bytes) -> str:
        """The name of a session's row."""
        realm = self._tools.settings.realm
        message = length_prefixed("sealedstate/1", "sso.logout", realm, session_id)
        return to_text(hashlib.blake2b(message, digest_size=NAME_BYTES).digest())

    def names(self) -> Iterator[str]:
        """The names of all rows, where the store can list them."""
        return self._storage.keys(CONTEXT)

    def read(self, name: str) -> State | None:
        """What is known of a logout; None for none, or one that is over."""
        stored = self._storage.read(CONTEXT, name)
        self._tools.notice_answer()
        return None if stored is None else self._opened(name, stored)

    def change(self, name: str, change: Change) -> State | None:
        """Write what `change` makes of the row, and again if somebody else wrote meanwhile."""
        for _ in range(WRITE_TRIES):
            stored = self._storage.read(CONTEXT, name)
            before = None if stored is None else self._opened(name, stored)
            after = change(before)
            if after is None or after == before or self._written(name, after, stored):
                return after
        raise StorageUnavailable(f"a logout was written by others {WRITE_TRIES} times in a row")

    def delete(self, name: str) -> None:
        """Forget a logout that did not come about."""
        self._storage.delete(CONTEXT, name)

    def _written(self, name: str, state: State, stored: Stored | None) -> bool:
        tools, now = self._tools, self._tools.now()
        version = next_version(now, 0 if stored is None else stored.version)
        data, ring = self._encoded(state, int(now)), tools.keyring()
        value = tools.rows.seal_row(CONTEXT, name, version, data, ring, now)
        try:
            if stored is not None:
                return self._storage.update(
                    CONTEXT, name, value, stored.expires_at, version, stored.version
                )
            # As long as the revocation, so as long as any cookie of the session can be shown.
            lifetime = tools.settings.absolute_lifetime + 2 * tools.settings.skew
            expires_at = (int(now) + lifetime) * 1000
            return self._storage.create(CONTEXT, name, value, expires_at, version)
        except VersionMismatch:
            return False
        except OutcomeUnknown:
            found = self._storage.read(CONTEXT, name)
            return found is not None and (found.value, found.version) == (value, version)

    def _opened(self, name: str, stored: Stored) -> State | None:
        ring, now = self._tools.keyring(), self._tools.now()
        try:
            data = self._tools.rows.open_row(CONTEXT, name, stored, ring, now)
        except UnreadableError as error:
            if error.keeps_cookie:
                raise RowUnreadable(f"a logout is unreadable here ({error.reason})") from error
            return None  # swapped or rolled back: it is written anew
        return self._decoded(codec.decode(data))

    def _encoded(self, state: State, now: int) -> bytes:
        owner = self._owner(state.session_id, state.subject)
        logins = [owner.compact(login) for login in state.logins]
        asked = [_from_request(request) for request in state.asked]
        columns = encode_logins(logins, self._records.registry)
        who = [FORMAT, state.session_id, state.subject, state.secret]
        return codec.encode([*who, now, state.owed, asked, columns, state.standing])

    def _decoded(self, row: Any) -> State:
        if type(row) is not list or len(row) != 9 or row[0] != FORMAT:
            raise LoginsUnreadable("a logout that another release wrote")
        _, session_id, subject, secret, written_at, owed, asked, columns, standing = row
        owner = self._owner(session_id, subject)
        logins = map(owner.expand, decode_logins(columns, self._records.registry))
        ordered = tuple(sorted(logins, key=sort_key))
        requests = tuple(_to_request(*fields) for fields in asked)
        return State(session_id, subject, secret, owed, requests, ordered, standing, written_at)

    def _owner(self, session_id: bytes, subject: str | None) -> IdentifierDeriver:
        return IdentifierDeriver(session_id, subject or "", self._records.identifiers)


def is_meant(login: ServiceLogin, request: LogoutRequest) -> bool:
    """Whether a service's request means this login (with all texts)."""
    return (
        login.entity_id == request.entity_id
        and _is_same_name(login.name_id, request.name_id, login.entity_id)
        and (not request.session_indexes or login.session_index in request.session_indexes)
    )


def _is_same_name(one: NameID, other: NameID, entity_id: str) -> bool:
    """Whether both mean the same, where one may leave out what is understood."""
    if not (one.name_qualifier and other.name_qualifier):
        one, other = replace(one, name_qualifier=None), replace(other, name_qualifier=None)
    return meant(one, entity_id, None) == meant(other, entity_id, None)


def _from_request(request: LogoutRequest) -> list[object]:
    name = request.name_id
    whole = (name.value, name.format, name.name_qualifier, name.sp_name_qualifier)
    return [request.entity_id, *whole, list(request.session_indexes)]


def _to_request(
    entity_id: str,
    value: str,
    form: str | None,
    name_qualifier: str | None,
    sp_name_qualifier: str | None,
    indexes: list[str],
) -> LogoutRequest:
    name_id = NameID(value, form, name_qualifier, sp_name_qualifier)
    return LogoutRequest(entity_id, name_id, tuple(indexes))
