"""Keys from a plain file, one a line, read once at start.

Knows files. Does not watch them: a ring that rotates by itself is another source.
"""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from ..errors import ConfigurationError
from ..keys import Keyring
from .static import parse_keyring

_log = logging.getLogger("sealedstate.keys")


def from_secrets_file(path: Path, skew: int) -> Keyring:
    """The ring in the file at `path`; empty lines and lines that begin with # don't count.

    Raises ConfigurationError when it can't be read or holds no key. A file that everybody may read
    is used, for mounted secrets often are, and named in the log.
    """
    try:
        text = path.read_text("utf-8-sig")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the key file {path} can't be read: {error}") from None
    if mode & stat.S_IROTH:
        _log.warning("the key file %s can be read by everybody; chmod o-r it", path)
    lines = [line.strip() for line in text.splitlines()]
    return parse_keyring([line for line in lines if line and not line.startswith("#")], skew)
