"""What adapters of frameworks share: the session as their users know it.

A framework's session is a mapping with the framework's own names. Ours (`subject`, `regenerate`,
`limit` and others) are attributes of it, too, but an application that has a part of that name means
its part: ``{{ session.id }}`` in a template shows what the application assigned.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import (
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from ._wire.cbor import plain
from .deployment import Deployment
from .errors import ConfigurationError, LateRead, LateWrite, escape_text
from .headers import with_session
from .keeper import Keeper
from .keyring import Key
from .legacy import KINDS, Fetch, LegacyReader
from .session import UNCHANGEABLE, Session
from .settings import ENVIRONMENT_PREFIX, Settings, cased, process_environment

if TYPE_CHECKING:
    from .binding import SessionBinding

__all__ = [
    "FrameworkConfig",
    "SessionDict",
    "SessionFace",
    "SessionUse",
    "add_session_headers",
    "config_names",
    "log_late_changes",
    "open_keeper",
    "open_session",
    "sealed",
]

# Names in a framework's configuration that are no settings: until when its sessions of before are
# taken over, and what a registry of sessions is made with.
LEGACY_UNTIL = f"{ENVIRONMENT_PREFIX}LEGACY_UNTIL"
DEVICES = f"{ENVIRONMENT_PREFIX}DEVICES"
# Names of Flask, Quart and Django for settings. Not SESSION_COOKIE_SECURE: its default is False, so
# the application need not have chosen that.
SESSION_COOKIE = {
    "cookie_name": "SESSION_COOKIE_NAME",
    "cookie_path": "SESSION_COOKIE_PATH",
    "cookie_domain": "SESSION_COOKIE_DOMAIN",
    "same_site": "SESSION_COOKIE_SAMESITE",
    "partitioned": "SESSION_COOKIE_PARTITIONED",
}
# The attributes of a Session that a face shows.
_SHOWN = frozenset(
    {"id", "subject", "is_new", "created_at", "expires_at", "persistent", "refusal", "withheld"}
    | {"is_bound"}
    | {"peek", "keep", "check_size", "regenerate", "limit", "invalidate", "accessed"}
)


class SessionFace(MutableMapping[str, Any]):
    """A mapping that reads and writes the parts of `session`; `own`: attributes of an adapter's.

    Texts of a subclass are names, too. What has no attribute here is that of the session, unless a
    part has this name.
    """

    _session: Session
    _lines: Sequence[str] | None = None  # what the last save returned
    _is_failed = False

    def __init__(self, session: Session, **own: Any) -> None:
        vars(self).update(own, _session=session)

    def __getitem__(self, name: str) -> Any:
        return self._session[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._session[str.__str__(name) if isinstance(name, str) else name] = value

    def __delitem__(self, name: str) -> None:
        del self._session[name]

    def __contains__(self, name: object) -> bool:
        return name in self._session

    def __iter__(self) -> Iterator[str]:
        return iter(self._session)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._session)

    def __len__(self) -> int:
        return len(self._session)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return self._session | other

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return other | self._session

    def __ior__(self, other: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Self:
        self.update(other)
        return self

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (self.copy(),)

    @property
    def new(self) -> bool:
        """Whether the request brought no session."""
        return self._session.is_new

    def copy(self) -> dict[str, Any]:
        """A dict of all parts, with copies of their values."""
        return self._session.copy()

    def popitem(self) -> tuple[str, Any]:
        """Remove the last part that can be read and return its name and value."""
        return self._session.popitem()

    def clear(self) -> None:
        """Remove every part, without recalling any."""
        self._session.clear()

    def __getattr__(self, name: str) -> Any:
        session: Session | None = self.__dict__.get("_session")
        if session is not None and not name.startswith("_") and name in session:
            return session[name]
        if name in _SHOWN:
            return getattr(session, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "subject":
            self._session.subject = value  # type: ignore[assignment]
        elif hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}; a part is assigned by"
                f" session[{name!r}]",
                name=name,
            )

    def __repr__(self) -> str:
        return repr(self.__dict__.get("_session", "<no session>"))

    # --- for adapters that may save it twice, the first time where an error can be answered ------

    def _begin_save(self) -> bool:
        """Whether to save it now. If that fails, it is not tried again for the error's page."""
        session = self._session
        # After a save that found no change, only what was touched may have changed.
        is_due = session.backend is not None and (self._lines is None or session.is_touched)
        if not is_due or self._is_failed:
            return False
        vars(self)["_is_failed"] = True
        return True

    def _end_save(self, lines: Sequence[str]) -> None:
        vars(self).update(_lines=lines, _is_failed=False)


