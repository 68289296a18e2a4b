"""Times that callers bring: epoch seconds, or seconds; all else is refused with a sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from sealedstate import Key, LegacyReader, Settings, UsageError
from sealedstate._wire.record import format_id
from sealedstate.devices import SessionRegistry
from sealedstate.sso import (
    Admission,
    ArtifactStore,
    Authentication,
    Consent,
    ConsentStore,
    LoginRecords,
    ReplayCache,
    ServiceLogin,
)
from sealedstate.storage import USES
from sealedstate_wsgi import HealthApplication
from tests.support.identity_providers import PASSWORD, SP, Provider, a_login, identifiers
from tests.support.jar import Clock, keeper
from tests.support.tables import check_each

NOW = int(Clock().now)
NAMES = a_login().name_id
NODE = keeper(Clock(), storage="memory:", accept_weak_store_for=tuple(USES))
OPENED = NODE.deployment
REPLAYS, ARTIFACTS, CONSENTS = ReplayCache(OPENED), ArtifactStore(OPENED), ConsentStore(OPENED)
PROVIDER = Provider()
DERIVED = identifiers()
PASSED = Authentication(PASSWORD, NOW, 60)
KEY = Key.generate(os.urandom)
SESSION_ID = bytes(range(16))

Call = Callable[[Any], object]


def login(act: Callable[[Any, Any], object]) -> Call:
    """`act` with the login record of a user, and the time."""

    def call(value: Any) -> object:
        user = PROVIDER.signed_in(a_login())
        return act(user.login(user.session()), value)

    return call


# Each function that takes a moment or a number of seconds, by the name that its error begins with.
HERE = format_id(SESSION_ID)
MOMENTS: dict[str, Call] = {
    "Authentication.time": lambda time: Authentication(PASSWORD, time, 60),
    "now of is_fresh": PASSED.is_fresh,
    "ServiceLogin.time": lambda time: ServiceLogin(SP, PASSWORD, NAMES, None, time),
    "Authentication.time of authenticate": login(
        lambda record, time: record.authenticate(PASSWORD, 60, time)
    ),
    "Consent.given_at": lambda time: Consent("terms", 1, time),
    "Consent.expires_at": lambda time: Consent("terms", 1, NOW, time),
    "Consent.expires_at of record": lambda time: CONSENTS.record("ann", "terms", 1, time),
    "now of is_valid": Consent("terms", 1, NOW, NOW + 60).is_valid,
    "expires_at": lambda time: REPLAYS.admit(SP, "_1", time),
    "now of transient_name_id": lambda time: DERIVED.transient_name_id(HERE, SP, time),
    "now of session_index": lambda time: DERIVED.session_index(HERE, SP, time),
    "now of open_name_id": lambda time: DERIVED.open_name_id("_", SP, time),
    "now of open_session_index": lambda time: DERIVED.open_session_index("_", SP, time),
    "key: activates_at": lambda time: Key(KEY.kid, KEY.secret, time),
    "key: activates_at of generate": lambda time: Key.generate(os.urandom, time),
    "key: expires_at": lambda time: Key(KEY.kid, KEY.secret, 0, time),
}
SECONDS: dict[str, Call] = {
    "Authentication.duration": lambda seconds: Authentication(PASSWORD, NOW, seconds),
    "within": lambda seconds: PASSED.is_fresh(NOW, seconds),
    "within of a record": login(lambda record, seconds: record.is_fresh(PASSWORD, seconds)),
    "lifetime": lambda seconds: ARTIFACTS.put(b"message", SP, seconds),
    "longest": lambda seconds: ReplayCache(OPENED, seconds),
    "every": lambda seconds: SessionRegistry(NODE, every=seconds),
    "LoginRecords.time_step": lambda seconds: LoginRecords(time_step=seconds),
    "idle": lambda seconds: list(PROVIDER.logout.unfinished(seconds)),
    "keep_for": lambda seconds: HealthApplication(NODE, seconds),
    "idle_lifetime": lambda seconds: Settings(idle_lifetime=seconds),
    "absolute_lifetime": lambda seconds: Settings(absolute_lifetime=seconds),
    "refresh_after": lambda seconds: Settings(refresh_after=seconds),
    "skew": lambda seconds: Settings(skew=seconds),
    "legacy: max_age": lambda seconds: LegacyReader(
        "flask", "secret", datetime.now(UTC), max_age=seconds
    ),
}
# None is the default of these.
OPTIONAL = {"within", "refresh_after", "legacy: max_age", "Consent.expires_at", "key: expires_at"}
OPTIONAL |= {"Authentication.time of authenticate"}
MOMENT = datetime.fromtimestamp(NOW)
WRONG: tuple[object, ...] = (
    *(MOMENT, MOMENT.astimezone(), MOMENT.isoformat(), str(NOW), b"60", date.today()),
    *(timedelta(seconds=60), [NOW], object(), True),
)


def test_every_other_form_of_a_time_is_refused_with_a_sentence() -> None:
    def check(case: tuple[str, Call]) -> None:
        name, call = case
        path = name.partition(" of ")[0]
        is_optional = path in OPTIONAL or name in OPTIONAL
        for value in (*WRONG, *([] if is_optional else [None])):
            with pytest.raises(UsageError, match=re.escape(path)) as caught:
                call(value)
            assert type(caught.value) is not UsageError

    check_each([*MOMENTS.items(), *SECONDS.items()], check)


def test_milliseconds_are_refused_where_they_would_last_for_ever() -> None:
    """A time that is compared with one of another source is only wrong, and counts as such."""
    stored = ("Authentication.time", "ServiceLogin.time", "Consent.expires_at")
    for name in stored:
        with pytest.raises(UsageError, match=name):
            MOMENTS[name](NOW * 1000)
        assert MOMENTS[name](NOW + 1) is not None
    for wrong in (NOW * 1000, float("nan"), float("inf")):
        assert REPLAYS.admit(SP, "_2", wrong) is Admission.FOREIGN
    assert REPLAYS.admit(SP, "_2", NOW + 60) is Admission.ADMITTED


def test_fractions_of_seconds_are_taken_where_nothing_stores_them() -> None:
    assert REPLAYS.admit(SP, "_3", NOW + 60.5)
    assert PASSED.is_fresh(NOW + 0.5, 30.5)  # type: ignore[arg-type]
    assert ARTIFACTS.put(b"message", SP, 1.5)  # type: ignore[arg-type]
    for name in ("Authentication.time", "ServiceLogin.time", "Consent.expires_at"):
        with pytest.raises(UsageError, match=f"{name}: expected epoch seconds, a whole number"):
            MOMENTS[name](NOW + 0.5)


def test_end_of_legacy_cookies_is_an_aware_datetime() -> None:
    for until in (MOMENT, MOMENT.isoformat(), date.today(), NOW, None):
        with pytest.raises(UsageError, match="legacy: until must be a datetime with a time zone"):
            LegacyReader("flask", "secret", until)  # type: ignore[arg-type]
    assert LegacyReader("flask", "secret", MOMENT.astimezone()).until
