"""Sessions of Flask, Starlette and Django, for applications that move here.

A `LegacyReader` is asked only if a request has none of our cookies, until the date in its
settings. The only module that imports itsdangerous.

An adopted session gets its id from the signed bytes of its old cookie. If the same old cookie comes
again after a logout, it leads to the id that the logout revoked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer
from markupsafe import Markup
from werkzeug.http import parse_date

from ._cookies.header import check_domain, iterate_pairs, pair_pattern
from ._wire.record import ID_BYTES
from .errors import ConfigurationError
from .keyring import length_prefixed

__all__ = ["LegacyReader", "StoredSession"]

# More than browsers keep, and little enough to parse.
MAX_COOKIE_CHARS = 1 << 14
_COOKIE_PART = re.compile(r"[!-:<-~]+", re.ASCII)
_DEFAULT_NAMES = {"flask": "session", "starlette": "session", "django": "sessionid"}
_DEFAULT_MAX_AGES = {"flask": 31 * 86400, "starlette": 14 * 86400, "django": 14 * 86400}
# Of Django's signed_cookies backend, and how Django counts seconds since the epoch.
_DJANGO_SALT = b"django.contrib.sessions.backends.signed_cookies"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session that the old backend keeps on a server, for `LegacyReader.fetch`.

    `key`: its key, spelled as the server has it, however the cookie spells it: after a logout, the
    old cookie is refused by this key. `saved_at`: its last save (epoch seconds), so that a sign-out
    everywhere of its user since then refuses it; None if that is unknown: then each of them does.
    """

    key: str = field(repr=False)
    values: Mapping[str, object] = field(repr=False)
    saved_at: int | None = None


Fetch: TypeAlias = Callable[[str], StoredSession | None]


@dataclass(frozen=True, slots=True)
class Adopted:
    """The values of an old cookie, its session id, and its time (epoch seconds; 0: unknown)."""

    values: Mapping[str, object] = field(repr=False)
    id: bytes = field(repr=False)
    signed_at: int


@dataclass(frozen=True, slots=True)
class LegacyReader:
    """Reads the old cookies of one application until `until` (an aware datetime).

    `secret` and `cookie_name` are the framework's; of several secrets, each may have signed the
    cookie, as with Flask's SECRET_KEY_FALLBACKS. `max_age` (seconds) defaults to the framework's.
    `subject` names the value that becomes the session's subject, such as ``"_user_id"``.
    `fetch`, for sessions that the old backend keeps on a server, takes the value of a cookie that
    no `secret` signed, and returns the session, or None for one that is unknown or over; it raises
    UncheckedSession if the server does not answer, and the cookie stays. With it, `secret` may be
    an empty list. `cookie_path` and `cookie_domain` are those of the old cookie, which is deleted
    by them. Raises ConfigurationError.
    """

    kind: Literal["flask", "starlette", "django"]
    secret: str | bytes | Sequence[str | bytes] = field(repr=False)
    until: datetime
    cookie_name: str = ""
    max_age: int | None = None
    subject: str | None = None
    cookie_path: str = "/"
    cookie_domain: str | None = None
    fetch: Fetch | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in _DEFAULT_NAMES:
            # No value is shown: in a wrong order of arguments it may be the secret.
            raise ConfigurationError("legacy: kind must be 'flask', 'starlette' or 'django'")
        given: Any = [self.secret] if isinstance(self.secret, str | bytes) else self.secret
        if not isinstance(given, Sequence) or not (
            (given or self.fetch is not None)
            and all(isinstance(each, str | bytes) and each for each in given)
        ):
            raise ConfigurationError(
                "legacy: secret must be non-empty text or bytes, or a list of these"
            )
        if self.fetch is not None and not callable(self.fetch):
            raise ConfigurationError("legacy: fetch must be a function or None")
        if not isinstance(self.until, datetime) or self.until.tzinfo is None:
            raise ConfigurationError("legacy: until must be a datetime with a time zone")
        if self.max_age is not None and (type(self.max_age) is not int or self.max_age < 0):
            raise ConfigurationError(
                "legacy: max_age must be a whole number of seconds, at least 0, or None"
            )
        texts = (self.cookie_name, self.cookie_path, self.subject, self.cookie_domain)
        if not all(isinstance(text or "", str) for text in texts):
            raise ConfigurationError(
                "legacy: cookie_name, cookie_path, cookie_domain and subject must be texts"
            )
        if _COOKIE_PART.fullmatch(self.name + self.cookie_path) is None:
            raise ConfigurationError(
                "legacy: cookie_name and cookie_path must be ASCII without blanks and ';'"
            )
        if self.cookie_domain:
            check_domain("legacy: cookie_domain", self.cookie_domain)

    @property
    def name(self) -> str:
        """The name of the old cookie."""
        return self.cookie_name or _DEFAULT_NAMES[self.kind]

    @property
    def secrets(self) -> list[bytes]:
        """All secrets, the newest last, as itsdangerous has them."""
        given = [self.secret] if isinstance(self.secret, str | bytes) else self.secret
        secrets = [each.encode() if isinstance(each, str) else each for each in given]
        return secrets[::-1]

    def find(self, header: str) -> str | None:
        """The value of the old cookie in a Cookie header: the first with its name.

        After a comma only if there is no other.
        """
        joined = None
        for _, value, _, is_joined in iterate_pairs(header, pair_pattern(self.name)):
            if not is_joined:
                return value.strip('"')
            joined = value if joined is None else joined
        return None if joined is None else joined.strip('"')

    def read(self, text: str, now: int) -> Adopted | None:
        """The content of an old cookie; `now` is in epoch seconds.

        None if it is not authentic or too old, and for every cookie after `until`.
        """
        if now >= self.until.timestamp() or len(text) > MAX_COOKIE_CHARS or not text.isascii():
            return None
        max_age = _DEFAULT_MAX_AGES[self.kind] if self.max_age is None else self.max_age
        signed_at: int | None
        try:
            values, signed_at = self._read_signed(text, now, max_age)
        except (BadData, ValueError, TypeError, KeyError, RecursionError, zlib.error):
            stored = None if self.fetch is None else self.fetch(text)
            if stored is None:
                return None
            values, signed_at, signed = dict(stored.values), stored.saved_at, stored.key.encode()
        else:
            # The id is made without the signature, whose text can be varied and stay valid.
            separator = ":" if self.kind == "django" else "."
            signed = text.rpartition(separator)[0].encode()
        if type(values) is not dict or not all(type(name) is str for name in values):
            return None
        message = length_prefixed("sealedstate/1", "adopted", self.kind, signed)
        session_id = hashlib.blake2b(message, digest_size=ID_BYTES).digest()
        return Adopted(values, session_id, signed_at or 0)

    def _read_signed(self, text: str, now: int, max_age: int) -> tuple[Any, int]:
        """The values of a signed cookie and when it was signed. Raises, if it is not valid."""
        if not self.secret:
            raise ValueError("no secret signs cookies")
        if self.kind == "django":
            return _read_django(text, self.secrets, now, max_age)
        if self.kind == "flask":
            serializer = URLSafeTimedSerializer(
                self.secrets,
                salt="cookie-session",
                serializer=_TaggedJSON,
                signer=_signer_at(now),
                signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha1},
            )
            values, moment = serializer.loads(text, max_age=max_age, return_timestamp=True)
        else:
            signer = _signer_at(now)(self.secrets)
            data, moment = signer.unsign(text, max_age=max_age, return_timestamp=True)
            values = json.loads(base64.b64decode(data))
        return values, int(moment.timestamp())

    def delete_line(self) -> str:
        """The Set-Cookie field value that deletes the old cookie."""
        domain = f"; Domain={self.cookie_domain}" if self.cookie_domain else ""
        prefixes = ("__host-", "__http-", "__secure-")
        secure = "; Secure" if self.name.lower().startswith(prefixes) else ""
        # Browsers delete a __Host-Http- or __Http- cookie only by a line with HttpOnly.
        return f"{self.name}=; Max-Age=0; Path={self.cookie_path}{domain}{secure}; HttpOnly"


