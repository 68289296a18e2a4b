"""The settings and the keeper of a Django project."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings as project
from django.core.signals import setting_changed
from django.db import DatabaseError
from django.utils import timezone
from django.utils.module_loading import import_string

from sealedstate import ConfigurationError, Keeper, LegacyReader, Settings, plain
from sealedstate._forks import ForkSafeLock
from sealedstate.adapting import (
    SESSION_COOKIE,
    config_names,
    read_moment,
    read_session_cookie,
    temporary_key,
)
from sealedstate.devices import CONFIG as DEVICES
from sealedstate.devices import SessionRegistry, make_registry
from sealedstate.errors import UncheckedSession, show_value
from sealedstate.legacy import StoredSession
from sealedstate.settings import ENVIRONMENT_PREFIX, MAX_LIFETIME
from sealedstate.storage import USES

from ._database import database_url

_log = logging.getLogger("sealedstate.django")

_NAME = "SEALEDSTATE"
LEGACY_UNTIL = f"{ENVIRONMENT_PREFIX}LEGACY_UNTIL"
_STORAGE = f"{ENVIRONMENT_PREFIX}STORAGE"
# Django's settings that settings begin with.
_AGE = {"idle_lifetime": "SESSION_COOKIE_AGE", "absolute_lifetime": "SESSION_COOKIE_AGE"}
_SOURCES = SESSION_COOKIE | _AGE
_SUBJECT_KEY = "_auth_user_id"
_IN_USE = 30 * 86400

_lock = ForkSafeLock()
_keeper: Keeper | None = None
_devices: SessionRegistry | None = None


@contextmanager
def project_names() -> Iterator[None]:
    """Let a ConfigurationError in the block name a setting as SEALEDSTATE does, if it has it."""
    try:
        yield
    except ConfigurationError as error:
        name, colon, problem = str(error).partition(":")
        if not colon or name not in _table():
            raise
        raise ConfigurationError(f"{_NAME}[{name!r}]:{problem}") from None


def keeper() -> Keeper:
    """What the project has open: made from its settings at the first call.

    Raises ConfigurationError, or OperatorError if keys or a store cannot be used.
    """
    global _keeper, _devices
    if _keeper is not None:
        return _keeper
    given = read_devices()  # imports modules of the project, which may use the keeper
    with _lock:
        if _keeper is None:
            with project_names():
                made = Keeper(read_settings())
            make = partial(SessionRegistry, made)
            _devices = None if given is None else make_registry(make, given)
            _keeper = made
        return _keeper


def devices() -> SessionRegistry:
    """The registry of sessions, which SEALEDSTATE_DEVICES describes.

    Raises ConfigurationError without that, and the errors of `keeper`.
    """
    keeper()
    if _devices is None:
        raise ConfigurationError(f"{DEVICES}: is not set; set it to a dict such as {{'most': 5}}")
    return _devices


def forget_keeper() -> None:
    """Close what is open. The next call of `keeper` reads the project's settings again."""
    global _keeper
    with _lock:
        before, _keeper = _keeper, None
    if before is not None:
        before.deployment.close()


def _reopen(*, setting: str, **kwargs: Any) -> None:
    """After Django's `override_settings`."""
    names = ("DATABASES", "DEBUG", "INSTALLED_APPS")
    if setting.startswith(("SEALEDSTATE", "SESSION_", "SECRET_KEY")) or setting in names:
        forget_keeper()


setting_changed.connect(_reopen)


def cookie_names() -> re.Pattern[str]:
    """Matches the names of the session's cookies, also of former cookies and those taken over."""
    try:
        settings = read_settings() if _keeper is None else _keeper.settings
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


def has_keys() -> bool:
    """Whether the project or the environment names keys."""
    return "keys" in _table() or bool(
        {f"{ENVIRONMENT_PREFIX}KEYS", f"{ENVIRONMENT_PREFIX}KEYS_FILE"} & set(os.environ)
    )


def database_alias() -> str | None:
    """The alias of the database that is the store, of ``django:ALIAS``; None for other stores."""
    storage = _table().get("storage", os.environ.get(_STORAGE))
    if isinstance(storage, str) and storage in project.DATABASES:
        raise ConfigurationError(
            "storage: expected the URL of a store; for this database of DATABASES write"
            f" 'django:{storage}'"
        )
    if not isinstance(storage, str) or not storage.startswith("django:"):
        return None
    return storage.removeprefix("django:").partition("?")[0]


