"""Of 16 racers in 4 processes exactly one may act on a message, exactly one gets an artifact."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import pytest

from sealedstate.sso import ArtifactStore, ReplayCache
from sealedstate.storage import MemoryStorage, Storage, open_storage
from sealedstate.testing import FakeClock
from sealedstate.testing._suite import eventually
from tests.support.backends import Service
from tests.support.identity_providers import SHARED, SP, deployment, patient, service
from tests.support.racers import Answers, Racing, losing_replies, play, race_in_legs
from tests.support.sql_servers import postgresql_server

__all__ = ["postgresql_server"]

pytestmark = pytest.mark.slow

ROUNDS = [200, pytest.param(10_000, marks=pytest.mark.soak)]
MESSAGE = bytes(range(256)) * 40
KINDS = ("replay", "artifacts")


def admit_all(
    store: Storage, clock: FakeClock, racer: int, barrier: Barrier, issuer: str, rounds: int
) -> list[bool | None]:
    replays, expires_at = ReplayCache(deployment(store)), time.time() + 600

    def attempt(number: int) -> bool:
        return replays.admit(issuer, f"_{number}", expires_at)

    return [play(barrier, attempt, number) for number in range(rounds)]


def take_all(
    store: Storage, clock: FakeClock, racer: int, barrier: Barrier, handles: list[bytes]
) -> list[bool | None]:
    artifacts = ArtifactStore(deployment(store))

    def attempt(handle: bytes) -> bool:
        found = artifacts.take(handle, SP)
        assert found in (None, MESSAGE)
        return found is not None

    return [play(barrier, attempt, handle) for handle in handles]


def outcomes(kind: str, url: str, store: Storage, rounds: int) -> list[Answers]:
    """The answers of 16 racers, in each round."""

    def race(leg: int) -> list[list[bool | None]]:
        if kind == "replay":
            issuer = f"https://{uuid.uuid4()}/"
            return Racing(url).race(store, FakeClock(), admit_all, issuer, leg)
        artifacts = ArtifactStore(deployment(store))
        handles = [eventually(artifacts.put, MESSAGE, SP, 3600) for _ in range(leg)]
        return Racing(url).race(store, FakeClock(), take_all, handles)

    return race_in_legs(race, rounds)


@pytest.fixture(params=SHARED)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    with service(request.param, request, tmp_path) as running:
        yield running


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_one_of_16_racers_in_4_processes_wins(
    running: Service, kind: str, rounds: int
) -> None:
    url = patient(running.url)
    with contextlib.closing(open_storage(url, FakeClock())) as store:
        found = outcomes(kind, url, store, rounds)
    assert [answers for answers in found if answers.count(True) != 1] == []
    assert len({answers.index(True) for answers in found}) > 1, "the racers have not met"


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_one_of_16_threads_wins_in_memory(kind: str) -> None:
    found = outcomes(kind, "memory:", MemoryStorage(FakeClock()), 200)
    assert [answers for answers in found if answers.count(True) != 1] == []


@pytest.mark.server
@pytest.mark.parametrize(
    ("running", "rounds"),
    [
        ("redis", 50),
        pytest.param("redis", 2000, marks=pytest.mark.soak),
        pytest.param("postgresql", 2000, marks=pytest.mark.soak),
    ],
    indirect=["running"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_lost_replies_let_no_second_racer_win(running: Service, kind: str, rounds: int) -> None:
    with (
        contextlib.closing(open_storage(running.url, FakeClock())) as store,
        running.behind_proxy() as (url, proxy),
        losing_replies(proxy),
    ):
        found = outcomes(kind, url, store, rounds)
    assert [answers for answers in found if answers.count(True) > 1] == []
    assert sum(answers.count(True) for answers in found) > len(found) / 2
