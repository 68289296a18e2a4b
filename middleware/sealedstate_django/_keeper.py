"""The settings and the keeper of a Django project."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.apps import apps
from django.conf import settings as project
from django.core.signals import setting_changed
from django.utils import timezone
from django.utils.module_loading import import_string

from sealedstate import ConfigurationError, Keeper, Settings
from sealedstate._forks import ForkSafeLock
from sealedstate.adapting import DEVICES, FrameworkConfig
from sealedstate.binding import SessionBinding, open_binding
from sealedstate.devices import SessionRegistry, make_registry, require_registry
from sealedstate.errors import show_value
from sealedstate.legacy import StoredSession
from sealedstate.settings import MAX_LIFETIME
from sealedstate.storage import USES

from ._database import database_url

_log = logging.getLogger("sealedstate.django")

_NAME = "SEALEDSTATE"
# Django's settings that settings begin with, beside those of the cookie.
_SOURCES = {"idle_lifetime": "SESSION_COOKIE_AGE", "absolute_lifetime": "SESSION_COOKIE_AGE"}
_IN_USE = 30 * 86400

_lock = ForkSafeLock()
_opened: tuple[Keeper, SessionRegistry | None, SessionBinding | None] | None = None


def keeper() -> Keeper:
    """What the project has open: made from its settings at the first call.

    Raises ConfigurationError, or OperatorError if keys or a store cannot be used.
    """
    return (_opened or _open())[0]


def devices() -> SessionRegistry:
    """The registry of sessions, which SEALEDSTATE_DEVICES describes.

    Raises ConfigurationError without that, and the errors of `keeper`.
    """
    return require_registry((_opened or _open())[1])


def binding() -> SessionBinding | None:
    """What binds sessions to devices; None without `binding_path`."""
    return (_opened or _open())[2]


def _open() -> tuple[Keeper, SessionRegistry | None, SessionBinding | None]:
    global _opened
    given = read_devices()  # imports modules of the project, which may use the keeper
    with _lock:
        if _opened is None:
            with read_config().names():
                made = Keeper(read_settings())
                bound = open_binding(made)
            _opened = made, make_registry(SessionRegistry, made, given), bound
        return _opened


def _forget(*, setting: str, **kwargs: Any) -> None:
    """After Django's `override_settings`: close what is open, which `keeper` opens again."""
    global _opened
    names = ("DATABASES", "DEBUG", "INSTALLED_APPS")
    if setting.startswith((_NAME, "SESSION_", "SECRET_KEY")) or setting in names:
        with _lock:
            before, _opened = _opened, None
        if before is not None:
            before[0].deployment.close()


setting_changed.connect(_forget)


def cookie_names() -> re.Pattern[str]:
    """Matches the names of the session's cookies, also of former cookies and those taken over."""
    try:
        settings = read_settings() if _opened is None else _opened[0].settings
    except ConfigurationError:
        return re.compile("")  # what it cannot know may be any
    names = [family.name for family in (settings.cookie_family(), *settings.former_families())]
    if settings.legacy is not None:
        names.append(settings.legacy.name)
    return re.compile(rf"(?:{'|'.join(map(re.escape, names))})(?:-[0-9]+)?\Z")


def read_devices() -> object:
    """The setting SEALEDSTATE_DEVICES, in which `where` may be the path of a function."""
    given: object = getattr(project, DEVICES, None)
    if not isinstance(given, Mapping) or not isinstance(where := given.get("where"), str):
        return given
    try:
        return {**given, "where": import_string(where)}
    except ImportError as error:
        raise ConfigurationError(f"{DEVICES}: where: {error}") from None


def read_config() -> FrameworkConfig:
    """What the project and the environment set. Raises ConfigurationError."""
    table: object = getattr(project, _NAME, {})
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table):
        raise ConfigurationError(f"{_NAME}: must be a dict such as {{'keys': 'file:keys.json'}}")
    return FrameworkConfig(
        "django", lambda name: getattr(project, name, None), table, "", "_auth_user_id", _SOURCES
    )


def database_alias(config: FrameworkConfig) -> str | None:
    """The alias of the database that is the store, of ``django:ALIAS``; None for other stores."""
    storage = config.value_of("storage")
    if isinstance(storage, str) and storage in project.DATABASES:
        raise ConfigurationError(
            "storage: expected the URL of a store; for this database of DATABASES write"
            f" 'django:{storage}'"
        )
    if not isinstance(storage, str) or not storage.startswith("django:"):
        return None
    return storage.removeprefix("django:").partition("?")[0]


def read_settings() -> Settings:
    """The settings that the project and the environment give. Raises ConfigurationError."""
    config = read_config()
    with config.names():
        age = _cookie_age()
        config.defaults |= _lifetimes(config, max(1, min(age, MAX_LIFETIME)))
        config.defaults["persistent"] = not project.SESSION_EXPIRE_AT_BROWSER_CLOSE
        if config.until:
            has_table = apps.is_installed("django.contrib.sessions")
            config.take_over(age, _fetch_row if has_table else None)
        if project.DEBUG:
            config.add_temporary_key(_log, "manage.py")
        if (alias := database_alias(config)) is not None:
            url = database_url(alias, config.value_of("storage").partition("?")[2])
            config.given["storage"] = url
            if url == "memory:":
                config.defaults["accept_weak_store_for"] = list(USES)
        return config.read()


def _lifetimes(config: FrameworkConfig, age: int) -> dict[str, int]:
    """Defaults by SESSION_COOKIE_AGE: a session that is not changed lives as long as in Django.

    With SESSION_SAVE_EVERY_REQUEST, this is the time without a request after which it ends, and a
    session in use must not end by it.
    """
    texts = {name: str(config.value_of(name)).strip() for name in _SOURCES}
    given = {name: int(text) for name, text in texts.items() if text.isdecimal()}
    absolute = max(age, _IN_USE) if project.SESSION_SAVE_EVERY_REQUEST else age
    return {
        "idle_lifetime": min(age, given.get("absolute_lifetime", age)),
        "absolute_lifetime": max(absolute, given.get("idle_lifetime", age)),
    }


def _cookie_age() -> int:
    try:
        return int(project.SESSION_COOKIE_AGE)
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(
            "SESSION_COOKIE_AGE: must be a whole number of seconds;"
            f" got {show_value(project.SESSION_COOKIE_AGE)}"
        ) from None


def _fetch_row(session_key: str) -> StoredSession | None:
    """The session that the db and cached_db backends keep under this key."""
    from django.contrib.sessions.backends.db import SessionStore
    from django.contrib.sessions.models import Session

    rows = Session.objects.filter(session_key=session_key, expire_date__gt=timezone.now())
    if (row := rows.first()) is None:
        return None
    values, expires_at = row.get_decoded(), int(row.expire_date.timestamp())
    age = SessionStore().get_expiry_age(
        modification=row.expire_date, expiry=values.get("_session_expiry")
    )
    # It was saved as long before its end as it lives, unless its end is a date.
    saved_at = min(expires_at - age, int(datetime.now(UTC).timestamp())) if age > 0 else None
    # Some databases find a key in whatever case.
    return StoredSession(row.session_key, values, saved_at)