@project_names()
def read_settings() -> Settings:
    """The settings that the project and the environment give. Raises ConfigurationError."""
    config, environ = dict(_table()), dict(os.environ)
    names = ["SESSION_COOKIE_HTTPONLY", *SESSION_COOKIE.values()]
    cookie = {name: getattr(project, name, None) for name in names}
    defaults = read_session_cookie(cookie, default_name="sessionid")
    defaults |= _lifetimes(config, environ)
    defaults |= {
        "convert": plain,
        "may_drop": ["_state_*"],  # Authlib's, of logins that were begun
        "subject_key": _SUBJECT_KEY,
        "persistent": not project.SESSION_EXPIRE_AT_BROWSER_CLOSE,
    }
    variable = environ.pop(LEGACY_UNTIL, None)
    until = getattr(project, LEGACY_UNTIL, None) or variable
    if until:
        if "cookie_name" in defaults and not _gives(config, environ, "cookie_name"):
            raise ConfigurationError(
                "SESSION_COOKIE_NAME: is the cookie that is taken over; give the sealed cookie"
                f" another name, such as {_NAME} = {{'cookie_name': '__Host-Http-s', ...}}"
            )
        defaults["legacy"] = _read_legacy(until)
    if project.DEBUG and not has_keys():
        defaults["keys"] = temporary_key(_log, f"{_NAME}['keys']", "manage.py")
    alias = database_alias()
    if alias is not None:
        storage = str(config.get("storage") or environ.pop(_STORAGE))
        config["storage"] = database_url(alias, storage.partition("?")[2])
        if config["storage"] == "memory:":
            defaults["accept_weak_store_for"] = list(USES)
    sources = {name: source for name, source in _SOURCES.items() if name not in config}
    with config_names(environ, ENVIRONMENT_PREFIX, sources):
        return Settings.from_config(config, "", environ, [LEGACY_UNTIL], **defaults)


def _table() -> Mapping[str, Any]:
    table: object = getattr(project, _NAME, {})
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table):
        raise ConfigurationError(f"{_NAME}: must be a dict such as {{'keys': 'file:keys.json'}}")
    return table


def _lifetimes(config: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, int]:
    """Defaults by SESSION_COOKIE_AGE: a session that is not changed lives as long as in Django.

    With SESSION_SAVE_EVERY_REQUEST, this is the time without a request after which it ends, and a
    session in use must not end by it.
    """
    age = max(1, min(_cookie_age(), MAX_LIFETIME))
    given: dict[str, int] = {}
    for name in ("idle_lifetime", "absolute_lifetime"):
        value = config.get(name, environ.get(f"{ENVIRONMENT_PREFIX}{name.upper()}"))
        if value is not None and str(value).strip().isdecimal():
            given[name] = int(value)
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


def _gives(config: Mapping[str, Any], environ: Mapping[str, str], name: str) -> bool:
    return name in config or f"{ENVIRONMENT_PREFIX}{name.upper()}" in environ


def _read_legacy(until: object) -> LegacyReader:
    """A reader of the sessions that Django has kept so far, in cookies or in its database."""
    if isinstance(project.SECRET_KEY_FALLBACKS, str | bytes):
        raise ConfigurationError("SECRET_KEY_FALLBACKS: must be a list of keys, not one key")
    return LegacyReader(
        "django",
        [project.SECRET_KEY, *project.SECRET_KEY_FALLBACKS],
        read_moment(LEGACY_UNTIL, until),
        project.SESSION_COOKIE_NAME,
        _cookie_age(),
        _SUBJECT_KEY,
        project.SESSION_COOKIE_PATH,
        project.SESSION_COOKIE_DOMAIN or None,
        _fetch_row if apps.is_installed("django.contrib.sessions") else None,
    )


def _fetch_row(session_key: str) -> StoredSession | None:
    """The session that the db and cached_db backends keep under this key.

    Raises UncheckedSession if the database does not answer.
    """
    from django.contrib.sessions.backends.db import SessionStore
    from django.contrib.sessions.models import Session

    rows = Session.objects.filter(session_key=session_key, expire_date__gt=timezone.now())
    try:
        row = rows.first()
    except DatabaseError as error:
        raise UncheckedSession from error  # the cookie stays until it can be checked
    if row is None:
        return None
    values, expires_at = row.get_decoded(), int(row.expire_date.timestamp())
    age = SessionStore().get_expiry_age(
        modification=row.expire_date, expiry=values.get("_session_expiry")
    )
    # It was saved as long before its end as it lives, unless its end is a date.
    saved_at = min(expires_at - age, int(datetime.now(UTC).timestamp())) if age > 0 else None
    # Some databases find a key in whatever case.
    return StoredSession(row.session_key, values, saved_at)
