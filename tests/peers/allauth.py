"""A pytest plugin: django-allauth's own tests on sealed sessions, with a store.

In its source: ``python -m pytest -p peers.allauth tests/apps/account``; `peers` is this folder,
linked into a folder of the path.
"""

from __future__ import annotations

import os
import tempfile

import pytest

from sealedstate import Key

from .django import replace_middleware

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
