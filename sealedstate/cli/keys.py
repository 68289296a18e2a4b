"""``sealedstate keys``: create keys, and look after a ring that rotates.

A command that changes a ring writes the next ring in the place of the ring that it has read.
If another writer was faster, the change is computed again from the ring that is there then.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import click

from .._stored.table import Kind, SealedTable, StoreAccess, SweepResult
from ..errors import ConfigurationError, OperatorError
from ..keyring import SECRET_BYTES, Key, Keyring, export_lookup
from ..rotation import transitions
from ..rotation.ring import Ring, RingKey
from ..storage import USES, Storage
from ._key_checks import check, watch
from ._key_listing import list_keys
from ._output import (
    config_option,
    duration,
    echo,
    echo_error,
    emit,
    format_exact,
    format_iso,
    json_option,
    parse_past,
    plural,
    relative,
)
from ._source import RingSource, keys_option, open_values, path_argument, ring_command

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


@keys.command()
@click.option("--lookup", is_flag=True, help="Print a lookup key, for names in the store.")
@click.option("--kek", is_flag=True, help="Print a key-encryption key, for SEALEDSTATE_KEK.")
def generate(lookup: bool, kek: bool) -> None:
    """Print a new key. No other command prints a secret."""
    if lookup and kek:
        raise click.UsageError("--lookup and --kek exclude each other")
    # A key-encryption key has the form of a key that seals sessions.
    key = Key.generate(os.urandom).export()
    echo(export_lookup(os.urandom(SECRET_BYTES)) if lookup else key)


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
    lines = [
        f"Created {source.location}{f' (mode {mode})' if mode else ''}.",
        f"{ring.keys[0].kid.hex()} seals from now on. Each key seals for"
        f" {duration(ring.schedule.rotate_every)}; the next key is announced"
        f" {duration(ring.schedule.announce)} before its turn.",
    ]
    facts = {"wrapped": source.is_wrapped, "mode": mode}
    change = RingChange(replace(ring, keys=(), long_term=()), ring, now)
    _report(source, as_json, change, lines, facts)


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
    random, facts = source.config.random, None
    if lasting:
        change = write_change(
            source, lambda ring, now: transitions.rotate_long_term(ring, now, random)
        )
        lines = [
            f"{_announce(change.after.long_term[0], change, 'long-lived values ')}.",
            "After that, `sealedstate keys reseal` re-encrypts the values that older keys sealed.",
        ]
    else:
        change = write_change(source, lambda ring, now: _rotate(source, ring, now, force))
        lines = list(_describe_rotation(change))
        announced = [
            {"kid": key.kid.hex(), "activates_at": format_iso(key.activates_at)}
            for key in change.added
        ]
        facts = {"announced": announced}
    if as_json or not quiet:
        _report(source, as_json, change, lines, facts)


def _rotate(source: RingSource, ring: Ring, now: int, force: bool) -> Ring:
    schedule = source.config.schedule if source.is_configured else ring.schedule
    ring.schedule.merged_with(schedule).check_size()
    if force and any(key.activates_at > now for key in ring.keys):
        # Two commands in a row, or at once, want one key. The ring is written anyway, because a
        # write wraps it by the first key-encryption key.
        ring = transitions.advance(ring, now)
    else:
        ring = transitions.rotate(ring, schedule, now, source.config.random, force)
    # The promises of the configuration take effect at once, and not only with the next key: a node
    # with that configuration refuses the ring before.
    merged = ring.schedule.merged_with(schedule)
    if replace(merged, rotate_every=ring.schedule.rotate_every) == ring.schedule:
        return ring
    return replace(transitions.advance(ring, now), schedule=merged)


def _describe_rotation(change: RingChange) -> Iterator[str]:
    before, after, now = change
    for key in change.added:
        yield f"{_announce(key, change)}."
    destroyed = sum(after.find(key.kid) is None for key in before.keys)
    if destroyed:
        yield f"{plural(destroyed, 'expired key was', 'expired keys were')} destroyed."
    if after.schedule != before.schedule:
        yield "The schedule of the ring now keeps the promises of the configuration."
    elif not (change.added or destroyed):
        newest = after.newest(now)
        if newest is not None and newest.activates_at > now:
            yield f"{_announce(newest, change)}."
        elif newest is not None:
            due = newest.activates_at + after.schedule.rotate_every - after.schedule.announce
            yield f"No key is due; the next key is announced {relative(due, now)}."
        else:
            yield "No key is due."


def _announce(key: RingKey, change: RingChange, what: str = "") -> str:
    already = "" if change.is_new(key) else "already "
    return (
        f"{key.kid.hex()} is {already}announced and seals {what}from"
        f" {_show(key.activates_at, change.now)}"
    )


@ring_command("revoke", takes_path=False)
@click.argument("kid", metavar="[KID]", required=False)
@path_argument
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
        raise ConfigurationError(
            "give either KID or --before TIME; with --before, name the ring by --keys file:PATH"
        )
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise ConfigurationError(f"--reason must be one line of at most {MAX_REASON} characters")
    if reason and kid is None:
        raise ConfigurationError("--reason needs a KID")
    if kid is not None:
        ring, random = source.ring(), source.config.random
        revoked = [dead.kid for dead in ring.tombstones if dead.revoked]
        found = find_kid(ring, kid, revoked)
        change = write_change(
            source, lambda ring, now: transitions.revoke(ring, found, now, random, reason)
        )
        lines = [f"{found.hex()} is already revoked."]
        if change.is_done:
            lines = [f"{found.hex()} is revoked for good.", *_successors(change)]
            lines += _window(source, change, "accept what it sealed")
    else:
        moment = parse_past(before or "", source.now())
        change = write_change(
            source, lambda ring, now: transitions.revoke_before(ring, moment, now)
        )
        lines = ["Nothing was sealed before that time."]
        if change.is_done:
            lines = [f"Everything sealed before {_show(moment, change.now)} is revoked."]
            lines += _window(source, change, "accept it")
        elif former := change.after.revoked_before:
            lines = [f"Everything sealed before {format_exact(former)} is already revoked."]
    _report(source, as_json, change, lines)


@ring_command("disable", takes_path=False)
@kid_argument
@path_argument
def disable(source: RingSource, as_json: bool, kid: str) -> None:
    """Let a key neither seal nor open until it is enabled."""
    found, random = find_kid(source.ring(), kid), source.config.random
    change = write_change(source, lambda ring, now: transitions.disable(ring, found, now, random))
    lines = [f"{found.hex()} is already disabled."]
    if change.is_done:
        lines = [f"{found.hex()} is disabled until `sealedstate keys enable {found.hex()}`."]
        lines += [*_successors(change), *_window(source, change, "use it")]
    _report(source, as_json, change, lines)


@ring_command("enable", takes_path=False)
@kid_argument
@path_argument
def enable(source: RingSource, as_json: bool, kid: str) -> None:
    """Let a disabled key open again."""
    found = find_kid(source.ring(), kid)
    change = write_change(source, lambda ring, now: transitions.enable(ring, found, now))
    lines = [f"{found.hex()} is not disabled."]
    if change.is_done:
        lines = [
            f"{found.hex()} is enabled: each process opens what it sealed again once it has"
            f" reloaded the ring, within {source.config.reload_every} s."
        ]
    _report(source, as_json, change, lines)


def find_kid(ring: Ring, text: str, others: Iterable[bytes] = ()) -> bytes:
    """The only kid of the ring, or of `others`, that begins with `text`.

    Raises ConfigurationError.
    """
    prefix = text.strip().lower()
    if not KID_PREFIX.fullmatch(prefix):
        raise ConfigurationError("KID must be 8 hex digits, or the first 4 or more of them")
    if any(key.kid.hex() == prefix for key in ring.long_term):
        raise ConfigurationError(
            f"{prefix} is a key for long-lived values, which would be lost with it; run"
            " `sealedstate keys rotate --lasting`, and when the new key seals, `sealedstate keys"
            " reseal --destroy`"
        )
    kids = [*(key.kid for key in ring.keys), *others]
    found = [kid for kid in kids if kid.hex().startswith(prefix)]
    if len(found) > 1:
        candidates = ", ".join(sorted(kid.hex() for kid in found))
        raise ConfigurationError(f"KID {prefix} is ambiguous; it may be {candidates}")
    if not found:
        raise ConfigurationError(
            f"the ring has no key {prefix}; `sealedstate keys list` lists its keys"
        )
    return found[0]


def _successors(change: RingChange) -> list[str]:
    return [f"{key.kid.hex()} takes its place and seals at once." for key in change.added]


def _window(source: RingSource, change: RingChange, what: str) -> list[str]:
    """How long processes may still use the ring before."""
    reload_every = source.config.reload_every
    until = format_exact(change.now + reload_every + LOADING)
    assumption = "" if source.is_configured else ", if that is their setting"
    return [
        f"Until {until}, a process that has not reloaded the ring may still {what}",
        f"(reload_every {reload_every} s + {LOADING} s{assumption}). A process that cannot read the"
        " ring may do so for longer; `sealedstate keys check` names it.",
    ]


@ring_command("wrap", takes_clear=True)
def wrap(source: RingSource, as_json: bool) -> None:
    """Encrypt a plaintext ring with SEALEDSTATE_KEK."""
    if source.path is None:
        raise ConfigurationError("a ring in a store is always wrapped")
    if source.wrapping is None:
        raise ConfigurationError(
            "SEALEDSTATE_KEK is not set; set it to the key that is to wrap the ring, which"
            " `sealedstate keys generate --kek` prints"
        )
    if _is_wrapped(source.path, source.wrapping.primary(source.now()).kid.hex()):
        ring = source.ring()
        facts = {"where": source.location, "changed": False}
        lines = [f"The keys in {source.location} are wrapped already."]
        emit(as_json, facts | {"ring": ring.ring_id, "sequence": ring.sequence}, lines)
        return
    # PATH.prev has the document before the last write. After a second write, it is wrapped, too.
    write_change(source, transitions.advance)
    ring = write_change(source, transitions.advance).after
    lines = [
        f"The keys in {source.location} and in {source.path}.prev are wrapped.",
        "Processes without SEALEDSTATE_KEK continue with the keys in memory; restart them with"
        f" it within {duration(ring.schedule.announce)}, before a new key can seal.",
        "Anyone who has read the plaintext file, or a backup of it, has its keys: `sealedstate"
        " keys rotate --now` announces a new key, `revoke` ends an old one.",
    ]
    facts = {"where": source.location, "changed": True}
    emit(as_json, facts | {"ring": ring.ring_id, "sequence": ring.sequence}, lines)


def _is_wrapped(path: Path, kid: str) -> bool:
    """Whether the ring in `path` and the document before it are wrapped by the key `kid`."""
    for each in (path, Path(f"{path}.prev")):
        try:
            document = json.loads(each.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return False
        if not isinstance(document, dict) or document.get("wrapped_by") != kid:
            return False
    return True


@keys.command()
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
        result, settings = SweepResult(), deployment.settings
        store = cast(Storage, deployment.store)  # `open_values` has made sure of it
        access = StoreAccess(store, settings.realm, settings.random, lambda: now, lambda: long_term)
        for use in USES.values():
            for context in use.contexts if use.lasting else ():
                SealedTable(access, Kind(context, "", "a stored value")).reseal(result)
        lines = list(_describe(result, long_term, int(now)))
        facts: dict[str, Any] = {
            "values": result.seen,
            "resealed": result.resealed,
            "needed": {kid.hex(): count for kid, count in result.needed.items()},
            "unreadable": dict(result.unreadable),
        }
        if source is not None:
            free = {key.kid for key in obsolete if not result.needed[key.kid]}
            destroyed = set[bytes]()
            if destroy:
                write_change(
                    source, lambda ring, now: transitions.destroy_long_term(ring, free, now)
                )
                destroyed = free - {key.kid for key in source.ring().long_term}
            facts |= {"free": _hex(free - destroyed), "destroyed": _hex(destroyed)}
            lines += [f"{kid} is destroyed." for kid in _hex(destroyed)]
            lines += [
                f"{kid} is no longer needed in this store; `--destroy` destroys it. If other"
                " applications or stores use the ring, run `reseal` for them first."
                for kid in _hex(free - destroyed)
            ]
    emit(as_json, facts, lines)
    return 1 if result.unreadable else 0


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


def _hex(kids: Iterable[bytes]) -> list[str]:
    return sorted(kid.hex() for kid in kids)


class RingChange(NamedTuple):
    """A ring before and after a command, and the time of the change."""

    before: Ring
    after: Ring
    now: int

    @property
    def is_done(self) -> bool:
        return self.after is not self.before

    def is_new(self, key: RingKey) -> bool:
        return all(old.kid != key.kid for old in (*self.before.keys, *self.before.long_term))

    @property
    def added(self) -> list[RingKey]:
        """The new keys that seal sessions."""
        return [key for key in self.after.keys if self.is_new(key)]


def write_change(source: RingSource, change: Change) -> RingChange:
    """Write a change, if there is anything to do. Raises OperatorError."""
    for _ in range(WRITE_TRIES):
        before, now = source.ring(), source.now()
        after = change(before, now)
        if after is before or source.storage.write(after, before):
            return RingChange(before, after, now)
    raise OperatorError(f"{source.location} is written by others all the time; nothing was done")


def _report(
    source: RingSource,
    as_json: bool,
    change: RingChange,
    lines: Iterable[str],
    facts: dict[str, Any] | None = None,
) -> None:
    """Print what a command did to a ring. `facts`: by default, when all processes use it."""
    if facts is None and change.is_done:
        facts = {"in_force_by": format_iso(change.now + source.config.reload_every + LOADING)}
    primary = change.after.primary(change.now)
    common = {
        "where": source.location,
        "changed": change.is_done,
        "ring": change.after.ring_id,
        "sequence": change.after.sequence,
        "primary": None if primary is None else primary.kid.hex(),
    }
    emit(as_json, common | (facts or {}), lines)


def _show(moment: int, now: int) -> str:
    return f"{format_exact(moment)} ({relative(moment, now)})"


for command in (init, list_keys, rotate, revoke, disable, enable, wrap, check, watch):
    keys.add_command(command)
