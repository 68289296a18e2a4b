"""kill -9 of a process that uses the services, or of their server.

No message is admitted twice, no artifact is fetched twice, and no recorded consent is lost. The
process notes in a side file what was acknowledged.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealedstate.errors import StorageError
from sealedstate.sso import ArtifactStore, ConsentStore, ReplayCache
from sealedstate.storage import Storage, open_storage
from sealedstate.testing.clock import tries
from sealedstate.testing.suite import insist
from tests.support.backends import Service, opener, started
from tests.support.login_makers import SP
from tests.support.services import SHARED, deployment, patient, service
from tests.support.sql_servers import postgresql_server

__all__ = ["postgresql_server"]

IDP = "https://idp.example.org/saml"
EACH_ROUND = 4  # notes between two crashes
PATIENCE = 60  # seconds


def open_services(storage: Storage) -> tuple[ReplayCache, ArtifactStore, ConsentStore]:
    node = deployment(storage)
    return ReplayCache(node), ArtifactStore(node), ConsentStore(node)


def use_for_ever(url: str, side_file: Path) -> None:
    """Note what was admitted, put, taken and recorded, each when it was acknowledged."""
    replays, artifacts, consents = open_services(opener(url)())
    notes = os.open(side_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(what: str) -> None:
        os.write(notes, f"{what}\n".encode())

    for number in itertools.count(int(time.time() * 1000)):
        try:
            if replays.admit(IDP, str(number), time.time() + 3600):
                note(f"admitted {number}")
            handle = artifacts.put(str(number).encode(), SP, 3600)
            note(f"put {number} {handle.hex()}")
            if number % 2:
                note(f"taking {number} {handle.hex()}")
                if artifacts.take(handle, SP) == str(number).encode():
                    note(f"taken {number} {handle.hex()}")
            consents.record(f"user {number % 5}", f"document {number}", 1)
            note(f"recorded {number}")
        except StorageError:
            time.sleep(0.005)  # until it is back


def broken_promises(storage: Storage, notes: list[list[str]]) -> Iterator[str]:
    replays, artifacts, consents = open_services(storage)
    taking = {note[1] for note in notes if note[0] == "taking"}
    for what, number, *rest in notes:
        if what == "admitted" and insist(replays.admit, IDP, number, time.time() + 3600):
            yield f"{number} is admitted again"
        if what == "put" and number not in taking:
            found = insist(artifacts.take, bytes.fromhex(rest[0]), SP)
            if found != number.encode():
                yield f"{number} is lost: {found!r}"
        if what == "taken" and insist(artifacts.take, bytes.fromhex(rest[0]), SP):
            yield f"{number} is fetched twice"
        if what == "recorded":
            subject = f"user {int(number) % 5}"
            if not insist(consents.has_accepted, subject, f"document {number}", 1):
                yield f"the consent {number} is lost"


def read_notes(side_file: Path) -> list[list[str]]:
    """A process that is killed in the middle leaves half a line, which promises nothing."""
    if not side_file.exists():
        return []
    lines = side_file.read_text().splitlines(keepends=True)
    return [line.split() for line in lines if line.endswith("\n")]


def wait_for_progress(side_file: Path) -> None:
    goal = len(read_notes(side_file)) + EACH_ROUND * 4
    for _ in tries(PATIENCE):
        if len(read_notes(side_file)) >= goal:
            return
    raise AssertionError("the process makes no progress")


@pytest.fixture(params=SHARED)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    with service(request.param, request, tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    "rounds",
    [pytest.param(3, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.soak)],
)
def test_crashes_let_nothing_count_twice_and_lose_nothing(
    running: Service, rounds: int, tmp_path: Path
) -> None:
    side_file = tmp_path / "notes"
    process = started(use_for_ever, running.url, side_file)
    try:
        for _ in range(rounds):
            wait_for_progress(side_file)
            if running.server is None:
                process.kill()
                process.join()
                process = started(use_for_ever, running.url, side_file)
            else:
                running.server.kill9()
                running.server.start()
        wait_for_progress(side_file)
    finally:
        process.kill()
        process.join()
    storage, notes = open_storage(patient(running.url), time.time), read_notes(side_file)
    assert {note[0] for note in notes} == {"admitted", "put", "taking", "taken", "recorded"}
    assert list(broken_promises(storage, notes)) == []
    storage.close()
