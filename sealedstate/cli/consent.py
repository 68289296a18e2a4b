"""``sealedstate consent list | withdraw SUBJECT``: what a user agreed to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..errors import ConfigurationError, escape_text
from ..sso import Consent, ConsentStore
from ._output import config_option, emit, format_exact, format_iso, json_option, plural
from ._source import keys_option, open_values

__all__ = ["consent"]

subject_argument = click.argument("subject", metavar="SUBJECT")


@click.group()
def consent() -> None:
    """List and withdraw what users agreed to."""


@contextmanager
def _open(config: str | None, keys: str | None) -> Iterator[ConsentStore]:
    with open_values(config, keys) as (deployment, _):
        yield ConsentStore(deployment)


@consent.command("list")
@subject_argument
@keys_option
@config_option
@json_option
def list_consents(subject: str, keys: str | None, config: str | None, as_json: bool) -> None:
    """List everything that a user agreed to and that counts."""
    with _open(config, keys) as store:
        consents = store.of_subject(subject)
    facts = [
        {
            "document": consent.document,
            "version": consent.version,
            "given_at": format_iso(consent.given_at),
            "expires_at": format_iso(consent.expires_at),
            "service": consent.service,
            "attributes": sorted(consent.attributes),
            "parameters": consent.parameters,
            "answers": consent.answers,
        }
        for consent in consents
    ]
    emit(as_json, facts, map(_describe, consents) if consents else ["None."], indent=2)


def _describe(consent: Consent) -> str:
    words = [
        f"{escape_text(consent.document)} {consent.version}",
        f"given {format_exact(consent.given_at)}",
    ]
    if consent.expires_at is not None:
        words.append(f"until {format_exact(consent.expires_at)}")
    if consent.service is not None:
        words.append(f"for {escape_text(consent.service, 1024)}")
    if consent.attributes:
        words.append(f"with {escape_text(', '.join(sorted(consent.attributes)), 1024)}")
    for title, details in (("shown", consent.parameters), ("entered", consent.answers)):
        if details:
            listed = ", ".join(f"{name}={value}" for name, value in details.items())
            words.append(f"{title} {escape_text(listed, 2048)}")
    return ", ".join(words)


@consent.command()
@subject_argument
@click.option("--document", help="Withdraw only this document.")
@click.option("--service", metavar="ENTITYID", help="Withdraw it only for this service.")
@keys_option
@config_option
@json_option
def withdraw(
    subject: str,
    document: str | None,
    service: str | None,
    keys: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Withdraw one consent of a user, or all of them."""
    if service is not None and document is None:
        raise ConfigurationError("--service needs --document")
    with _open(config, keys) as store:
        before = len(store.of_subject(subject))
        if document is None:
            store.withdraw_all(subject)
        else:
            store.withdraw(subject, document, service)
        count = before - len(store.of_subject(subject))
    line = f"{plural(count, 'consent was', 'consents were')} withdrawn."
    emit(as_json, {"withdrawn": count}, [line])
