"""Sessions that itsdangerous signed for Flask or Starlette, read once on the day of the move.

Knows the two formats, their secret and the date after which nobody asks any more. Does not know our
own tokens: it is asked only when a request carries none of them. The only door to itsdangerous.

An adopted session gets its id from the signed bytes of its old cookie, so that the same old cookie,
shown again after a logout, leads to the id that the logout revoked.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer
from markupsafe import Markup
from werkzeug.http import parse_date

from ._cookies.header import MAX_HEADER_CHARS
from ._wire.record import ID_BYTES
from .errors import ConfigurationError
from .keyring import length_prefixed

MAX_COOKIE_CHARS = 1 << 14
_DEFAULT_NAMES = {"flask": "session", "starlette": "session"}
_DEFAULT_MAX_AGES = {"flask": 31 * 86400, "starlette": 14 * 86400}


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an old cookie held, the session id that it leads to, and when it was signed."""

    values: Mapping[str, object]
    id: bytes
    signed_at: int


@dataclass(frozen=True, slots=True)
class LegacyReader:
    """Reads the old cookies of one application until `until` (an aware datetime).

    `secret` is the framework's own; `max_age` (seconds) defaults to the framework's. `subject`
    names the value that becomes the session's subject, such as ``"_user_id"``.
    """

    kind: Literal["flask", "starlette"]
    secret: str | bytes = field(repr=False)
    until: datetime
    cookie_name: str = ""
    max_age: int | None = None
    subject: str | None = None
    cookie_path: str = "/"
    cookie_domain: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in _DEFAULT_NAMES:
            raise ConfigurationError("legacy: kind is 'flask' or 'starlette'")
        if not isinstance(self.secret, (str, bytes)) or not self.secret:
            raise ConfigurationError("legacy: secret is text or bytes, and not empty")
        if not isinstance(self.until, datetime) or self.until.tzinfo is None:
            raise ConfigurationError("legacy: until is a date and time with a time zone")
        if not isinstance(self.max_age, (int, type(None))):
            raise ConfigurationError("legacy: max_age is a number of seconds")

    @property
    def name(self) -> str:
        """The old cookie's name."""
        return self.cookie_name or _DEFAULT_NAMES[self.kind]

    def find(self, header: str) -> str | None:
        """The old cookie's value in a Cookie header: the first of its name."""
        if len(header) > MAX_HEADER_CHARS:
            return None  # one of ours may stand in it, unseen
        for pair in header.split(";"):
            name, equals, value = pair.strip(" \t").partition("=")
            if equals and name == self.name:
                return value.strip('"')
        return None

    def read(self, text: str, now: int) -> Adopted | None:
        """What `text` holds, or None when it is not authentic, too old, or past `until`."""
        if now >= self.until.timestamp() or len(text) > MAX_COOKIE_CHARS or not text.isascii():
            return None
        read = self._read_flask if self.kind == "flask" else self._read_starlette
        max_age = _DEFAULT_MAX_AGES[self.kind] if self.max_age is None else self.max_age
        try:
            values, signed_at = read(text, max_age, now)
        except (BadData, ValueError, TypeError, KeyError, RecursionError):
            return None
        if type(values) is not dict or not all(type(name) is str for name in values):
            return None
        signed = text.rpartition(".")[0].encode()
        return Adopted(values, self._id_of(signed), int(signed_at.timestamp()))

    def delete_line(self) -> str:
        """The Set-Cookie field value that deletes the old cookie."""
        domain = f"; Domain={self.cookie_domain}" if self.cookie_domain else ""
        secure = "; Secure" if self.name.lower().startswith(("__host-", "__secure-")) else ""
        return f"{self.name}=; Max-Age=0; Path={self.cookie_path}{domain}{secure}"

    def _read_flask(self, text: str, max_age: int, now: int) -> tuple[Any, datetime]:
        serializer = URLSafeTimedSerializer(
            self.secret,
            salt="cookie-session",
            serializer=_TaggedJSON,
            signer=_signer_at(now),
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha1},
        )
        values, signed_at = serializer.loads(text, max_age=max_age, return_timestamp=True)
        return values, signed_at

    def _read_starlette(self, text: str, max_age: int, now: int) -> tuple[Any, datetime]:
        signer = _signer_at(now)(self.secret)
        signed, signed_at = signer.unsign(text, max_age=max_age, return_timestamp=True)
        return json.loads(base64.b64decode(signed)), signed_at

    def _id_of(self, signed: bytes) -> bytes:
        # The signature is left out: its text can be varied without becoming invalid.
        message = length_prefixed("sealedstate/1", "adopted", self.kind, signed)
        return hashlib.blake2b(message, digest_size=ID_BYTES).digest()


def _signer_at(now: int) -> type[TimestampSigner]:
    class SignerAt(TimestampSigner):
        def get_timestamp(self) -> int:
            return now

    return SignerAt


class _TaggedJSON:
    """Flask's JSON, in which a dict with one tag for its key stands for another type."""

    @staticmethod
    def loads(text: str | bytes) -> Any:
        return _untagged(json.loads(text))

    @staticmethod
    def dumps(value: object) -> str:
        # Nothing is written: itsdangerous asks once, to see whether this makes text or bytes.
        return json.dumps(value)


def _untagged(value: Any) -> Any:
    if type(value) is list:
        return [_untagged(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        ((key, content),) = value.items()
        if key in _TAGS:
            return _TAGS[key](content)
    return {key: _untagged(item) for key, item in value.items()}


def _untagged_dict(content: Any) -> dict[str, Any]:
    # " di" guards a real dict whose only key looks like a tag: the key has "__" appended.
    ((key, value),) = content.items()
    return {key.removesuffix("__"): _untagged(value)}


def _instant(content: str) -> datetime:
    value = parse_date(content)
    if value is None:
        raise ValueError("no date")
    return value


_TAGS: dict[str, Callable[[Any], object]] = {
    " di": _untagged_dict,
    " t": lambda content: tuple(_untagged(item) for item in content),
    " b": lambda content: base64.b64decode(content),
    " m": Markup,
    " u": lambda content: UUID(hex=content),
    " d": _instant,
}
