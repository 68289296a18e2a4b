"""A split of stores in one line of text, as an environment variable holds it.

Knows the words of such a line, ``*=URL sealedstate.revoked=URL``. Does not know what a URL names.
"""

from __future__ import annotations

import re

from ..errors import ConfigurationError

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
