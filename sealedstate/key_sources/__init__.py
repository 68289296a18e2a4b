"""Where keys come from: a list in the configuration, the environment, a secrets file.

Knows the text of keys. Does not know what they seal.

A source of one's own, over a key management service say, is any object with a method
``keyring() -> Keyring``. It is asked on every request, so it answers from memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..errors import ConfigurationError
from ..keys import Keyring
from .environment import from_environment
from .secrets_file import from_secrets_file
from .static import StaticKeys, parse_keyring

__all__ = ["KeySource", "StaticKeys", "open_key_source", "parse_keyring"]


@runtime_checkable
class KeySource(Protocol):
    """Gives the ring that is in force now."""

    def keyring(self) -> Keyring:
        """The current ring, without I/O."""
        ...


def open_key_source(
    keys: str | Sequence[str] | KeySource, environ: Mapping[str, str], skew: int
) -> KeySource:
    """The source that a setting names.

    `keys`: ``"env:"`` or ``"env:NAME"``, ``"file:PATH"``, one key, a list of keys of which the
    first seals, or a source. Raises ConfigurationError.
    """
    if isinstance(keys, KeySource):
        return keys
    if not isinstance(keys, str):
        if not isinstance(keys, Sequence) or not all(isinstance(key, str) for key in keys):
            raise ConfigurationError("keys: text, a list of texts, or an object with keyring()")
        return StaticKeys(parse_keyring(keys, skew))
    scheme, _, rest = keys.partition(":")
    if scheme == "env":
        return StaticKeys(from_environment(environ, rest or "SEALEDSTATE_KEYS", skew))
    if scheme == "file":
        return StaticKeys(from_secrets_file(Path(rest), skew))
    if not keys.strip():
        raise ConfigurationError("keys is empty; `sealedstate keys generate` prints a key")
    return StaticKeys(parse_keyring([keys], skew))
