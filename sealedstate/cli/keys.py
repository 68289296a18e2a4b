"""``sealedstate keys``: create keys, and change, list, check and watch a ring that rotates.

A command that changes a ring writes the next ring in the place of the ring that it has read.
If another writer was faster, the change is computed again from the ring that is there then.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias, cast

import click

from .._stored.table import Kind, SealedTable, StoreAccess, SweepResult
from ..deployment import Deployment
from ..errors import ConfigurationError, OperatorError
from ..keyring import SECRET_BYTES, Key, Keyring, export_lookup
from ..rotation import transitions
from ..rotation.ring import Ring, Schedule
from ..storage import USES, Storage
from ._key_checks import check, watch
from ._key_listing import list_keys
from ._output import (
    config_option,
    duration,
    echo_error,
    emit,
    format_exact,
    format_iso,
    json_option,
    parse_past,
    plural,
    relative,
)
from ._source import (
    RingSource,
    keys_option,
    newest_key,
    open_values,
    path_argument,
    ring_command,
)

__all__ = ["keys"]

# Each round of a race has a winner, so this many writers at once are served.
WRITE_TRIES = 100
KID_PREFIX = re.compile("[0-9a-f]{4,8}", re.ASCII)
MAX_REASON = 200
# A process adopts a new ring within reload_every, and then needs a moment to read it.
LOADING = 1

Change: TypeAlias = Callable[[Ring, int], Ring]
"""From a ring and the time to the next ring, or to the same ring if there is nothing to do."""

kid_argument = click.argument("kid", metavar="KID")


@click.group()
def keys() -> None:
    """Create keys, and look after a ring that rotates.

    The ring is named by PATH, by --keys, by --config or by the variables SEALEDSTATE_... A KID is
    8 hex digits, of which the first 4 or more are enough.
    """


@click.command()
@click.option("--lookup", is_flag=True, help="Print a lookup key, for names in the store.")
@click.option("--kek", is_flag=True, help="Print a key-encryption key, for SEALEDSTATE_KEK.")
def generate(lookup: bool, kek: bool) -> None:
    """Print a new key. No other command prints a secret."""
    if lookup and kek:
        raise click.UsageError("--lookup and --kek exclude each other")
    # A key-encryption key has the form of a key that seals sessions.
    key = Key.generate(os.urandom).export()
    click.echo(export_lookup(os.urandom(SECRET_BYTES)) if lookup else key)


# --- init ---------------------------------------------------------------------------------------


@ring_command("init")
def init(source: RingSource, as_json: bool) -> None:
    """Create a key ring."""
    config, now = source.config, source.now()
    # Otherwise the first process would refuse the ring that was made for it.
    config.schedule.check(config.reload_every, config.lifetime, config.skew)
    ring = transitions.create_ring(config.schedule, now, config.random)
    if not source.storage.write(ring, None):
        raise OperatorError(f"{source.location} exists already; nothing was done")
    if not source.is_wrapped:
        echo_error(
            "warning: SEALEDSTATE_KEK is not set, so the file contains the keys in plaintext:"
            " anyone who reads it, or a backup of it, can read and make sessions. `sealedstate keys"
            " generate --kek` prints a key that wraps them; set it before `init`"
        )
    mode = None if source.path is None else f"{stat.S_IMODE(source.path.stat().st_mode):04o}"
    facts = _facts(source, None, ring, now) | {"wrapped": source.is_wrapped, "mode": mode}
    emit(
        as_json,
        facts,
        lambda: [
            f"Created {source.location}{f' (mode {mode})' if mode else ''}.",
            f"{ring.keys[0].kid.hex()} seals from now on. Each key seals for"
            f" {duration(ring.schedule.rotate_every)}; the next key is announced"
            f" {duration(ring.schedule.announce)} before its turn.",
        ],
    )


# --- rotate -------------------------------------------------------------------------------------


@ring_command("rotate")
@click.option("--now", "force", is_flag=True, help="Announce a key although none is due.")
@click.option("--lasting", is_flag=True, help="Announce a key for long-lived values.")
@click.option("--quiet", is_flag=True, help="Print nothing, for cron.")
def rotate(source: RingSource, as_json: bool, force: bool, lasting: bool, quiet: bool) -> None:
    """Announce the next key, if it is due.

    Values that outlive every session, such as consents, have other keys: see --lasting.
    """
    if lasting and force:
        raise ConfigurationError(
            "--now and --lasting exclude each other; a key for long-lived values is never due"
        )
    facts, lines = _rotate_long_term(source) if lasting else _rotate(source, force)
    if as_json or not quiet:
        emit(as_json, facts, lambda: lines)


def _rotate_long_term(source: RingSource) -> tuple[dict[str, Any], list[str]]:
    random = source.config.random
    before, after, now = write_change(
        source, lambda ring, now: transitions.rotate_long_term(ring, now, random)
    )
    key = after.long_term[0]
    return _facts_in_force(source, before, after, now), [
        f"{key.kid.hex()} is {'already ' if after is before else ''}announced and seals long-lived"
        f" values from {_show(key.activates_at, now)}.",
        "After that, `sealedstate keys reseal` re-encrypts the values that older keys sealed.",
    ]


def _rotate(source: RingSource, force: bool) -> tuple[dict[str, Any], list[str]]:
    def change(ring: Ring, now: int) -> Ring:
        schedule, random = source.schedule(ring), source.config.random
        if force and any(key.activates_at > now for key in ring.keys):
            # Two commands in a row, or at once, want one key. The ring is written anyway, because
            # a write wraps it by the first key-encryption key.
            return _keep_promises(_rewrite(ring, now), schedule, now)
        return _keep_promises(transitions.rotate(ring, schedule, now, random, force), schedule, now)

    before, after, now = write_change(source, change)
    known = {key.kid for key in before.keys}
    added = [key for key in after.keys if key.kid not in known]
    facts = _facts(source, before, after, now) | {
        "announced": [
            {"kid": key.kid.hex(), "activates_at": format_iso(key.activates_at)} for key in added
        ]
    }
    lines = [
        f"{key.kid.hex()} is announced and seals from {_show(key.activates_at, now)}."
        for key in added
    ]
    destroyed = len(before.keys) + len(added) - len(after.keys)
    if destroyed:
        lines.append(f"{plural(destroyed, 'expired key was', 'expired keys were')} destroyed.")
    if after.schedule != before.schedule:
        lines.append("The schedule of the ring now keeps the promises of the configuration.")
    return facts, lines or [_explain_waiting(after, now)]


def _keep_promises(ring: Ring, schedule: Schedule, now: int) -> Ring:
    """The ring with a schedule that also keeps the promises of `schedule`.

    At once, and not only with the next key: a node with that configuration refuses the ring before.
    """
    merged = ring.schedule.merged_with(schedule)
    if replace(merged, rotate_every=ring.schedule.rotate_every) == ring.schedule:
        return ring
    return replace(_rewrite(ring, now), schedule=merged)


def _explain_waiting(ring: Ring, now: int) -> str:
    key = newest_key(ring, now)
    if key is None:
        return "No key is due."
    if key.activates_at > now:
        return (
            f"{key.kid.hex()} is already announced and seals from {_show(key.activates_at, now)}."
        )
    due = key.activates_at + ring.schedule.rotate_every - ring.schedule.announce
    return f"No key is due; the next key is announced {relative(due, now)}."


# --- revoke, disable, enable --------------------------------------------------------------------


@ring_command("revoke", takes_path=False)
@click.argument("kid", metavar="[KID]", required=False)
@click.option("--reason", default="", help="Shown in the list of destroyed keys.")
@click.option(
    "--before",
    metavar="TIME",
    help="Revoke what was sealed before: 2026-11-22T08:00:00Z, or 2h for 2 h ago.",
)
def revoke(
    source: RingSource, as_json: bool, kid: str | None, reason: str, before: str | None
) -> None:
    """Refuse for good what a key sealed.

    With --before TIME, refuse what all keys sealed before that time.
    """
    if (kid is None) == (before is None):
        raise ConfigurationError("give either KID or --before TIME")
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise ConfigurationError(f"--reason must be one line of at most {MAX_REASON} characters")
    if kid is not None:
        facts, lines = _revoke_key(source, kid, reason)
    elif reason:
        raise ConfigurationError("--reason needs a KID")
    else:
        facts, lines = _revoke_before(source, parse_past(before or "", source.now()))
    emit(as_json, facts, lambda: lines)


def _revoke_key(source: RingSource, text: str, reason: str) -> tuple[dict[str, Any], list[str]]:
    ring, random = source.ring(), source.config.random
    _refuse_long_term(ring, text)
    revoked = [dead.kid for dead in ring.tombstones if dead.revoked]
    kid = find_kid(text, [*(key.kid for key in ring.keys), *revoked])
    before, after, now = write_change(
        source, lambda ring, now: transitions.revoke(ring, kid, now, random, reason)
    )
    lines = [f"{kid.hex()} is already revoked."]
    if after is not before:
        lines = [f"{kid.hex()} is revoked for good."]
        lines += _successors(before, after) + _window(source, now, "accept what it sealed")
    return _facts_in_force(source, before, after, now), lines


def _revoke_before(source: RingSource, moment: int) -> tuple[dict[str, Any], list[str]]:
    before, after, now = write_change(
        source, lambda ring, now: transitions.revoke_before(ring, moment, now)
    )
    if after is not before:
        lines = [
            f"Everything sealed before {_show(moment, now)} is revoked.",
            *_window(source, now, "accept it"),
        ]
    elif before.revoked_before:
        revoked_before = format_exact(before.revoked_before)
        lines = [f"Everything sealed before {revoked_before} is already revoked."]
    else:
        lines = ["Nothing was sealed before that time."]
    return _facts_in_force(source, before, after, now), lines


@ring_command("disable", takes_path=False)
@kid_argument
def disable(source: RingSource, as_json: bool, kid: str) -> None:
    """Let a key neither seal nor open until it is enabled."""
    ring, random = source.ring(), source.config.random
    _refuse_long_term(ring, kid)
    found = find_kid(kid, [key.kid for key in ring.keys])
    before, after, now = write_change(
        source, lambda ring, now: transitions.disable(ring, found, now, random)
    )
    lines = [f"{found.hex()} is already disabled."]
    if after is not before:
        lines = [f"{found.hex()} is disabled until `sealedstate keys enable {found.hex()}`."]
        lines += _successors(before, after) + _window(source, now, "use it")
    emit(as_json, _facts_in_force(source, before, after, now), lambda: lines)


@ring_command("enable", takes_path=False)
@kid_argument
def enable(source: RingSource, as_json: bool, kid: str) -> None:
    """Let a disabled key open again."""
    found = find_kid(kid, [key.kid for key in source.ring().keys])
    before, after, now = write_change(
        source, lambda ring, now: transitions.enable(ring, found, now)
    )
    line = f"{found.hex()} is not disabled."
    if after is not before:
        line = (
            f"{found.hex()} is enabled: each process opens what it sealed again once it has"
            f" reloaded the ring, within {source.config.reload_every} s."
        )
    emit(as_json, _facts_in_force(source, before, after, now), lambda: [line])


def find_kid(text: str, kids: list[bytes]) -> bytes:
    """The only kid that begins with `text`. Raises ConfigurationError."""
    prefix = text.strip().lower()
    if not KID_PREFIX.fullmatch(prefix):
        raise ConfigurationError("KID must be 8 hex digits, or the first 4 or more of them")
    found = [kid for kid in kids if kid.hex().startswith(prefix)]
    if len(found) > 1:
        candidates = ", ".join(sorted(kid.hex() for kid in found))
        raise ConfigurationError(f"KID {prefix} is ambiguous; it may be {candidates}")
    if not found:
        raise ConfigurationError(
            f"the ring has no key {prefix}; `sealedstate keys list` lists its keys"
        )
    return found[0]


def _refuse_long_term(ring: Ring, text: str) -> None:
    prefix = text.strip().lower()
    if any(key.kid.hex() == prefix for key in ring.long_term):
        raise ConfigurationError(
            f"{prefix} seals long-lived values, which would be lost with it; run `sealedstate keys"
            " rotate --lasting`, and when the new key seals, `sealedstate keys reseal --destroy`"
        )


def _successors(before: Ring, after: Ring) -> list[str]:
    known = {key.kid for key in before.keys}
    new = [key.kid.hex() for key in after.keys if key.kid not in known]
    return [f"{kid} takes its place and seals at once." for kid in new]


def _window(source: RingSource, now: int, what: str) -> list[str]:
    """How long processes may still use the ring before."""
    reload_every = source.config.reload_every
    until = format_exact(now + reload_every + LOADING)
    assumption = "" if source.is_configured else ", if that is their setting"
    return [
        f"Until {until}, a process that has not reloaded the ring may still {what}",
        f"(reload_every {reload_every} s + {LOADING} s{assumption}). A process that cannot read the"
        " ring may do so for longer; `sealedstate keys check` names it.",
    ]


# --- wrap ---------------------------------------------------------------------------------------


@ring_command("wrap", takes_clear=True)
def wrap(source: RingSource, as_json: bool) -> None:
    """Encrypt a plaintext ring with SEALEDSTATE_KEK."""
    if source.path is None:
        raise ConfigurationError("a ring in a store is always wrapped")
    if not source.is_wrapped:
        raise ConfigurationError(
            "SEALEDSTATE_KEK is not set; set it to the key that is to wrap the ring, which"
            " `sealedstate keys generate --kek` prints"
        )
    write_change(source, _rewrite)
    # PATH.prev has the document before the last write. After a second write, it is wrapped, too.
    _, ring, _ = write_change(source, _rewrite)
    facts = {
        "where": source.location,
        "changed": True,
        "ring": ring.ring_id,
        "sequence": ring.sequence,
    }
    emit(
        as_json,
        facts,
        lambda: [
            f"The keys in {source.location} and in {source.path}.prev are wrapped.",
            "Processes without SEALEDSTATE_KEK continue with the keys in memory; restart them with"
            f" it within {duration(ring.schedule.announce)}, before a new key can seal.",
            "Anyone who has read the plaintext file, or a backup of it, has its keys: `sealedstate"
            " keys rotate --now` announces a new key, `revoke` ends an old one.",
        ],
    )


# --- reseal -------------------------------------------------------------------------------------


@click.command()
@path_argument
@keys_option
@config_option
@json_option
@click.option("--destroy", is_flag=True, help="Then destroy the keys that no value needs any more.")
def reseal(
    path: str | None, keys: str | None, config: str | None, as_json: bool, destroy: bool
) -> int:
    """Re-encrypt long-lived values sealed by retired keys.

    It can be stopped and run again at any time, while the application runs. The keys may also be
    one per line: then it says which keys are still needed.
    """
    with open_values(config, keys, path) as (deployment, source):
        if destroy and source is None:
            raise ConfigurationError("--destroy needs a ring; remove other keys by hand")
        now, long_term = deployment.settings.clock(), deployment.keyring().long_term
        # Before the sweep: a key that no node could seal with by then seals nothing meanwhile.
        obsolete = [] if source is None else transitions.obsolete_long_term(source.ring(), int(now))
        result = _sweep(deployment, long_term, now)
        lines, facts = list(_describe(result, long_term, int(now))), _facts_of_sweep(result)
        if source is not None:
            free = {key.kid for key in obsolete if not result.needed[key.kid]}
            destroyed = _destroy(source, free) if destroy else set[bytes]()
            facts |= {"free": _hex(free - destroyed), "destroyed": _hex(destroyed)}
            lines += [f"{kid} is destroyed." for kid in _hex(destroyed)]
            lines += [
                f"{kid} is no longer needed in this store; `--destroy` destroys it. If other"
                " applications or stores use the ring, run `reseal` for them first."
                for kid in _hex(free - destroyed)
            ]
    emit(as_json, facts, lambda: lines)
    return 1 if result.unreadable else 0


def _sweep(deployment: Deployment, long_term: Keyring, now: float) -> SweepResult:
    # `open_values` has made sure that there is a store.
    store, settings, result = cast(Storage, deployment.store), deployment.settings, SweepResult()
    access = StoreAccess(store, settings.realm, settings.random, lambda: now, lambda: long_term)
    for use in USES.values():
        for context in use.contexts if use.lasting else ():
            SealedTable(access, Kind(context, "", "a stored value")).reseal(result)
    return result


def _facts_of_sweep(result: SweepResult) -> dict[str, Any]:
    return {
        "values": result.seen,
        "resealed": result.resealed,
        "needed": {kid.hex(): count for kid, count in result.needed.items()},
        "unreadable": dict(result.unreadable),
    }


def _describe(result: SweepResult, long_term: Keyring, now: int) -> Iterator[str]:
    values = plural(result.seen, "long-lived value", "long-lived values")
    yield f"{values}, {result.resealed} of them re-encrypted."
    primary = long_term.primary(now).kid
    for kid, count in sorted(result.needed.items()):
        name = kid.hex() or "an unknown key"
        new = ", and new values" if kid == primary else ""
        yield f"{name} seals {plural(count, 'value', 'values')}{new}."
    for reason, count in sorted(result.unreadable.items()):
        yield (
            f"{plural(count, 'value does', 'values do')} not open here ({reason}) and"
            f" {'is' if count == 1 else 'are'} unchanged: of another realm, altered, or sealed by a"
            " key that this ring does not have."
        )


def _destroy(source: RingSource, kids: Collection[bytes]) -> set[bytes]:
    before, after, _ = write_change(
        source, lambda ring, now: transitions.destroy_long_term(ring, kids, now)
    )
    return {key.kid for key in before.long_term} - {key.kid for key in after.long_term}


def _hex(kids: Iterable[bytes]) -> list[str]:
    return sorted(kid.hex() for kid in kids)


# --- what they share ----------------------------------------------------------------------------


def write_change(source: RingSource, change: Change) -> tuple[Ring, Ring, int]:
    """Write a change; the ring before, the ring after, and the time. Raises OperatorError."""
    for _ in range(WRITE_TRIES):
        before, now = source.ring(), source.now()
        after = change(before, now)
        if after is before or source.storage.write(after, before):
            return before, after, now
    raise OperatorError(f"{source.location} is written by others all the time; nothing was done")


def _rewrite(ring: Ring, now: int) -> Ring:
    """The same ring with the next sequence, so that no process puts back the former state."""
    return replace(ring, sequence=ring.sequence + 1, updated_at=now)


def _facts(source: RingSource, before: Ring | None, after: Ring, now: int) -> dict[str, Any]:
    primary = after.primary(now)
    return {
        "where": source.location,
        "changed": after is not before,
        "ring": after.ring_id,
        "sequence": after.sequence,
        "primary": None if primary is None else primary.kid.hex(),
    }


def _facts_in_force(source: RingSource, before: Ring, after: Ring, now: int) -> dict[str, Any]:
    """The facts, and by when all processes use the ring."""
    facts = _facts(source, before, after, now)
    if after is not before:
        facts["in_force_by"] = format_iso(now + source.config.reload_every + LOADING)
    return facts


def _show(moment: int, now: int) -> str:
    return f"{format_exact(moment)} ({relative(moment, now)})"


for command in (generate, init, list_keys, rotate, revoke, disable, enable, wrap, reseal, check):
    keys.add_command(command)
keys.add_command(watch)
