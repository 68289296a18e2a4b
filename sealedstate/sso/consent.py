"""What users agreed to: terms of use, and which attributes a service may receive.

    if not consents.has_accepted(subject, "terms", 3):
        ...  # show version 3, and when the user agrees:
        consents.record(subject, "terms", 3)

All consents of a subject are one row of the context ``sealedstate.sso.consent`` (see
docs/format.md), whose name only the ring's lookup secret gives, sealed by a key for long-lived
values: the store reveals neither the subject nor the consents, and no rotation of the keys
that seal sessions affects them. The payload is CBOR as in docs/format.md: a list of [document,
version, given at, expires at or None, service or None, list of attributes], sorted by document
and service, times in seconds since 1970-01-01T00:00:00Z. A consent with parameters or answers
has eight items: these six, the dict of its parameters and the dict of its answers, names in
order. Their values are text, whole numbers of 64 bits, True and False. The number of items is
the version of this form: a reader refuses the row if a consent has another number, or eight
items and values or sizes that it does not know, because a newer release wrote it.

Two concurrent changes are both made. If both record the same document, the newer version stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
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
    quote_text,
    show_value,
)
from ..keyring import MAX_TIME
from ..storage.contract import LAST_VERSION, millis
from .logins import check_integer, check_seconds, check_text, make_type_error

__all__ = ["Consent", "ConsentStore"]

Details: TypeAlias = Mapping[str, str | int | bool]
NO_DETAILS: Details = MappingProxyType({})

KIND = Kind("sealedstate.sso.consent", "consent", "a user's row of consents")
# Each round of a race for one subject has a winner, so this many writers are served.
WRITE_TRIES = 100
# Of one consent's parameters, and of its answers. A subject's consents share one row.
MAX_DETAILS = 32
MAX_NAME_BYTES = 64
MAX_TEXT_BYTES = 1024
MAX_DETAIL_BYTES = 4096
INTEGERS = range(-(1 << 63), 1 << 63)

log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class Consent:
    """A user agreed to `version` of `document`. Times in epoch seconds.

    `expires_at`: None for never. `service`: the entityID of the only service that the
    consent is for, which may receive `attributes`; None for all services. `parameters`: what
    filled the sections of the document that the user saw, such as a price. `answers`: what the
    user entered. Each maps names to text, whole numbers or bools: at most 32 names of 64 bytes,
    texts of 1024, and 4096 bytes encoded; the repr hides them. Raises UnsupportedValue for values
    of other types and for larger ones, with the `path` to them; ConfigurationError for other bad
    values.
    """

    document: str
    version: int
    given_at: int
    expires_at: int | None = None
    service: str | None = None
    attributes: frozenset[str] = frozenset()
    parameters: Details = field(default_factory=dict, repr=False, hash=False)
    answers: Details = field(default_factory=dict, repr=False, hash=False)

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
        for name in ("parameters", "answers"):
            # A copy: the caller's mapping may change.
            object.__setattr__(self, name, _copy_details(name, getattr(self, name)))

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
        parameters: Details = NO_DETAILS,
        answers: Details = NO_DETAILS,
    ) -> None:
        """Record that `subject` agrees, now. The consent is stored when this returns.

        A consent to the same document replaces the earlier one, its parameters and its answers,
        unless that is to a newer version. Raises ConfigurationError, also for attributes without
        a service; UnsupportedValue for a value of another type, for text with a lone surrogate,
        and for parameters or answers beyond the sizes that `Consent` states; and CapacityError
        if all consents of the subject do not fit into one row: then nothing has changed.
        """
        _check_several(attributes)
        names = tuple(attributes)
        for name in names:  # before they are hashed, which not every value can be
            check_text("attributes", name)
        if names and service is None:
            raise ConfigurationError("attributes: need a service that receives them")
        given = Consent(
            document,
            version,
            int(self._now()),
            expires_at,
            service,
            frozenset(names),
            parameters,
            answers,
        )

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
        parameters: Details | None = None,
    ) -> bool:
        """Whether `subject` agreed to this version, or to a later version.

        With `service`: for that service; with `attributes`: to all of these; with `parameters`:
        to a text that was filled with exactly these. Also False if the row was tampered with.
        Raises UnsupportedValue if the version is not a whole number, if the attributes are a
        single text, and if no consent can have such parameters.
        """
        check_integer("version", version)
        _check_several(attributes)
        shown = None if parameters is None else _encode_details("parameters", parameters)
        one = self.find(subject, document, service)
        return (
            one is not None
            and one.version >= version
            and one.attributes.issuperset(attributes)
            # As bytes, because True == 1.
            and shown in (None, _encode_details("parameters", one.parameters))
        )

    def find(self, subject: str, document: str, service: str | None = None) -> Consent | None:
        """The valid consent of `subject` to a document, whatever its version; None without one."""
        return next(
            (one for one in self.of_subject(subject) if one.about == (document, service)), None
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
            # Encoded, too, because an answer True equals 1.
            if wanted == known and _encode(wanted) == _encode(known):
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
    rows = []
    for one in _sort(consents):
        row = [one.document, one.version, one.given_at, one.expires_at, one.service]
        details = [one.parameters, one.answers] if one.parameters or one.answers else []
        rows.append([*row, sorted(one.attributes), *details])
    return cbor.encode(rows, "consents")


def _decode(entry: Entry | None) -> Consents:
    """The consents of a row; none for a row that was tampered with."""
    if entry is None or entry.error is not None:
        return frozenset()
    found: set[Consent] = set()
    try:
        rows: Any = cbor.decode(entry.value)
        for row in rows:
            if len(row) not in (6, 8) or type(row[5]) is not list:
                raise MalformedRecord
            document, version, given_at, expires_at, service, attributes, *details = row
            try:
                names = frozenset(attributes)
                consent = Consent(document, version, given_at, expires_at, service, names, *details)
            except UnsupportedValue as error:
                if details:
                    raise MalformedRecord from error  # a newer release allows more
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


def _copy_details(path: str, details: object) -> dict[str, str | int | bool]:
    """A copy of the parameters or answers of a consent, in the order of their names.

    Raises UnsupportedValue for those that no consent can have.
    """
    if not isinstance(details, Mapping):
        raise make_type_error(path, "a mapping", details)
    if len(details) > MAX_DETAILS:
        raise UnsupportedValue(path, f"{len(details)} names, but the limit is {MAX_DETAILS}")
    for name, value in details.items():
        check_text(f"a name in {path}", name)
        _check_size(f"a name in {path}", len(name.encode()), MAX_NAME_BYTES)
        place = f"{path}[{quote_text(name)}]"
        if type(value) is str:
            check_text(place, value)
            _check_size(place, len(value.encode()), MAX_TEXT_BYTES)
        elif type(value) is int:
            if value not in INTEGERS:
                raise UnsupportedValue(place, "an integer of more than 64 bits")
        elif type(value) is not bool:
            raise make_type_error(place, "text, a whole number or a bool", value)
    copied = dict(sorted(details.items()))
    _check_size(path, len(cbor.encode(copied, path)), MAX_DETAIL_BYTES)
    return copied


def _encode_details(path: str, details: Details) -> bytes:
    return cbor.encode(_copy_details(path, details), path)


def _check_size(path: str, size: int, most: int) -> None:
    if size > most:
        raise UnsupportedValue(path, f"{size} bytes, but the limit is {most}")
