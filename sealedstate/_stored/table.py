"""The only loop that reads, opens, changes, seals and writes a stored value.

A sealed table is one context of a store. Each value is sealed for exactly its
context, key and version, because the owner of a store may swap, alter or roll
back rows. The table has one answer to each of these:

- A reply was lost (OutcomeUnknown): the row is read again. If it holds the
  value and version that were written, the write is done; otherwise the change is
  made again. A create is repeated instead, because that keeps out a late one.
- Another node wrote first: the change is computed again from what is there.
- A row does not open: if another node may still read it (`keeps_cookie`), the
  table raises RowUnreadable; otherwise the row counts as lost.
- A key that can be guessed needs the ring's lookup key: without one, the table
  raises ConfigurationError.
- The store answered: the deployment is notified, so that a store that was down
  at the start is checked.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from .._wire import token as sealing
from .._wire.encoding import to_name
from ..errors import (
    ConfigurationError,
    ForgedToken,
    OutcomeUnknown,
    RowUnreadable,
    StorageError,
    StorageUnavailable,
    UnreadableError,
    VersionMismatch,
)
from ..keyring import Keyring, length_prefixed
from ..storage.contract import LAST_VERSION, Storage, Stored, next_version

Look: TypeAlias = Callable[[str, str], Stored | None]
"""Returns the record of a context and key, or None."""

KEY_BYTES = 24
WRITE_TRIES = 64
CREATE_TRIES = 3


class Kind(NamedTuple):
    """What one context holds.

    `label` separates its hashed keys from those of other contexts; `noun` names
    a value in an error. `is_sealed` is False for values that are kept as they
    are. `has_realm` is False where keys do not depend on the realm.
    """

    context: str
    label: str
    noun: str
    is_sealed: bool = True
    has_realm: bool = True


class Entry(NamedTuple):
    """A value as it is stored. `expires_at` in epoch milliseconds, or None.

    `error`: why the value does not open here; `value` is empty then.
    """

    value: bytes
    version: int
    expires_at: int | None
    error: UnreadableError | None = None

    def __repr__(self) -> str:
        return f"<Entry of version {self.version}>"


class Put(NamedTuple):
    """The value to write, and when it expires (epoch milliseconds, None for never)."""

    value: bytes
    expires_at: int | None

    def __repr__(self) -> str:
        return f"<Put of {len(self.value)} bytes>"


class Delete(NamedTuple):
    """The row is to be deleted."""


DELETE: Final = Delete()


def _ignore(*_: object) -> None:
    """Notifications that no deployment listens to."""


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """What all tables of one deployment share.

    `now`: epoch seconds. `refused(context, reason)` is called for each row that
    does not open, `answered()` after each answer of the store.
    """

    storage: Storage
    realm: str
    random: Callable[[int], bytes]
    now: Callable[[], float]
    keyring: Callable[[], Keyring]
    refused: Callable[[str, str], object] = _ignore
    answered: Callable[[], object] = _ignore


@dataclass(slots=True)
class SweepResult:
    """What a sweep found. `needed`: rows by the kid that seals them now, b"" for none.

    `unreadable`: rows that do not open here, by reason. They stay as they are.
    """

    seen: int = 0
    resealed: int = 0
    needed: Counter[bytes] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)


class SealedTable:
    """One context of a deployment's store.

    `keyring`: the ring that seals and opens the values; by default the
    deployment's. All methods raise StorageError when the store fails, and the
    writing ones NoPrimaryKey when no key may seal.
    """

    def __init__(
        self, access: StoreAccess, kind: Kind, keyring: Callable[[], Keyring] | None = None
    ) -> None:
        self._access = access
        self._storage = access.storage
        self._kind = kind
        self._context = kind.context
        self._keyring = access.keyring if keyring is None else keyring
        # By secret: what has hashed the begin of all names, because a copy of it costs little.
        self._hashers: dict[bytes, hashlib.blake2b] = {}

    @property
    def value_bytes(self) -> int:
        """How large a value may be, in this store and sealed."""
        overhead = sealing.OVERHEAD_BYTES if self._kind.is_sealed else 0
        return self._storage.capabilities.value_bytes - overhead

    # --- keys -----------------------------------------------------------------------------------

    def key(self, *name: str | bytes) -> str:
        """The key of a row whose name cannot be guessed: 32 characters, a plain hash."""
        return to_name(self.digest(length_prefixed(*name)))

    def guessable_key(self, *name: str | bytes) -> str:
        """The key of a row whose name could be guessed: 32 characters, a keyed hash.

        Raises ConfigurationError without a lookup key.
        """
        return to_name(self.digest(length_prefixed(*name), self.lookup_secret()))

    def lookup_secret(self) -> bytes:
        """The secret behind guessable names. Raises ConfigurationError without one."""
        return require_lookup(self._access.keyring())

    def digest(self, name: bytes, secret: bytes = b"") -> bytes:
        """The bytes of which a key is the text. `name`: with the length of each field.

        `secret`: the lookup secret for a name that could be guessed.
        """
        try:
            hasher = self._hashers[secret].copy()
        except KeyError:
            realm = (self._access.realm,) if self._kind.has_realm else ()
            begin = length_prefixed("sealedstate/1", self._kind.label, *realm)
            hasher = hashlib.blake2b(begin, key=secret, digest_size=KEY_BYTES)
            self._hashers[secret] = hasher.copy()
        hasher.update(name)
        return hasher.digest()

    # --- reading --------------------------------------------------------------------------------

    def look(self, key: str, known: Look | None = None) -> Entry | None:
        """The row, also if its value does not open: `Entry.error` is the reason then.

        `known`: asked instead of the store.
        """
        if known is not None:
            stored = known(self._context, key)
        else:
            stored = self._storage.read(self._context, key)
            self._access.answered()
        return None if stored is None else self._open(key, stored)

    def read(self, key: str) -> Entry | None:
        """The row; None without one, and for one that no node can open.

        Raises RowUnreadable for a row that another node may be able to open.
        """
        entry = self.look(key)
        if entry is None or entry.error is None:
            return entry
        self._raise_unless_lost(entry.error)
        return None

    def keys(self) -> Iterator[str]:
        """The keys of all rows, in a store that can list them."""
        return self._storage.keys(self._context)

    # --- writing --------------------------------------------------------------------------------

    def create(self, key: str, value: bytes, expires_at: int | None) -> bool:
        """Whether this call created the row; False if one is there already.

        `expires_at` in epoch milliseconds. Raises OutcomeUnknown if replies are lost again and
        again: the row may be there or may still arrive.
        """
        version = next_version(self._access.now())
        token = self._seal(key, version, value)
        unknown: OutcomeUnknown | None = None
        for _ in range(CREATE_TRIES):
            try:
                created = self._storage.create(self._context, key, token, expires_at, version)
                # After a lost reply, the row that is there may be the row of an earlier try.
                if not created and unknown is not None:
                    created = self._is_there(key, token, version)
            except OutcomeUnknown as error:
                unknown = error
            except StorageError as error:
                # It says that nothing was written, which is not known after a lost reply.
                raise error if unknown is None else unknown from error
            else:
                self._access.answered()
                return created
        raise unknown or AssertionError("a create was not tried")

    def change(
        self,
        key: str,
        update: Callable[[Entry | None], Put | Delete | None],
        *,
        known: Entry | None = None,
        is_new: bool = False,
        replaces_unreadable: bool = False,
        tries: int = WRITE_TRIES,
    ) -> Entry | None:
        """Write what `update` makes of the row; again if another node was faster.

        `update` gets the row, or None, and returns what to write; None leaves the
        row alone. A row that no node can open is passed with its `error`. With
        `known`, or `is_new` for none, the first try trusts that this is the row
        instead of reading it. Returns the row as it is now.

        Raises StorageUnavailable after `tries` lost races, and RowUnreadable for a
        row that another node may open unless `replaces_unreadable`.
        """
        entry = known if known is not None or is_new else self.look(key)
        for _ in range(tries):
            if entry is not None and entry.error is not None and not replaces_unreadable:
                self._raise_unless_lost(entry.error)
            wanted = update(entry)
            if wanted is None:
                return entry
            known_version = None if entry is None else entry.version
            if isinstance(wanted, Delete):
                if known_version is None or self._remove(key, known_version):
                    self._access.answered()
                    return None
            else:
                value, expires_at = wanted
                version = next_version(self._access.now(), known_version or 0)
                token = self._seal(key, version, value)
                if self._write(key, token, expires_at, version, known_version):
                    self._access.answered()
                    return Entry(value, version, expires_at)
            entry = self.look(key)
        raise self._conflict(tries)

    def delete(self, key: str, version: int | None = None) -> bool:
        """Whether this call deleted the row; False also for another version."""
        try:
            deleted = self._storage.delete(self._context, key, version)
        except VersionMismatch:
            deleted = False
        self._access.answered()
        return deleted

    # --- indexes --------------------------------------------------------------------------------

    def add_member(self, key: str, member: str, expires_at: int | None) -> None:
        """Add a member to the index `key` until `expires_at` (epoch milliseconds)."""
        self._storage.add_member(self._context, key, member, expires_at)
        self._access.answered()

    def remove_member(self, key: str, member: str) -> bool:
        """Whether this call removed the member."""
        return self._storage.remove_member(self._context, key, member)

    def members(self, key: str) -> dict[str, int | None]:
        """The members of an index, and when each expires (epoch milliseconds)."""
        members = self._storage.members(self._context, key)
        self._access.answered()
        return members

    def refuse_member(self, reason: str) -> None:
        """Report a member that is not valid, as a row that does not open is reported."""
        self._access.refused(self._context, reason)

    # --- resealing ------------------------------------------------------------------------------

    def reseal(self, result: SweepResult) -> None:
        """Seal every row with the primary that another key sealed; counts into `result`.

        The sweep can be stopped and repeated at any time. A concurrent writer wins.
        """
        primary = self._keyring().primary(int(self._access.now())).kid
        for key in self.keys():
            for _ in range(WRITE_TRIES):
                stored = self._storage.read(self._context, key)
                if stored is None:
                    break  # deleted since it was listed
                entry, kid = self._open(key, stored), sealing.kid_of(stored.value) or b""
                if entry.error is None and kid != primary:
                    version = next_version(self._access.now(), stored.version)
                    token = self._seal(key, version, entry.value)
                    if not self._write(key, token, stored.expires_at, version, stored.version):
                        continue
                    kid = primary
                    result.resealed += 1
                result.seen += 1
                result.needed[kid] += 1
                if entry.error is not None:
                    result.unreadable[entry.error.reason] += 1
                break
            else:
                raise self._conflict(WRITE_TRIES)

    # --- one row --------------------------------------------------------------------------------

    def _seal(self, key: str, version: int, value: bytes) -> bytes:
        if not self._kind.is_sealed:
            return value
        now = int(self._access.now())
        primary, entropy = self._keyring().primary(now), self._access.random(sealing.ENTROPY_BYTES)
        return sealing.seal(value, self._token_context(key, version), primary, now, entropy)

    def _open(self, key: str, stored: Stored) -> Entry:
        value, version, expires_at = stored.value, stored.version, stored.expires_at
        if not self._kind.is_sealed:
            return Entry(value, version, expires_at)
        try:
            if not 0 <= version <= LAST_VERSION:
                raise ForgedToken  # no node proposes such a version
            context, now = self._token_context(key, version), int(self._access.now())
            opened = sealing.open_token(value, context, self._keyring(), now)
        except UnreadableError as error:
            self._access.refused(self._context, error.reason)
            return Entry(b"", version, expires_at, error)
        return Entry(opened.payload, version, expires_at)

    def _token_context(self, key: str, version: int) -> sealing.TokenContext:
        name = (self._context, key, version.to_bytes(8, "big"))
        return sealing.TokenContext("stored", self._access.realm, name)

    def _write(
        self, key: str, token: bytes, expires_at: int | None, version: int, known: int | None
    ) -> bool:
        """Whether the row holds `token` now; False if another version, or none, is there."""
        try:
            if known is None:
                return self._storage.create(self._context, key, token, expires_at, version)
            return self._storage.update(self._context, key, token, expires_at, version, known)
        except VersionMismatch:
            return False
        except OutcomeUnknown:
            return self._is_there(key, token, version)

    def _is_there(self, key: str, token: bytes, version: int) -> bool:
        # Two nodes may propose the same version in the same microsecond: compare both.
        stored = self._storage.read(self._context, key)
        return stored is not None and (stored.value, stored.version) == (token, version)

    def _remove(self, key: str, version: int) -> bool:
        try:
            return self._storage.delete(self._context, key, version)
        except (VersionMismatch, OutcomeUnknown):
            return False  # the next look shows what is there

    def _conflict(self, tries: int) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self._kind.noun} could not be written: {tries} times in a row, it was written by"
            " others, or the store did not confirm it"
        )

    def _raise_unless_lost(self, error: UnreadableError) -> None:
        if error.keeps_cookie:
            raise RowUnreadable(f"{self._kind.noun} is unreadable here ({error.reason})") from error


def require_lookup(keyring: Keyring) -> bytes:
    """The ring's lookup secret. Raises ConfigurationError if it has none."""
    if keyring.lookup is None:
        raise ConfigurationError(
            "keys: names in the store need a lookup key; `sealedstate keys generate --lookup`"
            " prints one, to be added to the keys"
        )
    return keyring.lookup
