"""``sealedstate sizes FILE.json``: what a session takes in cookies.

The file contains the session as a JSON object, with one member for each part. The member
``subject``, if it is text, is the subject of the session. ``{"$base64": "..."}`` means bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import sys
from typing import Any

import click

from .._wire import cbor
from .._wire.record import part_bytes
from ..errors import ConfigurationError, SessionTooLarge
from ..keeper import Keeper
from ..keyring import Key
from ..profiles import PROFILES, Profile
from ..settings import Settings
from ..storage import MemoryStorage
from ..storage.requirements import DECLARED
from ._output import emit, json_option, table

__all__ = ["sizes"]


@click.command()
@click.argument("file", metavar="FILE", type=click.Path())
@json_option
def sizes(file: str, as_json: bool) -> None:
    """Show what a session takes in cookies.

    It also shows where each part is, in every profile. FILE contains a JSON object with one member
    for each part; - is standard input.
    """
    values = _load(file)
    subject = values.pop("subject", None) if isinstance(values.get("subject"), str) else None
    columns = [_measure(profile, subject, values) for profile in PROFILES.values()]
    # Only now, because a session refuses what is no name of a part.
    parts = {
        name: part_bytes(name, len(cbor.encode(value, f"session[{name!r}]")))
        for name, value in values.items()
    }
    facts = {"parts": parts, "profiles": {column["profile"]: column for column in columns}}
    emit(as_json, facts, _lines(parts, columns))


def _load(name: str) -> dict[str, Any]:
    def decode_bytes(value: dict[str, Any]) -> object:
        if value.keys() != {"$base64"}:
            return value
        try:
            return base64.b64decode(value["$base64"], validate=True)
        except (TypeError, binascii.Error):
            raise ValueError("$base64 must have a base64 text") from None

    if name == "-" and sys.stdin is None:
        raise ConfigurationError("standard input is closed")
    try:
        with click.open_file(name, encoding="utf-8") as file:
            values = json.load(file, object_hook=decode_bytes)
    except RecursionError:
        raise ConfigurationError(f"{name}: the JSON is nested too deeply") from None
    except ValueError as error:
        raise ConfigurationError(f"{name}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{name}: expected a JSON object with one member for each part")
    return values


class _SizingStorage(MemoryStorage):
    """Nothing is kept after the command, so it counts as a store that meets every need."""

    capabilities = DECLARED["sqlite"]


def _measure(profile: Profile, subject: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """Where the parts go in this profile, with a store, or why they do not fit."""
    keeper = Keeper(
        Settings(
            keys=[Key.generate(os.urandom).export()],  # the sizes depend on no key
            storage=_SizingStorage(Settings().clock),
            profile=profile,
        )
    )
    session = keeper.session()
    session.subject = subject
    session.update(values)
    try:
        lines = keeper.save(session)
    except SessionTooLarge as error:
        return {"profile": profile.name, "error": str(error)}
    pairs = [line.partition(";")[0] for line in lines]
    info = keeper.info(keeper.session("; ".join(pairs)))
    return {
        "profile": profile.name,
        "cookies": len(pairs),
        "cookie_bytes": sum(len(pair) for pair in pairs),
        "places": {name: part.place or "-" for name, part in info.parts.items()},
    }


def _lines(parts: dict[str, int], columns: list[dict[str, Any]]) -> list[str]:
    rows: list[tuple[object, ...]] = [("part", "bytes", *(column["profile"] for column in columns))]
    for name, size in sorted(parts.items(), key=lambda part: -part[1]):
        rows.append((name, size, *(column.get("places", {}).get(name, "-") for column in columns)))
    for label in ("cookies", "cookie_bytes"):
        rows.append((label, "", *(column.get(label, "-") for column in columns)))
    problems = [
        f"{column['profile']}: {column['error']}" for column in columns if "error" in column
    ]
    return [*table(rows, right=range(1, len(rows[0]))), *problems]
