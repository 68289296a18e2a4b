"""``sealedstate sizes FILE.json``: what a session would take, in every profile, part by part.

Knows a JSON object of parts and a table. Does not know real keys: the sizes need none, so it seals
with one made on the spot.

The file holds the session as an object. Its member ``subject``, if it is text, becomes the
session's subject; ``{"$base64": "..."}`` anywhere in it stands for bytes.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import sys
from pathlib import Path
from typing import Any

from .._wire import cbor as codec
from .._wire import record as record_codec
from ..errors import ConfigurationError, SessionTooLarge
from ..keeper import Keeper
from ..keyring import Key
from ..profiles import PROFILES, Profile
from ..settings import Settings


def add_to(commands: Any) -> None:
    """Add the command to argparse's subcommands."""
    parser = commands.add_parser("sizes", help="what a session would take in cookies")
    parser.add_argument("file", help="a JSON object, a member a part; - for standard input")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_sizes)


def _sizes(given: argparse.Namespace) -> int:
    values = _read(given.file)
    subject = values.pop("subject", None) if isinstance(values.get("subject"), str) else None
    parts = {
        name: record_codec.part_bytes(name, len(codec.encode(value, f"session[{name!r}]")))
        for name, value in values.items()
    }
    rows = [_placed(profile, subject, values) for profile in PROFILES.values()]
    if given.json:
        print(json.dumps({"parts": parts, "profiles": {row["profile"]: row for row in rows}}))
    else:
        _print_table(parts, rows)
    return 0


def _read(name: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
        values = json.loads(text, object_hook=_bytes_or_object)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name}: no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{name}: a session is a JSON object, a member a part")
    return values


def _bytes_or_object(value: dict[str, Any]) -> object:
    if value.keys() != {"$base64"}:
        return value
    try:
        return base64.b64decode(value["$base64"], validate=True)
    except (TypeError, binascii.Error):
        raise ValueError("$base64 stands before base64 text") from None


def _placed(profile: Profile, subject: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """Where the parts go in `profile` with a store, or why they go nowhere."""
    keeper = Keeper(
        Settings(
            keys=[Key.generate(os.urandom).export()],
            storage="memory:",
            accept_weak_store_for=["revocation"],  # nobody signs in here
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
    return {
        "profile": profile.name,
        "cookies": len(pairs),
        "cookie_bytes": sum(len(pair) for pair in pairs),
        "places": _places(keeper, "; ".join(pairs)),
    }


def _places(keeper: Keeper, header: str) -> dict[str, str]:
    info = keeper.info(keeper.session(header))
    return {name: part.place or "-" for name, part in info.parts.items()}


def _print_table(parts: dict[str, int], rows: list[dict[str, Any]]) -> None:
    width = max([len(name) for name in parts] + [len("cookie_bytes")])
    print(f"{'part':{width}} {'bytes':>7}" + "".join(f"{row['profile']:>10}" for row in rows))
    for name, size in sorted(parts.items(), key=lambda part: -part[1]):
        places = "".join(f"{row.get('places', {}).get(name, '-'):>10}" for row in rows)
        print(f"{name:{width}} {size:>7}{places}")
    for label in ("cookies", "cookie_bytes"):
        print(f"{label:{width}} {'':>7}" + "".join(f"{row.get(label, '-'):>10}" for row in rows))
    for row in rows:
        if "error" in row:
            print(f"{row['profile']}: {row['error']}")
