"""Sessions of other frameworks, for applications that move here.

A `LegacyReader` is asked only if a request has none of our cookies, until the date in its
settings. The only module that imports itsdangerous and werkzeug, once there is such a reader,
because they take a third of the time of a start; and cryptography, which only encrypted cookies
need: those of Litestar and Fernet's of aiohttp-session.

An adopted session gets its id from the signed or encrypted bytes of its old cookie. If the same old
cookie comes again after a logout, it leads to the id that the logout revoked. Cookies that are only
signed are equal if two visitors got the same content in the same second, so a session that names no
user gets a random id then.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import importlib
import json
import logging
import re
import string
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

from markupsafe import Markup

from ._cookies.header import check_domain, iterate_pairs, pair_pattern
from ._wire.aead import NONCE_BYTES, open_secretbox
from ._wire.record import ID_BYTES
from .errors import ConfigurationError, UncheckedSession
from .keyring import length_prefixed

if TYPE_CHECKING:
    from itsdangerous import TimestampSigner

__all__ = ["LegacyReader", "StoredSession"]

_log = logging.getLogger("sealedstate")

# More than browsers keep, and little enough to parse.
MAX_COOKIE_CHARS = 1 << 14
_COOKIE_PART = re.compile(r"[!-:<-~]+", re.ASCII)
# aiohttp-session has no limit.
_NO_MAX_AGE = 1 << 40


class _Kind(NamedTuple):
    """Defaults of a framework, and how many bytes a secret may have if it is a key."""

    cookie_name: str
    max_age: int
    key_bytes: tuple[int, ...] = ()


KINDS = {
    "flask": _Kind("session", 31 * 86400),
    "starlette": _Kind("session", 14 * 86400),
    "django": _Kind("sessionid", 14 * 86400),
    "litestar": _Kind("session", 14 * 86400, (16, 24, 32)),
    "aiohttp-fernet": _Kind("AIOHTTP_SESSION", _NO_MAX_AGE, (32,)),
    "aiohttp-nacl": _Kind("AIOHTTP_SESSION", _NO_MAX_AGE, (32,)),
}
# Between the encrypted bytes and the associated data in a cookie of Litestar.
_LITESTAR_DATA = b"additional_authenticated_data="
_LITESTAR_NONCE_BYTES = 12
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
    """The values of an old cookie, an id that is made of it, and its time (epoch seconds).

    `signed_at`: 0 if that is unknown. `is_unique`: whether no other visitor can have the same id.
    """

    values: Mapping[str, object] = field(repr=False)
    id: bytes = field(repr=False)
    signed_at: int
    is_unique: bool


@dataclass(frozen=True, slots=True)
class LegacyReader:
    """Reads the old cookies of one application until `until` (an aware datetime).

    `kind`: ``"flask"``, ``"starlette"``, ``"django"`` (signed_cookies), ``"litestar"`` (client-side
    sessions, also in several cookies), ``"aiohttp-fernet"`` or ``"aiohttp-nacl"``: the
    EncryptedCookieStorage and NaClCookieStorage of aiohttp-session. Litestar's and Fernet's need
    the package cryptography.

    `secret` and `cookie_name` are the framework's; of several secrets, each may have made the
    cookie, as with Flask's SECRET_KEY_FALLBACKS. `max_age` (seconds) defaults to the framework's;
    for Litestar it must be that of the old configuration, because its cookies only say when they
    end. `subject` names the value that becomes the session's subject, such as ``"_user_id"``.
    `fetch`, for sessions that the old backend keeps on a server, takes the value of a cookie that
    no `secret` signed, and returns the session, or None for one that is unknown or over. What it
    raises is logged, and the cookie stays: the server does not answer. With it, `secret` may be an
    empty list. `cookie_path` and `cookie_domain` are those of the old cookie, which is deleted by
    them. Raises ConfigurationError.
    """

    kind: Literal["flask", "starlette", "django", "litestar", "aiohttp-fernet", "aiohttp-nacl"]
    secret: str | bytes | Sequence[str | bytes] = field(repr=False)
    until: datetime
    cookie_name: str = ""
    max_age: int | None = None
    subject: str | None = None
    cookie_path: str = "/"
    cookie_domain: str | None = None
    fetch: Fetch | None = None

    def __post_init__(self) -> None:
        # Now, so that no request waits for them.
        for library in ("itsdangerous", "werkzeug.http"):
            importlib.import_module(library)
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            # No value is shown: in a wrong order of arguments it may be the secret.
            kinds = ", ".join(map(repr, KINDS))
            raise ConfigurationError(f"legacy: kind must be one of {kinds}")
        given: Any = [self.secret] if isinstance(self.secret, str | bytes) else self.secret
        if not isinstance(given, Sequence) or not (
            (given or self.fetch is not None)
            and all(isinstance(each, str | bytes) and each for each in given)
        ):
            raise ConfigurationError(
                "legacy: secret must be non-empty text or bytes, or a list of these"
            )
        self._check_keys()
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

    def _check_keys(self) -> None:
        """Raise ConfigurationError if a secret is no key, or its cipher is not installed."""
        sizes = KINDS[self.kind].key_bytes
        if not sizes or not self.secret:
            return
        try:
            are_keys = all(len(each) in sizes for each in self.secrets)
        except ValueError:
            are_keys = False
        if not are_keys:
            raise ConfigurationError(
                f"legacy: secret must have {' or '.join(map(str, sizes))} bytes for {self.kind!r}"
            )
        if self.kind != "aiohttp-nacl" and find_spec("cryptography") is None:
            raise ConfigurationError(
                f"legacy: kind {self.kind!r} needs the package cryptography; install"
                " sealedstate[legacy]"
            )

    @property
    def name(self) -> str:
        """The name of the old cookie."""
        return self.cookie_name or KINDS[self.kind].cookie_name

    @property
    def secrets(self) -> list[bytes]:
        """All secrets, the newest last, as itsdangerous has them; Fernet's are decoded."""
        given = [self.secret] if isinstance(self.secret, str | bytes) else self.secret
        if self.kind != "aiohttp-fernet":
            return [each.encode() if isinstance(each, str) else each for each in reversed(given)]
        # aiohttp-session takes 32 bytes, or their text, which Fernet.generate_key returns as bytes.
        return [
            base64.urlsafe_b64decode(each) if isinstance(each, str) or len(each) == 44 else each
            for each in reversed(given)
        ]

    def names(self, header: str) -> list[str]:
        """The names of the old cookies in a Cookie header."""
        return [f"{self.name}-{number}" if number else self.name for number in self._find(header)]

    def find(self, header: str) -> str | None:
        """The value of the old cookie in a Cookie header: the first with its name.

        After a comma only if there is no other. Litestar's may be in several cookies.
        """
        values = self._find(header)
        chunks = [value for number, value in values.items() if number]
        # None of them is missing.
        if chunks and string.digits.startswith("".join(values)):
            return "".join(chunks)
        return values.get("")

    def _find(self, header: str) -> dict[str, str]:
        """The values of the old cookies, by their numbers: the first is "", for none."""
        # Litestar cannot read more than ten chunks, because it sorts their numbers as texts.
        suffix = "(?:-([0-9]))?" if self.kind == "litestar" else "()"
        values: dict[str, str] = {}
        joined: dict[str, str] = {}
        for number, value, _, is_joined in iterate_pairs(header, pair_pattern(self.name, suffix)):
            (joined if is_joined else values).setdefault(number or "", value.strip('"'))
        return dict(sorted({**joined, **values}.items()))

    def read(self, text: str, now: int) -> Adopted | None:
        """The content of an old cookie; `now` is in epoch seconds.

        None if it is not authentic or too old, and for every cookie after `until`. Raises
        UncheckedSession if `fetch` raises.
        """
        longest = MAX_COOKIE_CHARS * (3 if self.kind == "litestar" else 1)
        if now >= self.until.timestamp() or len(text) > longest or not text.isascii():
            return None
        from itsdangerous import BadData

        signed_at: int | None
        is_unique = bool(KINDS[self.kind].key_bytes)  # encrypted, with a nonce
        try:
            values, signed_at, signed = self._read_authentic(text, now)
        except (BadData, ValueError, TypeError, KeyError, RecursionError, zlib.error):
            if self.fetch is None:
                return None
            try:
                stored = self.fetch(text)
            except Exception as error:  # each server has its own
                _log.error("the old sessions' server does not answer: %s", type(error).__name__)
                raise UncheckedSession from error
            if stored is None:
                return None
            values, signed_at, signed = dict(stored.values), stored.saved_at, stored.key.encode()
            is_unique = True
        if type(values) is not dict or not all(type(name) is str for name in values):
            return None
        message = length_prefixed("sealedstate/1", "adopted", self.kind, signed)
        session_id = hashlib.blake2b(message, digest_size=ID_BYTES).digest()
        return Adopted(values, session_id, signed_at or 0, is_unique)

    def _read_authentic(self, text: str, now: int) -> tuple[Any, int, bytes]:
        """The values of a cookie, when it was made, and the bytes that are only in this cookie.

        Raises, if it is not authentic or too old.
        """
        if not self.secret:
            raise ValueError("no secret makes cookies")
        max_age = KINDS[self.kind].max_age if self.max_age is None else self.max_age
        if self.kind == "litestar":
            return _read_litestar(text, self.secrets, now, max_age)
        if self.kind in ("aiohttp-fernet", "aiohttp-nacl"):
            return _read_aiohttp(self.kind, text, self.secrets, now, max_age)
        # The id is made without the signature, whose text can be varied and stay valid.
        if self.kind == "django":
            values, signed_at = _read_django(text, self.secrets, now, max_age)
            return values, signed_at, text.rpartition(":")[0].encode()
        if self.kind == "flask":
            from itsdangerous import URLSafeTimedSerializer

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
        return values, int(moment.timestamp()), text.rpartition(".")[0].encode()

    def delete_line(self, name: str) -> str:
        """The Set-Cookie field value that deletes the old cookie of this name."""
        domain = f"; Domain={self.cookie_domain}" if self.cookie_domain else ""
        prefixes = ("__host-", "__http-", "__secure-")
        secure = "; Secure" if name.lower().startswith(prefixes) else ""
        # Browsers delete a __Host-Http- or __Http- cookie only by a line with HttpOnly.
        return f"{name}=; Max-Age=0; Path={self.cookie_path}{domain}{secure}; HttpOnly"


