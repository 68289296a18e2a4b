"""What Django's error reports show of a session and of the settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django import VERSION
from django.core import mail
from django.test import RequestFactory
from django.utils.log import AdminEmailHandler
from django.views.debug import (
    SafeExceptionReporterFilter,
    get_default_exception_reporter_filter,
    get_exception_reporter_filter,
)

from sealedstate_django import ReportFilter, SealedSessionMiddleware
from sealedstate_django.test import AsyncClient, Client
from tests.django.conftest import Change
from tests.support.django_site import KEY

NAME = "__Host-Http-s"
LOCMEM = "django.core.mail.backends.locmem.EmailBackend"
URL = "redis://:hunter2pw@127.0.0.1:1/0"


class OwnFilter(SafeExceptionReporterFilter):
    """A project's own."""

    cleansed_substitute = "hidden"


@pytest.fixture(autouse=True)
def forget_the_default_filter() -> Iterator[None]:
    """Django keeps the first for the whole process."""
    cached: Any = get_default_exception_reporter_filter
    cached.cache_clear()
    yield
    cached.cache_clear()


@pytest.fixture
def mails(change: Change) -> Any:
    address: Any = "ann@example.org"
    before: dict[str, Any] = {"EMAIL_BACKEND": LOCMEM}
    change(
        # Django 5.2 refuses an address without a name, and 6.0 warns of one with a name.
        ADMINS=[address if VERSION >= (6,) else ("Ann", address)],
        **({"MAILERS": {"default": {"BACKEND": LOCMEM}}} if VERSION >= (6, 1) else before),
    )
    mail.outbox = []
    handler = AdminEmailHandler(include_html=True)
    logger = logging.getLogger("django.request")
    logger.addHandler(handler)
    yield mail.outbox
    logger.removeHandler(handler)


@pytest.mark.parametrize("client_class", [Client, AsyncClient])
def test_error_mail_shows_no_cookie_of_the_session(
    change: Change, mails: list[Any], client_class: Any
) -> None:
    client = client_class(raise_request_exception=False)
    table = {"keys": KEY, "profile": "roomy", "cookie_name": "shop"}
    change(SEALEDSTATE={**table, "former_cookies": [{"name": "before"}]})
    change(SEALEDSTATE_LEGACY_UNTIL="2999-01-01")
    former = Client()
    former.get("/write", {name: name * 1500 for name in "ab"})
    client.cookies = former.cookies
    for name, value in [("before", "was_before"), ("sessionid", "was_django"), ("other", "tea")]:
        client.cookies[name] = value
    values = [each.value for name, each in client.cookies.items() if name != "other"]
    assert len(values) > 3
    if client_class is Client:
        client.get("/leave?fail")
    else:
        asyncio.run(client.get("/leave?fail"))
    (sent,) = mails
    for text in (sent.body, sent.alternatives[0][0]):
        assert "tea" in text
        assert [value for value in values if value in text] == []


def test_projects_own_filter_of_reports_counts_too(change: Change) -> None:
    request = RequestFactory().get("/")
    request.COOKIES = {NAME: "token", "other": "tea"}
    change(DEFAULT_EXCEPTION_REPORTER_FILTER=f"{__name__}.OwnFilter")
    middleware = SealedSessionMiddleware(lambda request: None)
    middleware.process_request(request)
    found = get_exception_reporter_filter(request)
    assert isinstance(found, OwnFilter)
    assert found.get_safe_cookies(request) == {NAME: "hidden", "other": "tea"}
    own = request.exception_reporter_filter = OwnFilter()
    middleware.process_request(request)
    assert get_exception_reporter_filter(request) is own


def test_errors_hide_the_store_and_keys(change: Change) -> None:
    change(SEALEDSTATE={"keys": KEY, "storage": URL}, SEALEDSTATE_STORAGE=URL)
    shown = ReportFilter().get_safe_settings()
    assert "hunter2pw" not in str(shown)
    assert KEY[0] not in str(shown)
    assert isinstance(get_exception_reporter_filter(None), ReportFilter)
    found = ReportFilter().cleanse_setting("OTHER", f"keys are {KEY[0]}")
    assert KEY[0] not in found
