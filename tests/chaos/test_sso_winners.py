"""Of 16 racers exactly one may act upon a message, and exactly one gets an artifact."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sealedstate.errors import OutcomeUnknown
from sealedstate.sso import ArtifactStore, ReplayCache
from sealedstate.storage import MemoryStorage, Storage, open_storage
from sealedstate.storage.contract import Clock
from sealedstate.testing.clock import FakeClock
from sealedstate.testing.suite import RACERS, Suite, insist
from sealedstate.testing.workers import Meet
from tests.chaos.test_winners import losing_replies
from tests.support.backends import Service
from tests.support.login_makers import SP
from tests.support.services import SHARED, deployment, patient, service
from tests.support.sql_servers import postgresql_server

__all__ = ["postgresql_server"]

ROUNDS = [
    pytest.param(200, marks=pytest.mark.slow),
    pytest.param(10_000, marks=pytest.mark.soak),
]
LEG = 200  # rounds that a crew surely answers in time
MESSAGE = bytes(range(256)) * 40
Outcomes = list[list[bool | None]]
"""By racer and round: whether it won; None if the reply was lost."""


class Racing(Suite):
    """Racers of one URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def open_store(self, clock: Clock) -> Storage:
        return open_storage(self.url, clock)


def admit_all(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, issuer: str, rounds: int
) -> list[bool | None]:
    replays, expires_at = ReplayCache(deployment(store)), time.time() + 600

    def attempt(number: int) -> bool:
        return replays.admit(issuer, f"_{number}", expires_at)

    return [_met(meet, attempt, number) for number in range(rounds)]


def take_all(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, handles: list[bytes]
) -> list[bool | None]:
    artifacts = ArtifactStore(deployment(store))

    def attempt(number: int) -> bool:
        found = artifacts.take(handles[number], SP)
        assert found in (None, MESSAGE)
        return found is not None

    return [_met(meet, attempt, number) for number in range(len(handles))]


def _met(meet: Meet, attempt: Callable[[int], bool], number: int) -> bool | None:
    meet()
    try:
        return insist(attempt, number)
    except OutcomeUnknown:
        return None


def replay_race(suite: Suite, store: Storage, rounds: int) -> Outcomes:
    return suite.race(store, FakeClock(), admit_all, f"https://{uuid.uuid4()}/", rounds)


def artifact_race(suite: Suite, store: Storage, rounds: int) -> Outcomes:
    artifacts = ArtifactStore(deployment(store))
    handles = [insist(artifacts.put, MESSAGE, SP, 3600) for _ in range(rounds)]
    return suite.race(store, FakeClock(), take_all, handles)


RACES = {"replay": replay_race, "artifacts": artifact_race}


def outcomes(what: str, suite: Suite, store: Storage, rounds: int) -> list[tuple[bool | None, ...]]:
    """The outcomes of the 16 racers in each round."""
    legs = [min(LEG, rounds - begun) for begun in range(0, rounds, LEG)]
    told = [RACES[what](suite, store, leg) for leg in legs]
    assert {len(racers) for racers in told} == {RACERS}
    return [answers for racers in told for answers in zip(*racers, strict=True)]


@pytest.fixture(params=SHARED)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    with service(request.param, request, tmp_path) as running:
        yield running


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("what", RACES)
def test_exactly_one_of_16_racers_in_4_processes_wins(
    running: Service, what: str, rounds: int
) -> None:
    url = patient(running.url)
    with contextlib.closing(open_storage(url, FakeClock())) as store:
        told = outcomes(what, Racing(url), store, rounds)
    assert [answers for answers in told if answers.count(True) != 1] == []
    assert len({answers.index(True) for answers in told}) > 1, "the racers have not met"


@pytest.mark.parametrize("what", RACES)
def test_exactly_one_of_16_threads_wins_in_memory(what: str) -> None:
    told = outcomes(what, Racing("memory:"), MemoryStorage(FakeClock()), 200)
    assert [answers for answers in told if answers.count(True) != 1] == []


@pytest.mark.parametrize(
    ("running", "rounds"),
    [
        pytest.param("redis", 50, marks=pytest.mark.server),
        *(
            pytest.param(name, 2000, marks=[pytest.mark.soak, pytest.mark.server])
            for name in ("postgresql", "redis")
        ),
    ],
    indirect=["running"],
)
@pytest.mark.parametrize("what", RACES)
def test_lost_replies_never_let_two_racers_win(running: Service, what: str, rounds: int) -> None:
    with (
        contextlib.closing(open_storage(running.url, FakeClock())) as store,
        running.behind_proxy() as (url, proxy),
        losing_replies(proxy),
    ):
        told = outcomes(what, Racing(url), store, rounds)
    assert [answers for answers in told if answers.count(True) > 1] == []
    assert sum(answers.count(True) for answers in told) > len(told) / 2
