"""A pytest plugin for projects that ask for it: ``pytest_plugins = ["sealedstate_django.pytest"]``.

The clients of pytest-django's fixtures, and of test cases, have sealed sessions.
"""

from __future__ import annotations

import pytest

__all__ = ["pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Install the clients."""
    from .test import install

    install()
