"""System checks: what `manage.py check` says about sealed sessions."""

from __future__ import annotations

import os
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings as project
from django.core.checks import CheckMessage, Error, Warning
from django.utils.module_loading import import_string

from sealedstate import ConfigurationError, Keeper, Key, Settings
from sealedstate.deployment import SESSION_USES, open_keys, open_store
from sealedstate.devices import CONFIG as DEVICES
from sealedstate.devices import SessionRegistry, make_registry
from sealedstate.keyring import export_lookup
from sealedstate.rotation.ring_file import is_ring_file
from sealedstate.settings import ENVIRONMENT_PREFIX, setting_names
from sealedstate.storage.memory import MemoryStorage

from ._keeper import LEGACY_UNTIL, has_keys, project_names, read_devices, read_settings
from ._middleware import SealedSessionMiddleware

_ENGINE = "sealedstate_django"
_MIDDLEWARE = "sealedstate_django.SealedSessionMiddleware"
_AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
_STOCK = "django.contrib.sessions.middleware.SessionMiddleware"


class _Sample(MemoryStorage):
    """In place of a store that is not asked: it meets all requirements."""

    capabilities = replace(
        MemoryStorage.capabilities, shared=True, durable=True, survives_restart=True
    )


def check_project(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """The engine, its middleware and the settings. Connects to no store."""
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
    found += _check_order()
    if not project.SESSION_COOKIE_HTTPONLY:
        hint = "Remove SESSION_COOKIE_HTTPONLY: no script can read a sealed session."
        found.append(_error(5, "A sealed session is always HttpOnly.", hint))
        return found
    try:
        settings, has_no_keys = read_settings(), not has_keys()
        if has_no_keys and not project.DEBUG:
            hint = "Set SEALEDSTATE = {'keys': ...}; `sealedstate keys generate` prints a key."
            found.append(_error(4, "SEALEDSTATE names no keys to seal sessions with.", hint))
        elif has_no_keys:
            hint = "Set SEALEDSTATE = {'keys': ...} to keep them."
            text = "SEALEDSTATE names no keys: sessions end with this process."
            found.append(_warning(1, text, hint))
        else:
            with project_names():
                found += _check_values(settings)
    except ConfigurationError as error:
        found.append(_error(6, str(error), None))
    return found + _check_names()


def _check_order() -> list[CheckMessage]:
    places = [place for place, path in enumerate(project.MIDDLEWARE) if _is_ours(path)]
    if len(places) > 1:
        hint = "Remove all but the first."
        return [_error(7, "SealedSessionMiddleware is in MIDDLEWARE more than once.", hint)]
    if places and _AUTHENTICATION in project.MIDDLEWARE[: places[0]]:
        hint = f"Put {_MIDDLEWARE!r} before {_AUTHENTICATION!r}."
        text = "SealedSessionMiddleware is behind the authentication middleware, which needs it."
        return [_error(8, text, hint)]
    return []


def _check_names() -> list[CheckMessage]:
    """Settings of the project that begin with SEALEDSTATE_ and that nothing reads."""
    found: list[CheckMessage] = []
    own = (DEVICES, LEGACY_UNTIL)
    for name in dir(project):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in own:
            continue
        bare = name.removeprefix(ENVIRONMENT_PREFIX)
        near = get_close_matches(bare, [each.removeprefix(ENVIRONMENT_PREFIX) for each in own], n=1)
        if not near and bare.lower() in setting_names():
            hint = f"Set SEALEDSTATE = {{{bare.lower()!r}: ...}}."
        else:
            words = [f"{ENVIRONMENT_PREFIX}{each}" for each in near] or own
            hint = f"Did you mean {' or '.join(words)}?"
        found.append(_warning(5, f"There is no setting {name}.", hint))
    return found


def _check_values(settings: Settings) -> list[CheckMessage]:
    """What the settings say of keys, a store and devices, without connecting to any store.

    Secrets that are not there are a warning: a migration or a build may have none. Raises
    ConfigurationError.
    """
    found: list[CheckMessage] = []
    keys: Any = settings.resolve_keys()
    scheme, _, rest = keys.partition(":") if isinstance(keys, str) else ("", "", "")
    source: Any = None
    if scheme == "file" and not Path(rest).exists():
        hint = "`manage.py sealedstate keys init` creates one."
        found.append(_warning(3, f"The file of the keys, {rest}, does not exist.", hint))
    elif scheme == "env" and rest not in settings.environ:
        hint = "`manage.py sealedstate keys generate` prints a key for it."
        found.append(_warning(3, f"The variable of the keys, {rest}, is not set.", hint))
    elif scheme != "store" and not (scheme == "file" and is_ring_file(Path(rest))):
        source = open_keys(settings)
    store = open_store(settings)
    if store is not None and store is not settings.storage:
        store.close()
    has_lookup = source is None or source.keyring().lookup is not None
    if store is not None and not has_lookup:
        text = "SEALEDSTATE['keys'] has no lookup key: users cannot be signed out everywhere."
        hint = "Add what `manage.py sealedstate keys generate --lookup` prints."
        found.append(_warning(4, text, hint))
    changes: dict[str, Any] = {"observers": (), "storage": None}
    if source is None or not has_lookup:
        changes["keys"] = [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
    devices = read_devices()
    uses = {*SESSION_USES, *(() if devices is None else ("sessions",))}
    if store is not None:
        # What a process may not have at its start is refused here. Servers are not asked.
        is_weak = isinstance(store, MemoryStorage) and not uses <= {*settings.accept_weak_store_for}
        changes["storage"] = "memory:" if is_weak else _Sample(settings.clock)
    trial = Keeper(replace(settings, **changes))
    try:
        if devices is not None:
            make_registry(partial(SessionRegistry, trial), devices)
    finally:
        trial.deployment.close()
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
    return [_warning(2, text, hint)]


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
