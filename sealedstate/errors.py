"""Every error of sealedstate, grouped by the person who must act.

`UsageError`: the developer changes code or configuration. `OperatorError`: the operator checks a
store, a key, a file or a clock. `UnreadableError`: no one acts, the visitor starts a new session;
it never leaves the keeper. Facts are attributes, so callers compare types and never messages. No
message contains a cookie value, a key or the content of a session.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

# Not listed are the kinds of UnreadableError, of which users of the keeper only see the reasons,
# and the kind of StorageUnavailable that stops a start.
__all__ = [
    "CapacityError",
    "ConfigurationError",
    "IdentifierKeyMissing",
    "LateRead",
    "LateWrite",
    "LoginsUnreadable",
    "LogoutRequestMismatch",
    "MetadataUnreadable",
    "NoPrimaryKey",
    "NotSignedIn",
    "OperatorError",
    "OutcomeUnknown",
    "PartUnavailable",
    "ProtectedTextRefused",
    "ProtectedTextWithheld",
    "RegistryMissing",
    "RegistryUnreadable",
    "RowUnreadable",
    "SealedStateError",
    "SessionIdChanged",
    "SessionNotLoaded",
    "SessionTooLarge",
    "SessionWithheld",
    "StorageError",
    "StorageUnavailable",
    "UnreadableError",
    "UnreadablePart",
    "UnsupportedValue",
    "UsageError",
    "VersionMismatch",
]


_SECRETS = (
    # A key, whole or cut.
    (re.compile(r"(sealedstate-(?:key|lookup)-1):[\w:-]+", re.IGNORECASE), r"\1:..."),
    # The secret of a key without its label: 43 letters, among which random ones have both cases.
    (re.compile(r"(?<![\w-])(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{40,}", re.ASCII), "..."),
    # The user and the password of a URL.
    (re.compile(r"(\w:/{1,2})\S*@"), r"\1...@"),
)
# A sentence with a few names in it is shorter.
MAX_MESSAGE_CHARS = 4000
MAX_SHOWN_PARTS = 20


def hide_secrets(text: str) -> str:
    """`text` without keys and passwords: a user may give one in the place of a path or a name."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def contains_key(text: str) -> bool:
    """Whether a text contains a key, whole or cut."""
    return _SECRETS[0][0].search(text) is not None


def escape_text(text: object, most: int = 200) -> str:
    """Foreign text on one line that is safe to print: at most `most` printable characters.

    Line ends, escapes, direction marks, lone surrogates and everything else that is not printable
    is escaped as in a Python literal. Every text of others that gets into a log, an error or a
    terminal passes through here: names of parts, subjects, paths, variables, errors of drivers.
    """
    try:
        shown = str(text)
    except ValueError:  # a number of more digits than `sys.set_int_max_str_digits` allows
        shown = "a number of thousands of digits"
    if not shown.isprintable():
        shown = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in shown
        )
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def quote_text(text: object, most: int = 80) -> str:
    """A wrong name or value in quotes: escaped, and without secrets."""
    return f"'{escape_text(hide_secrets(str(text)), most)}'"


def show_value(value: object, most: int = 40) -> str:
    """A wrong value as Python shows it, escaped and without secrets."""
    if type(value) is int:
        return escape_text(value, most)
    try:
        return escape_text(hide_secrets(repr(value)), most)
    except Exception:
        return f"a {escape_text(type(value).__name__)}"


def escape_message(text: object) -> str:
    """A whole message on one line, without secrets."""
    return escape_text(hide_secrets(str(text)), MAX_MESSAGE_CHARS)


