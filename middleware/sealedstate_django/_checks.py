"""System checks: what `manage.py check` says about sealed sessions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.conf import settings as project
from django.core.checks import CheckMessage, Error, Warning
from django.utils.module_loading import import_string

from sealedstate import ConfigurationError, Keeper, Key, Settings
from sealedstate.adapting import DEVICES, LEGACY_UNTIL
from sealedstate.deployment import open_keys, open_store
from sealedstate.devices import SessionRegistry, make_registry
from sealedstate.keyring import export_lookup
from sealedstate.rotation.ring_file import is_ring_file
from sealedstate.settings import ENVIRONMENT_PREFIX
from sealedstate.storage import USES
from sealedstate.storage.memory import MemoryStorage

from ._keeper import read_config, read_devices, read_settings
from ._middleware import SealedSessionMiddleware

_ENGINE = "sealedstate_django"
_MIDDLEWARE = "sealedstate_django.SealedSessionMiddleware"
_AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
_STOCK = "django.contrib.sessions.middleware.SessionMiddleware"


def check_project(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """The engine, its middleware and the settings. Connects to no store."""
    return list(_find_problems())


def _find_problems() -> Iterator[CheckMessage]:
    places = [place for place, path in enumerate(project.MIDDLEWARE) if _is_ours(path)]
    if project.SESSION_ENGINE != _ENGINE:
        if places:
            hint = f"Set SESSION_ENGINE = {_ENGINE!r}."
            yield _error(3, "SealedSessionMiddleware has another SESSION_ENGINE.", hint)
        return
    if _STOCK in project.MIDDLEWARE:
        hint = f"Put {_MIDDLEWARE!r} in its place: the key of a sealed session is no cookie."
        yield _error(2, "Django's SessionMiddleware cannot open sealed sessions.", hint)
    elif not places:
        hint = f"Add {_MIDDLEWARE!r}, before the authentication middleware."
        yield _error(1, "SealedSessionMiddleware is not in MIDDLEWARE.", hint)
    if len(places) > 1:
        hint = "Remove all but the first."
        yield _error(7, "SealedSessionMiddleware is in MIDDLEWARE more than once.", hint)
    elif places and _AUTHENTICATION in project.MIDDLEWARE[: places[0]]:
        text = "SealedSessionMiddleware is behind the authentication middleware, which needs it."
        yield _error(8, text, f"Put {_MIDDLEWARE!r} before {_AUTHENTICATION!r}.")
    if not project.SESSION_COOKIE_HTTPONLY:
        hint = "Remove SESSION_COOKIE_HTTPONLY: no script can read a sealed session."
        yield _error(5, "A sealed session is always HttpOnly.", hint)
        return
    try:
        settings, config = read_settings(), read_config()
        if config.has_keys():
            with config.names():
                yield from _check_values(settings)
        elif project.DEBUG:
            text = "SEALEDSTATE names no keys: sessions end with this process."
            yield _warning(1, text, "Set SEALEDSTATE = {'keys': ...} to keep them.")
        else:
            hint = "Set SEALEDSTATE = {'keys': ...}; `sealedstate keys generate` prints a key."
            yield _error(4, "SEALEDSTATE names no keys to seal sessions with.", hint)
    except ConfigurationError as error:
        yield _error(6, str(error), None)
    for name in dir(project):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in (DEVICES, LEGACY_UNTIL):
            setting = name.removeprefix(ENVIRONMENT_PREFIX).lower()
            hint = (
                f"There are {DEVICES} and {LEGACY_UNTIL}; all others are names in a dict, as in"
                f" SEALEDSTATE = {{{setting!r}: ...}}."
            )
            yield _warning(5, f"There is no setting {name}.", hint)


def _check_values(settings: Settings) -> Iterator[CheckMessage]:
    """What the settings say of keys, a store and devices, without connecting to any store.

    Secrets that are not there are a warning: a migration or a build may have none. Raises
    ConfigurationError.
    """
    keys: Any = settings.resolve_keys()
    scheme, _, rest = keys.partition(":") if isinstance(keys, str) else ("", "", "")
    source: Any = None
    if scheme == "file" and not Path(rest).exists():
        hint = "`manage.py sealedstate keys init` creates one."
        yield _warning(3, f"The file of the keys, {rest}, does not exist.", hint)
    elif scheme == "env" and rest not in settings.environ:
        hint = "`manage.py sealedstate keys generate` prints a key for it."
        yield _warning(3, f"The variable of the keys, {rest}, is not set.", hint)
    elif scheme != "store" and not (scheme == "file" and is_ring_file(Path(rest))):
        source = open_keys(settings)
    store = open_store(settings)
    if store is not None and store is not settings.storage:
        store.close()
    has_lookup = source is None or source.keyring().lookup is not None
    if store is not None and not has_lookup:
        text = "SEALEDSTATE['keys'] has no lookup key: users cannot be signed out everywhere."
        hint = "Add what `manage.py sealedstate keys generate --lookup` prints."
        yield _warning(4, text, hint)
    # A keeper of these settings refuses what a process may not have at its start.
    changes: dict[str, Any] = {"observers": (), "storage": None}
    if source is None or not has_lookup:
        changes["keys"] = [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
    if store is not None:
        changes["storage"] = "memory:"
        if not isinstance(store, MemoryStorage):
            changes["accept_weak_store_for"] = list(USES)  # the store in its place is not asked
    trial = Keeper(replace(settings, **changes))
    try:
        make_registry(SessionRegistry, trial, read_devices())
    finally:
        trial.deployment.close()


def check_store(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """For `check --deploy`: whether a logout counts everywhere."""
    try:
        if project.SESSION_ENGINE != _ENGINE or read_settings().storage is not None:
            return []
    except ConfigurationError:
        return []  # check_project reports it
    text = "Without a store, a captured cookie stays signed in after its user has logged out."
    return [_warning(2, text, "Set SEALEDSTATE = {'storage': 'django:default', ...}.")]


def _is_ours(path: str) -> bool:
    try:
        found = import_string(path)
    except ImportError:
        return False  # Django itself reports it
    return isinstance(found, type) and issubclass(found, SealedSessionMiddleware)


def _error(number: int, text: str, hint: str | None) -> Error:
    return Error(text, hint=hint, id=f"sealedstate.E{number:03}")


def _warning(number: int, text: str, hint: str) -> Warning:
    return Warning(text, hint=hint, id=f"sealedstate.W{number:03}")