def _signer_at(now: int) -> type[TimestampSigner]:
    class SignerAt(TimestampSigner):
        def get_timestamp(self) -> int:
            return now

    return SignerAt


def _read_django(text: str, secrets: Sequence[bytes], now: int, max_age: int) -> tuple[object, int]:
    """The values and the time of a cookie of Django's signed_cookies. Raises ValueError."""
    signed, _, signature = text.rpartition(":")
    data, _, stamp = signed.rpartition(":")
    for secret in secrets:
        key = hashlib.sha256(_DJANGO_SALT + b"signer" + secret).digest()
        digest = hmac.digest(key, signed.encode(), "sha256")
        expected = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if hmac.compare_digest(signature, expected):
            break
    else:
        raise ValueError("no secret has signed it")
    signed_at = 0
    for letter in stamp:
        signed_at = signed_at * len(_BASE62) + _BASE62.index(letter)
    if now - signed_at > max_age:
        raise ValueError("it is too old")
    is_compressed, data = data.startswith("."), data.removeprefix(".")
    content = base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))
    return json.loads(zlib.decompress(content) if is_compressed else content), signed_at


class _TaggedJSON:
    """Flask's JSON, in which a dict whose only key is a tag has another type."""

    @staticmethod
    def loads(text: str | bytes) -> Any:
        return _untag(json.loads(text))

    @staticmethod
    def dumps(value: object) -> str:
        # itsdangerous calls this once, to learn whether it returns text or bytes.
        return json.dumps(value)


def _untag(value: Any) -> Any:
    if type(value) is list:
        return [_untag(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        ((key, content),) = value.items()
        match key:
            case " di":  # a dict whose only key looks like a tag: Flask appends "__" to the key
                ((key, item),) = content.items()
                return {key.removesuffix("__"): _untag(item)}
            case " t":
                return tuple(_untag(item) for item in content)
            case " b":
                return base64.b64decode(content)
            case " m":
                return Markup(content)  # noqa: S704 - the application marked and signed it
            case " u":
                return UUID(hex=content)
            case " d":
                if (date := parse_date(content)) is None:
                    raise ValueError("not a date")
                return date
    return {key: _untag(item) for key, item in value.items()}
