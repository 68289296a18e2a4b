"""Keys from an environment variable, separated by white space or commas.

Knows a mapping of variables. Does not read the process's environment by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigurationError
from ..keys import Keyring
from .static import parse_keyring


def from_environment(environ: Mapping[str, str], name: str, skew: int) -> Keyring:
    """The ring in variable `name`. Raises ConfigurationError when it is missing or empty."""
    lines = environ.get(name, "").replace(",", " ").split()
    if not lines:
        raise ConfigurationError(
            f"the environment variable {name} holds no key; `sealedstate keys generate` prints one"
        )
    return parse_keyring(lines, skew)
