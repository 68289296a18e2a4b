"""A node whose clock is hours ahead undoes no logout of the others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sealedstate.storage import SQLiteStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import log_out, node, signed_in

HOUR = 3600


@pytest.mark.parametrize("hours", [1, 13, 22])
def test_node_whose_clock_is_hours_ahead_removes_no_logout_of_others(
    tmp_path: Path, hours: int
) -> None:
    clock = Clock()
    right = node(clock, SQLiteStorage(tmp_path / "s.db", clock), accept_weak_store_for=[])
    captured = []
    for number in range(40):
        browser = signed_in(right, f"user {number}")
        captured.append(browser.jar.copy())
        browser.visit(log_out)
    right.revoke_subject("ann")
    wrong = Clock(clock.now + hours * HOUR)
    store = SQLiteStorage(tmp_path / "s.db", wrong)
    ahead = node(wrong, store, accept_weak_store_for=[])
    # It removes what has expired by its clock, at its writes and when it is asked to.
    for number in range(40):
        signed_in(ahead, f"another {number}").visit(log_out)
    store.reap(10_000)
    for jar in captured:
        assert Browser(right, jar).session().subject is None
    assert right.counts["refused-revoked"] == len(captured)


def test_expired_rows_are_gone_after_a_day(tmp_path: Path) -> None:
    clock = Clock(time.time())
    store = SQLiteStorage(tmp_path / "s.db", clock)
    shop = node(clock, store, accept_weak_store_for=[])
    for _ in range(10):
        signed_in(shop).visit(log_out)
    clock.forward(12 * HOUR + 24 * HOUR)
    assert store.reap(10_000) > 0
    assert store.reap(10_000) == 0
