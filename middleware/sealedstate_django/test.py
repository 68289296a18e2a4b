"""Django's test clients, for sealed sessions: ``from sealedstate_django.test import Client``.

Django's clients take `session_key` for the cookie. These take the cookies that a save seals, so
`client.session`, `force_login` and `login` work as with other engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import django.test
import django.test.client
import django.test.testcases
from django.conf import settings as project
from django.http import HttpRequest

from ._middleware import set_cookies
from ._store import SessionStore

__all__ = ["AsyncClient", "Client", "install"]

_ENGINE = "sealedstate_django"
_Base: Any = django.test.client.ClientMixin if TYPE_CHECKING else object


class _Sealed(_Base):  # type: ignore[misc]
    """What both clients share."""

    @property
    def session(self) -> Any:
        """The client's session; its `save` gives the cookies to the client."""
        if project.SESSION_ENGINE != _ENGINE:
            return super().session
        store = self._open_session()
        if store.is_empty():
            store.save()
        return store

    async def asession(self) -> Any:
        if project.SESSION_ENGINE != _ENGINE:
            return await super().asession()
        store = self._open_session()
        if store.is_empty():
            await store.asave()
        await store.aload()  # so that its values can be read without waiting
        return store

    def _open_session(self) -> SessionStore:
        pairs = [f"{each.key}={each.coded_value}" for each in self.cookies.values() if each.value]
        store = SessionStore.from_cookies("; ".join(pairs))
        store.on_save = self._take
        return store

    def _take(self, lines: Sequence[str] = ()) -> None:
        """Take the cookies of a save, and forget those that were deleted, as a browser does."""
        set_cookies(self.cookies, lines)
        for place, cookie in list(self.cookies.items()):
            if cookie["max-age"] == 0 and not cookie.value:
                del self.cookies[place]

    def _set_login_cookies(self, request: HttpRequest) -> None:
        """Set the cookies of a login. The save of a sealed session has set them."""
        if not isinstance(request.session, SessionStore):
            super()._set_login_cookies(request)


class Client(_Sealed, django.test.client.Client):
    """`django.test.Client` with sealed sessions."""

    def request(self, **request: Any) -> Any:
        try:
            return super().request(**request)
        finally:
            self._take()


class AsyncClient(_Sealed, django.test.client.AsyncClient):
    """`django.test.AsyncClient` with sealed sessions."""

    async def request(self, **request: Any) -> Any:
        try:
            return await super().request(**request)
        finally:
            self._take()


def install() -> None:
    """Make these the clients of `django.test`, and those of its test cases."""
    for module in (django.test, django.test.client, django.test.testcases):
        module.Client, module.AsyncClient = Client, AsyncClient  # type: ignore[attr-defined]
    cases = django.test.testcases.SimpleTestCase
    cases.client_class, cases.async_client_class = Client, AsyncClient
