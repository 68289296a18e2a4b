"""The URLs of stores: `open_storage`, and the options that a URL can have.

The names of sealedstate's options begin with ``sealedstate_``, which no driver's parameters do, as
in ``redis://host?sealedstate_timeout=0.3``. All other parameters are the driver's. No error message
repeats a URL or a part of one, because it may contain a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import ConfigurationError, escape_text
from .cache import CachedStorage
from .contract import Clock, ManagedStorage
from .memory import MemoryStorage
from .requirements import USES
from .routing import RoutedStorage

__all__ = ["OPTIONS", "OPTION_PREFIX", "URLS", "open_storage"]

URLS = (
    "memory:",
    "sqlite:PATH",
    "postgresql://...",
    "mariadb://...",
    "redis://...",
    "redis+sentinel://...",
    "redis+cluster://...",
    "memcached://HOST:PORT",
    "dynamodb:TABLE?region=REGION",
    "layered:MILLISECONDS:URL",
)
OPTION_PREFIX = "sealedstate_"


class Option(NamedTuple):
    """The numbers that an option takes. `expected` says so in messages."""

    parse: Callable[[str], float]
    minimum: float
    maximum: float
    expected: str


# More than an hour, or than a thousand connections of each process, is a typing error.
OPTIONS: Mapping[str, Option] = {
    "timeout": Option(float, 0.001, 3600, "seconds from 0.001 to 3600"),
    "pool_size": Option(int, 1, 1000, "a whole number from 1 to 1000"),
    "max_idle": Option(float, 0.001, 86400, "seconds from 0.001 to 86400"),
    "pooled": Option(int, 0, 1, "0 or 1"),
    "wait": Option(int, 1, 100, "a whole number from 1 to 100"),
}

# Where processes report which keys they use (`sealedstate.rotation.reports`).
_REPORTS_CONTEXT = "sealedstate.nodes"
# No URL matches this: a scheme is followed by a colon.
_ROUTE = re.compile(r"(\*|\w[\w.-]*)=(\S+)")
# float() accepts much more, such as "nan" and the digits of other scripts.
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_REDIS = re.compile(r"(?:redis|valkey)s?(?:\+(?:unix|sentinel|cluster))?")
# Parameters look like this; the end of a path does not.
_PARAMETERS = re.compile(r"\w+=[^/]*")


def open_storage(url: str | Mapping[str, str], clock: Clock) -> ManagedStorage:
    """Return the store of a URL, one of `URLS`. Does not connect to it yet.

    A URL takes options behind its ``?``, beside the driver's parameters:
    ``sealedstate_timeout``, how many seconds a call may take (all but `memory:`),
    ``sealedstate_pool_size``, the number of connections per process (SQL servers), and
    ``sealedstate_wait``, how many replicas confirm a write that must last (Redis).

    A mapping sends contexts to different stores, ``{"*": URL, "sealedstate.revoked": URL}``, and so
    does one line of text, ``"*=URL sealedstate.revoked=URL"``.

    Raises ConfigurationError, with a message that does not contain the URL.
    """
    urls = parse_routes(url) if isinstance(url, str) else url
    if isinstance(urls, str):
        return _open_url(urls, clock)
    if not all(isinstance(text, str) for pair in urls.items() for text in pair):
        raise ConfigurationError("storage: a table of contexts must map each to a URL")
    if "*" not in urls:
        raise ConfigurationError('storage: a table of contexts must have "*" for all others')
    # With a mistyped context, records would silently go to the default store.
    known = [*(context for use in USES.values() for context in use.contexts), _REPORTS_CONTEXT]
    for context in urls:
        if context.startswith("sealedstate.") and context not in known:
            import difflib

            near = difflib.get_close_matches(context, known, n=1) or known
            raise ConfigurationError(
                f"storage: there is no context {context!r}; did you mean {' or '.join(near)}?"
            )
    # Contexts with the same URL share a store, and so its connections.
    opened = {each: _open_url(each, clock) for each in set(urls.values())}
    contexts = {context: opened[each] for context, each in urls.items() if context != "*"}
    return RoutedStorage(opened[urls["*"]], contexts)


def parse_routes(text: str) -> dict[str, str] | str:
    """Return the URL of each context in a line of ``CONTEXT=URL`` words, or one URL as it is.

    Words are separated by blanks, so the URLs must not contain any. Raises ConfigurationError.
    """
    words = text.split()
    if not words or not _ROUTE.match(words[0]):
        return text
    urls: dict[str, str] = {}
    for number, word in enumerate(words, 1):
        found = _ROUTE.fullmatch(word)
        if found is None:
            raise ConfigurationError(
                f"storage: word {number} must be CONTEXT=URL; use a table if a URL contains a blank"
            )
        context, url = found.groups()
        if context in urls:
            raise ConfigurationError(f"storage: {context} is given twice")
        urls[context] = url
    return urls


def _open_url(url: str, clock: Clock) -> ManagedStorage:
    scheme, colon, rest = url.partition(":")
    # A store with a driver is imported when a URL asks for it, so that other drivers need not be
    # installed.
    match scheme if colon else "":
        case "memory":
            if rest:
                raise ConfigurationError("storage: memory: takes nothing behind the colon")
            return MemoryStorage(clock)
        case "sqlite":
            path, options = split_path(rest, ("timeout",))
            if not path or "\0" in path:
                raise ConfigurationError("storage: sqlite:PATH needs a path")
            if path.startswith(("//", "~")):
                raise ConfigurationError(
                    "storage: in sqlite:PATH write the path as it is, such as"
                    " sqlite:/var/lib/app/s.db; // of SQLAlchemy's URLs and ~ mean nothing here"
                )
            from .sqlite import SQLiteStorage

            return SQLiteStorage(path, clock, **options)
        case "layered":
            staleness, colon, behind = rest.partition(":")
            if not (colon and staleness.isascii() and staleness.isdigit()):
                raise ConfigurationError("storage: expected layered:MILLISECONDS:URL")
            return CachedStorage(_open_url(behind, clock), clock, int(staleness))
        case "postgresql" | "postgres" | "mariadb" | "mysql":
            from .sql import SQLStorage

            names = ["timeout", "pool_size", "max_idle"]
            url, options = split_url(url, names + ["pooled"] * scheme.startswith("postgres"))
            if "pooled" in options:
                options["pooled"] = bool(options["pooled"])
            return SQLStorage(url, clock, **options)
        case str() if re.match(r"(postgres|postgresql|mariadb|mysql)\+", scheme):
            from .sql import SQLStorage

            return SQLStorage(url, clock)  # names the right spelling
        case _ if _REDIS.fullmatch(scheme):
            from .redis import RedisStorage

            url, options = split_url(url, ("timeout", "wait"))
            return RedisStorage(url, clock, **options)
        case "memcached" | "memcached+unix":
            from .memcached import MemcachedStorage

            url, options = split_url(url, ("timeout",))
            return MemcachedStorage(url, clock, **options)
        case "dynamodb":
            from .dynamodb import DynamoDBStorage

            url, options = split_url(url, ("timeout",))
            return DynamoDBStorage(url, clock, **options)
        case "unix":
            raise ConfigurationError(
                "storage: write redis+unix:///PATH or memcached+unix:///PATH for a server's socket"
            )
    raise ConfigurationError(f"storage: must be one of {', '.join(URLS)}, or a store object")


# --- options ------------------------------------------------------------------------------------


def split_url(url: str, names: Collection[str]) -> tuple[str, dict[str, Any]]:
    """Return a server's URL without sealedstate's options, and the options, by short name.

    `names`: the options that the store takes. Raises ConfigurationError for other options, for one
    that is given twice, and for a value out of range.
    """
    address, _, query = url.partition("?")
    parameters = query.split("&")
    options = [parameter for parameter in parameters if parameter.startswith(OPTION_PREFIX)]
    others = "&".join(parameter for parameter in parameters if parameter not in options)
    if f"?{OPTION_PREFIX}" in others:
        raise ConfigurationError(
            "storage: options must follow the first ? of a URL; write ? in a password as %3F"
        )
    if not options:
        return url, {}
    return f"{address}?{others}" if others else address, _parse_options(options, names)


def split_path(path: str, names: Collection[str]) -> tuple[str, dict[str, Any]]:
    """Return a path without the options behind its last ``?``, and the options, by short name.

    A path may contain a ``?``: only an end like ``?name=...``, without a slash, is options. All of
    them are sealedstate's, because there is no driver with others. Raises like `split_url`.
    """
    rest, mark, end = path.rpartition("?")
    if not (mark and _PARAMETERS.fullmatch(end)):
        return path, {}
    return rest, _parse_options(end.split("&"), names)


def check_file(parameter: str, path: str) -> None:
    """Raise ConfigurationError if this process may not read the file that a parameter names."""
    try:
        # O_NONBLOCK, because opening a pipe would wait for a writer.
        os.close(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"storage: {parameter}: the file {escape_text(path, 1000)} cannot be read: {problem};"
            " name a file that this process may read"
        ) from None


def show_name(kind: str, name: str) -> str:
    """Return a name from a URL for a message. An unusual name may be a part of a password."""
    return f"{kind} {name!r}" if re.fullmatch(r"[a-z_]{1,40}", name) else f"such {kind}"


def _parse_options(parameters: Iterable[str], names: Collection[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for parameter in parameters:
        name, _, text = parameter.partition("=")
        short = name.removeprefix(OPTION_PREFIX)
        if short == name or short not in names:
            raise ConfigurationError(f"storage: {_explain_unknown(name, names)}")
        if short in options:
            raise ConfigurationError(f"storage: {name} is given twice")
        option = OPTIONS[short]
        try:
            number = option.parse(text) if _NUMBER.fullmatch(text) else -1
        except ValueError:
            number = -1
        if not option.minimum <= number <= option.maximum:
            raise ConfigurationError(f"storage: {name} must be {option.expected}")
        options[short] = number
    return options


def _explain_unknown(name: str, names: Collection[str]) -> str:
    shown = show_name("option", name)
    import difflib

    near = difflib.get_close_matches(name.removeprefix(OPTION_PREFIX), list(names), n=1)
    if near:
        return f"there is no {shown}; did you mean {OPTION_PREFIX}{near[0]}?"
    known = ", ".join(OPTION_PREFIX + each for each in names)
    return f"this store has no {shown}; it takes {known}"
