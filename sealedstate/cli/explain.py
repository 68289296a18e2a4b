"""``sealedstate explain``: what the keys and the store say of a Cookie header.

The header comes on standard input, because arguments are visible to all users of a machine, and
shells keep them. Neither a value of the session nor its subject is printed.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from .._cookies.codec import DisabledRecord, OpenedRecord
from .._request.load import REMEDIES, LoadedSession
from .._wire.encoding import from_text
from .._wire.record import DEVICE, NO_TERMS
from .._wire.token import claimed_at, kid_of
from ..deployment import Deployment
from ..errors import ConfigurationError, UnreadableError, escape_text
from ..events import digest_id
from ..rotation.ring import Tombstone
from ._output import (
    config_option,
    emit,
    format_exact,
    format_iso,
    json_option,
    plural,
    relative,
    table,
)
from ._source import keys_option, open_values

__all__ = ["explain"]

# More than any server takes.
MAX_INPUT_BYTES = 1 << 20
_FIELD = re.compile(r"[<>\s]*(set-)?cookie:", re.IGNORECASE)


@click.command()
@click.argument("cookie", nargs=-1, metavar="< FILE")
@keys_option
@config_option
@json_option
def explain(cookie: Sequence[str], keys: str | None, config: str | None, as_json: bool) -> int:
    """Explain why a cookie opens its session, or why it does not.

    Standard input has the Cookie header of a request, a whole request, or the value of the
    session's cookie. Prints the key, times, the reason of a refusal, sizes and parts, but no value
    and no subject. Exit code 1: no session opens.
    """
    if cookie:
        raise ConfigurationError(
            "the cookie is read from standard input, because all users of this machine can see"
            " arguments; give `sealedstate explain < FILE`"
        )
    if sys.stdin is None:
        raise ConfigurationError("standard input is closed")
    # Without a handler, Python prints warnings; what is printed below says the same.
    logging.getLogger("sealedstate").addHandler(logging.NullHandler())
    # As servers decode headers: one character for each byte.
    lines = sys.stdin.buffer.read(MAX_INPUT_BYTES).decode("latin-1").splitlines()
    fields = [(line, field) for line in lines if (field := _FIELD.match(line)) is not None]
    # A Set-Cookie field has one pair, and attributes.
    pairs = [line[field.end() :].split(";")[: 1 if field[1] else None] for line, field in fields]
    if not fields:
        pairs = [line.split(";") for line in lines]
    stripped = [pair.strip() for each in pairs for pair in each if pair.strip()]
    with open_values(config, keys, needs_store=False) as (deployment, source):
        if len(stripped) == 1 and "=" not in stripped[0]:
            stripped = [f"{deployment.cookies.name}={stripped[0]}"]
        dead = () if source is None else source.ring().tombstones
        facts = _describe(deployment, dead, "; ".join(stripped))
    emit(as_json, _format_times(facts), _lines(facts), indent=2)
    return 0 if facts["opens"] else 1


def _describe(
    deployment: Deployment, tombstones: Sequence[Tombstone], header: str
) -> dict[str, Any]:
    """All facts. Times are epoch seconds, sizes bytes."""
    name, codec, now = deployment.cookies.name, deployment.codec, int(deployment.now())
    loaded = LoadedSession(deployment, lambda *_: None, header)
    found, keyring = loaded.candidates, deployment.keyring()
    cookies: list[dict[str, Any]] = []
    sessions: list[dict[str, Any]] = []
    for value in (*found.core, *(found.joined.core if found.joined else ())):
        opened, reason, token = None, None, b""
        try:
            token = from_text(value)
            opened = codec.open_text(value, now)
        except UnreadableError as error:
            reason = error.reason
            if isinstance(error, DisabledRecord):
                opened = error.opened
        facts = {"name": name, "bytes": len(name) + 1 + len(value), "reason": reason}
        if (kid := kid_of(token)) is not None:
            key, state, why = keyring.find(kid), "unknown", None
            if key is not None:
                state = keyring.state(key, now).value
            for dead in tombstones:
                if dead.kid == kid:
                    state, why = "revoked" if dead.revoked else "expired", dead.reason or None
            facts |= {"kid": kid.hex(), "key": state, "key_reason": why}
            # Of a cookie that is not authentic, the time is only a claim.
            facts |= {"sealed_at": claimed_at(token), "authentic": opened is not None}
        cookies.append(facts)
        if opened is not None:
            sessions.append(_describe_session(loaded, opened))
    for number, values in sorted(found.overflow.items()):
        chunk = deployment.cookies.chunk_name(number)
        cookies += [{"name": chunk, "bytes": len(chunk) + 1 + len(value)} for value in values]
    meaning = None
    for kind in UnreadableError.__subclasses__():
        if kind.reason == loaded.refused:
            meaning = " ".join((kind.__doc__ or kind.reason).split())
    remedy = REMEDIES.get(loaded.refused or "")
    names = {pair.partition("=")[0].strip() for pair in header.split(";") if "=" in pair}
    return {
        "opens": loaded.record is not None,
        "reason": loaded.refused,
        "meaning": meaning,
        "remedy": None if remedy is None else remedy.format(name=name),
        "kept": loaded.withheld is not None,
        "adopts": loaded.adopted is not None,
        "now": now,
        "asks_store": deployment.store is not None,
        "cookies": cookies,
        "cookie_bytes": found.our_bytes,
        "foreign_names": sorted(names - {cookie["name"] for cookie in cookies}),
        "foreign_bytes": max(0, found.foreign_bytes),
        "sessions": sessions,
    }


def _describe_session(loaded: LoadedSession, opened: OpenedRecord) -> dict[str, Any]:
    """The facts about an authentic session, whether it opens or not."""
    (record, sealed_at, _), lifetimes, codec = opened, loaded.lifetimes, loaded.deployment.codec
    ends_at, overflow = record.ends_at(lifetimes), record.overflow
    parts: dict[str, tuple[str, int | None]] = {
        name: ("core", len(value)) for name, value in record.parts.items()
    }
    came = None
    if overflow is not None:
        came = codec.open_overflow(record, loaded.candidates, loaded.loaded_at)
        sizes = {name: len(value) for name, value in (came or {}).items()}
        parts |= {name: ("overflow", sizes.get(name)) for name in overflow.names}
    parts |= dict.fromkeys(record.spilled, ("spilled", None))
    return {
        "session": digest_id(record.id),
        "signed_in": record.subject is not None,
        "created_at": record.created_at,
        "sealed_at": sealed_at,
        "idle_expires_at": min(sealed_at + (record.terms.idle or lifetimes.idle), ends_at),
        "expires_at": ends_at,
        "saves": record.generation,
        "own_lifetimes": record.terms != NO_TERMS,
        "bound": DEVICE in record.fields,
        "overflow_cookies": 0 if overflow is None else overflow.count,
        "overflow_complete": overflow is None or came is not None,
        "parts": [
            {"name": name, "place": place, "bytes": size} for name, (place, size) in parts.items()
        ],
    }


def _format_times(facts: Any) -> Any:
    """The same facts with times as ISO 8601."""
    if isinstance(facts, list):
        return [_format_times(each) for each in facts]
    if not isinstance(facts, dict):
        return facts
    return {
        name: format_iso(value) if name == "now" or name.endswith("_at") else _format_times(value)
        for name, value in facts.items()
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    def moment(at: int) -> str:
        return f"{format_exact(at)} ({relative(at, facts['now'])})"

    lines = []
    if facts["opens"]:
        lines.append("The session opens.")
    elif facts["reason"]:
        lines.append(f"No session opens: {facts['reason']}. {facts['meaning']}")
        if facts["remedy"]:
            lines.append(f"What to do: {facts['remedy']}.")
        kept = "is kept, because it may open later or on another node"
        lines.append(f"The cookie {kept if facts['kept'] else 'is replaced or deleted'}.")
    elif facts["adopts"]:
        lines.append("There is no cookie of the session; a legacy cookie is taken over.")
    else:
        lines.append("There is no cookie of the session.")
    for cookie in facts["cookies"]:
        words = [f"{cookie['name']}: {plural(cookie['bytes'], 'byte', 'bytes')}"]
        if cookie.get("kid"):
            why = f" ({escape_text(cookie['key_reason'])})" if cookie["key_reason"] else ""
            says = "sealed" if cookie["authentic"] else "says that it was sealed"
            words.append(f"key {cookie['kid']} {cookie['key']}{why}")
            words.append(f"{says} {moment(cookie['sealed_at'])}")
        words += [cookie["reason"]] if cookie.get("reason") else []
        lines.append(", ".join(words))
    names = [escape_text(name, 64) for name in facts["foreign_names"]]
    listed = f": {', '.join(names)}" if names else ""
    lines.append(f"Other cookies: {plural(facts['foreign_bytes'], 'byte', 'bytes')}{listed}")
    for each in facts["sessions"]:
        flags = {
            f"session {each['session']} in the log": True,
            "signed in" if each["signed_in"] else "no subject": True,
            "with lifetimes of this session": each["own_lifetimes"],
            "bound to a device": each["bound"],
        }
        rows = [
            (part["name"], part["place"], "-" if part["bytes"] is None else part["bytes"])
            for part in each["parts"]
        ]
        lines += [
            "",
            ", ".join(flag for flag, is_set in flags.items() if is_set),
            f"created {moment(each['created_at'])}, saved {plural(each['saves'], 'time', 'times')}",
            f"ends {moment(each['expires_at'])}, unused {moment(each['idle_expires_at'])}",
            *table([("part", "place", "bytes"), *rows] if rows else [], right=[2]),
        ]
        if not each["overflow_complete"]:
            count = plural(each["overflow_cookies"], "cookie", "cookies")
            lines.append(f"The {count} of the overflow did not all come, or are of another save.")
    if facts["opens"] and not facts["asks_store"]:
        lines += ["", "Without a store, logouts are not checked."]
    return lines
