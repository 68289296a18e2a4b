"""Records and overflow to the texts of our cookies, and back.

Knows the codec, sealing, chunking and which token is sealed for what. Does not know times and
lifetimes, revocations, stores or Set-Cookie lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from typing import NamedTuple

from .._wire import encoding as chunking
from .._wire import record as record_codec
from .._wire import token as sealing
from .._wire.record import DIGEST_BYTES, SET_ID_BYTES, OverflowSet, Record
from ..errors import CrowdedCookie, ForgedToken, SealedBefore, UnknownKey, UnreadableError
from ..key_sources import KeySource, SeekingKeySource
from ..keyring import Key, Keyring
from .header import Candidates

# Bounds the joins that duplicated chunk cookies can ask for.
MAX_JOINS = 64


class OpenedRecord(NamedTuple):
    """An authentic record, when it was sealed (epoch seconds) and by which key."""

    record: Record
    sealed_at: int
    key: Key


@dataclass(frozen=True, slots=True)
class CookieCodec:
    """The tokens of one application: its cookie name, its realm, its keys."""

    cookie_name: str
    realm: str
    key_source: KeySource
    random: Callable[[int], bytes]
    _core: sealing.TokenContext = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        core = sealing.TokenContext("core", self.realm, (self.cookie_name,))
        object.__setattr__(self, "_core", core)  # computed once; the dataclass is frozen

    def keyring(self) -> Keyring:
        """The ring in force."""
        return self.key_source.keyring()

    def open_core(self, candidates: Candidates, now: int) -> list[OpenedRecord]:
        """The authentic records among the candidates for our first cookie, of each id the newest.

        Raises UnreadableError when there is none.
        """
        found: list[OpenedRecord] = []
        refused: UnreadableError = CrowdedCookie() if candidates.crowded else ForgedToken()
        for text in candidates.core:
            try:
                found.append(self.open_text(text, now))
            except UnreadableError as error:
                # A reason to keep the cookie outweighs any other.
                refused = refused if refused.keeps_cookie else error
        if not found:
            raise refused
        found.sort(key=lambda each: (each.record.generation, each.sealed_at))
        return list({each.record.id: each for each in found}.values())

    def open_text(self, text: str, now: int) -> OpenedRecord:
        """The authentic record of one candidate. Raises UnreadableError."""
        token, ring = chunking.from_text(text), self.key_source.keyring()
        try:
            payload, key, sealed_at = sealing.open_token(token, self._core, ring, now)
        except UnknownKey as error:
            ring = self._ring_with(error)
            payload, key, sealed_at = sealing.open_token(token, self._core, ring, now)
        if sealed_at < ring.revoked_before:
            raise SealedBefore
        return OpenedRecord(record_codec.decode_record(payload, sealed_at), sealed_at, key)

    def open_overflow(
        self, record: Record, candidates: Candidates, now: int
    ) -> dict[str, bytes] | None:
        """The parts in overflow; None when chunks are missing, stale, torn or unreadable."""
        overflow = record.overflow
        if overflow is None:
            return None
        for token in _joined(overflow.count, candidates):
            if _digest(token) == overflow.digest:
                return self._open_parts(token, self._overflow_place(record.id, overflow), now)
        return None

    def seal_core(self, record: Record, now: int) -> str:
        """The text of the first cookie. Raises NoPrimaryKey."""
        return self.seal_payload(record_codec.encode_record(record, now), now)

    def seal_payload(self, payload: bytes, now: int) -> str:
        """The same, of a record that is encoded already."""
        return self._seal(payload, self._core, now)

    def seal_overflow(
        self, session_id: bytes, parts: Mapping[str, bytes], rooms: tuple[int, ...], now: int
    ) -> tuple[OverflowSet, list[str]]:
        """What the manifest states, and the chunks, of at most `rooms` characters each."""
        overflow = OverflowSet(self.random(SET_ID_BYTES), 0, b"", tuple(parts))
        place = self._overflow_place(session_id, overflow)
        text = self._seal(record_codec.encode_parts(parts), place, now)
        chunks = chunking.split(text, rooms)
        digest = _digest(chunking.from_text(text))
        return OverflowSet(overflow.set_id, len(chunks), digest, overflow.names), chunks

    def _ring_with(self, error: UnknownKey) -> Keyring:
        """The ring in force, once its source has found the key; else raises the error."""
        source = self.key_source
        if not (isinstance(source, SeekingKeySource) and error.kid and source.seek(error.kid)):
            raise error
        return source.keyring()

    def _open_parts(
        self, token: bytes, place: sealing.TokenContext, now: int
    ) -> dict[str, bytes] | None:
        try:
            opened = sealing.open_token(token, place, self.keyring(), now)
            return record_codec.decode_parts(opened.payload)
        except UnreadableError:
            return None  # the login stands in the core; these parts count as lost

    def _seal(self, payload: bytes, place: sealing.TokenContext, now: int) -> str:
        key = self.key_source.keyring().primary(now)
        entropy = self.random(sealing.ENTROPY_BYTES)
        return chunking.to_text(sealing.seal(payload, place, key, now, entropy))

    def _overflow_place(self, session_id: bytes, overflow: OverflowSet) -> sealing.TokenContext:
        name = (self.cookie_name, session_id, overflow.set_id)
        return sealing.TokenContext("overflow", self.realm, name)


def _joined(count: int, candidates: Candidates) -> Iterator[bytes]:
    """The tokens that `count` chunks can join to, where a name may have come more than once."""
    columns = [candidates.overflow.get(number, ()) for number in range(1, count + 1)]
    for chunks in islice(product(*columns), MAX_JOINS):
        try:
            yield chunking.from_text(chunking.join(chunks))
        except UnreadableError:
            continue


def _digest(token: bytes) -> bytes:
    return hashlib.blake2b(token, digest_size=DIGEST_BYTES).digest()
