"""Our own options in the URL of a store, as in ``redis://host?sealedstate_timeout=0.3``.

Knows their names and the numbers that they take. Does not know any backend, nor what else stands in
a URL: that goes to the driver as it is.

The names begin with `sealedstate_`, as no driver's parameters do. No message repeats a value or
anything else of the URL, which may hold a password.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import ConfigurationError

# FOLD sealedstate.storage.split_text
# A split of stores in one line of text, as an environment variable holds it.
#
# Knows the words of such a line, ``*=URL sealedstate.revoked=URL``. Does not know what a URL names.


# No URL of a store begins so: behind its scheme stands a colon.
_WORD = re.compile(r"(\*|\w[\w.-]*)=(\S+)")


def urls_of(text: str) -> dict[str, str] | str:
    """The URL of each context that `text` names, or `text` where it is one URL for all.

    Words stand apart by blanks, so that no URL may have one in it. Raises ConfigurationError, which
    repeats no URL: it may hold a password.
    """
    words = text.split()
    if not words or not _WORD.match(words[0]):
        return text
    urls: dict[str, str] = {}
    for number, word in enumerate(words, 1):
        found = _WORD.fullmatch(word)
        if found is None:
            raise ConfigurationError(
                f"storage: word {number} is not CONTEXT=URL; a URL with a blank in it needs a table"
            )
        context, url = found.groups()
        if context in urls:
            raise ConfigurationError(f"storage: {context} is given twice")
        urls[context] = url
    return urls


PREFIX = "sealedstate_"


class _Option(NamedTuple):
    """What an option takes, and in words."""

    read: Callable[[str], float]
    least: float
    most: float
    wanted: str


# Beyond an hour, or a thousand connections for each process, it is a slip of the pen.
OPTIONS: Mapping[str, _Option] = {
    "timeout": _Option(float, 0.001, 3600, "seconds from 0.001 to 3600"),
    "pool_size": _Option(int, 1, 1000, "a whole number from 1 to 1000"),
}
# float() would take much more, such as "nan" and digits of other scripts.
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
# How parameters look, and the end of a path does not.
_PARAMETERS = re.compile(r"\w+=[^/]*")


def split_url(url: str, taken: Collection[str]) -> tuple[str, dict[str, Any]]:
    """A server's URL without our options, and those by name. A store takes those in `taken`.

    Raises ConfigurationError for an option that is not taken, given twice, or no such number.
    """
    address, _, query = url.partition("?")
    parameters = query.split("&")
    ours = [parameter for parameter in parameters if parameter.startswith(PREFIX)]
    others = "&".join(parameter for parameter in parameters if parameter not in ours)
    if f"?{PREFIX}" in others:
        raise ConfigurationError(
            "storage: options stand behind the first ? of a URL; in a password it is written %3F"
        )
    if not ours:
        return url, {}
    return f"{address}?{others}" if others else address, _options(ours, taken)


def split_path(path: str, taken: Collection[str]) -> tuple[str, dict[str, Any]]:
    """A path without the options behind its last ``?``, and those by name.

    A path may have a ``?`` in it: only what reads ``?name=...``, without a slash, is options. Then
    all of them are ours, for there is no driver that takes others. Raises as `split_url`.
    """
    bare, mark, end = path.rpartition("?")
    if not (mark and _PARAMETERS.fullmatch(end)):
        return path, {}
    return bare, _options(end.split("&"), taken)


def _options(parameters: Iterable[str], taken: Collection[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for parameter in parameters:
        name, _, text = parameter.partition("=")
        short = name.removeprefix(PREFIX)
        if short == name or short not in taken:
            raise ConfigurationError(f"storage: {_refusal(name, taken)}")
        if short in options:
            raise ConfigurationError(f"storage: {name} is given twice")
        options[short] = _number(name, text, OPTIONS[short])
    return options


def _number(name: str, text: str, option: _Option) -> float:
    try:
        number = option.read(text) if _NUMBER.fullmatch(text) else 0
    except ValueError:
        number = 0
    if not option.least <= number <= option.most:
        raise ConfigurationError(f"storage: {name} takes {option.wanted}")
    return number


def _refusal(name: str, taken: Collection[str]) -> str:
    # An odd name may be the end of something else, of a password for example.
    shown = f"option {name!r}" if re.fullmatch(r"[a-z_]{1,40}", name) else "such option"
    near = difflib.get_close_matches(name.removeprefix(PREFIX), list(taken), n=1)
    if near:
        return f"there is no {shown}; did you mean {PREFIX}{near[0]}?"
    return f"this store has no {shown}; it takes {', '.join(PREFIX + each for each in taken)}"
