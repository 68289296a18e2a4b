"""``sealedstate store``: prepare, check, compare, reap and count stores.

Knows URLs, capabilities and tables. Does not know any backend.

A store that can't be used is a finding: one sentence that says why, and exit code 1. A URL on a
command line is seen by everybody on the machine. Left out, it is read from SEALEDSTATE_STORAGE.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from ..errors import ConfigurationError, StorageError
from ..settings import ENVIRONMENT_PREFIX, process_environment
from ..storage import USES, ManagedStorage, RoutedStorage, Storage, open_storage
from ..storage.requirements import (
    DECLARED,
    Use,
    as_markdown,
    as_rows,
    probe_writes,
    store_name,
    unmet_needs,
)
from ..storage.routing import distinct_stores, store_of

Action: TypeAlias = Callable[[Storage, argparse.Namespace], int]

CONTEXTS = [context for use in USES.values() for context in use.contexts]
OTHERS = "*"
"""Stands for any other context, as in a split of stores."""


def add_to(commands: Any) -> None:
    """Add the command to argparse's subcommands."""
    parser = commands.add_parser("store", help="prepare and check storage services")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _action(actions, "init", _init, "make tables and whatever else the store needs")
    check = _action(actions, "check", _check, "what this store can hold, use by use")
    check.add_argument("--json", action="store_true", help="print JSON")
    _action(actions, "ping", _ping, "exit 0 when the store answers, 1 when it does not")
    reap = _action(actions, "reap", _reap, "remove expired records now")
    reap.add_argument("--limit", type=_count, default=10_000, help="at most so many (10000)")
    _action(actions, "stats", _stats, "how many records live in each of our contexts")
    matrix = actions.add_parser("matrix", help="uses against every backend")
    matrix.add_argument("--markdown", action="store_true", help="print a Markdown table")
    matrix.set_defaults(run=_matrix)


def _action(actions: Any, name: str, act: Action, about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=about)
    parser.add_argument("url", nargs="?", help=f"by default from {ENVIRONMENT_PREFIX}STORAGE")
    parser.set_defaults(run=lambda given: _run(act, given))
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError("a number from 1 on")
    return int(text)


def _run(act: Action, given: argparse.Namespace) -> int:
    store = _opened(given)
    try:
        return act(store, given)
    except StorageError as error:
        return _unusable(error, given)
    finally:
        store.close()


def _opened(given: argparse.Namespace) -> Storage:
    url = given.url or process_environment().get(f"{ENVIRONMENT_PREFIX}STORAGE")
    if not url:
        raise ConfigurationError(f"no URL is given, and {ENVIRONMENT_PREFIX}STORAGE is not set")
    return open_storage(url, time.time)


def _unusable(error: StorageError, given: argparse.Namespace) -> int:
    if getattr(given, "json", False):
        print(json.dumps({"unusable": str(error)}))
    print(f"sealedstate: the store can't be used: {error}", file=sys.stderr)
    return 1


def _init(store: Storage, _: argparse.Namespace) -> int:
    if isinstance(store, ManagedStorage):
        store.prepare()
    else:
        store.ping()
    print("the store is ready")
    return 0


def _ping(store: Storage, _: argparse.Namespace) -> int:
    try:
        store.ping()
    except StorageError as error:
        print(f"down: {error}")
        return 1
    print("up")
    return 0


def _check(store: Storage, given: argparse.Namespace) -> int:
    store.ping()
    parts = _parts(store)
    failures = [probe_writes(part.store, time.time(), secrets.token_hex(16)) for part in parts]
    findings = {use.name: _missing(use, store) for use in USES.values()}
    if given.json:
        print(json.dumps(_as_json(parts, failures, findings)))
    else:
        _print_uses(findings)
        for part, failure in zip(parts, failures, strict=True):
            _print_part(part, failure, is_alone=len(parts) == 1)
    return 1 if any(findings.values()) or any(failures) else 0


class _Part(NamedTuple):
    """One of the stores that contexts are split over, or the only one."""

    store: Storage
    contexts: list[str]


def _parts(store: Storage) -> list[_Part]:
    named = store.contexts if isinstance(store, RoutedStorage) else []
    contexts = dict.fromkeys([*CONTEXTS, *named, OTHERS])
    places = [(context, store_of(context, store)) for context in contexts]
    return [
        _Part(each, [context for context, place in places if place is each])
        for each in distinct_stores([place for _, place in places])
    ]


def _missing(use: Use, store: Storage) -> list[str]:
    """What the stores lack that the use's contexts really go to."""
    places = distinct_stores([store_of(context, store) for context in use.contexts or (OTHERS,)])
    needs = [need.shortfall for place in places for need in unmet_needs(use, place.capabilities)]
    return list(dict.fromkeys(needs))


def _as_json(
    parts: list[_Part], failures: list[str | None], findings: Mapping[str, list[str]]
) -> dict[str, Any]:
    because = {name: why for part in parts for name, why in part.store.capabilities.reasons.items()}
    stores = [
        {
            "store": store_name(part.store),
            "contexts": part.contexts,
            "because": dict(part.store.capabilities.reasons),
            "fails": failure,
        }
        for part, failure in zip(parts, failures, strict=True)
    ]
    return {"uses": findings, "because": because, "stores": stores}


def _print_uses(findings: Mapping[str, list[str]]) -> None:
    for title, found in findings.items():
        print(f"{title:12} {'no ' if found else 'yes'}  {USES[title].purpose}")
        if found:
            print(f"{'':12}      not here: {', '.join(found)}")


def _print_part(part: _Part, failure: str | None, is_alone: bool) -> None:
    can = part.store.capabilities
    if not is_alone:
        print(f"{store_name(part.store)}, for {', '.join(part.contexts)}")
    for name, why in can.reasons.items():
        print(f"  {name} = {getattr(can, name, '?')}: {why}")
    told = f"NO: {failure}" if failure else "yes: a record of its own was written and deleted"
    print(f"  takes writes = {told}")


def _reap(store: Storage, given: argparse.Namespace) -> int:
    store.ping()  # one that has nothing to reap would not notice that it is down
    print(f"{store.reap(given.limit)} expired records removed")
    return 0


def _stats(store: Storage, _: argparse.Namespace) -> int:
    store.ping()
    can = store.capabilities
    if not can.enumerable:
        why = can.reasons.get("enumerable", "this store lists no records")
        print(f"sealedstate: not counted: {why}", file=sys.stderr)
        return 1
    for context in CONTEXTS:
        print(f"{context:24} {sum(1 for _ in store.keys(context)):>10}")
    return 0


def _matrix(given: argparse.Namespace) -> int:
    if given.markdown:
        print(as_markdown(DECLARED))
        return 0
    for row in as_rows(DECLARED):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, _WIDTHS, strict=True)))
    return 0


_WIDTHS = (22, *(max(len(title), 4) for title in USES))
