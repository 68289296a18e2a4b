"""``sealedstate keys``: make keys.

Knows what is printed. Does not know where the operator keeps it.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..keys import SECRET_BYTES, Key, export_lookup


def add_to(commands: Any) -> None:
    """Add the command to argparse's subcommands."""
    parser = commands.add_parser("keys", help="make keys")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    generate = actions.add_parser("generate", help="print a new key")
    generate.add_argument(
        "--lookup", action="store_true", help="a lookup key, for revoking by subject"
    )
    generate.set_defaults(run=_generate)


def _generate(given: argparse.Namespace) -> int:
    if given.lookup:
        print(export_lookup(os.urandom(SECRET_BYTES)))
    else:
        print(Key.generate(os.urandom).export())
    return 0
