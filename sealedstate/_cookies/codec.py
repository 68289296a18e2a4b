"""Records and overflow to the texts of our cookies, and back.

Opening a record here checks its key and its bytes. `_request.load` checks times and revocations.

A cookie that cannot be judged here is kept only as long as another node may be right:

- Unknown key: until this node has read its keys successfully at a moment later than the cookie's
  time plus `announce` plus skew. The keys of another node may be as new as the cookie, and a copy
  of them may arrive here as late as `announce`; after that the key was removed, or belongs to
  another application. The time is a claim until the key is known, so it can only end this.
- Newer format: until the same moment by the clock.
- Both: not at all if the time is further ahead than `announce` plus skew.
- Authentic, but not a record that this release writes: for one day after the seal, and with an
  unknown critical field no longer than the session lives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from typing import NamedTuple

from .._wire.encoding import from_text, split
from .._wire.record import (
    DIGEST_BYTES,
    SET_ID_BYTES,
    OverflowSet,
    Record,
    decode_parts,
    decode_record,
    encode_parts,
)
from .._wire.token import (
    FORMAT,
    Opened,
    TokenContext,
    claimed_at,
    kid_of,
    open_token,
    seal_text,
    unseal,
)
from ..errors import (
    KeyDisabled,
    KeyRemoved,
    MalformedRecord,
    NoPrimaryKey,
    SealedBefore,
    UnknownField,
    UnknownFormat,
    UnknownKey,
    UnreadableError,
)
from ..key_sources import KeySource, is_seeking, last_read
from ..keyring import Key, Keyring
from .header import Candidates

# Limits the joins that duplicate chunk cookies can cause.
MAX_JOINS = 64
# How long after its seal an authentic record is kept that this release cannot read.
KEEP_UNREADABLE = 86400


class OpenedRecord(NamedTuple):
    """An authentic record, the time of its seal (epoch seconds), and its key."""

    record: Record
    sealed_at: int
    key: Key


class DisabledRecord(KeyDisabled):
    """An authentic record under a disabled key: `opened`."""

    def __init__(self, opened: OpenedRecord) -> None:
        super().__init__(kid=opened.key.kid, claimed_at=opened.sealed_at)
        self.opened = opened


@dataclass(frozen=True, slots=True)
class CookieCodec:
    """Seals and opens the cookies of one application.

    `random` returns as many random bytes as it is asked for. `variant`: `CookieFamily.variant`; the
    core opens only as the cookie of that variant.
    """

    cookie_name: str
    realm: str
    key_source: KeySource
    random: Callable[[int], bytes]
    variant: tuple[str, ...] = ()
    _core: TokenContext = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        core = TokenContext("core", self.realm, (self.cookie_name, *self.variant))
        object.__setattr__(self, "_core", core)

    def keyring(self) -> Keyring:
        """The ring in force."""
        return self.key_source.keyring()

    def open_text(self, text: str, now: int) -> OpenedRecord:
        """The authentic record of one candidate for the core.

        Raises an UnreadableError: DisabledRecord if the key is disabled.
        """
        return OpenedRecord(*self.unseal_text(text, now))

    def unseal_text(self, text: str, now: int) -> tuple[Record, int, Key]:
        """The same, in a tuple, which costs less to make: record, time of the seal, key."""
        token, ring = from_text(text), self.key_source.keyring()
        try:
            try:
                payload, key, sealed_at = unseal(token, self._core, ring, now)
            except (UnknownKey, UnknownFormat) as error:
                opened, ring = open_again(error, token, self._core, self.key_source, now)
                payload, key, sealed_at = opened
        except KeyDisabled as error:
            raise self._open_disabled(error, ring, now) from None
        if sealed_at < ring.revoked_before:
            raise SealedBefore
        try:
            record = decode_record(payload, sealed_at)
        except (MalformedRecord, UnknownField) as error:
            raise _of_a_newer_release(error, sealed_at, now) from None
        return record, sealed_at, key

    def _open_disabled(self, error: KeyDisabled, ring: Keyring, now: int) -> UnreadableError:
        """Why the cookie of a disabled key is refused: DisabledRecord, unless there is more."""
        key, sealed_at = ring.find(error.kid or b""), error.claimed_at
        if key is None or sealed_at is None:
            return error
        if sealed_at < ring.revoked_before:
            return SealedBefore()
        try:
            record = decode_record(error.payload, sealed_at)
        except (MalformedRecord, UnknownField) as other:
            return _of_a_newer_release(other, sealed_at, now)
        return DisabledRecord(OpenedRecord(record, sealed_at, key))

    def open_overflow(
        self, record: Record, candidates: Candidates, now: int
    ) -> dict[str, bytes] | None:
        """The parts in overflow; None if a chunk is missing, stale or unreadable."""
        overflow, found = record.overflow, self.find_chunks(record, candidates)
        if overflow is None or found is None:
            return None
        context = self._overflow_context(record.id, overflow.set_id)
        try:
            parts = decode_parts(open_token(found[1], context, self.keyring(), now).payload)
        except UnreadableError:
            return None  # the login is in the core; only these parts are lost
        return parts if tuple(parts) == overflow.names else None

    def find_chunks(
        self, record: Record, candidates: Candidates
    ) -> tuple[tuple[str, ...], bytes] | None:
        """The chunks of the overflow, and its token; None if a chunk is missing or stale."""
        overflow = record.overflow
        if overflow is None:
            return None
        # A browser may have sent several values of one name.
        columns = [candidates.overflow.get(number, ()) for number in range(1, overflow.count + 1)]
        for chunks in islice(product(*columns), MAX_JOINS):
            try:
                token = from_text("".join(chunks))
            except UnreadableError:
                continue
            # The digest in the authentic core selects the chunks of one generation.
            if _digest(token) == overflow.digest:
                return chunks, token
        return None

    def is_current(self, token: bytes, now: int) -> bool:
        """Whether a token is as good as one of now: of the format and the key that seal now."""
        ring, sealed_at = self.key_source.keyring(), claimed_at(token)
        try:
            key = ring.primary(now)
        except NoPrimaryKey:
            return False
        is_of_key = token[:1] == FORMAT and kid_of(token) == key.kid
        return is_of_key and sealed_at is not None and ring.may_have_sealed(key, sealed_at)

    def seal_core(self, payload: bytes, now: int) -> str:
        """The text of the core's cookie for an encoded record. Raises NoPrimaryKey."""
        key = self.key_source.keyring().primary(now)
        return seal_text(payload, self._core, key, now, self.random)[0]

    def seal_overflow(
        self, session_id: bytes, parts: Mapping[str, bytes], sizes: tuple[int, ...], now: int
    ) -> tuple[OverflowSet, list[str]]:
        """The manifest's entry, and the chunks, of at most `sizes` characters."""
        set_id = self.random(SET_ID_BYTES)
        context = self._overflow_context(session_id, set_id)
        key = self.key_source.keyring().primary(now)
        text, token = seal_text(encode_parts(parts), context, key, now, self.random)
        chunks = split(text, sizes)
        return OverflowSet(set_id, len(chunks), _digest(token), tuple(parts)), chunks

    def seal_bound(self, device: bytes, now: int) -> str:
        """The text of the bound cookie of a device's key. Raises NoPrimaryKey."""
        return self._seal_empty(self._bound_context(device), now)

    def is_bound(self, texts: Iterable[str], device: bytes, now: int, lifetime: int) -> bool:
        """Whether one of these is a bound cookie of the key, sealed less than `lifetime` ago."""
        context = self._bound_context(device)
        for text in texts:
            try:
                opened = self._open(from_text(text), context, now)
            except UnreadableError:
                continue
            if opened.sealed_at <= now + 2 * self.keyring().skew and now < (
                opened.sealed_at + lifetime
            ):
                return True
        return False

    def seal_challenge(self, session_id: bytes, device: bytes, now: int) -> str:
        """The text of a challenge: for the key of a session, or for a new key if that is empty."""
        return self._seal_empty(self._challenge_context(session_id, device), now)

    def open_challenge(self, text: str, session_id: bytes, device: bytes, now: int) -> int:
        """When such a challenge was sealed (epoch seconds). Raises UnreadableError."""
        context = self._challenge_context(session_id, device)
        return self._open(from_text(text), context, now).sealed_at

    def _bound_context(self, device: bytes) -> TokenContext:
        return TokenContext("bound", self.realm, (self.cookie_name, device, *self.variant))

    def _challenge_context(self, session_id: bytes, device: bytes) -> TokenContext:
        name: tuple[str | bytes, ...] = (self.cookie_name, session_id, device, *self.variant)
        return TokenContext("binding", self.realm, name)

    def _open(self, token: bytes, context: TokenContext, now: int) -> Opened:
        try:
            return open_token(token, context, self.keyring(), now)
        except (UnknownKey, UnknownFormat) as error:
            return open_again(error, token, context, self.key_source, now)[0]

    def _seal_empty(self, context: TokenContext, now: int) -> str:
        key = self.key_source.keyring().primary(now)
        return seal_text(b"", context, key, now, self.random)[0]

    def _overflow_context(self, session_id: bytes, set_id: bytes) -> TokenContext:
        return TokenContext("overflow", self.realm, (self.cookie_name, session_id, set_id))


