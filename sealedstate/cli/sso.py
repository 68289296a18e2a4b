"""``sealedstate sso``: build a registry, and show what single logout needs.

``registry build METADATA.xml`` gives numbers to the services of a federation. With ``--output
FILE``, a registry that exists gets what it lacks in a new version and loses nothing. Roll it out to
all nodes before any of them signs in to a new service: a node with an older registry cannot read
such logins.

``matrix`` prints what of single logout works with which store: an ability works if the store meets
the requirements of all the uses that it depends on.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

import click

from ..errors import RegistryUnreadable
from ..sso import extend_registry, parse_registry, read_service_entity_ids
from ..storage import USES, Capabilities
from ..storage.requirements import DECLARED, unmet_needs
from ._output import echo, echo_bytes, markdown, plural

__all__ = ["sso"]

# Each ability of single logout, and the uses of a store that it depends on.
LOGOUT_SUPPORT: Mapping[str, tuple[str, ...]] = {
    "front channel": (),
    "captured cookies are refused": ("revocation",),
    "a user is signed out everywhere": ("revocation",),
    "progress survives crashes": ("logout",),
    "back channel, derived identifiers": ("revocation", "logout"),
    "back channel, any NameID": ("revocation", "logout", "logins"),
    "all services are notified at once": ("revocation", "logout", "spilling"),
    "list of live sessions": ("revocation", "sessions"),
}


def is_supported(ability: str, capabilities: Capabilities | None) -> bool:
    """Whether an ability works with a store of these capabilities, or without."""
    uses = LOGOUT_SUPPORT[ability]
    if capabilities is None:
        return not uses
    return not any(unmet_needs(USES[use], capabilities) for use in uses)


@click.group()
def sso() -> None:
    """Tools for identity providers."""


@sso.command()
def matrix() -> None:
    """Show what of single logout works with which store.

    The output is a Markdown table.
    """
    rows = [("store", *LOGOUT_SUPPORT)]
    for name, capabilities in {"none": None, **DECLARED}.items():
        answers = (is_supported(ability, capabilities) for ability in LOGOUT_SUPPORT)
        rows.append((name, *("yes" if answer else "no" for answer in answers)))
    echo(*markdown(rows))


@sso.group()
def registry() -> None:
    """Give numbers to services and methods."""


@registry.command()
@click.argument("metadata", metavar="METADATA...", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Extended if it exists."
)
@click.option("--entity", multiple=True, help="Add an entityID, such as your own.")
@click.option("--method", multiple=True, help="Add the URI of an authentication method.")
def build(
    metadata: tuple[str, ...],
    output: Path | None,
    entity: tuple[str, ...],
    method: tuple[str, ...],
) -> None:
    """Build or extend a registry from SAML metadata.

    METADATA are files; - is standard input.
    """
    entity_ids = [*entity]
    for name in metadata:
        with click.open_file(name, "rb") as file:
            entity_ids += sorted(read_service_entity_ids(cast("BinaryIO", file)))
    before = ""
    if output is not None and output.exists():
        try:
            before = output.read_bytes().decode()
        except UnicodeDecodeError:
            raise RegistryUnreadable(f"{output} is not UTF-8") from None
    text = extend_registry(before, entity_ids, list(method))
    if output is None:
        echo_bytes(text.encode())
    elif text != before:
        _write(output, text)
    result = parse_registry(text)
    old = len(parse_registry(before).entities) if before else 0
    print(
        f"version {result.latest.number}:"
        f" {plural(len(result.entities), 'entity', 'entities')},"
        f" {len(result.entities) - old} of them new, and"
        f" {plural(len(result.methods), 'method', 'methods')}",
        file=sys.stderr,
    )


def _write(path: Path, text: str) -> None:
    """Write all of it or nothing, because nodes refuse a cut registry."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