class SealedStateError(Exception):
    """The root of every error that sealedstate raises. Its message is one line without secrets."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(escape_message(x) if isinstance(x, str) else x for x in arguments))


# --- the developer acts -------------------------------------------------------------------------


class UsageError(SealedStateError):
    """The developer must change code or configuration."""


class ConfigurationError(UsageError, ValueError):
    """A setting is missing, unknown or contradictory; raised before any request."""


class UnsupportedValue(UsageError, TypeError):
    """A value that a session cannot contain.

    `path` leads to the value, as in ``session['cart'][3]``; `problem` says what is wrong with it.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class SessionTooLarge(UsageError):
    """The parts do not fit into the cookies, and cannot be stored elsewhere.

    There is no store for them, or their policy forbids one. `parts` maps the name of each part to
    its size in bytes; `room` is what the cookies could carry, in bytes. `is_crowded`: the session
    would fit if the request had no cookies of others.
    """

    def __init__(
        self, parts: Mapping[str, int], room: int, why: str, is_crowded: bool = False
    ) -> None:
        largest = sorted(parts.items(), key=lambda item: -item[1])
        sizes = [f"{escape_text(name, 64)} {size}" for name, size in largest[:MAX_SHOWN_PARTS]]
        if len(largest) > MAX_SHOWN_PARTS:
            sizes.append(f"and {len(largest) - MAX_SHOWN_PARTS} smaller parts")
        super().__init__(
            f"the session does not fit: {sum(parts.values())} bytes of parts for {room} bytes"
            f" of cookie room ({why}); bytes by part: {', '.join(sizes) or 'none'}"
        )
        self.parts = dict(parts)
        self.room = room
        self.why = why
        self.is_crowded = is_crowded


class LateWrite(UsageError):
    """The session was changed after the response headers, too late for a cookie."""


class LateRead(UsageError):
    """The session was first read after the response headers, too late for Vary."""


class SessionNotLoaded(UsageError):
    """An event loop would have to wait for the store.

    `part`: the name of a part of the policy ``server``, which is loaded by its name only.
    """

    def __init__(self, what: str, part: str | None = None) -> None:
        remedy = (
            "await load_session() before, or let the middleware load it (autoload); a logout is"
            " awaited, too"
        )
        if part is not None:
            name = quote_text(part)
            remedy = (
                f"await load_session(request, {name}) before, because its policy is 'server'"
                f" (Quart: load_session({name}), aiohttp: get_session(request, {name}))"
            )
        super().__init__(f"{what}, and an event loop must not wait for it: {remedy}")


class NotSignedIn(UsageError):
    """The session has no subject, but login records belong to one."""


class LogoutRequestMismatch(UsageError):
    """A logout request matches no service login of the session."""


# --- the operator acts --------------------------------------------------------------------------


class OperatorError(SealedStateError):
    """The operator must check a store, a key, a file or a clock."""


class NoPrimaryKey(OperatorError):
    """No key is active: all are pending, expired, revoked or disabled."""


class SessionWithheld(OperatorError):
    """The cookies could not be judged (`reason`), so there was no logout.

    ``"cross-site"``: the browser held them back; redirect to a page of the application that logs
    out.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the session of this request is withheld ({reason}); it was not logged out"
        )
        self.reason = reason


class ProtectedTextWithheld(OperatorError):
    """A protector's text that this node cannot judge now; another node, or a later try, may.

    An application answers 503 and keeps the text. `reason`: ``"kid-unknown"``, ``"kid-disabled"``,
    ``"format-unknown"``, ``"not-yet"`` or ``"record"``, as events have it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the text cannot be judged now ({reason}); try again")
        self.reason = reason


class StorageError(OperatorError):
    """The storage service did not do what it was asked to do."""


class StorageUnavailable(StorageError):
    """The store is unreachable, locked, full or read-only. Nothing was written."""


class StorageUnusable(StorageUnavailable):
    """The place or the content of the store is wrong, so that it fails until an operator acts.

    A start is refused because of it; a store that does not answer may answer later.
    """


class RowUnreadable(StorageUnavailable):
    """This node cannot read a stored value that another node or release can read."""


