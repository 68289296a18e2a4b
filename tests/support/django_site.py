"""A small Django project for tests: its settings, its urls and its views."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import authenticate, login, logout
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from sealedstate import Key
from sealedstate.keyring import export_lookup
from sealedstate_django import keeper

KEY = [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
FOLDER = Path(tempfile.mkdtemp(prefix="sealedstate-django-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
MIDDLEWARE = [
    "sealedstate_django.SealedSessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
PROJECT: dict[str, Any] = {
    "SECRET_KEY": "the project's secret",
    "ALLOWED_HOSTS": ["*"],
    "DEFAULT_AUTO_FIELD": "django.db.models.AutoField",
    "DATABASES": {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(FOLDER / "db.sqlite3")}
    },
    "INSTALLED_APPS": [
        *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages")),
        "django.contrib.sessions",
        "sealedstate_django",
    ],
    "MIDDLEWARE": MIDDLEWARE,
    "TEMPLATES": TEMPLATES,
    "ROOT_URLCONF": __name__,
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
    "LOGGING_CONFIG": None,
    "USE_TZ": True,
    "SESSION_ENGINE": "sealedstate_django",
    "SEALEDSTATE": {"keys": KEY, "storage": "django:default"},
}


def set_up() -> None:
    """Configure Django for this process, once."""
    if not settings.configured:
        settings.configure(**PROJECT)
        django.setup()


def read(request: HttpRequest) -> HttpResponse:
    """All values, and the key."""
    session = request.session
    return JsonResponse({"key": session.session_key, "values": dict(session.items())})


def write(request: HttpRequest) -> HttpResponse:
    """Set what the query says; `status` is that of the response."""
    for name, value in request.GET.items():
        request.session[name] = value
    return HttpResponse(status=int(request.GET.get("status", 200)))


def write_meanwhile(request: HttpRequest) -> HttpResponse:
    """Write while another request logs out."""
    request.session["cart"] = "milk"
    keeper().revoke_session(request.session.session_key or "")
    return HttpResponse()


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("no session")


def enter(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username="ann", password="secret")
    login(request, user)
    messages.info(request, "welcome")
    return HttpResponse(request.session.session_key)


def leave(request: HttpRequest) -> HttpResponse:
    logout(request)
    if "fail" in request.GET:
        raise RuntimeError("after the logout")
    return HttpResponse("bye")


def leave_in_transaction(request: HttpRequest) -> HttpResponse:
    from django.contrib.auth.models import User

    with transaction.atomic():
        User.objects.update(first_name="Ann")  # the database is locked
        logout(request)
        raise RuntimeError("after the logout")


def told(request: HttpRequest) -> HttpResponse:
    return JsonResponse([str(message) for message in messages.get_messages(request)], safe=False)


def cycle(request: HttpRequest) -> HttpResponse:
    request.session.cycle_key()
    return HttpResponse(request.session.session_key)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Any:
        request.session["late"] = 1
        yield b"never"

    request.session["early"] = 1
    return StreamingHttpResponse(body())


async def read_async(request: HttpRequest) -> HttpResponse:
    session: Any = request.session
    return JsonResponse({"cart": await session.aget("cart"), "key": session.session_key})


async def read_at_once(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"cart": request.session.get("cart")})


async def write_async(request: HttpRequest) -> HttpResponse:
    session: Any = request.session
    await session.aset("cart", [*(await session.aget("cart", [])), "tea"])
    return HttpResponse()


async def leave_async(request: HttpRequest) -> HttpResponse:
    session: Any = request.session
    await session.aflush()
    return HttpResponse()


VIEWS: list[Any] = [
    read,
    write,
    write_meanwhile,
    plain,
    enter,
    leave,
    leave_in_transaction,
    told,
    cycle,
    stream,
    read_async,
    read_at_once,
    write_async,
    leave_async,
]
urlpatterns = [path(view.__name__, view) for view in VIEWS]
