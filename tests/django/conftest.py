from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.django_site import set_up

set_up()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.test.utils import override_settings

from sealedstate_django import keeper
from sealedstate_django.test import Client
from tests.support.django_site import KEY

Change = Callable[..., None]


@pytest.fixture(scope="session", autouse=True)
def database() -> Iterator[None]:
    call_command("migrate", verbosity=0)
    User.objects.create_superuser("ann", "ann@example.org", "secret")
    yield
    keeper().deployment.close()
    connections.close_all()


@pytest.fixture
def change() -> Iterator[Change]:
    """Changes settings of the project until the end of the test."""
    changes: list[Any] = []

    def change(**values: Any) -> None:
        changes.append(override_settings(**values))
        changes[-1].enable()

    yield change
    for each in reversed(changes):
        each.disable()


@pytest.fixture
def without_store(change: Change) -> None:
    change(SEALEDSTATE={"keys": KEY})


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


@pytest.fixture
def somebody() -> User:
    """Another user than ann, whom a test may sign out everywhere."""
    return User.objects.create_user(secrets.token_hex(4))