class OutcomeUnknown(StorageError):
    """The store may or may not have written, and may still write.

    The request may still be on its way. `version` is what a `create` or `update` proposed: if it is
    read back, the write has happened. Until then, another write excludes a late one: an `update` to
    a greater version, or another `create`. For all other writes `version` is None: read the value
    back, and repeat the write if necessary. A late `delete_context`, or a late `delete` that
    expects no version, also deletes what was created in the meantime.
    """

    def __init__(self, message: str, version: int | None = None) -> None:
        super().__init__(message)
        self.version = version


class CapacityError(StorageError):
    """A context, key or value is empty, or larger than the store allows."""


class VersionMismatch(StorageError):
    """A checked write found another version: `current` is in the store."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the version in the store is {current}, not the expected one")
        self.current = current


class UnreadablePart(OperatorError):
    """An authentic part that this release cannot decode; it is kept.

    A newer release wrote it.
    """


class PartUnavailable(UnreadablePart):
    """A part that the browser keeps, in a request to which the browser brings none.

    A form, a script or an API client reads it, or the browser no longer has it. Read the part in a
    page that is navigated to, before, and offer to enter it again.
    """


# An identity provider's errors about stored logins cost no login: an application may catch
# LoginsUnreadable, report it, and continue without the service logins.


class LoginsUnreadable(UnreadablePart):
    """Login records in bytes that this release does not write."""


class RegistryMissing(LoginsUnreadable):
    """Service logins need a registry `version` that this node does not have.

    The node's file is outdated, or was created again instead of being appended to.
    """

    def __init__(self, version: int) -> None:
        super().__init__(f"service logins need version {version} of a registry that is not here")
        self.version = version


class IdentifierKeyMissing(LoginsUnreadable):
    """Service logins need the identifier key `kid`, which is not in the ring."""

    def __init__(self, kid: bytes) -> None:
        super().__init__(f"service logins need the identifier key {kid.hex()}, which is not here")
        self.kid = kid


class SessionIdChanged(LoginsUnreadable):
    """Identifiers were derived from an earlier id of the session."""


class RegistryUnreadable(OperatorError):
    """A registry file is missing or invalid, or would lose or change an entry."""


class MetadataUnreadable(OperatorError):
    """A metadata file is not XML, or has a document type declaration."""


# --- no one acts --------------------------------------------------------------------------------


class ProtectedTextRefused(SealedStateError):
    """A text from outside that no protector opens; an application answers 400 or so.

    `reason` is for logs: ``"malformed"`` (no text of a protector), ``"invalid"`` (altered, or made
    for another name, realm or `bound_to`), ``"expired"``, ``"revoked"`` (its key, or all that was
    sealed at its time), ``"unknown"`` (no node has its key any more), or ``"not-yet"``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the text is refused ({reason})")
        self.reason = reason


class UnreadableError(SealedStateError):
    """A token that opens no session.

    `reason` is for logs and counters, never for the client. `keeps_cookie`: another node, release
    or moment may be able to read it, so the browser's cookies must be neither deleted nor
    overwritten; never true once that is over. `kid`: the key that the token names, if it is known.
    `claimed_at`: when the token says that it was sealed (epoch seconds), if it is known; without
    the key this is not verified.
    """

    reason: ClassVar[str] = "unreadable"
    keeps_cookie: bool = False

    def __init__(
        self,
        *arguments: object,
        kid: bytes | None = None,
        claimed_at: int | None = None,
        is_over: bool = False,
    ) -> None:
        super().__init__(*arguments)
        self.kid = kid
        self.claimed_at = claimed_at
        if is_over:
            self.keeps_cookie = False


class MalformedToken(UnreadableError):
    """No token: too short, not canonical, or begun with a byte that begins no format."""

    reason = "malformed"


class UnknownFormat(UnreadableError):
    """The token is of a newer format, which this release does not read."""

    reason = "format-unknown"
    keeps_cookie = True

    def __init__(self, kid: bytes, claimed_at: int, is_over: bool = False) -> None:
        text = f"a format that this release does not read, key {kid.hex()}"
        super().__init__(text, kid=kid, claimed_at=claimed_at, is_over=is_over)


