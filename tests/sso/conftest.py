"""The stores on which the services of an identity provider keep their promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sealedstate.storage import Storage
from tests.support.identity_providers import ON_SERVERS, opened
from tests.support.jar import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", *ON_SERVERS])
def storage(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Storage]:
    with opened(request.param, request, tmp_path, clock) as store:
        yield store
