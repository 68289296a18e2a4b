"""The middleware that opens and saves the session of a request."""

from __future__ import annotations

from collections.abc import Iterable
from http.cookies import Morsel, SimpleCookie
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings as project
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from sealedstate.adapting import sealed
from sealedstate.headers import cookie_header, set_cookie_bytes, with_session

from ._keeper import binding, keeper
from ._reports import report_filter
from ._store import SessionStore


class _Cookie(Morsel[str]):
    """A cookie that may be Partitioned, which http.cookies only knows since Python 3.14."""

    _reserved = {**Morsel._reserved, "partitioned": "Partitioned"}  # type: ignore[attr-defined]  # noqa: RUF012
    _flags = {*Morsel._flags, "partitioned"}  # type: ignore[attr-defined]  # noqa: RUF012


def set_cookies(cookies: SimpleCookie, lines: Iterable[str]) -> None:
    """Put the Set-Cookie field values of a save among the cookies of a response or of a client."""
    placed: set[str] = set()
    for line in lines:
        pair, *attributes = line.split("; ")
        name, _, value = pair.partition("=")
        cookie = _Cookie()
        cookie.set(name, value, value)
        for attribute in attributes:
            word, equals, text = attribute.partition("=")
            cookie[word.lower()] = int(text) if word == "Max-Age" else text if equals else True
        # One name can be set on several paths.
        place = name if name not in placed else f"{name} {cookie['path']} {cookie['domain']}"
        placed.add(place)
        dict.__setitem__(cookies, place, cookie)


class SealedSessionMiddleware(SessionMiddleware):
    """In place of Django's SessionMiddleware: `request.session` is a sealed session."""

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if not issubclass(self.SessionStore, SessionStore):
            raise ImproperlyConfigured(
                "SESSION_ENGINE: must be 'sealedstate_django' with SealedSessionMiddleware"
            )
        keeper()  # a mistake in the settings stops the start
        self._report_filter = report_filter()

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        self._open(request)
        bound = await sync_to_async(self._bind)(request) if self._is_binding(request) else None
        response: HttpResponseBase = bound or await self.get_response(request)  # type: ignore[misc]
        # Without a store nothing waits, and neither does a session that was not used.
        can_wait = keeper().deployment.store is not None or keeper().settings.legacy is not None
        is_used = getattr(request.session, "accessed", True) or project.SESSION_SAVE_EVERY_REQUEST
        if not (can_wait and is_used):
            return self.process_response(request, response)
        return await sync_to_async(self.process_response)(request, response)

    def process_request(self, request: HttpRequest) -> HttpResponse | None:  # type: ignore[override]
        self._open(request)
        return self._bind(request) if self._is_binding(request) else None

    def _is_binding(self, request: HttpRequest) -> bool:
        found = binding()
        return found is not None and found.is_for(request.path)

    def _bind(self, request: HttpRequest) -> HttpResponse | None:
        """The answer to a browser that binds its session."""
        if (found := binding()) is None:
            return None
        session = sealed(request.session)
        answer = found.answer(session, request.method or "", request.path, request.headers.get)
        lines = [value for name, value in answer.headers if name == "Set-Cookie"]
        fields = {name: value for name, value in answer.headers if name != "Set-Cookie"}
        response = HttpResponse(answer.body, status=answer.status, headers=fields)
        set_cookies(response.cookies, lines)
        return response

    def _open(self, request: HttpRequest) -> None:
        if not hasattr(request, "exception_reporter_filter"):
            request.exception_reporter_filter = self._report_filter
        meta = request.META
        if (scope := getattr(request, "scope", None)) is None:
            header = meta.get("HTTP_COOKIE", "")
        else:
            header = cookie_header(scope["headers"])
        site, origin = meta.get("HTTP_SEC_FETCH_SITE"), meta.get("HTTP_ORIGIN")
        cross_site = keeper().is_cross_site(request.method or "GET", site, origin)
        request.session = self.SessionStore.from_cookies(header, cross_site)  # type: ignore[attr-defined]

    def process_response(  # type: ignore[override]  # also of streams and files
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        session = getattr(request, "session", None)
        if not isinstance(session, SessionStore):
            return response
        if (bound := binding()) is not None:
            for name, value in bound.offer(session._sealed):
                response[name] = value
        others = [("Set-Cookie", each.OutputString()) for each in response.cookies.values()]
        try:
            session.finish(
                set_cookie_bytes(others),
                is_failed=response.status_code >= 500,
                is_streaming=response.streaming,
            )
        except UpdateError:
            text = "The session was ended while this request ran, such as by a logout in another."
            raise SessionInterrupted(text) from None
        lines = session.lines
        if session.accessed or lines:
            for name, value in with_session(list(response.items()), lines):
                if name != "Set-Cookie":
                    response[name] = value
        if lines:
            set_cookies(response.cookies, lines)
            if host := request.META.get("HTTP_HOST"):
                keeper().note_scheme(request.scheme or "http", host)
        return response
