"""A pytest plugin: django-allauth's own tests on sealed sessions, with a store.

In its source: ``PYTHONPATH=.../tests/peers python -m pytest -p allauth_suite tests/apps/account``
"""

from __future__ import annotations

import os
import tempfile

import pytest
from django_suites import replace_middleware

from sealedstate import Key

# What the suite assumes that a sealed session does not do, and why.
EXCEPTIONS: dict[str, str] = {}

replace_middleware()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    from django.conf import settings

    settings.SESSION_ENGINE = "sealedstate_django"
    settings.SEALEDSTATE = {
        "keys": Key.generate(os.urandom).export(),
        "cookie_name": "sessionid",
        "storage": f"sqlite:{tempfile.mkdtemp(prefix='peers-')}/store.db",
    }