class UnknownKey(UnreadableError):
    """No key of the ring has this kid; perhaps this node's ring is outdated."""

    reason = "kid-unknown"
    keeps_cookie = True

    def __init__(self, kid: bytes, claimed_at: int | None = None) -> None:
        super().__init__(f"no key {kid.hex()} in the ring", kid=kid, claimed_at=claimed_at)


class KeyRemoved(UnreadableError):
    """No key of the ring has this kid, and this node's keys are newer than the token.

    The key was removed, or belongs to another application.
    """

    reason = "kid-removed"

    def __init__(self, kid: bytes, claimed_at: int) -> None:
        text = f"no key {kid.hex()} in a ring that was read after it sealed"
        super().__init__(text, kid=kid, claimed_at=claimed_at)


class KeyOutOfUse(UnreadableError):
    """The key is revoked or expired, or did not seal at the time of the token."""

    reason = "kid-refused"


class KeyDisabled(UnreadableError):
    """The key is disabled. That can be undone, so the cookie is kept.

    The token is authentic. `payload`: what it contains.
    """

    reason = "kid-disabled"
    keeps_cookie = True

    def __init__(
        self, payload: bytes = b"", kid: bytes | None = None, claimed_at: int | None = None
    ) -> None:
        super().__init__(kid=kid, claimed_at=claimed_at)
        self.payload = payload


class SealedBefore(UnreadableError):
    """Sealed before the time from which the operator trusts cookies again."""

    reason = "sealed-before"


class ForgedToken(UnreadableError):
    """The tag does not match: altered, or sealed for another context."""

    reason = "tag"


class MalformedRecord(UnreadableError):
    """The payload of an authentic token is not one that this release writes."""

    reason = "record"
    keeps_cookie = True


class UnknownField(UnreadableError):
    """An authentic record with a critical field of a newer release.

    `session_id`, `subject`, `created_at`, `expires_at` and `sealed_at` (epoch seconds) are the
    record's: enough to end the session, and to say until when its cookie can be kept.
    """

    reason = "field-unknown"
    keeps_cookie = True

    def __init__(
        self,
        session_id: bytes,
        subject: str | None,
        created_at: int,
        expires_at: int,
        sealed_at: int,
        is_over: bool = False,
    ) -> None:
        text = "a critical field that this release does not know"
        super().__init__(text, claimed_at=sealed_at, is_over=is_over)
        self.session_id = session_id
        self.subject = subject
        self.created_at = created_at
        self.expires_at = expires_at
        self.sealed_at = sealed_at


class ExpiredSession(UnreadableError):
    """The session is past its idle or absolute lifetime."""

    reason = "expired"


class FutureSession(UnreadableError):
    """Sealed more than the skew in the future: some clock is wrong."""

    reason = "not-yet"
    keeps_cookie = True


class RevokedSession(UnreadableError):
    """The session was logged out, or all sessions of its subject were."""

    reason = "revoked"


class ReplacedSession(UnreadableError):
    """Another request gave the session a new id; its cookie may be on its way."""

    reason = "replaced"
    keeps_cookie = True


class CrowdedCookie(UnreadableError):
    """More cookies have our name than are tried, and no tried one opens."""

    reason = "crowded"
    keeps_cookie = True

    def __init__(self) -> None:
        # No time ends it, so it counts as withheld for long at once.
        super().__init__(claimed_at=0)


class AmbiguousSession(UnreadableError):
    """Two authentic sessions have the same cookie name: neither is used."""

    reason = "ambiguous"
    keeps_cookie = True


class UnboundSession(UnreadableError):
    """The session is bound to a key, and the browser has not shown lately that it has the key."""

    reason = "unbound"
    keeps_cookie = True


class HeldBackCookie(UnreadableError):
    """The request came from another site, so the browser may have held our cookies back."""

    reason = "cross-site"
    keeps_cookie = True


class UncheckedSession(UnreadableError):
    """The store that has the revocations did not answer."""

    reason = "store-down"
    keeps_cookie = True