def open_again(
    error: UnknownKey | UnknownFormat,
    token: bytes,
    context: TokenContext,
    source: KeySource,
    now: int,
) -> tuple[Opened, Keyring]:
    """Open a cookie that was refused with `error`, once `source` has looked for its key.

    Also returns the ring that has the key. Raises an UnreadableError; `keeps_cookie` is false once
    no node can be right that opens the cookie.
    """
    kid, claimed = error.kid or b"", error.claimed_at or 0
    if isinstance(error, UnknownKey) and is_seeking(source):
        source.seek(kid)
    # The moment first: the ring is at least as new.
    read_at, ring = last_read(source, now), source.keyring()
    lag = ring.announce + ring.skew
    try:
        return open_token(token, context, ring, now), ring
    except UnknownKey:
        if read_at > claimed + lag or claimed > now + lag:
            raise KeyRemoved(kid, claimed) from None
        raise
    except UnknownFormat:
        is_over = now > claimed + lag or claimed > now + lag
        raise UnknownFormat(kid, claimed, is_over) from None


def _of_a_newer_release(
    error: MalformedRecord | UnknownField, sealed_at: int, now: int
) -> UnreadableError:
    """The error of an authentic record, which knows whether the cookie is still kept."""
    ends_at = sealed_at + KEEP_UNREADABLE
    if isinstance(error, MalformedRecord):
        return MalformedRecord(claimed_at=sealed_at, is_over=now >= ends_at)
    is_over = now >= min(error.expires_at, ends_at)
    times = error.created_at, error.expires_at, sealed_at
    return UnknownField(error.session_id, error.subject, *times, is_over)


def newest(records: list[OpenedRecord]) -> list[OpenedRecord]:
    """Of several records of one session id, only the newest."""
    records = sorted(records, key=lambda each: (each.record.generation, each.sealed_at))
    return list({each.record.id: each for each in records}.values())


def _digest(token: bytes) -> bytes:
    return hashlib.blake2b(token, digest_size=DIGEST_BYTES).digest()
