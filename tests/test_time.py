"""Time in tests of applications: freezegun, time-machine and `ManualClock` move sessions alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import time_machine
from freezegun import freeze_time

from sealedstate import ConfigurationError, Keeper, Key, Session, Settings
from sealedstate.storage import SQLiteStorage
from sealedstate.testing import ManualClock
from tests.support.documents import Document
from tests.support.jar import Browser
from tests.support.tables import check_each

KEY = Key.generate(os.urandom).export()
START = datetime(2027, 1, 15, 8, tzinfo=UTC)
Move = Callable[[float], object]


@contextmanager
def freezegun() -> Iterator[tuple[dict[str, Any], Move]]:
    with freeze_time(START) as frozen:
        yield {}, lambda seconds: frozen.tick(timedelta(seconds=seconds))


@contextmanager
def travel() -> Iterator[tuple[dict[str, Any], Move]]:
    with time_machine.travel(START, tick=False) as traveller:
        yield {}, lambda seconds: traveller.shift(seconds)


@contextmanager
def manual() -> Iterator[tuple[dict[str, Any], Move]]:
    clock = ManualClock(START.timestamp())
    yield {"clock": clock}, clock.forward


WAYS = {"freezegun": freezegun, "time-machine": travel, "ManualClock": manual}


def test_moved_time_ends_sessions() -> None:
    def check(way: Any) -> None:
        with way() as (given, move):
            browser = Browser(Keeper(Settings(keys=[KEY], **given)))
            browser.visit(lambda session: setattr(session, "subject", "ann"))
            for _ in range(3):
                move(7199)
                browser.visit(lambda session: session.subject)
                assert browser.session().subject == "ann"
            assert browser.session().created_at == START.timestamp()
            move(7200)
            assert (browser.session().subject, browser.session().refusal) == (None, "expired")

    check_each(WAYS, check)


def test_keeper_that_was_made_before_time_was_replaced_follows_it(tmp_path: Any) -> None:
    """As a module's keeper is, which all tests of an application share."""
    now, store = time.time(), f"sqlite:{tmp_path / 's.db'}"
    keeper = Keeper(Settings(keys=[KEY], storage=store, part_policies={"cart": "server"}))
    for way in (freezegun, travel):
        with way() as (_, move):
            browser = Browser(keeper)
            browser.visit(lambda session: session.update(cart=[1]))
            move(7199)
            assert browser.read() == {"cart": [1]}
            move(1)
            assert browser.read() == {}
    assert isinstance(keeper.deployment.store, SQLiteStorage)
    browser = Browser(keeper)
    browser.visit(lambda session: session.update(cart=[1]))
    assert now <= (browser.session().created_at or 0) + 1 <= time.time() + 1


def put_moments(session: Session) -> None:
    session["seen"] = [datetime.now(), datetime.now(UTC), datetime.fromtimestamp(5, UTC)]
    session["day"] = {date.today(): datetime.now().date()}


def test_replaced_datetimes_are_kept_as_datetimes() -> None:
    def check(way: Any) -> None:
        browser = Browser(Keeper(Settings(keys=[KEY], clock=ManualClock())))
        with way() as (_, move):
            browser.visit(put_moments)
            held = browser.read()
            assert browser.visit(len) == []  # unchanged
            move(60)
            later: Any = datetime.now()
            browser.visit(lambda session: session["seen"].append(later))  # type: ignore[attr-defined]
            held["seen"].append(later)  # type: ignore[attr-defined]
            assert browser.read() == held
        # Also where nothing is replaced, and as the real types.
        assert browser.read() == held
        seen: Any = browser.read()["seen"]
        assert {type(moment) for moment in seen} == {type(START)}

    check_each(WAYS, check)


def test_documented_clock_moves_the_keeper() -> None:
    names: dict[str, Any] = {"KEY": KEY}
    exec(compile(Document("testing.md").block("clock"), "testing.md", "exec"), names)
    assert names["keeper"].deployment.now() == names["clock"].now == ManualClock().now + 7200


def test_clock_that_returns_no_epoch_seconds_stops_the_start() -> None:
    clocks: tuple[Callable[[], Any], ...] = (
        datetime.now,
        lambda: datetime.now().isoformat(),
        lambda: int(time.time() * 1000),
        time.time_ns,
        lambda: None,
        lambda: True,
        lambda: float("nan"),
        lambda: -1,
    )
    for clock in clocks:
        with pytest.raises(ConfigurationError, match="clock: must return epoch seconds"):
            Settings(keys=[KEY], clock=clock)