# What is in a SessionDict before it is filled: encoders refuse such a key. An empty dict would be
# taken for the session of a visitor.
_UNFILLED: Any = object()


class SessionUse:
    """A session, and whether its request has used it: then the response depends on the cookie.

    Several faces of one session share it, and none refers to another: they are freed with their
    request, and wait for no garbage collection.
    """

    is_used = False
    is_late = False

    def __init__(self, session: Session) -> None:
        self.session = session

    def use(self) -> Session:
        """The session, which is used from now on. Raises LateRead."""
        if not self.is_used:
            if self.is_late:
                raise LateRead("the session was first used after the response's headers were sent")
            self.session.load()
            self.is_used = True
        return self.session

    def use_to_write(self) -> Session:
        """The same before a write. Raises LateWrite."""
        if self.is_late and not self.is_used:
            raise LateWrite("the session was changed after the response's headers were sent")
        return self.use()

    def mark_headers_sent(self) -> None:
        """From now on, a write raises LateWrite, and a first use LateRead."""
        self.is_late = True
        self.session.mark_headers_sent()


class SessionDict(dict[str, Any]):
    """The parts of a session in a dict, for frameworks whose session is one.

    It has all parts from `fill` on, because C code that encodes a dict sees what is in it and calls
    no method. Every method fills it and notes that the session is used; writing also writes to the
    session, and changes inside the values that a method has returned are found when it is saved. A
    part that could not be read, or was not recalled, is not in the dict: ``in`` knows it, and
    reading it raises the error. `is_empty`: whether its request brings no session.
    """

    __slots__ = ("_absent", "_access", "is_filled")

    def __init__(self, access: SessionUse, is_empty: bool = False) -> None:
        self._access = access
        self._absent: dict[str, Exception] = {}
        self.is_filled = is_empty
        if not is_empty:
            dict.__setitem__(self, _UNFILLED, None)

    def fill(self) -> None:
        """Take the parts as the session has them now."""
        values, self._absent = self._access.session.read_unwatched()
        dict.clear(self)
        dict.update(self, values)
        self.is_filled = True

    def mark_accessed(self) -> None:
        """Starlette calls this when an application asks for `request.session`."""
        self._access.use()
        if not self.is_filled:
            self.fill()

    def __getitem__(self, name: str) -> Any:
        if not (self.is_filled and self._access.is_used):
            self.mark_accessed()
        value = dict.__getitem__(self, name)
        if type(value) not in UNCHANGEABLE:
            self._access.session.watch(name, value)
        return value

    def mark_modified(self) -> None:
        """Starlette's sign of a change inside a value; such changes are found anyway."""
        self._access.use_to_write()

    @property
    def accessed(self) -> bool:
        """Whether the application used the session, as Starlette has it."""
        return self._access.is_used

    @property
    def modified(self) -> bool:
        """Whether there is something to save, as Starlette has it; also changes inside values."""
        return self._access.is_used and self._access.session.changes().is_modified

    def __missing__(self, name: object) -> NoReturn:
        if isinstance(name, str) and name in self._absent:
            raise self._absent[name].with_traceback(None)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        self.mark_accessed()
        return dict.__contains__(self, name) or name in self._absent

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - it is this `get`

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(name, str):
            name = str.__str__(name)
        self._use_to_write()[name] = value
        dict.__setitem__(self, name, value)
        self._absent.pop(name, None)

    def __delitem__(self, name: str) -> None:
        del self._use_to_write()[name]
        dict.pop(self, name, None)
        self._absent.pop(name, None)

    def clear(self) -> None:
        """Remove every part. It is no logout."""
        self._use_to_write().clear()
        dict.clear(self)
        self._absent.clear()

    def pop(self, name: str, *default: Any) -> Any:
        if default and name not in self:
            return default[0]
        value = self[name]
        del self[name]
        return value

    def popitem(self) -> tuple[str, Any]:
        name = next(reversed(self), None)
        if name is None:
            raise KeyError("popitem(): the session is empty")
        return name, self.pop(name)

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *others: Any, **named: Any) -> None:
        for name, value in dict(*others, **named).items():
            self[name] = value

    def __ior__(self, other: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (self.copy(),)

    def __repr__(self) -> str:
        # Reprs end up in logs and tracebacks: no name, no value.
        if not getattr(self, "is_filled", False):
            return "<session>"
        return f"<session of {dict.__len__(self) + len(self._absent)} parts>"

    def _use_to_write(self) -> Session:
        session = self._access.use_to_write()
        if not self.is_filled:
            self.fill()
        return session

    def _watch_all(self) -> None:
        self.mark_accessed()
        session = self._access.session
        for name, value in dict.items(self):
            if type(value) not in UNCHANGEABLE:
                session.watch(name, value)


def _note_use(name: str, note: Callable[[SessionDict], None]) -> Callable[..., Any]:
    """dict's method of this name, before which `note` is called."""
    method = getattr(dict, name)

    def read(self: SessionDict, *given: Any) -> Any:
        note(self)
        return method(self, *given)

    read.__name__ = name
    return read


for _name in ("__iter__", "__len__", "__reversed__", "__eq__", "__ne__", "keys"):
    setattr(SessionDict, _name, _note_use(_name, SessionDict.mark_accessed))
# These return all values, whose insides the application may change.
for _name in ("__or__", "__ror__", "copy", "items", "values"):
    setattr(SessionDict, _name, _note_use(_name, SessionDict._watch_all))


def sealed(session: object) -> Session:
    """The session behind a framework's session object. Raises TypeError for any other object."""
    if isinstance(session, Session):
        return session
    # flask.session and others are proxies of it.
    found = getattr(session, "_session", None)
    if not isinstance(found, Session):
        raise TypeError(f"expected a session of sealedstate, got {type(session).__name__}")
    return found


def log_late_changes(log: logging.Logger, session: Session) -> None:
    """Log the names of parts that were changed in place after the headers were sent.

    For adapters, once the body was sent: such a change is lost, and no assignment could refuse it.
    """
    late = session.late_changes()
    if late:
        names = escape_text(", ".join(late), 1000)
        log.error("changed after the response headers were sent, and lost: %s", names)


def open_keeper(
    settings: Settings | Deployment | Keeper | None,
    others: Mapping[str, object],
    environ: Mapping[str, str],
) -> Keeper:
    """The keeper that an adapter is configured with; `others` are names of Settings.

    None: the variables SEALEDSTATE_ of `environ`, where `others` have priority, and values of
    subclasses are written as `plain` writes them. Raises ConfigurationError.
    """
    if settings is None:
        settings = Settings.from_env(environ, **{"convert": plain, **others})
    elif isinstance(settings, Settings):
        changes: dict[str, Any] = dict(others)
        settings = dataclasses.replace(settings, **changes)
    elif others:
        raise ConfigurationError(
            f"{', '.join(others)}: the Keeper or Deployment has its settings already"
        )
    return settings if isinstance(settings, Keeper) else Keeper(settings)


@contextlib.contextmanager
def config_names(
    given: Container[str],
    prefix: str,
    sources: Mapping[str, str] | None = None,
    table: Container[str] = (),
) -> Iterator[None]:
    """Let a ConfigurationError in the block name a setting as the framework's configuration does.

    `given`: the names in the configuration and the environment. `sources`: the framework's own
    names of settings that have no name with `prefix` there. `table`: names in a dict SEALEDSTATE,
    which comes before both.
    """
    try:
        yield
    except ConfigurationError as error:
        name, colon, problem = str(error).partition(":")
        setting = name.removeprefix(prefix).lower()
        source: str | None = f"{prefix}{cased(setting, prefix)}"
        if name in table:
            source = f"SEALEDSTATE[{name!r}]"
        elif source not in given:
            source = (sources or {}).get(setting)
        if source is None or source == name:
            raise
        raise ConfigurationError(f"{source}{colon}{problem}") from None


class FrameworkConfig:
    """The settings that a framework's configuration gives an application, and the environment.

    `kind`: as of a LegacyReader. `find`: reads a name of the configuration; None if it is not
    there. `given`: our settings in it, whose names have `prefix`, or in a dict SEALEDSTATE none.
    `subject_key`: the framework's. `sources`: its own names of settings beside SESSION_COOKIE.
    `defaults` are for what neither names, and begin with the cookie of the framework. Its methods
    raise ConfigurationError.
    """

    def __init__(
        self,
        kind: Literal["flask", "django"],
        find: Callable[[str], Any],
        given: Mapping[str, Any],
        prefix: str,
        subject_key: str,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        self._kind: Literal["flask", "django"] = kind
        self._prefix = prefix
        self._sources = {**SESSION_COOKIE, **(sources or {})}
        self.find, self.environ = find, dict(process_environment())
        self.given = {k: v for k, v in given.items() if k not in (LEGACY_UNTIL, DEVICES)}
        variable = self.environ.pop(LEGACY_UNTIL, None)
        self.until = find(LEGACY_UNTIL) or variable
        self.defaults: dict[str, Any] = {"convert": plain, "subject_key": subject_key}
        # Authlib keeps such parts of each login that was begun.
        self.defaults["may_drop"] = ["_state_*"]
        cookie = {name: find(source) for name, source in SESSION_COOKIE.items()}
        if isinstance(same_site := cookie["same_site"], str):
            cookie["same_site"] = same_site.title()
        # A name with a prefix is better than the framework's, which stays free for a takeover.
        if cookie["cookie_name"] == KINDS[kind].cookie_name:
            del cookie["cookie_name"]
        self.defaults |= {name: value for name, value in cookie.items() if value}

    def names(self) -> contextlib.AbstractContextManager[None]:
        """`config_names` of this configuration."""
        names = {*self.given, *self.environ}
        table = set() if self._prefix else {*self.given}
        return config_names(names, ENVIRONMENT_PREFIX, self._sources, table)

    def value_of(self, setting: str) -> Any:
        """What the configuration or a variable says of a setting; None if neither names it."""
        variable = self.environ.get(f"{ENVIRONMENT_PREFIX}{setting.upper()}")
        return self.given.get(f"{self._prefix}{cased(setting, self._prefix)}", variable)

    def has_keys(self) -> bool:
        """Whether the configuration or the environment names keys."""
        return any(self.value_of(name) is not None for name in ("keys", "keys_file"))

    def add_temporary_key(self, log: logging.Logger, command: str) -> None:
        """Without keys, seal by a key of this process, in development; a warning says so.

        `command`: the framework's command line.
        """
        if self.has_keys():
            return
        log.warning(
            "%s: not set; a key of this process seals the sessions, and they end with it; `%s"
            " sealedstate keys generate` prints a key that lasts",
            self._show("keys"),
            command,
        )
        self.defaults["keys"] = Key.generate(os.urandom).export()

    def take_over(self, max_age: int, fetch: Fetch | None = None, is_signed: bool = True) -> None:
        """Let the framework's sessions of before be read, until SEALEDSTATE_LEGACY_UNTIL.

        That is a date or its ISO text; without a time zone it is in UTC. `max_age` and `fetch`: as
        of a LegacyReader. `is_signed`: whether the framework's secrets made the cookies.
        """
        find, defaults = self.find, self.defaults
        try:
            until = datetime.fromisoformat(str(self.until))
        except ValueError:
            raise ConfigurationError(
                f"{LEGACY_UNTIL}: expected a date such as 2027-03-01, got {self.until!r}"
            ) from None
        fallbacks = find("SECRET_KEY_FALLBACKS") or ()
        if isinstance(fallbacks, str | bytes):
            raise ConfigurationError("SECRET_KEY_FALLBACKS: must be a list of keys, not one key")
        secrets = [find("SECRET_KEY"), *fallbacks] if is_signed else []
        if is_signed and not secrets[0]:
            raise ConfigurationError(
                f"{LEGACY_UNTIL}: signed sessions can be read only with SECRET_KEY"
            )
        name = find("SESSION_COOKIE_NAME")
        if "cookie_name" in defaults and self.value_of("cookie_name") is None:
            raise ConfigurationError(
                f"{LEGACY_UNTIL}: the old cookies have the name {name!r} (SESSION_COOKIE_NAME); set"
                f" {self._show('cookie_name')} to another name"
            )
        defaults["legacy"] = LegacyReader(
            self._kind,
            secrets,
            until.replace(tzinfo=until.tzinfo or UTC),
            name,
            max_age,
            self.value_of("subject_key") or defaults["subject_key"],
            defaults.get("cookie_path", "/"),
            defaults.get("cookie_domain"),
            fetch,
        )

    def read(self) -> Settings:
        """The settings."""
        if not self.find("SESSION_COOKIE_HTTPONLY"):
            raise ConfigurationError(
                "SESSION_COOKIE_HTTPONLY: a sealed session is always HttpOnly; no script can read"
                " it"
            )
        given, others = self.given, [LEGACY_UNTIL]
        return Settings.from_config(given, self._prefix, self.environ, others, **self.defaults)

    def _show(self, setting: str) -> str:
        """How the application would name a setting."""
        return f"{self._prefix}{setting.upper()}" if self._prefix else f"SEALEDSTATE[{setting!r}]"


def open_session(
    keeper: Keeper,
    environ: Mapping[str, Any],
    make: Callable[[str, bool], Session] | None = None,
) -> Session:
    """The session of the request of a WSGI environ, opened at its first use.

    `make`: AsyncKeeper's way to make it, or that of the keeper.
    """
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
    cross_site = keeper.is_cross_site(environ["REQUEST_METHOD"], site, origin)
    return (make or keeper.session)(environ.get("HTTP_COOKIE", ""), cross_site)


def add_session_headers(
    keeper: Keeper,
    session: Session,
    headers: Any,
    lines: Sequence[str],
    environ: Mapping[str, Any],
    binding: SessionBinding | None = None,
) -> None:
    """Give the headers of a response what they owe to its session: `lines` and what caches obey.

    Also if the save failed, without lines: the page of the error may still depend on the session.
    `headers`: a list, or those of Werkzeug or aiohttp. `environ`: of WSGI, or its
    ``wsgi.url_scheme`` and ``HTTP_HOST``. `binding`: offered to a user who has signed in.
    """
    if not session.accessed:
        return
    if isinstance(headers, list):
        headers[:] = with_session(headers, lines)
    else:
        before = list(headers.items())
        fields = with_session(before, lines)
        if fields[: len(before)] == before:
            fields = fields[len(before) :]
        else:
            headers.clear()
        for name, value in fields:
            headers.add(name, value)
    if lines:
        keeper.note_scheme(environ["wsgi.url_scheme"], environ.get("HTTP_HOST", ""))
        if binding is not None:
            headers.extend(binding.offer(session))
