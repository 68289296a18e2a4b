"""Records and overflow to the texts of our cookies, and back.

Opening a record here checks its key and its bytes. `_request.load` checks times and revocations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
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
from .._wire.token import TokenContext, open_token, seal_text
from ..errors import CrowdedCookie, ForgedToken, SealedBefore, UnknownKey, UnreadableError
from ..key_sources import KeySource, SeekingKeySource
from ..keyring import Key, Keyring
from .header import Candidates

# Limits the joins that duplicate chunk cookies can cause.
MAX_JOINS = 64


class OpenedRecord(NamedTuple):
    """An authentic record, the time of its seal (epoch seconds), and its key."""

    record: Record
    sealed_at: int
    key: Key


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

    def open_core(self, candidates: Candidates, now: int) -> list[OpenedRecord]:
        """The authentic records among the candidates for the core.

        Of several records of one session id, only the newest. Raises UnreadableError if there is
        no record.
        """
        records: list[OpenedRecord] = []
        refused: UnreadableError = CrowdedCookie() if candidates.crowded else ForgedToken()
        for text in candidates.core:
            try:
                records.append(self.open_text(text, now))
            except UnreadableError as error:
                # A reason to keep the cookie outweighs others: a deletion would delete it, too.
                refused = refused if refused.keeps_cookie else error
        if not records:
            raise refused
        records.sort(key=lambda each: (each.record.generation, each.sealed_at))
        return list({each.record.id: each for each in records}.values())

    def open_text(self, text: str, now: int) -> OpenedRecord:
        """The authentic record of one candidate. Raises UnreadableError."""
        token, ring = from_text(text), self.key_source.keyring()
        try:
            payload, key, sealed_at = open_token(token, self._core, ring, now)
        except UnknownKey as error:
            # The key may be newer than this node's ring: ask the source once.
            source = self.key_source
            if not (isinstance(source, SeekingKeySource) and error.kid and source.seek(error.kid)):
                raise
            ring = source.keyring()
            payload, key, sealed_at = open_token(token, self._core, ring, now)
        if sealed_at < ring.revoked_before:
            raise SealedBefore
        return OpenedRecord(decode_record(payload, sealed_at), sealed_at, key)

    def open_overflow(
        self, record: Record, candidates: Candidates, now: int
    ) -> dict[str, bytes] | None:
        """The parts in overflow; None if a chunk is missing, stale or unreadable."""
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
                context = self._overflow_context(record.id, overflow.set_id)
                try:
                    parts = decode_parts(open_token(token, context, self.keyring(), now).payload)
                except UnreadableError:
                    return None  # the login is in the core; only these parts are lost
                return parts if tuple(parts) == overflow.names else None
        return None

    def seal_core(self, payload: bytes, now: int) -> str:
        """The text of the core's cookie for an encoded record. Raises NoPrimaryKey."""
        return self._seal(payload, self._core, now)

    def seal_overflow(
        self, session_id: bytes, parts: Mapping[str, bytes], sizes: tuple[int, ...], now: int
    ) -> tuple[OverflowSet, list[str]]:
        """The manifest's entry, and the chunks, of at most `sizes` characters."""
        set_id = self.random(SET_ID_BYTES)
        context = self._overflow_context(session_id, set_id)
        text = self._seal(encode_parts(parts), context, now)
        chunks = split(text, sizes)
        return OverflowSet(set_id, len(chunks), _digest(from_text(text)), tuple(parts)), chunks

    def _seal(self, payload: bytes, context: TokenContext, now: int) -> str:
        key = self.key_source.keyring().primary(now)
        return seal_text(payload, context, key, now, self.random)

    def _overflow_context(self, session_id: bytes, set_id: bytes) -> TokenContext:
        return TokenContext("overflow", self.realm, (self.cookie_name, session_id, set_id))


def _digest(token: bytes) -> bytes:
    return hashlib.blake2b(token, digest_size=DIGEST_BYTES).digest()
