"""What users agreed to: terms of use, and which attributes a service may receive.

    if not consents.has_accepted(subject, "terms", 3):
        ...  # show version 3, and when the user agrees:
        consents.record(subject, "terms", 3)

All consents of a subject are one row of the context ``sealedstate.sso.consent`` (see
docs/format.md), whose name only the ring's lookup secret gives, sealed by a key for long-lived
values: the store reveals neither the subject nor the consents, and no rotation of the keys
that seal sessions affects them. The payload is CBOR as in docs/format.md: a list of [document,
version, given at, expires at or None, service or None, list of attributes], sorted by document
and service, times in seconds since 1970-01-01T00:00:00Z.

Two concurrent changes are both made. If both record the same document, the newer version stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import astuple, dataclass
from typing import Any, TypeAlias

from .._stored.table import DELETE, Delete, Entry, Kind, Put
from .._wire import cbor
from .._wire.record import check_subject
from ..deployment import Deployment
from ..errors import (
    ConfigurationError,
    MalformedRecord,
    RowUnreadable,
    UnsupportedValue,
    show_value,
)
from ..keyring import MAX_TIME
from ..storage.contract import LAST_VERSION, millis
from .logins import check_integer, check_seconds, check_text

__all__ = ["Consent", "ConsentStore"]

KIND = Kind("sealedstate.sso.consent", "consent", "a user's row of consents")
# Each round of a race for one subject has a winner, so this many writers are served.
WRITE_TRIES = 100

log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class Consent:
    """A user agreed to `version` of `document`. Times in epoch seconds.

    `expires_at`: None for never. `service`: the entityID of the only service that the
    consent is for, which may receive `attributes`; None for all services. Raises
    UnsupportedValue for values of other types, ConfigurationError for other bad values.
    """

    document: str
    version: int
    given_at: int
    expires_at: int | None = None
    service: str | None = None
    attributes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_text("Consent.document", self.document)
        check_integer("Consent.version", self.version)
        check_integer("Consent.given_at", self.given_at, "epoch seconds, a whole number")
        if self.expires_at is not None:
            check_integer("Consent.expires_at", self.expires_at, "epoch seconds, a whole number")
        if self.service is not None:
            check_text("Consent.service", self.service)
        for attribute in self.attributes:
            check_text("Consent.attributes", attribute)
        if not self.document or not 0 < self.version <= LAST_VERSION:
            raise ConfigurationError(
                "Consent.document, version: must not be empty, and must be at least 1;"
                f" got {show_value(self.document)} and {show_value(self.version)}"
            )
        # Milliseconds of today are beyond the limit.
        if self.expires_at is not None and not self.given_at < self.expires_at < MAX_TIME:
            raise ConfigurationError(
                "Consent.expires_at: must be None or epoch seconds later than given_at;"
                f" got {show_value(self.expires_at)} and {show_value(self.given_at)}"
            )

    @property
    def about(self) -> tuple[str, str | None]:
        """Document and service: of two consents about the same, one counts."""
        return (self.document, self.service)

    def is_valid(self, now: float) -> bool:
        """Whether it has not expired at `now` (epoch seconds). Raises UnsupportedValue."""
        check_seconds("now", now, "epoch seconds")
        return self.expires_at is None or now < self.expires_at


Consents: TypeAlias = frozenset[Consent]


class ConsentStore:
    """The consents of one deployment's users.

    Every method may raise StorageError, and UnsupportedValue for a subject that no session
    can have. Writing raises NoPrimaryKey while the ring has no key for long-lived values.
    The constructor raises ConfigurationError without a store or a lookup key, and if the
    store falls short of the requirements of ``consent``.
    """

    def __init__(self, deployment: Deployment) -> None:
        deployment.require("consent")
        self._now = deployment.now
        self._table = deployment.table(KIND, long_term=True)
        deployment.lookup_secret()

    def record(
        self,
        subject: str,
        document: str,
        version: int,
        expires_at: int | None = None,
        service: str | None = None,
        attributes: Iterable[str] = (),
    ) -> None:
        """Record that `subject` agrees, now. The consent is stored when this returns.

        A consent to the same document replaces the earlier one, unless that is to a newer
        version. Raises ConfigurationError, also for attributes without a service;
        UnsupportedValue for a value of another type or text with a lone surrogate; and
        CapacityError if all consents of the subject do not fit into one row: then nothing
        has changed.
        """
        _check_several(attributes)
        names = tuple(attributes)
        for name in names:  # before they are hashed, which not every value can be
            check_text("attributes", name)
        if names and service is None:
            raise ConfigurationError("attributes: need a service that receives them")
        given = Consent(document, version, int(self._now()), expires_at, service, frozenset(names))

        def add(known: Consents) -> Consents:
            others = frozenset(one for one in known if one.about != given.about)
            has_newer = any(
                one.version > given.version and one.is_valid(given.given_at)
                for one in known - others
            )
            return known if has_newer else others | {given}

        self._change(subject, add)

    def has_accepted(
        self,
        subject: str,
        document: str,
        version: int,
        service: str | None = None,
        attributes: Collection[str] = (),
    ) -> bool:
        """Whether `subject` agreed to this version, or to a later version.

        With `service`: for that service; with `attributes`: to all of these. Also False if
        the row was tampered with. Raises UnsupportedValue for a version that is not a whole
        number, and for a single text in place of several attributes.
        """
        check_integer("version", version)
        _check_several(attributes)
        return any(
            one.about == (document, service)
            and one.version >= version
            and one.attributes.issuperset(attributes)
            for one in self.of_subject(subject)
        )

    def of_subject(self, subject: str) -> tuple[Consent, ...]:
        """The valid consents of `subject`, sorted by document and service."""
        now, known = self._now(), _decode(self._table.read(self._key(subject)))
        return _sort(one for one in known if one.is_valid(now))

    def withdraw(self, subject: str, document: str, service: str | None = None) -> None:
        """Forget one consent, whatever its version; harmless if there is none."""
        self._change(
            subject,
            lambda known: frozenset(one for one in known if one.about != (document, service)),
        )

    def withdraw_all(self, subject: str) -> None:
        """Forget all consents of `subject`; harmless if there are none."""
        self._change(subject, lambda _: frozenset())

    def _key(self, subject: str) -> str:
        check_subject(subject)
        return self._table.guessable_key(subject)

    def _change(self, subject: str, change: Callable[[Consents], Consents]) -> None:
        def update(entry: Entry | None) -> Put | Delete | None:
            known, now = _decode(entry), self._now()
            wanted = frozenset(one for one in change(known) if one.is_valid(now))
            if not wanted:
                return DELETE
            if wanted == known:
                # It may be sealed by a retired key; `sealedstate keys reseal` finds that.
                return None
            ends = [one.expires_at for one in wanted if one.expires_at is not None]
            # The row is needed until the last of them expires, or for ever.
            return Put(_encode(wanted), millis(max(ends)) if len(ends) == len(wanted) else None)

        self._table.change(self._key(subject), update, tries=WRITE_TRIES)


# --- a row's payload ----------------------------------------------------------------------------


def _sort(consents: Iterable[Consent]) -> tuple[Consent, ...]:
    # A consent to all services comes before those for single services.
    return tuple(
        sorted(consents, key=lambda one: (one.document, one.service is not None, one.service or ""))
    )


def _encode(consents: Consents) -> bytes:
    rows = [[*astuple(one)[:-1], sorted(one.attributes)] for one in _sort(consents)]
    return cbor.encode(rows, "consents")


def _decode(entry: Entry | None) -> Consents:
    """The consents of a row; none for a row that was tampered with."""
    if entry is None or entry.error is not None:
        return frozenset()
    found: set[Consent] = set()
    try:
        rows: Any = cbor.decode(entry.value)
        for document, version, given_at, expires_at, service, attributes in rows:
            if type(attributes) is not list:
                raise MalformedRecord
            try:
                consent = Consent(
                    document, version, given_at, expires_at, service, frozenset(attributes)
                )
            except UnsupportedValue as error:
                # An earlier release stored it. The user is asked again.
                log.warning("a consent is ignored: %s has another type", error.path)
            else:
                found.add(consent)
    except (TypeError, ValueError, MalformedRecord) as error:
        # The row is authentic: a newer release wrote it, and can read it.
        raise RowUnreadable(f"{KIND.noun} is unreadable here (record)") from error
    return frozenset(found)


# --- values from callers ------------------------------------------------------------------------


def _check_several(attributes: object) -> None:
    # A text is a collection of texts, too: of its letters.
    if isinstance(attributes, str | bytes) or not isinstance(attributes, Iterable):
        raise UnsupportedValue(
            "attributes", f"expected a collection of texts, got {type(attributes).__name__}"
        )
