"""A pytest plugin for projects that ask for it: ``pytest_plugins = ["sealedstate_django.pytest"]``.

`client`, `async_client`, `admin_client` and the clients of test cases have sealed sessions.
"""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["admin_client", "async_client", "client"]


def pytest_configure(config: pytest.Config) -> None:
    """Install the clients."""
    from .test import install

    install()


@pytest.fixture
def client() -> Any:
    """A client with sealed sessions."""
    from .test import Client

    return Client()


@pytest.fixture
def async_client() -> Any:
    """An asynchronous client with sealed sessions."""
    from .test import AsyncClient

    return AsyncClient()


@pytest.fixture
def admin_client(db: None, admin_user: Any) -> Any:
    """A client with sealed sessions that is signed in as pytest-django's `admin_user`."""
    from .test import Client

    client = Client()
    client.force_login(admin_user)
    return client
