"""From a service's logout request to sessions: (entityID, NameID, SessionIndex) to session ids.

A handle that `Identifiers` derived leads to its session without an index. For all other
NameIDs, `LogoutIndex` keeps an index in the store. The store reveals neither which user was
where, nor which entries belong to the same session. K is the ring's lookup secret (32 bytes),
LP is as in docs/format.md, and a text is that of a name:

    key     text of BLAKE2b-192(key=K, LP("sealedstate/1", "sso.index", realm, entityID, name))
    K_tag, K_mask = BLAKE2b-256(key=K, LP("sealedstate/1", "sso.index", "tag" or "mask", realm))
    index   BLAKE2b-64(key=K_tag, LP("session-index", 0x00)) without a SessionIndex, else
            BLAKE2b-64(key=K_tag, LP("session-index", 0x01, SessionIndex))
    tag     BLAKE2b-128(key=K_tag,  LP("member", key, session id, index))
    masked  session id | index XOR BLAKE2b-192(key=K_mask, LP("member", key, tag))
    member  text of tag | masked: 54 characters

name is LP of the NameID's value, its format, and both qualifiers, with what SAML 2.0 core
(2.2.2 and 8.3.7) understands where they are left out: "unspecified" for the format, the
identity provider's entityID for the name qualifier, and the service's for the SP name
qualifier. Of a value that looks like a derived handle, name is LP of the value and three
empty texts: many services leave out what they were given beside it. Equal inputs give equal
members, so that a member can be removed. A member lives as long as its session can.

An entry is written before the session that needs it is saved. It is removed after that
session was revoked, once no service is left to be notified; otherwise it expires. So an entry
may lead to a session that has ended, but no entry of a live session is missing. The entries
of a service that the user left stay until the session ends, because an older cookie may still
hold that login.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..._stored.table import Kind
from ..._wire.encoding import from_name, to_name
from ..._wire.record import ID_BYTES, format_id
from ...deployment import Deployment
from ...errors import MalformedToken, UnreadableError, UnreadablePart
from ...hooks import SaveEvent, SessionHooks
from ...keeper import Keeper
from ...keyring import length_prefixed
from ..identifiers import (
    NAME_ID,
    SESSION_INDEX,
    Identifiers,
    MaskKeys,
    mask,
    parse_kid,
    unmask,
)
from ..logins import NameID, ServiceLogin, StoredText, check_text, make_type_error
from ..records import LoginRecords

__all__ = ["LogoutIndex", "LogoutRequest"]

KIND = Kind("sealedstate.sso.index", "sso.index", "an index of logins")
INDEX_BYTES = 8
UNSPECIFIED = "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified"
_FORMATS = (
    UNSPECIFIED,
    *(
        f"urn:oasis:names:tc:SAML:1.1:nameid-format:{name}"
        for name in ("emailAddress", "X509SubjectName", "WindowsDomainQualifiedName")
    ),
    *(
        f"urn:oasis:names:tc:SAML:2.0:nameid-format:{name}"
        for name in ("kerberos", "entity", "persistent", "transient")
    ),
)
# Another chapter of the standard names the same format so.
_UNSPECIFIED_ALIAS = "urn:oasis:names:tc:SAML:1.0:nameid-format:unspecified"


# --- what a service asks for --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogoutRequest:
    """A service's request to end sessions of `name_id` at `entity_id`.

    `session_indexes`: only the sessions with one of these SessionIndexes; if empty, all. Any
    sequence of texts, kept as a tuple; a single text is refused. `any_format`: a `name_id` without
    a Format means that value in every Format of SAML 2.0; by default it means "unspecified", as
    SAML 2.0 core says, but many services leave out the Format that they were given. The caller has
    verified the message. Raises UnsupportedValue.
    """

    entity_id: str
    name_id: NameID
    session_indexes: Sequence[str] = field(default=(), repr=False)
    any_format: bool = False

    def __post_init__(self) -> None:
        check_text("LogoutRequest.entity_id", self.entity_id)
        if type(self.name_id) is not NameID:
            raise make_type_error("LogoutRequest.name_id", "a NameID", self.name_id)
        indexes = self.session_indexes
        # A text is a sequence of texts, too: of its letters, which match no session.
        if isinstance(indexes, str) or not isinstance(indexes, Sequence):
            path = "LogoutRequest.session_indexes"
            raise make_type_error(path, "a sequence of texts", indexes)
        for index in indexes:
            check_text("LogoutRequest.session_indexes", index)
        object.__setattr__(self, "session_indexes", tuple(indexes))


def lacks_format(request: LogoutRequest) -> bool:
    """Whether a Format in the request might have found a login."""
    return request.name_id.format is None and not request.any_format


def matches(login: ServiceLogin, request: LogoutRequest) -> bool:
    """Whether `request` is about this login, which has all identifiers."""
    if login.entity_id != request.entity_id:
        return False
    if request.session_indexes and login.session_index not in request.session_indexes:
        return False
    name, asked = login.name_id, request.name_id
    if request.any_format and asked.format is None:
        name = replace(name, format=None)
    if not (name.name_qualifier and asked.name_qualifier):
        # A name qualifier that only one of them has says what the other leaves out.
        name, asked = replace(name, name_qualifier=None), replace(asked, name_qualifier=None)
    return canonical_name_id(name, login.entity_id, None) == canonical_name_id(
        asked, login.entity_id, None
    )


def canonical_name_id(name_id: NameID, entity_id: str, identity_provider: str | None) -> bytes:
    """The `name` of the index: equal for two NameIDs that mean the same user."""
    if parse_kid(str(name_id.value)) is not None:
        return length_prefixed(str(name_id.value), "", "", "")
    form = name_id.format or UNSPECIFIED
    return length_prefixed(
        str(name_id.value),
        UNSPECIFIED if form == _UNSPECIFIED_ALIAS else form,
        name_id.name_qualifier or identity_provider or "",
        name_id.sp_name_qualifier or entity_id,
    )


# --- sessions -----------------------------------------------------------------------------------


def find_sessions(
    request: LogoutRequest, identifiers: Identifiers | None, index: LogoutIndex | None, now: float
) -> list[bytes]:
    """The ids of the sessions that `request` is about, each once.

    Raises StorageError. A session is found only by a handle that `identifiers` derived or by an
    entry of `index`. A handle that was altered, was derived for another service, or contradicts the
    NameID beside it leads to no session.
    """
    found: list[bytes] = []
    if identifiers:
        entity_id, name = request.entity_id, str(request.name_id.value)
        by_name = _open_handle(identifiers, NAME_ID, name, entity_id, now)
        if not request.session_indexes and by_name is not None:
            found.append(by_name)
        for text in request.session_indexes:
            session_id = _open_handle(identifiers, SESSION_INDEX, text, entity_id, now)
            # A NameID that is not a handle cannot be checked against the SessionIndex here.
            if session_id is not None and (session_id == by_name or parse_kid(name) is None):
                found.append(session_id)
    if index:
        found += index.find_ids(request)
    return list(dict.fromkeys(found))


def _open_handle(
    identifiers: Identifiers, label: str, text: str, entity_id: str, now: float
) -> bytes | None:
    try:
        return identifiers.open_handle(label, text, entity_id, now)
    except UnreadableError:
        return None


def find_added(
    deployment: Deployment, records: LoginRecords, event: SaveEvent
) -> frozenset[ServiceLogin]:
    """The logins that a save adds; none if this node cannot read them."""
    try:
        return records.find_new_logins(event)
    except UnreadablePart:
        # They do not stop the save.
        deployment.emit("logins-unreadable", session_id=event.record.id)
        return frozenset()


class LogoutIndex(SessionHooks):
    """Leads from any NameID and SessionIndex of a logout request to sessions.

    Follows every save of `keeper`. `identity_provider`: your own entityID, if NameIDs have it as
    their name qualifier. Raises ConfigurationError without a store or a lookup key, and if the
    store falls short of the requirements of ``logins``.
    """

    def __init__(
        self, keeper: Keeper, records: LoginRecords, identity_provider: str | None = None
    ) -> None:
        self._deployment, self._records = keeper.deployment, records
        self._identity_provider = identity_provider
        self._table = keeper.deployment.table(KIND)
        keeper.deployment.lookup_secret()
        keeper.add_hooks(self, ("logins",))

    def find(self, request: LogoutRequest) -> list[str]:
        """The ids (`Session.id`) of the sessions that the index has. Raises StorageError."""
        return [format_id(session_id) for session_id in self.find_ids(request)]

    def find_ids(self, request: LogoutRequest) -> list[bytes]:
        """As `find`; each id has 16 bytes."""
        names = [request.name_id]
        if request.any_format and request.name_id.format is None:
            names = [replace(request.name_id, format=form) for form in _FORMATS]
        keys = dict.fromkeys(self._key(request.entity_id, name) for name in names)
        wanted = {self._hash_index(text) for text in request.session_indexes}
        mask_keys, sizes = self._mask_keys(), (ID_BYTES, INDEX_BYTES)
        found: dict[bytes, None] = {}
        for key in keys:
            for member in self._table.members(key):
                try:
                    opened = unmask(mask_keys, ("member", key), from_name(member), sizes)
                except MalformedToken:
                    opened = None
                if opened is None:  # it was not made for this row
                    self._table.refuse_member("tag")
                    continue
                session_id, index = opened
                if not wanted or index in wanted:
                    found[session_id] = None
        return list(found)

    def forget(self, session_id: bytes, logins: Iterable[ServiceLogin]) -> None:
        """Remove the entries of a session that was revoked. Raises StorageError."""
        for key, member in self._entries(session_id, logins):
            self._table.remove_member(key, member)

    def needs_entry(self, session_id: bytes, login: ServiceLogin) -> bool:
        """Whether only an entry leads from this login, which has all identifiers."""
        identifiers, now = self._records.identifiers, self._deployment.now()
        if identifiers is None:
            return True
        name, index = str(login.name_id.value), login.session_index
        by_name = _open_handle(identifiers, NAME_ID, name, login.entity_id, now)
        if by_name != session_id or index is None:
            return by_name != session_id
        by_index = _open_handle(identifiers, SESSION_INDEX, str(index), login.entity_id, now)
        return by_index != session_id

    def before_save(self, event: SaveEvent) -> None:
        """Write the entries of new service logins, before anything of the save."""
        added = find_added(self._deployment, self._records, event)
        expires_at = (event.record.expires_at + self._deployment.settings.skew) * 1000
        for key, member in self._entries(event.record.id, added):
            self._table.add_member(key, member, expires_at)

    def _entries(
        self, session_id: bytes, logins: Iterable[ServiceLogin]
    ) -> Iterator[tuple[str, str]]:
        for login in logins:
            if self.needs_entry(session_id, login):
                key = self._key(login.entity_id, login.name_id)
                index = self._hash_index(login.session_index)
                yield key, to_name(mask(self._mask_keys(), ("member", key), session_id, index))

    def _key(self, entity_id: str, name_id: NameID) -> str:
        name = canonical_name_id(name_id, entity_id, self._identity_provider)
        return self._table.guessable_key(entity_id, name)

    # --- members --------------------------------------------------------------------------------

    def _hash_index(self, session_index: StoredText | None) -> bytes:
        """What a member has in place of a SessionIndex."""
        texts = [] if session_index is None else [str(session_index)]
        message = length_prefixed("session-index", bytes([len(texts)]), *texts)
        return hashlib.blake2b(message, key=self._subkey("tag"), digest_size=INDEX_BYTES).digest()

    def _mask_keys(self) -> MaskKeys:
        return self._subkey("tag"), self._subkey("mask")

    def _subkey(self, use: str) -> bytes:
        realm = self._deployment.settings.realm
        label = length_prefixed("sealedstate/1", "sso.index", use, realm)
        return hashlib.blake2b(label, key=self._table.lookup_secret(), digest_size=32).digest()
