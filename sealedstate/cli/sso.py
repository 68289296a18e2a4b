"""``sealedstate sso registry build METADATA.xml``: give numbers to the services of a federation.

Knows files and what is printed. Does not know what is in them. ``sso matrix`` prints what of single
logout works with which store.

With ``--output FILE`` the registry is kept there: one that exists gets what it lacks in a new
version, and loses nothing. Roll it out to all nodes before any of them signs in to a new service,
or those that lag behind can't read such logins until they have it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RegistryUnreadable
from ..sso import Registry, extend_registry, parse_registry
from ..sso import read_service_entity_ids as read_entity_ids
from ..storage import USES, Capabilities
from ..storage.requirements import DECLARED, unmet_needs

# FOLD sealedstate.sso.abilities
# What of single logout works with which store: a table, from what stores declare and uses need.
#
# Knows capabilities and uses. Does not know connections, settings or any backend.
#
# A store that falls short of a use is refused at the start, unless that use is tolerated or its
# contexts go to another store; so "no" says what that store can't be trusted with.


NO_STORE = "none"
# What works, and the uses of a store that it rests on; without any, it needs no store.
ABILITIES: Mapping[str, tuple[str, ...]] = {
    "front channel": (),
    "captured cookies are refused": ("revocation",),
    "a user is signed out everywhere": ("revocation",),
    "progress survives crashes": ("logout",),
    "back channel, derived identifiers": ("revocation", "logout"),
    "back channel, any NameID": ("revocation", "logout", "logins"),
    "all are told at once": ("revocation", "logout", "spilling"),
    "list of live sessions": ("revocation", "sessions"),
}


def works(ability: str, capabilities: Capabilities | None) -> bool:
    """Whether an ability can rest on a store; `capabilities` None: there is none."""
    uses = ABILITIES[ability]
    if capabilities is None:
        return not uses
    return not any(unmet_needs(USES[use], capabilities) for use in uses)


def as_rows(declared: Mapping[str, Capabilities]) -> Iterator[tuple[str, ...]]:
    """A table: a head, then a row for no store and for each store."""
    yield ("store", *ABILITIES)
    stores: dict[str, Capabilities | None] = {NO_STORE: None, **declared}
    for name, can in stores.items():
        yield (name, *("yes" if works(ability, can) else "no" for ability in ABILITIES))


def as_markdown(declared: Mapping[str, Capabilities]) -> str:
    """The same table for the documentation."""
    head, *rows = as_rows(declared)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def add_to(commands: Any) -> None:
    """Add the command to argparse's subcommands."""
    parser = commands.add_parser("sso", help="what identity providers need")
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")
    registry = subjects.add_parser("registry", help="services that have a number")
    actions = registry.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="make or extend a registry from SAML metadata")
    build.add_argument("metadata", nargs="+", help="SAML metadata files; - for standard input")
    build.add_argument("-o", "--output", type=Path, metavar="FILE", help="extended if it exists")
    for name, what in (("entity", "an entityID, your own for one"), ("method", "a method's URI")):
        build.add_argument(f"--{name}", action="append", default=[], help=f"also {what}")
    build.set_defaults(run=_build)
    matrix = subjects.add_parser("matrix", help="what of single logout works with which store")
    matrix.set_defaults(run=_matrix)


def _matrix(_: argparse.Namespace) -> int:
    print(as_markdown(DECLARED))
    return 0


def _build(given: argparse.Namespace) -> int:
    entity_ids = [*given.entity]
    for name in given.metadata:
        entity_ids += _entity_ids(name)
    before = _read(given.output)
    text = extend_registry(before, entity_ids, given.method)
    if given.output is None:
        sys.stdout.write(text)
    elif text != before:
        _write(given.output, text)
    print(_summary(parse_registry(text), before), file=sys.stderr)
    return 0


def _entity_ids(name: str) -> list[str]:
    def read(file: BinaryIO) -> list[str]:
        return sorted(read_entity_ids(file))

    if name == "-":
        return read(sys.stdin.buffer)
    with Path(name).open("rb") as file:
        return read(file)


def _read(path: Path | None) -> str:
    if path is None or not path.exists():
        return ""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise RegistryUnreadable(f"{path} is not UTF-8") from None


def _write(path: Path, text: str) -> None:
    """All of it or nothing: a cut registry would be refused at the next start."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _summary(registry: Registry, before: str) -> str:
    old = len(parse_registry(before).entities) if before else 0
    count = len(registry.entities)
    return (
        f"version {registry.latest.number}: {count} entities, {count - old} of them new,"
        f" and {len(registry.methods)} methods"
    )
