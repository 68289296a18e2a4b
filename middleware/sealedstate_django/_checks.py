"""System checks: what `manage.py check` says about sealed sessions."""

from __future__ import annotations

from typing import Any

from django.conf import settings as project
from django.core.checks import CheckMessage, Error, Warning
from django.utils.module_loading import import_string

from sealedstate import ConfigurationError

from ._keeper import has_keys, read_settings
from ._middleware import SealedSessionMiddleware

_ENGINE = "sealedstate_django"
_MIDDLEWARE = "sealedstate_django.SealedSessionMiddleware"
_STOCK = "django.contrib.sessions.middleware.SessionMiddleware"


def check_project(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """The engine, its middleware and the settings. Opens neither keys nor a store."""
    found: list[CheckMessage] = []
    has_ours = any(_is_ours(path) for path in project.MIDDLEWARE)
    if project.SESSION_ENGINE != _ENGINE:
        if has_ours:
            hint = f"Set SESSION_ENGINE = {_ENGINE!r}."
            found.append(_error(3, "SealedSessionMiddleware has another SESSION_ENGINE.", hint))
        return found
    if _STOCK in project.MIDDLEWARE:
        hint = f"Put {_MIDDLEWARE!r} in its place: the key of a sealed session is no cookie."
        found.append(_error(2, "Django's SessionMiddleware cannot open sealed sessions.", hint))
    elif not has_ours:
        hint = f"Add {_MIDDLEWARE!r}, before the authentication middleware."
        found.append(_error(1, "SealedSessionMiddleware is not in MIDDLEWARE.", hint))
    if not project.SESSION_COOKIE_HTTPONLY:
        hint = "Remove SESSION_COOKIE_HTTPONLY: no script can read a sealed session."
        found.append(_error(5, "A sealed session is always HttpOnly.", hint))
        return found
    try:
        has_no_keys = not has_keys()
        if has_no_keys and not project.DEBUG:
            hint = "Set SEALEDSTATE = {'keys': ...}; `sealedstate keys generate` prints a key."
            found.append(_error(4, "SEALEDSTATE names no keys to seal sessions with.", hint))
        else:
            read_settings()
            if has_no_keys:
                hint = "Set SEALEDSTATE = {'keys': ...} to keep them."
                text = "SEALEDSTATE names no keys: sessions end with this process."
                found.append(Warning(text, hint=hint, id="sealedstate.W001"))
    except ConfigurationError as error:
        found.append(_error(6, str(error), None))
    return found


def check_store(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """For `check --deploy`: whether a logout counts everywhere."""
    if project.SESSION_ENGINE != _ENGINE:
        return []
    try:
        storage = read_settings().storage
    except ConfigurationError:
        return []  # check_project reports it
    if storage is not None:
        return []
    text = "Without a store, a captured cookie stays signed in after its user has logged out."
    hint = "Set SEALEDSTATE = {'storage': 'django:default', ...}."
    return [Warning(text, hint=hint, id="sealedstate.W002")]


def _is_ours(path: str) -> bool:
    try:
        found = import_string(path)
    except ImportError:
        return False  # Django itself reports it
    return isinstance(found, type) and issubclass(found, SealedSessionMiddleware)


def _error(number: int, text: str, hint: str | None) -> Error:
    return Error(text, hint=hint, id=f"sealedstate.E{number:03}")
