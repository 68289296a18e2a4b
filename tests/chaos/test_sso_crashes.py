"""kill -9 of a process that uses replay cache, artifacts and consent, or of their server.

No message counts twice, no artifact is fetched twice, and no recorded consent is lost.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sealedstate.errors import StorageError
from sealedstate.sso import ArtifactStore, ConsentStore, ReplayCache
from sealedstate.storage import Storage, open_storage
from sealedstate.testing._suite import eventually
from tests.support.backends import Service, opener, patient
from tests.support.crashes import CRASHABLE
from tests.support.identity_providers import SHARED, SP, deployment
from tests.support.workers import SideFile, Workers

pytestmark = pytest.mark.slow

IDP = "https://idp.example.org/saml"
EACH_ROUND = 16  # notes between two crashes


def use(url: str, name: str, side_file: SideFile) -> None:
    """Note what was admitted, put, taken and recorded, each when it was acknowledged."""
    at = deployment(opener(url)())
    replays, artifacts, consents = ReplayCache(at), ArtifactStore(at), ConsentStore(at)
    begin = max((note[1] for note in side_file.read()), default=0) + 1
    for number in itertools.count(begin):
        message = str(number)
        try:
            if replays.admit(IDP, message, time.time() + 3600):
                side_file.note("admitted", number)
            handle = artifacts.put(message.encode(), SP, 3600)
            side_file.note("put", number, handle.hex())
            if number % 2:
                side_file.note("taking", number)
                if artifacts.take(handle, SP) == message.encode():
                    side_file.note("taken", number, handle.hex())
            consents.record(f"user {number % 5}", f"document {number}", 1)
            side_file.note("recorded", number)
        except StorageError:
            time.sleep(0.005)  # until the server is back


def broken_promises(storage: Storage, side_file: SideFile) -> Iterator[str]:
    at, notes = deployment(storage), side_file.read()
    replays, artifacts, consents = ReplayCache(at), ArtifactStore(at), ConsentStore(at)
    assert {note[0] for note in notes} == {"admitted", "put", "taking", "taken", "recorded"}
    taking = {note[1] for note in notes if note[0] == "taking"}
    for what, number, *handle in notes:
        if what == "admitted" and eventually(replays.admit, IDP, str(number), time.time() + 3600):
            yield f"{number} is admitted again"
        if what == "put" and number not in taking:
            found = eventually(artifacts.take, bytes.fromhex(handle[0]), SP)
            if found != str(number).encode():
                yield f"{number} is lost: {found!r}"
        if what == "taken" and eventually(artifacts.take, bytes.fromhex(handle[0]), SP):
            yield f"{number} is fetched twice"
        if what == "recorded" and not eventually(
            consents.has_accepted, f"user {number % 5}", f"document {number}", 1
        ):
            yield f"the consent {number} is lost"


@pytest.fixture(params=SHARED)
def running(request: pytest.FixtureRequest, disk: Path) -> Iterator[Service]:
    with CRASHABLE[request.param](disk) as running:
        store = open_storage(patient(running.url), time.time)
        store.prepare()
        store.close()
        yield running


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.soak)])
def test_crashes_count_nothing_twice_and_lose_nothing(
    running: Service, rounds: int, disk: Path
) -> None:
    workers = Workers(partial(use, running.url), disk, ["1"])
    workers.crash(running.server, rounds, EACH_ROUND)
    storage = open_storage(patient(running.url), time.time)
    assert list(broken_promises(storage, workers.side_files["1"])) == []
    storage.close()
