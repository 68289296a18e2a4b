"""The command line: ``sealedstate keys generate``, ``sizes FILE.json``, ``store check URL``.

Knows arguments and exit codes: 0 done, 1 a finding, 2 wrong usage or configuration. Does not know
how anything is done; each command is a module of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import SealedStateError
from . import consent, keys, sessions, sizes, sso, store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = argparse.ArgumentParser(prog="sealedstate", description="Sealed client-side sessions.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    keys.add_to(commands)
    sizes.add_to(commands)
    store.add_to(commands)
    sso.add_to(commands)
    consent.add_to(commands)
    sessions.add_to(commands)
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except SealedStateError as error:
        print(f"sealedstate: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"sealedstate: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return 2
