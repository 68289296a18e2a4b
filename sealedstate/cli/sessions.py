"""``sealedstate sessions list | show | revoke``: who is signed in now, and ending that.

Knows arguments and what is printed. Does not know rows: the list is `sso.sessions`, which an
application switches on by `SessionRegistry`. The configuration is the application's own.

A store that can't be used, and a session that does not live, are findings: one sentence, and exit
code 1. Ids are those that ``list`` prints.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeAlias

from ..deployment import Deployment
from ..errors import ConfigurationError, OperatorError
from ..keeper import Keeper
from ..settings import Settings, process_environment
from ..sso import LiveSession, SessionRegistry

Action: TypeAlias = Callable[[SessionRegistry, argparse.Namespace], int]


def add_to(commands: Any) -> None:
    """Add the command to argparse's subcommands."""
    parser = commands.add_parser("sessions", help="who is signed in now")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listed = _action(actions, "list", _list, "the live sessions, the last seen first")
    listed.add_argument("--subject", metavar="USER", help="only those of one user")
    show = _action(actions, "show", _show, "one session")
    show.add_argument("id", metavar="ID", help="as `list` prints it")
    revoke = _action(actions, "revoke", _revoke, "end sessions on every node, from now on")
    revoke.add_argument("ids", nargs="*", metavar="ID", help="as `list` prints them")
    revoke.add_argument("--subject", metavar="USER", help="all of one user, listed or not")
    revoke.add_argument("--all", action="store_true", help="all that are listed")


def _action(actions: Any, name: str, act: Action, about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=about)
    parser.add_argument("--config", metavar="FILE", help="a TOML file; else SEALEDSTATE_ variables")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lambda given: _run(act, given))
    return parser


def _run(act: Action, given: argparse.Namespace) -> int:
    settings = _settings(given)
    try:
        deployment = Deployment.open(settings)
        try:
            return act(SessionRegistry(Keeper(deployment)), given)
        finally:
            deployment.close()
    except OperatorError as error:
        if given.json:
            print(json.dumps({"unusable": str(error)}))
        print(f"sealedstate: {error}", file=sys.stderr)
        return 1


def _settings(given: argparse.Namespace) -> Settings:
    # A command looks at the ring; rotating it is the nodes' business.
    if given.config is not None:
        return Settings.from_toml(given.config, rotate_in_process=False)
    return Settings.from_env(process_environment(), rotate_in_process=False)


def _list(registry: SessionRegistry, given: argparse.Namespace) -> int:
    _print(registry.list(given.subject), given.json)
    return 0


def _show(registry: SessionRegistry, given: argparse.Namespace) -> int:
    found = registry.find(given.id)
    if found is None:
        return _missing([given.id], given)
    _print([found], given.json)
    return 0


def _revoke(registry: SessionRegistry, given: argparse.Namespace) -> int:
    ways = [bool(given.ids), given.subject is not None, given.all]
    if sum(ways) != 1:
        raise ConfigurationError("which sessions? IDs, or --subject USER, or --all")
    if given.ids:
        revoked = [name for name in given.ids if registry.revoke(name)]
        missing = [name for name in given.ids if name not in revoked]
        _tell(len(revoked), given)
        return _missing(missing, given) if missing else 0
    if given.all:
        _tell(registry.revoke_all(), given)
        return 0
    count = len(registry.list(given.subject))
    registry.revoke_subject(given.subject)
    _tell(count, given)
    return 0


def _tell(count: int, given: argparse.Namespace) -> None:
    print(json.dumps({"revoked": count}) if given.json else f"{count} sessions ended")


def _missing(names: Iterable[str], given: argparse.Namespace) -> int:
    for name in names:
        print(f"sealedstate: no live session {name}", file=sys.stderr)
    return 1


def _print(sessions: Iterable[LiveSession], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_shown(session) for session in sessions]))
        return
    for session in sessions:
        started, seen = (_moment(at) for at in (session.started, session.last_seen))
        print(f"{session.id}  {started}  {seen}  {session.where or '-'}  {session.subject}")


def _shown(session: LiveSession) -> dict[str, object]:
    return {name: value for name, value in asdict(session).items() if name != "raw_id"}


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