def _signer_at(now: int) -> type[TimestampSigner]:
    from itsdangerous import TimestampSigner

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


def _read_litestar(
    text: str, secrets: Sequence[bytes], now: int, max_age: int
) -> tuple[object, int, bytes]:
    """The values of a cookie of Litestar, when it was made, and its bytes. Raises ValueError."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    data = base64.b64decode(text, validate=True)
    nonce = data[:_LITESTAR_NONCE_BYTES]
    sealed, _, associated = data[_LITESTAR_NONCE_BYTES:].partition(_LITESTAR_DATA)
    for secret in secrets:
        try:
            content = AESGCM(secret).decrypt(nonce, sealed, associated)
            break
        except InvalidTag:
            pass  # an older secret may have encrypted it
    else:
        raise ValueError("no secret has encrypted it")
    expires_at = json.loads(associated)["expires_at"]
    if type(expires_at) is not int or expires_at <= now:
        raise ValueError("it is too old")
    made_at = expires_at - max_age
    # From the future, if it was made with a longer max_age: then its time is not known.
    return json.loads(content), made_at if made_at <= now else 0, data


def _read_aiohttp(
    kind: str, text: str, secrets: Sequence[bytes], now: int, max_age: int
) -> tuple[object, int, bytes]:
    """The values of a session of aiohttp-session, when it was made, and its bytes.

    Its cookie is a token of Fernet, or a box of NaCl behind its nonce. Raises ValueError.
    """
    content = made_at = None
    data = base64.b64decode(text, b"-_" if kind == "aiohttp-fernet" else None, validate=True)
    if kind == "aiohttp-nacl":
        for secret in secrets:
            content = content or open_secretbox(data[NONCE_BYTES:], data[:NONCE_BYTES], secret)
    else:
        from cryptography.fernet import Fernet, InvalidToken

        token = base64.urlsafe_b64encode(data)
        for secret in secrets:
            fernet = Fernet(base64.urlsafe_b64encode(secret))
            with contextlib.suppress(InvalidToken):
                content, made_at = fernet.decrypt(token), fernet.extract_timestamp(token)
    if content is None:
        raise ValueError("no secret has encrypted it")
    session = json.loads(content)
    created_at = session["created"]
    if type(created_at) is not int:
        raise ValueError("it has no time")
    made_at = created_at if made_at is None else made_at  # NaCl's has none
    if not now - max_age <= created_at <= now or not now - max_age <= made_at <= now:
        raise ValueError("it is too old, or from the future")
    return session["session"], made_at, data


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
                from werkzeug.http import parse_date

                if (date := parse_date(content)) is None:
                    raise ValueError("not a date")
                return date
    return {key: _untag(item) for key, item in value.items()}
