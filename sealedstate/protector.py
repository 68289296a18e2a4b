"""Texts that only one deployment can make and read: for mail links, invitations, OAuth state.

    resets = deployment.protector("password-reset", max_age=3600)
    text = resets.seal(account.id, bound_to=account.password_hash)
    account_id = resets.open(text, bound_to=account.password_hash)

A text is a token (see docs/format.md) as base64url (RFC 4648) without padding. Its purpose is
``protector/`` and the name of the protector; its name has one field, what it is bound to, or none.
No other purpose contains a slash. The payload is a byte 0x01 and the encoding of the value (see
`cbor`). A zero byte precedes it if the token would otherwise be a multiple of 3 bytes long, so that
the last letter is never ``-`` or ``_``, which programs that look for links leave out at their end.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field

from ._cookies.codec import open_again
from ._wire import cbor
from ._wire.encoding import has_lone_surrogate
from ._wire.token import (
    ENTROPY_BYTES,
    OVERHEAD_BYTES,
    TokenContext,
    claimed_at,
    open_token,
    seal,
)
from .errors import (
    ForgedToken,
    FutureSession,
    KeyOutOfUse,
    KeyRemoved,
    MalformedRecord,
    ProtectedTextRefused,
    ProtectedTextWithheld,
    SealedBefore,
    UnknownFormat,
    UnknownKey,
    UnreadableError,
    UnsupportedValue,
)
from .key_sources import KeySource

__all__ = ["Protector"]

PAYLOAD = b"\x01"


@dataclass(frozen=True, slots=True)
class Protector:
    """Seals values into texts, and opens them. `Deployment.protector` makes one.

    `name` separates its texts from those of other protectors. A text can be opened for `max_age`
    seconds, and more than once.
    """

    name: str
    max_age: int
    _realm: str = field(repr=False)
    _source: KeySource = field(repr=False)
    _now: Callable[[], float] = field(repr=False)
    _random: Callable[[int], bytes] = field(repr=False)

    def seal(self, value: object, bound_to: str | bytes | None = None) -> str:
        """A text that holds `value`: letters, digits, ``-`` and ``_``, but neither at its end.

        `value`: of any type that a session can contain. `bound_to`: `open` must be called with the
        same, of which text counts as its UTF-8; it is not in the text. Raises UnsupportedValue or
        NoPrimaryKey.
        """
        context, payload = self._context(bound_to), PAYLOAD + cbor.encode(value, "value")
        if (OVERHEAD_BYTES + len(payload)) % 3 == 0:
            payload = b"\0" + payload
        ring, now = self._source.keyring(), int(self._now())
        key, entropy = ring.primary(now), self._random(ENTROPY_BYTES)
        # Just after a revocation of all that was sealed before a moment, that moment may be ahead.
        token = seal(payload, context, key, max(now, ring.revoked_before), entropy)
        return _to_text(token)

    def open(self, text: str, bound_to: str | bytes | None = None) -> object:
        """The value of a text that was sealed under this name with the same `bound_to`.

        `text` may be anything that a request brings. Raises ProtectedTextRefused for a text that
        does not open or has expired, and ProtectedTextWithheld for one that this node cannot judge.
        """
        context, now = self._context(bound_to), int(self._now())
        token, ring = _from_text(text), self._source.keyring()
        try:
            try:
                opened = open_token(token, context, ring, now)
            except (UnknownKey, UnknownFormat) as error:
                opened, ring = open_again(error, token, context, self._source, now)
            if opened.sealed_at < ring.revoked_before:
                raise SealedBefore
            # A clock may be ahead by the skew, and a seal just after a revocation by another.
            if opened.sealed_at > now + 2 * ring.skew:
                raise FutureSession
            if now >= opened.sealed_at + self.max_age:
                raise ProtectedTextRefused("expired")
            payload = opened.payload.removeprefix(b"\0")
            if payload[:1] != PAYLOAD:
                raise MalformedRecord  # a newer release wrote it
            return cbor.decode(payload[1:])
        except UnreadableError as error:
            raise self._verdict(error, claimed_at(token), now) from None

    def _verdict(self, error: UnreadableError, claimed: int | None, now: int) -> Exception:
        """What to raise for a text that claims to be sealed at `claimed` and does not open."""
        if claimed is None:
            return ProtectedTextRefused("malformed")
        if isinstance(error, ForgedToken):
            return ProtectedTextRefused("invalid")
        # Perhaps it never was a text of this protector, but its time is over in any case.
        if now >= claimed + self.max_age:
            return ProtectedTextRefused("expired")
        if isinstance(error, KeyOutOfUse | SealedBefore):
            return ProtectedTextRefused("revoked")
        ring = self._source.keyring()
        lag = ring.announce + ring.skew
        if claimed > now + lag:
            return ProtectedTextRefused("not-yet")
        if isinstance(error, KeyRemoved | UnknownFormat) and not error.keeps_cookie:
            return ProtectedTextRefused("unknown")
        return ProtectedTextWithheld(error.reason)

    def _context(self, bound_to: str | bytes | None) -> TokenContext:
        if not isinstance(bound_to, str | bytes | None):
            kind = type(bound_to).__name__
            raise UnsupportedValue("bound_to", f"expected text, bytes or None, got {kind}")
        if isinstance(bound_to, str) and has_lone_surrogate(bound_to):
            raise UnsupportedValue("bound_to", "text with a lone surrogate")
        name = () if bound_to is None else (bound_to,)
        return TokenContext(f"protector/{self.name}", self._realm, name)


def _from_text(text: object) -> bytes:
    """The token of a text. Raises ProtectedTextRefused unless it has exactly this spelling."""
    try:
        if isinstance(text, str):
            token = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            if _to_text(token) == text:
                return token
    except (UnicodeEncodeError, binascii.Error):
        pass  # no spelling of a token: refused in the next line
    raise ProtectedTextRefused("malformed")


def _to_text(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).decode().rstrip("=")
