"""``sealedstate store``: prepare, check, compare, reap and count stores.

Knows URLs, capabilities and tables. Does not know any backend.

A URL on a command line is seen by everybody on the machine. Left out, it is read from
SEALEDSTATE_STORAGE.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from ..errors import ConfigurationError, StorageError
from ..settings import ENVIRONMENT_PREFIX, environment
from ..storage import USES, Capabilities, Storage, open_storage, unmet
from ..storage.matrix import DECLARED, as_rows

CONTEXTS = ("sealedstate.part", "sealedstate.revoked", "sealedstate.watermark")


def add_to(commands: Any) -> None:
    """Add the command to argparse's subcommands."""
    parser = commands.add_parser("store", help="prepare and check storage services")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _action(actions, "init", _init, "make tables and whatever else the store needs")
    check = _action(actions, "check", _check, "what this store can hold, use by use")
    check.add_argument("--json", action="store_true", help="print JSON")
    _action(actions, "ping", _ping, "exit 0 when the store answers, 1 when it does not")
    reap = _action(actions, "reap", _reap, "remove expired records now")
    reap.add_argument("--limit", type=int, default=10_000, help="at most so many (10000)")
    _action(actions, "stats", _stats, "how many records live in each of our contexts")
    matrix = actions.add_parser("matrix", help="uses against every backend")
    matrix.set_defaults(run=_matrix)


def _action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=about)
    parser.add_argument("url", nargs="?", help=f"by default from {ENVIRONMENT_PREFIX}STORAGE")
    parser.set_defaults(run=run)
    return parser


def _opened(given: argparse.Namespace) -> Storage:
    url = given.url or environment().get(f"{ENVIRONMENT_PREFIX}STORAGE")
    if not url:
        raise ConfigurationError(f"no URL is given, and {ENVIRONMENT_PREFIX}STORAGE is not set")
    return open_storage(url, time.time)


def _init(given: argparse.Namespace) -> int:
    store = _opened(given)
    store.prepare()
    store.close()
    print("the store is ready")
    return 0


def _ping(given: argparse.Namespace) -> int:
    store = _opened(given)
    try:
        store.ping()
    except StorageError as error:
        print(f"down: {error}")
        return 1
    finally:
        store.close()
    print("up")
    return 0


def _check(given: argparse.Namespace) -> int:
    store = _opened(given)
    store.ping()
    can = store.capabilities
    store.close()
    findings = {use.title: [need.found for need in unmet(use, can)] for use in USES.values()}
    if given.json:
        print(json.dumps({"uses": findings, "because": dict(can.because)}))
    else:
        _print_check(findings, can)
    return 1 if any(findings.values()) else 0


def _print_check(findings: dict[str, list[str]], can: Capabilities) -> None:
    for title, found in findings.items():
        verdict = f"no: it {' and '.join(found)}" if found else "yes"
        print(f"{title:12} {verdict:60} ({USES[title].purpose})")
    for name, why in can.because.items():
        print(f"  {name} = {getattr(can, name, '?')}: {why}")


def _reap(given: argparse.Namespace) -> int:
    store = _opened(given)
    print(f"{store.reap(given.limit)} expired records removed")
    store.close()
    return 0


def _stats(given: argparse.Namespace) -> int:
    store = _opened(given)
    for context in CONTEXTS:
        print(f"{context:24} {sum(1 for _ in store.keys(context)):>10}")
    store.close()
    return 0


def _matrix(_: argparse.Namespace) -> int:
    for row in as_rows(DECLARED):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, _WIDTHS, strict=True)))
    return 0


_WIDTHS = (22, *(max(len(title), 4) for title in USES))
