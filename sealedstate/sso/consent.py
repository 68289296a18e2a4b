"""What users agreed to: terms of use, and which attributes a service may get.

    if not consents.has_accepted(subject, "terms", 3, now):
        ...  # show version 3, and when the user agrees:
        consents.record(subject, "terms", 3, now)

Knows documents by name and version, subjects, services and attributes by name. Does not know what a
document says or who may ask.

All that a subject agreed to is one row, named by a keyed hash of the subject and sealed by a
lasting key: neither can be read in the store, and no rotation of the keys that seal sessions
touches it. The payload is CBOR as in `codec`: a list of [document, version, given at, expires at or
None, service or None, list of attributes], in order, times in seconds since 1970-01-01T00:00:00Z.

Two changes at once are both made. Of two that record the same document, the newer version stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeVar

from .._wire import cbor as codec
from .._wire.record import check_subject
from ..deployment import Deployment
from ..errors import (
    ConfigurationError,
    MalformedRecord,
    OutcomeUnknown,
    StorageUnavailable,
    UnreadableError,
    UnsupportedValue,
    VersionMismatch,
)
from ..storage.contract import LAST_VERSION, LATEST, Stored, millis, next_version
from .deployment import SsoDeployment
from .logins import check_text

CONTEXT = "sealedstate.sso.consent"
# Each round of a race over one subject has a winner, so that many are served.
WRITE_TRIES = 100

T = TypeVar("T")

log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class Consent:
    """That a user agreed to `version` of `document` at a time. Times in epoch seconds.

    `expires_at`: None for ever. `service`: an entityID where it is for one service only, such as
    that it may get `attributes`. Raises UnsupportedValue for values of other types.
    """

    document: str
    version: int
    given_at: int
    expires_at: int | None = None
    service: str | None = None
    attributes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_text("a consent's document", self.document)
        _check_integers(self.version, self.given_at, *_given(self.expires_at))
        for service in _given(self.service):
            check_text("a consent's service", service)
        for attribute in self.attributes:
            check_text("a consent's attribute", attribute)
        if not self.document or not 0 < self.version <= LAST_VERSION:
            raise ConfigurationError("a document has a name, and a version from 1 on")
        if self.expires_at is not None and not self.given_at < self.expires_at <= LATEST // 1000:
            raise ConfigurationError("a consent expires after it was given, or never")

    @property
    def about(self) -> tuple[str, str | None]:
        """What it is about: of two with the same, one counts."""
        return (self.document, self.service)

    def counts(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


Consents: TypeAlias = frozenset[Consent]


@dataclass(frozen=True, slots=True)
class ConsentStore:
    """What the users of one deployment agreed to. Every method may raise StorageError.

    It needs a lookup key, and raises NoPrimaryKey while a ring has no key for what is stored for
    years. Subjects are those of sessions; another raises UnsupportedValue.
    """

    deployment: SsoDeployment

    @classmethod
    def of(cls, deployment: Deployment) -> Self:
        """That of `settings`. Raises ConfigurationError: no store, an unfit one, no lookup key."""
        shared = SsoDeployment.of(deployment, "consent")
        shared.lookup()
        return cls(shared)

    def record(
        self,
        subject: str,
        document: str,
        version: int,
        now: float,
        expires_at: int | None = None,
        service: str | None = None,
        attributes: Iterable[str] = (),
    ) -> None:
        """Record that `subject` agrees, now. When this returns, it is stored.

        The same again replaces what was agreed to before, but an older version no newer one. Raises
        ConfigurationError, also for attributes without a service; UnsupportedValue for another type
        or text with a lone surrogate; and CapacityError, with nothing lost, where all of a
        subject's consents do not fit into one row.
        """
        names = _names(attributes)
        if names and service is None:
            raise ConfigurationError("attributes are for a service: say for which")
        given = Consent(document, version, int(now), expires_at, service, names)
        self._change(subject, lambda known: _with(known, given), now)

    def has_accepted(
        self,
        subject: str,
        document: str,
        version: int,
        now: float,
        service: str | None = None,
        attributes: Collection[str] = (),
    ) -> bool:
        """Whether `subject` agreed to this version or a newer one, and has not withdrawn that.

        With `service`: to that for this service; with `attributes`: to all of these. False, too,
        where the row was tampered with. Raises UnsupportedValue for a version that is no whole
        number, and for one text in place of several attributes.
        """
        _check_integers(version)
        _check_several(attributes)
        return any(
            one.about == (document, service)
            and one.version >= version
            and one.attributes.issuperset(attributes)
            for one in self.of_subject(subject, now)
        )

    def of_subject(self, subject: str, now: float) -> tuple[Consent, ...]:
        """All that `subject` agreed to and that counts, by document and service."""
        key = self._key(subject)
        known = self._opened(key, self.deployment.storage.read(CONTEXT, key), now)
        self.deployment.answered()
        return _sorted(one for one in known if one.counts(now))

    def withdraw(self, subject: str, document: str, now: float, service: str | None = None) -> None:
        """Forget one consent, in whatever version; harmless where there is none."""

        def without(known: Consents) -> Consents:
            return frozenset(one for one in known if one.about != (document, service))

        self._change(subject, without, now)

    def withdraw_all(self, subject: str, now: float) -> None:
        """Forget all that `subject` agreed to; harmless where there is nothing."""
        self._change(subject, lambda _: frozenset(), now)

    # --- the row --------------------------------------------------------------------------------

    def _key(self, subject: str) -> str:
        check_subject(subject)
        return self.deployment.keyed_name("consent", subject)

    def _change(self, subject: str, change: Callable[[Consents], Consents], now: float) -> None:
        key, storage = self._key(subject), self.deployment.storage
        for _ in range(WRITE_TRIES):
            stored = storage.read(CONTEXT, key)
            known = self._opened(key, stored, now)
            wanted = frozenset(one for one in change(known) if one.counts(now))
            # A row that holds what is wanted may be sealed by a retired key; the sweep finds it.
            if (stored is None and not wanted) or (wanted and wanted == known):
                break
            if self._written(key, wanted, stored, now):
                break
        else:
            raise StorageUnavailable(
                f"consents were written by others {WRITE_TRIES} times in a row"
            )
        self.deployment.answered()

    def _written(self, key: str, wanted: Consents, over: Stored | None, now: float) -> bool:
        """Whether the row holds `wanted` now, or is gone where nothing is."""
        at = self.deployment
        version = next_version(now, 0 if over is None else over.version)
        try:
            if over is not None and not wanted:
                return at.storage.delete(CONTEXT, key, over.version)
            value = at.rows.seal_row(
                CONTEXT, key, version, _encoded(wanted), at.keyring().long_term, now
            )
            until = _expiry(wanted)
            if over is None:
                return at.storage.create(CONTEXT, key, value, until, version)
            return at.storage.update(CONTEXT, key, value, until, version, over.version)
        except (VersionMismatch, OutcomeUnknown):
            # Look again: either it is there, or another is, or ours is written over what is.
            return False

    def _opened(self, key: str, stored: Stored | None, now: float) -> Consents:
        """What stands in a row; nothing for one that was tampered with."""
        if stored is None:
            return frozenset()
        at = self.deployment
        try:
            data = at.rows.open_row(CONTEXT, key, stored, at.keyring().long_term, now)
            return _decoded(data)
        except UnreadableError as error:
            if error.keeps_cookie:
                # Another node can read it, or this one once it has the key.
                why = f"consents are unreadable here ({error.reason})"
                raise StorageUnavailable(why) from error
            return frozenset()


def _with(known: Consents, given: Consent) -> Consents:
    others = frozenset(one for one in known if one.about != given.about)
    newer = [
        one for one in known - others if one.version > given.version and one.counts(given.given_at)
    ]
    return known if newer else others | {given}


def _sorted(consents: Iterable[Consent]) -> tuple[Consent, ...]:
    return tuple(sorted(consents, key=lambda one: (one.document, *_given(one.service))))


def _expiry(consents: Consents) -> int | None:
    """When the row can go: with the last of them, or never. In milliseconds."""
    ends = [one.expires_at for one in consents if one.expires_at is not None]
    return millis(max(ends)) if len(ends) == len(consents) else None


def _encoded(consents: Consents) -> bytes:
    return codec.encode(
        [
            [
                one.document,
                one.version,
                one.given_at,
                one.expires_at,
                one.service,
                sorted(one.attributes),
            ]
            for one in _sorted(consents)
        ],
        "consents",
    )


def _decoded(data: bytes) -> Consents:
    rows: Any = codec.decode(data)
    try:
        return frozenset(consent for row in rows for consent in _consents_in(*row))
    except (TypeError, ValueError):  # authentic, and yet not as we write it
        raise MalformedRecord from None


def _consents_in(
    document: Any, version: Any, given_at: Any, expires_at: Any, service: Any, attributes: list[Any]
) -> Iterator[Consent]:
    """The consent of one row; none where an earlier release took values of other types.

    The user is asked again, and what else he agreed to stays.
    """
    if type(attributes) is not list:
        raise MalformedRecord
    try:
        yield Consent(document, version, given_at, expires_at, service, frozenset(attributes))
    except UnsupportedValue as error:
        log.warning("a consent is passed over: %s is of another type", error.path)


def _given(value: T | None) -> tuple[T, ...]:
    return () if value is None else (value,)


def _check_integers(*numbers: object) -> None:
    # A bool is an int for Python, and none here.
    if any(type(number) is not int for number in numbers):
        raise UnsupportedValue("a consent's version or time", "it is a whole number")


def _check_several(attributes: object) -> None:
    """A text is a collection of texts, too: of its letters."""
    if isinstance(attributes, str | bytes) or not isinstance(attributes, Iterable):
        raise UnsupportedValue("a consent's attributes", "they are a collection of texts")


def _names(attributes: Iterable[str]) -> frozenset[str]:
    _check_several(attributes)
    names = tuple(attributes)
    for name in names:  # before they are hashed, which not all that is given can be
        check_text("a consent's attribute", name)
    return frozenset(names)
