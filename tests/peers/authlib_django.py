"""A pytest plugin: requests of Authlib's tests of its Django client have sealed sessions.

They take `factory.session` as the session of a request; it comes from the factory's cookies.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest

from sealedstate import Key


def open_session(self: Any) -> Any:
    from sealedstate_django import SessionStore

    store = SessionStore.from_cookies(vars(self).setdefault("sealed_cookies", ""))

    def keep(lines: Any) -> None:
        self.sealed_cookies = "; ".join(line.partition(";")[0] for line in lines)

    store.on_save = keep
    return store


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    from django.conf import settings

    settings.SESSION_ENGINE = "sealedstate_django"
    settings.SEALEDSTATE = {"keys": Key.generate(os.urandom).export()}
    helper: Any = import_module("tests.django_helper")
    helper.RequestClient.session = property(open_session)
