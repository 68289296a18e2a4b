"""Which sessions a service means: from (entityID, NameID, SessionIndex or none) to session ids.

Knows derived handles, the index and its bytes. Does not know cookies, or what is done with a
session that was found.

A handle that `Identifiers` made leads back by itself. For all other NameIDs, `LogoutIndex` keeps an
index in the store, from which nobody reads anything: not who was where, nor which sessions belong
to one another. K is the ring's lookup secret (32 bytes), LP is as in `sealing`, a text the text of
`chunking`:

    key     text of BLAKE2b-192(key=K, LP("sealedstate/1", "sso.index", realm, entityID, name))
    K_tag, K_mask = BLAKE2b-256(key=K, LP("sealedstate/1", "sso.index", "tag" or "mask", realm))
    index   BLAKE2b-64(key=K_tag, LP("session-index", 0x00)) for none, else
            BLAKE2b-64(key=K_tag, LP("session-index", 0x01, SessionIndex))
    tag     BLAKE2b-128(key=K_tag,  LP("member", key, session id, index))
    masked  session id | index XOR BLAKE2b-192(key=K_mask, LP("member", key, tag))
    member  text of tag | masked: 54 characters

name is LP of the NameID's value, its format, and both qualifiers as they are meant (SAML 2.0 core,
2.2.2 and 8.3.7): one that is left out is the identity provider's own entityID for the name
qualifier, the service's for the other, and a format that is left out is "unspecified". A member is
the same whenever it is made, so that it can be removed, and lives as long as its session can.

An entry is written before the session that needs it is saved, and removed after that session was
revoked and nobody is left to be told, when that is noticed; or it expires. So it may lead to a
session that has ended, but none that lives is missing. What a service was left stays in the index
until the session ends: an older cookie may still tell of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..._wire.encoding import from_text, to_text
from ..._wire.record import ID_BYTES
from ...errors import (
    ConfigurationError,
    MalformedToken,
    UnreadableError,
    UnreadablePart,
    UnsupportedValue,
)
from ...hooks import SaveEvent, SessionHooks
from ...keeper import Keeper
from ...keyring import length_prefixed
from ..identifiers import Identifiers, MaskKeys, mask, parse_kid, unmask
from ..logins import NameID, ServiceLogin, StoredText, check_text
from ..records import LoginRecords

CONTEXT = "sealedstate.sso.index"
MARK_BYTES = 8
UNSPECIFIED = "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified"
# What the standard itself calls it in another chapter.
_UNSPECIFIED_TOO = "urn:oasis:names:tc:SAML:1.0:nameid-format:unspecified"


@dataclass(frozen=True, slots=True)
class LogoutRequest:
    """What a service asks for: the end of all sessions of `name_id` at `entity_id`, or of those of
    its `session_indexes`, where there are any. Whoever makes it has verified the message.

    `session_indexes` is any sequence of texts, kept as a tuple; one text alone is a mistake. Raises
    UnsupportedValue.
    """

    entity_id: str
    name_id: NameID
    session_indexes: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_text("a logout request's entity_id", self.entity_id)
        if type(self.name_id) is not NameID:
            raise UnsupportedValue("a logout request's name_id", "it is a NameID")
        indexes = self.session_indexes
        # A text is a sequence of texts, too: its letters, which lead to nobody.
        if isinstance(indexes, str) or not isinstance(indexes, Sequence):
            raise UnsupportedValue(
                "a logout request's session_indexes", "they are a sequence of texts"
            )
        for index in indexes:
            check_text("a logout request's session index", index)
        object.__setattr__(self, "session_indexes", tuple(indexes))


def find_sessions(
    request: LogoutRequest, identifiers: Identifiers | None, index: LogoutIndex | None, now: float
) -> list[bytes]:
    """The ids of the sessions that `request` means, each once. Raises StorageError.

    Nothing but a handle of ours or an entry of the index leads to a session. A handle that was
    altered, made for another service, or that contradicts the NameID beside it, leads nowhere.
    """
    found = [*_by_handles(request, identifiers, now), *(index.find(request) if index else ())]
    return list(dict.fromkeys(found))


def _by_handles(
    request: LogoutRequest, identifiers: Identifiers | None, now: float
) -> Iterator[bytes]:
    if identifiers is None:
        return
    entity_id, name = request.entity_id, str(request.name_id.value)
    named = _opened(identifiers.open_name_id, name, entity_id, now)
    if not request.session_indexes and named is not None:
        yield named
    for text in request.session_indexes:
        session_id = _opened(identifiers.open_session_index, text, entity_id, now)
        # Of a NameID that is no handle nobody can tell here whose it is.
        if session_id is not None and (session_id == named or parse_kid(name) is None):
            yield session_id


def _opened(
    open_handle: Callable[[str, str, float], bytes], text: str, entity_id: str, now: float
) -> bytes | None:
    try:
        return open_handle(text, entity_id, now)
    except UnreadableError:
        return None


class LogoutIndex(SessionHooks):
    """Leads from a service's logout request to sessions, for every NameID and SessionIndex.

    Made once, it follows every save of `keeper`. `identity_provider`: your own entityID, where
    NameIDs have it for a name qualifier. Raises ConfigurationError when there is no store, or one
    that does not meet the needs of ``logins``, or no lookup key in the ring.
    """

    def __init__(
        self, keeper: Keeper, records: LoginRecords, identity_provider: str | None = None
    ) -> None:
        self._tools, self._records = keeper.deployment, records
        self._identity_provider = identity_provider
        if keeper.deployment.store is None:
            raise ConfigurationError("an index of logins needs a storage service")
        self._storage = keeper.deployment.store
        self._secret_names()
        keeper.add_hooks(self, ("logins",))

    # --- what is asked --------------------------------------------------------------------------

    def find(self, request: LogoutRequest) -> list[bytes]:
        """The ids of the sessions that `request` means. Raises StorageError."""
        names = self._secret_names()
        key = names.key(request.entity_id, self._meant(request.name_id, request.entity_id))
        wanted = {names.mark(text) for text in request.session_indexes}
        found: dict[bytes, None] = {}
        for member in self._storage.members(CONTEXT, key):
            opened = names.open_member(key, member)
            if opened is None:
                self._tools.rows.refused(CONTEXT, "tag")
            elif not wanted or opened[1] in wanted:
                found[opened[0]] = None
        self._tools.notice_answer()
        return list(found)

    def forget(self, session_id: bytes, logins: Iterable[ServiceLogin]) -> None:
        """Remove the entries of a session that was revoked. Raises StorageError."""
        for key, member in self._entries(session_id, logins):
            self._storage.remove_member(CONTEXT, key, member)

    def needs_entry(self, session_id: bytes, login: ServiceLogin) -> bool:
        """Whether nothing but an entry leads from this login (with all texts) to its session."""
        made, now = self._records.identifiers, self._tools.now()
        if made is None:
            return True
        name, index = str(login.name_id.value), login.session_index
        named = _opened(made.open_name_id, name, login.entity_id, now)
        indexed = (
            named
            if index is None
            else _opened(made.open_session_index, str(index), login.entity_id, now)
        )
        return not session_id == named == indexed

    # --- what it follows ------------------------------------------------------------------------

    def before_save(self, save: SaveEvent) -> None:
        """Write the entries of what this save adds, before anything of it can be seen."""
        try:
            added = self._records.find_new_logins(save)
        except UnreadablePart:
            # They cost no login, here as little as elsewhere.
            self._tools.emit("logins-unreadable", session_id=save.record.id)
            return
        expires_at = (save.record.expires_at + self._tools.settings.skew) * 1000
        for key, member in self._entries(save.record.id, added):
            self._storage.add_member(CONTEXT, key, member, expires_at)

    # --- helpers --------------------------------------------------------------------------------

    def _entries(
        self, session_id: bytes, logins: Iterable[ServiceLogin]
    ) -> Iterator[tuple[str, str]]:
        names = self._secret_names()
        for login in logins:
            if self.needs_entry(session_id, login):
                key = names.key(login.entity_id, self._meant(login.name_id, login.entity_id))
                mark = names.mark(*() if login.session_index is None else (login.session_index,))
                yield key, names.member(key, session_id, mark)

    def _meant(self, name_id: NameID, entity_id: str) -> bytes:
        return meant(name_id, entity_id, self._identity_provider)

    def _secret_names(self) -> _Names:
        secret = self._tools.keyring().lookup
        if secret is None:
            raise ConfigurationError(
                "an index of logins needs a lookup key; `sealedstate keys generate --lookup`"
                " prints one, to stand beside the keys"
            )
        return _Names(secret, self._tools.settings.realm)


def meant(name_id: NameID, entity_id: str, identity_provider: str | None) -> bytes:
    """The same bytes for two NameIDs at a service exactly when they mean the same."""
    form = name_id.format or UNSPECIFIED
    return length_prefixed(
        str(name_id.value),
        UNSPECIFIED if form == _UNSPECIFIED_TOO else form,
        name_id.name_qualifier or identity_provider or "",
        name_id.sp_name_qualifier or entity_id,
    )


@dataclass(frozen=True, slots=True)
class _Names:
    """The keys and members of one deployment's index, under the ring's lookup `secret`."""

    secret: bytes = field(repr=False)
    realm: str

    def key(self, entity_id: str, name: bytes) -> str:
        message = length_prefixed("sealedstate/1", "sso.index", self.realm, entity_id, name)
        return to_text(hashlib.blake2b(message, key=self.secret, digest_size=24).digest())

    def mark(self, *session_index: StoredText) -> bytes:
        """What stands for a SessionIndex, or for none."""
        found, texts = bytes([len(session_index)]), [str(text) for text in session_index]
        message = length_prefixed("session-index", found, *texts)
        return hashlib.blake2b(message, key=self._subkey("tag"), digest_size=MARK_BYTES).digest()

    def member(self, key: str, session_id: bytes, mark: bytes) -> str:
        return to_text(mask(self._mask_keys(), ("member", key), session_id, mark))

    def open_member(self, key: str, member: str) -> tuple[bytes, bytes] | None:
        """The session id and the mark of a member; None for what is none of ours."""
        try:
            token = from_text(member)
        except MalformedToken:
            return None
        values = unmask(self._mask_keys(), ("member", key), token, (ID_BYTES, MARK_BYTES))
        return None if values is None else (values[0], values[1])

    def _mask_keys(self) -> MaskKeys:
        return self._subkey("tag"), self._subkey("mask")

    def _subkey(self, use: str) -> bytes:
        named = length_prefixed("sealedstate/1", "sso.index", use, self.realm)
        return hashlib.blake2b(named, key=self.secret, digest_size=32).digest()
