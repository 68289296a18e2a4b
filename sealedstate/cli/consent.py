"""``sealedstate consent list | withdraw SUBJECT``: what a user agreed to.

Knows arguments and what is printed. Does not know how consents are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from ..deployment import Deployment
from ..errors import ConfigurationError, OperatorError
from ..events import EventLog
from ..key_sources import StaticKeys
from ..sso import Consent, ConsentStore
from .keys.source import add_options, configured, keyring_of, ring_of, store_of
from .output import exact, iso, many, plain, show

Action: TypeAlias = Callable[[ConsentStore, argparse.Namespace], None]


def add_to(commands: Any) -> None:
    """Add the command to argparse's subcommands."""
    parser = commands.add_parser("consent", help="what users agreed to")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _action(actions, "list", _list, "all that a user agreed to and that counts")
    withdraw = _action(actions, "withdraw", _withdraw, "forget one consent of a user, or all")
    withdraw.add_argument("--document", help="only this one")
    withdraw.add_argument("--service", metavar="ENTITYID", help="only for this service")


def _action(actions: Any, name: str, act: Action, about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=about, description=about)
    parser.add_argument("subject", metavar="SUBJECT", help="the subject of the user's sessions")
    add_options(parser, takes_path=False)
    parser.set_defaults(run=lambda given: _run(act, given))
    return parser


def _run(act: Action, given: argparse.Namespace) -> int:
    with configured(given) as deployment:
        store_of(deployment)
        try:
            act(_consents(deployment, given), given)
        except OperatorError as error:
            if given.json:
                print(json.dumps({"unusable": str(error)}))
            print(f"sealedstate: {error}", file=sys.stderr)
            return 1
        return 0


def _consents(deployment: Deployment, given: argparse.Namespace) -> ConsentStore:
    ring = keyring_of(deployment, ring_of(deployment, given))
    settings, store = deployment.settings, store_of(deployment)
    return ConsentStore(Deployment(settings, EventLog(), store, StaticKeys(ring)))


def _list(consents: ConsentStore, given: argparse.Namespace) -> None:
    found = consents.of_subject(given.subject)
    if given.json:
        print(json.dumps([_as_json(one) for one in found], indent=2))
    else:
        show("\n".join(map(_as_text, found)) or "Nothing.")


def _withdraw(consents: ConsentStore, given: argparse.Namespace) -> None:
    if given.service is not None and given.document is None:
        raise ConfigurationError("--service goes with --document")
    before = consents.of_subject(given.subject)
    if given.document is None:
        consents.withdraw_all(given.subject)
    else:
        consents.withdraw(given.subject, given.document, given.service)
    gone = len(before) - len(consents.of_subject(given.subject))
    if given.json:
        print(json.dumps({"withdrawn": gone}))
    else:
        show(f"{many(gone, 'consent is', 'consents are')} withdrawn.")


def _as_text(one: Consent) -> str:
    words = [f"{plain(one.document)} {one.version}", f"given {exact(one.given_at)}"]
    if one.expires_at is not None:
        words.append(f"until {exact(one.expires_at)}")
    if one.service is not None:
        words.append(f"for {plain(one.service, 1024)}")
    if one.attributes:
        words.append(f"with {plain(', '.join(sorted(one.attributes)), 1024)}")
    return ", ".join(words)


def _as_json(one: Consent) -> dict[str, Any]:
    return {
        "document": one.document,
        "version": one.version,
        "given_at": iso(one.given_at),
        "expires_at": iso(one.expires_at),
        "service": one.service,
        "attributes": sorted(one.attributes),
    }
