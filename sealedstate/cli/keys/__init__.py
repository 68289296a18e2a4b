"""``sealedstate keys``: make keys, and look after a ring that rotates by itself.

Knows the actions and their arguments. Does not know what they do; each is a module's.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from ...keyring import SECRET_BYTES, Key, export_lookup
from .changes import disable, enable, init, revoke, rotate, wrap
from .check import check
from .listing import list_keys
from .reseal import reseal
from .source import Action, add_options, run
from .watch import watch


def add_to(commands: Any) -> None:
    """Add the command to argparse's subcommands."""
    parser = commands.add_parser("keys", help="make keys, and look after a ring that rotates")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_generate(actions)
    _action(actions, "init", init, "make a ring where there is none")
    _action(actions, "list", list_keys, "what is in the ring, and who uses it")
    _add_rotate(actions)
    _add_revoke(actions)
    _add_switch(actions, "disable", disable, "make a key neither seal nor open, until enabled")
    _add_switch(actions, "enable", enable, "make a disabled key open again")
    _action(actions, "wrap", wrap, "wrap a ring that stands in clear").set_defaults(
        takes_clear=True
    )
    _add_reseal(actions)
    _add_check(actions)
    _add_watch(actions)


def _action(
    actions: Any, name: str, act: Action, about: str, takes_path: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=about, description=about)
    add_options(parser, takes_path)
    parser.set_defaults(run=lambda given: run(act, given))
    return parser


def _add_rotate(actions: Any) -> None:
    parser = _action(actions, "rotate", rotate, "announce the next key, if it is due")
    parser.add_argument("--now", action="store_true", help="announce one even if none is due")
    about = "announce a key for what is stored for years, such as consents"
    parser.add_argument("--lasting", action="store_true", help=about)
    parser.add_argument("--quiet", action="store_true", help="print nothing, for cron")


def _add_revoke(actions: Any) -> None:
    about = "refuse for good what a key sealed, or what was sealed before a time"
    parser = _action(actions, "revoke", revoke, about, takes_path=False)
    _add_kid(parser, nargs="?")
    parser.add_argument("--reason", default="", help="why, for whoever lists the ring later")
    parser.add_argument("--before", metavar="TIME", help="2026-11-22T08:00:00Z, or 2h for 2 h ago")


def _add_switch(actions: Any, name: str, act: Action, about: str) -> None:
    _add_kid(_action(actions, name, act, about, takes_path=False))


def _add_kid(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    about = "the key's 8 hex digits, or the first 4 or more"
    parser.add_argument("kid", nargs=nargs, metavar="KID", help=about)


def _add_reseal(actions: Any) -> None:
    about = "seal anew what is stored for years and was sealed by a key that is over"
    parser = actions.add_parser("reseal", help=about, description=about)
    add_options(parser)
    about = "then destroy the lasting keys that nothing in the store needs any more"
    parser.add_argument("--destroy", action="store_true", help=about)
    parser.set_defaults(run=reseal)


def _add_check(actions: Any) -> None:
    parser = _action(actions, "check", check, "exit 1 and say what to do, if anything is wrong")
    about = "look twice, so many seconds apart: also shows what comes under keys that soon expire"
    parser.add_argument("--over", metavar="SECONDS", type=_seconds, default=0, help=about)


def _add_watch(actions: Any) -> None:
    parser = _action(actions, "watch", watch, "list and check again and again, until Ctrl-C")
    about = "from one look to the next (2)"
    parser.add_argument("--every", metavar="SECONDS", type=_seconds, default=2.0, help=about)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError("seconds, from 0.1 to 86400")
    return seconds


# --- generate -----------------------------------------------------------------------------------


def _add_generate(actions: Any) -> None:
    parser = actions.add_parser("generate", help="print a new key")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--lookup", action="store_true", help="a lookup key, for revoking by subject"
    )
    kinds.add_argument(
        "--kek", action="store_true", help="a key-encryption key, for SEALEDSTATE_KEK"
    )
    parser.set_defaults(run=_generate)


def _generate(given: argparse.Namespace) -> int:
    if given.lookup:
        print(export_lookup(os.urandom(SECRET_BYTES)))
    else:
        # A key that wraps keys reads like one that seals sessions.
        print(Key.generate(os.urandom).export())
    return 0
