"""``sealedstate sessions``: list and end the live sessions.

The list exists for applications that have a `SessionRegistry`. A session that is not live is a
finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

import click

from ..deployment import Deployment
from ..devices import LiveSession, SessionRegistry
from ..errors import ConfigurationError
from ..keeper import Keeper
from ..settings import Settings, process_environment
from ._output import config_option, echo_error, emit, format_iso, json_option, plural, table
from ._source import application_settings

__all__ = ["sessions"]

FACTS = ("id", "subject", "started", "last_seen", "where")


@click.group()
def sessions() -> None:
    """List and end live sessions.

    Only an application with a session registry has the list.
    """


@contextmanager
def _open(config: str | None) -> Iterator[SessionRegistry]:
    # The command uses the ring, and the nodes rotate it.
    known = application_settings()
    if config is not None:
        settings = Settings.from_toml(config, rotate_in_process=False)
    elif known is not None:
        settings = replace(known, rotate_in_process=False)
    else:
        settings = Settings.from_env(process_environment(), rotate_in_process=False)
    with closing(Deployment.open(settings)) as deployment:
        yield SessionRegistry(Keeper(deployment))


@sessions.command("list")
@click.option("--subject", metavar="USER", help="Only the sessions of this user.")
@config_option
@json_option
def list_sessions(subject: str | None, config: str | None, as_json: bool) -> None:
    """List the live sessions, the last seen first."""
    with _open(config) as registry:
        _print(registry.list(subject), as_json)


@sessions.command()
@click.argument("session_id", metavar="ID")
@config_option
@json_option
def show(session_id: str, config: str | None, as_json: bool) -> int:
    """Show one session, by the ID that `list` prints."""
    with _open(config) as registry:
        found = registry.find(session_id)
    if found is None:
        return _report_missing([session_id])
    _print([found], as_json)
    return 0


@sessions.command()
@click.argument("session_ids", metavar="[ID]...", nargs=-1)
@click.option("--subject", metavar="USER", help="End all sessions of this user, listed or not.")
@click.option("--all", "all_listed", is_flag=True, help="End all listed sessions.")
@config_option
@json_option
def revoke(
    session_ids: tuple[str, ...],
    subject: str | None,
    all_listed: bool,
    config: str | None,
    as_json: bool,
) -> int:
    """End sessions, on every node and at once."""
    if [bool(session_ids), subject is not None, all_listed].count(True) != 1:
        raise ConfigurationError("give either IDs, --subject USER or --all")
    missing: list[str] = []
    with _open(config) as registry:
        if subject is not None:
            count = len(registry.list(subject))
            registry.revoke_subject(subject)
        elif all_listed:
            count = registry.revoke_all()
        else:
            missing = [each for each in session_ids if not registry.revoke(each)]
            count = len(session_ids) - len(missing)
    emit(as_json, {"revoked": count}, [f"{plural(count, 'session', 'sessions')} ended"])
    return _report_missing(missing)


def _report_missing(session_ids: Sequence[str]) -> int:
    for session_id in session_ids:
        echo_error(f"there is no live session {session_id}")
    return 1 if session_ids else 0


def _print(sessions: Sequence[LiveSession], as_json: bool) -> None:
    facts = [{name: getattr(session, name) for name in FACTS} for session in sessions]
    rows = []
    for each in sessions:
        started, seen = format_iso(each.started), format_iso(each.last_seen)
        rows.append((each.id, started, seen, each.where or "-", each.subject))
    if as_json or rows:
        emit(as_json, facts, table(rows))
