"""``sealedstate store``: prepare, check, compare and reap stores.

A store that cannot be used is a finding. All users of a machine can see a URL on a command line;
without one, it is read from SEALEDSTATE_STORAGE.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import click

from ..deployment import open_store
from ..errors import ConfigurationError, StorageError
from ..key_sources import FILE_SUFFIX
from ..settings import ENVIRONMENT_PREFIX, Settings, process_environment
from ..storage import USES, RoutedStorage, Storage
from ..storage.contract import FOLLOWED, is_managed
from ..storage.requirements import (
    CAVEATS,
    DECLARED,
    as_rows,
    probe_writes,
    store_name,
    unmet_needs,
)
from ..storage.routing import distinct_stores, store_of
from ._output import echo, echo_error, emit, json_option, markdown, plural, table
from ._source import application_settings

__all__ = ["store"]

CONTEXTS = list(dict.fromkeys(context for use in USES.values() for context in use.contexts))
OTHERS = "*"
"""Any other context, as in a mapping of contexts to stores."""

url_argument = click.argument("url", metavar="[URL]", required=False)


@click.group()
def store() -> None:
    """Prepare, check and compare stores.

    URL is by default that of SEALEDSTATE_STORAGE, which other users of the machine cannot see.
    """


@contextmanager
def _open(url: str | None) -> Iterator[Storage]:
    environ, variable = process_environment(), f"{ENVIRONMENT_PREFIX}STORAGE"
    known = application_settings()
    if not url and known is not None and known.storage is not None:
        opened = open_store(known)
    elif not url and not {variable, f"{variable}{FILE_SUFFIX}"} & set(environ):
        raise ConfigurationError("storage: give a URL, or set SEALEDSTATE_STORAGE")
    else:
        opened = open_store(Settings(storage=url or f"env:{variable}", environ=environ))
    if opened is not None:
        with closing(opened):
            yield opened


@store.command()
@url_argument
def init(url: str | None) -> None:
    """Create the tables, and whatever else the store needs."""
    with _open(url) as opened:
        if is_managed(opened):
            opened.prepare()
        else:
            opened.ping()
    echo("the store is ready")


@store.command()
@url_argument
def ping(url: str | None) -> int:
    """Ask whether the store answers.

    The exit code is 1 if it does not.
    """
    with _open(url) as opened:
        try:
            opened.ping()
        except StorageError as error:
            echo(f"down: {error}")
            return 1
    echo("up")
    return 0


@store.command()
@url_argument
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 1_000_000_000),
    default=10_000,
    show_default=True,
    help="The largest number of records to remove.",
)
def reap(url: str | None, limit: int) -> None:
    """Remove expired records now."""
    with _open(url) as opened:
        opened.ping()  # a store without expired records would not notice that it is down
        count = opened.reap(limit)
    echo(f"{plural(count, 'expired record', 'expired records')} removed")


@store.command()
@url_argument
def stats(url: str | None) -> int:
    """Count the live records of each context."""
    with _open(url) as opened:
        opened.ping()
        if not opened.capabilities.enumerable:
            why = opened.capabilities.reasons.get("enumerable", "this store lists no records")
            echo_error(f"the records cannot be counted: {why}")
            return 1
        rows = [(context, sum(1 for _ in opened.keys(context))) for context in CONTEXTS]
    echo(*table(rows, right=[1]))
    return 0


@store.command()
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table.")
def matrix(as_markdown: bool) -> None:
    """Show which store is fit for which use.

    That is, compare the requirements of uses with the declared capabilities of stores.
    """
    rows = list(as_rows(DECLARED))
    if as_markdown:
        echo(*markdown(rows))
    else:
        echo(*table(rows), *(f"{name}: {caveat}" for name, caveat in CAVEATS.items()))


class _Part(NamedTuple):
    """A store that some contexts are routed to, or the only store."""

    store: Storage
    contexts: list[str]
    failure: str | None


@store.command()
@url_argument
@json_option
def check(url: str | None, as_json: bool) -> int:
    """Check what the store can be used for, and what to change.

    The exit code is 1 if anything is missing, or the store takes no writes.
    """
    with _open(url) as opened:
        opened.ping()
        parts = _parts_of(opened)
        shortfalls = {}
        for use in USES.values():
            places = distinct_stores(
                [store_of(context, opened) for context in use.contexts or (OTHERS,)]
            )
            missing = [unmet_needs(use, place.capabilities) for place in places]
            words = [need.shortfall for needs in missing for need in needs]
            shortfalls[use.name] = list(dict.fromkeys(words))
    reasons: dict[str, str] = {}
    for part in parts:
        reasons |= part.store.capabilities.reasons
    facts: dict[str, Any] = {
        "uses": shortfalls,
        "because": reasons,
        "stores": [
            {
                "store": store_name(part.store),
                "contexts": part.contexts,
                "because": dict(part.store.capabilities.reasons),
                "fails": part.failure,
            }
            for part in parts
        ],
    }
    facts["logouts"], facts["advice"] = _promises(), _advice(parts, shortfalls)
    emit(as_json, facts, _lines(parts, facts))
    return 1 if any(shortfalls.values()) or any(part.failure for part in parts) else 0


def _promises() -> list[str]:
    """What logouts promise by the settings, as far as this command knows them."""
    try:
        settings = application_settings() or Settings.from_env(
            process_environment(), storage="memory:"
        )
    except ConfigurationError as error:
        return [f"what a logout promises is not known: {error}"]
    promise = "from the moment at which it is recorded"
    if settings.revocation == "feed":
        promise = f"at most {settings.feed_staleness} s after it was recorded"
    known = settings.on_store_down
    down = "no session opens"
    if not isinstance(known, str):
        down = f"what a process last knew of logouts counts for {known} s"
    return [
        f'a logout counts on every node {promise} (revocation = "{settings.revocation}")',
        f"while the store does not answer, {down} (on_store_down = {known!r})".replace("'", '"'),
    ]


def _advice(parts: list[_Part], shortfalls: Mapping[str, list[str]]) -> list[str]:
    """What an operator should change: in the stores, or in the settings of the application."""
    # What may be lost needs no better store.
    transient = {*USES["spilling"].contexts, *USES["artifacts"].contexts}
    lines = [
        line
        for part in parts
        if not transient.issuperset(part.contexts)
        for line in part.store.capabilities.advice
    ]
    missing = [name for name, words in shortfalls.items() if words]
    if "feed" in missing and "revocation" not in missing:
        lines.append('leave revocation = "each request": this store cannot be followed')
    uses = [name for name in missing if name != "feed"]
    if uses:
        contexts = dict.fromkeys(context for name in uses for context in USES[name].contexts)
        lines.append(
            f"if the application needs {', '.join(uses)}, send their contexts to another store"
            f" ({', '.join(contexts)}), or accept the risk: accept_weak_store_for"
        )
    return list(dict.fromkeys(lines))


def _parts_of(opened: Storage) -> list[_Part]:
    named = opened.contexts if isinstance(opened, RoutedStorage) else []
    contexts = dict.fromkeys([*CONTEXTS, *named, OTHERS])
    places = [(context, store_of(context, opened)) for context in contexts]
    parts = []
    for each in distinct_stores([place for _, place in places]):
        here = [context for context, place in places if place is each]
        key = secrets.token_hex(16)
        # A logout may need rights that other records do not.
        failure = probe_writes(each, time.time(), key, sorted(FOLLOWED.intersection(here)))
        parts.append(_Part(each, here, failure))
    return parts


def _lines(parts: list[_Part], facts: Mapping[str, Any]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = []
    for title, missing in facts["uses"].items():
        rows.append((title, "no" if missing else "yes", USES[title].purpose))
        if missing:
            rows.append(("", "", f"this store {', '.join(missing)}"))
    yield from table(rows)
    for part in parts:
        can = part.store.capabilities
        if len(parts) > 1:
            yield f"{store_name(part.store)}, for {', '.join(part.contexts)}"
        for why in dict.fromkeys(can.reasons.values()):
            names = [name for name, reason in can.reasons.items() if reason == why]
            values = ", ".join(f"{name} = {getattr(can, name, '?')}" for name in names)
            yield f"  {values}: {why}"
        outcome = (
            f"NO: {part.failure}" if part.failure else "yes: a test record was written and deleted"
        )
        yield f"  takes writes = {outcome}"
    yield from (f"  {line}" for line in facts["logouts"])
    is_usable = not any(part.failure for part in parts)
    nothing = ["nothing"] if is_usable else ["let the store take writes"]
    yield from (f"  to do: {line}" for line in facts["advice"] or nothing)
