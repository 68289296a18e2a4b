"""``sealedstate keys wrap``: the secrets of a ring that stands in clear, from now on wrapped.

Knows which ring can be in clear, and what is left of it beside the file. Does not know how secrets
are wrapped.
"""

from __future__ import annotations

import argparse
import json
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ...errors import ConfigurationError, OperatorError
from ...rotation import transitions
from ...rotation.ring import Ring, RingKey, Schedule
from ..output import duration, exact, iso, many, past, relative, show
from .source import RingSource, newest

# FOLD sealedstate.cli.ring_commands
# ``sealedstate keys init | rotate | revoke | disable | enable``: what changes a ring.
#
# Knows how a change is written while others write, and what is told afterwards. Does not know how a
# ring evolves, nor where it is kept.
#
# Each of them writes the next ring in the place of the one that it has read. Where another was
# quicker, it starts from what is there then.


# Each round of a race has a winner, so that many rotators are served.
WRITE_TRIES = 100
KID_PREFIX = re.compile("[0-9a-f]{4,8}", re.ASCII)
REASON_LETTERS = 200
# A process takes over a new ring within reload_every, and then needs a moment to read it.
LOADING = 1

Change: TypeAlias = Callable[[Ring, int], Ring]
"""From a ring and now to the next ring, or to the same where nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a ring: sentences for people, facts for programs."""

    sentences: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    def tell(self, given: argparse.Namespace) -> int:
        """Print it; the exit code."""
        if given.json:
            print(json.dumps(self.facts))
        elif not getattr(given, "quiet", False):
            show("\n".join(self.sentences))
        return 0


def changed(source: RingSource, change: Change) -> tuple[Ring, Ring, int]:
    """Write a change: the ring before, the one after, and when. Raises OperatorError."""
    for _ in range(WRITE_TRIES):
        before, now = source.ring(), source.now()
        after = change(before, now)
        if after is before or source.home.write(after, before):
            return before, after, now
    raise OperatorError(f"others write {source.home.location} all the time; nothing was done")


def _facts(source: RingSource, before: Ring | None, after: Ring, now: int) -> dict[str, Any]:
    primary = after.primary(now)
    return {
        "where": source.home.location,
        "changed": after is not before,
        "ring": after.ring_id,
        "sequence": after.sequence,
        "primary": None if primary is None else primary.kid.hex(),
    }


# --- init ---------------------------------------------------------------------------------------


def init(source: RingSource, given: argparse.Namespace) -> int:
    config, now = source.config, source.now()
    # Otherwise the first process would refuse the ring that was made for it.
    config.schedule.check(config.reload_every, config.lifetime, config.skew)
    ring = transitions.create_ring(config.schedule, now, config.random)
    if not source.home.write(ring, None):
        raise OperatorError(f"{source.home.location} is there already; nothing was done")
    if not source.is_wrapped:
        _warn_of_clear_secrets()
    facts = _facts(source, None, ring, now) | {"wrapped": source.is_wrapped, "mode": _mode(source)}
    return Outcome(_told_of_first(source, ring), facts).tell(given)


def _told_of_first(source: RingSource, ring: Ring) -> list[str]:
    schedule, mode = ring.schedule, _mode(source)
    return [
        f"Made {source.home.location}{f' (mode {mode})' if mode else ''}.",
        f"{ring.keys[0].kid.hex()} seals from now on, each key for"
        f" {duration(schedule.rotate_every)}; the next one is announced"
        f" {duration(schedule.announce)} before its turn.",
    ]


def _warn_of_clear_secrets() -> None:
    print(
        "sealedstate: warning: SEALEDSTATE_KEK is not set, so the keys stand in the file in clear:"
        " whoever reads it, or a backup of it, can read and make sessions."
        " `sealedstate keys generate --kek` prints a key that wraps them; set it before `init`",
        file=sys.stderr,
    )


def _mode(source: RingSource) -> str | None:
    if source.path is None:
        return None
    return f"{stat.S_IMODE(source.path.stat().st_mode):04o}"


# --- rotate -------------------------------------------------------------------------------------


def rotate(source: RingSource, given: argparse.Namespace) -> int:
    return _rotate_lasting(source, given) if given.lasting else _rotate(source, given)


def _rotate_lasting(source: RingSource, given: argparse.Namespace) -> int:
    if given.now:
        raise ConfigurationError("--now or --lasting: a lasting key is announced whenever one asks")
    random = source.config.random
    before, after, now = changed(
        source, lambda ring, now: transitions.rotate_long_term(ring, now, random)
    )
    newest_of_all = after.long_term[0]
    word = "is announced" if after is not before else "is announced already"
    told = [
        f"{newest_of_all.kid.hex()} {word}; it seals what is stored for years from"
        f" {exact(newest_of_all.activates_at)} ({relative(newest_of_all.activates_at, now)}).",
        "After that, `sealedstate keys reseal` seals anew what older keys have sealed.",
    ]
    return _done(source, before, after, now, told).tell(given)


def _rotate(source: RingSource, given: argparse.Namespace) -> int:
    def change(ring: Ring, now: int) -> Ring:
        schedule, random = source.schedule(ring), source.config.random
        if given.now and any(key.activates_at > now for key in ring.keys):
            # Who asks twice, or at once with others, wants one key; it is written, and so wrapped,
            # anew all the same.
            again = replace(ring, sequence=ring.sequence + 1, updated_at=now)
            return _lengthened(again, schedule, now)
        return _lengthened(
            transitions.rotate(ring, schedule, now, random, given.now), schedule, now
        )

    before, after, now = changed(source, change)
    known = {key.kid for key in before.keys}
    added = [key for key in after.keys if key.kid not in known]
    facts = _facts(source, before, after, now) | {
        "announced": [
            {"kid": key.kid.hex(), "activates_at": iso(key.activates_at)} for key in added
        ]
    }
    return Outcome(_told_of_rotation(before, after, added, now), facts).tell(given)


def _lengthened(ring: Ring, schedule: Schedule, now: int) -> Ring:
    """The ring with a schedule that keeps the promises of `schedule`, too, if it does not yet.

    At once, and not only with the next key: a node of that configuration refuses it until then.
    """
    wider = ring.schedule.merged_with(schedule)
    if replace(wider, rotate_every=ring.schedule.rotate_every) == ring.schedule:
        return ring
    return replace(ring, schedule=wider, sequence=ring.sequence + 1, updated_at=now)


def _told_of_rotation(before: Ring, after: Ring, added: list[RingKey], now: int) -> list[str]:
    told = [
        f"{key.kid.hex()} is announced; it seals from {exact(key.activates_at)}"
        f" ({relative(key.activates_at, now)})."
        for key in added
    ]
    gone = len(before.keys) + len(added) - len(after.keys)
    if gone:
        told.append(f"{many(gone, 'expired key is', 'expired keys are')} destroyed.")
    if after.schedule != before.schedule:
        told.append("The ring's schedule is now that of the configuration, or longer.")
    return told or [_told_of_waiting(after, now)]


def _told_of_waiting(ring: Ring, now: int) -> str:
    key = newest(ring, now)
    if key is None:
        return "Nothing is due."
    if key.activates_at > now:
        return (
            f"{key.kid.hex()} is announced already; it seals from {exact(key.activates_at)}"
            f" ({relative(key.activates_at, now)})."
        )
    schedule = ring.schedule
    due = key.activates_at + schedule.rotate_every - schedule.announce
    return f"Nothing is due; the next key is announced {relative(due, now)}."


# --- revoke, disable, enable --------------------------------------------------------------------


def revoke(source: RingSource, given: argparse.Namespace) -> int:
    if (given.kid is None) == (given.before is None):
        raise ConfigurationError("revoke a KID, or what was sealed `--before` a time")
    _check_reason(given.reason)
    return _revoke_before(source, given) if given.kid is None else _revoke_kid(source, given)


def _revoke_kid(source: RingSource, given: argparse.Namespace) -> int:
    ring = source.ring()
    _refuse_lasting(ring, given.kid)
    kid = kid_of(given.kid, [*_kids(ring), *(dead.kid for dead in ring.tombstones if dead.revoked)])
    random = source.config.random
    before, after, now = changed(
        source, lambda ring, now: transitions.revoke(ring, kid, now, random, given.reason)
    )
    if after is before:
        told = [f"{kid.hex()} was revoked already."]
    else:
        told = [f"{kid.hex()} is revoked, for good.", *_told_of_successor(before, after)]
        told += _window(source, now, "accept what it sealed")
    return _done(source, before, after, now, told).tell(given)


def _revoke_before(source: RingSource, given: argparse.Namespace) -> int:
    if given.reason:
        raise ConfigurationError("--reason goes with a KID")
    moment = past(given.before, source.now())
    before, after, now = changed(
        source, lambda ring, now: transitions.revoke_before(ring, moment, now)
    )
    if after is before:
        told = [f"All that was sealed before {exact(before.revoked_before)} is revoked already."]
        if not before.revoked_before:
            told = ["Nothing was sealed before that time."]
    else:
        told = [
            f"All that was sealed before {exact(moment)} ({relative(moment, now)}) is revoked.",
            *_window(source, now, "accept it"),
        ]
    return _done(source, before, after, now, told).tell(given)


def disable(source: RingSource, given: argparse.Namespace) -> int:
    _refuse_lasting(source.ring(), given.kid)
    kid, random = kid_of(given.kid, _kids(source.ring())), source.config.random
    before, after, now = changed(
        source, lambda ring, now: transitions.disable(ring, kid, now, random)
    )
    told = [f"{kid.hex()} was disabled already."]
    if after is not before:
        told = [f"{kid.hex()} is disabled, until `sealedstate keys enable {kid.hex()}`."]
        told += _told_of_successor(before, after)
        told += _window(source, now, "use it")
    return _done(source, before, after, now, told).tell(given)


def enable(source: RingSource, given: argparse.Namespace) -> int:
    kid = kid_of(given.kid, _kids(source.ring()))
    before, after, now = changed(source, lambda ring, now: transitions.enable(ring, kid, now))
    told = [f"{kid.hex()} is not disabled."]
    if after is not before:
        told = [
            f"{kid.hex()} is enabled: each process opens what it sealed again once it has loaded"
            f" the ring, within {source.config.reload_every} s."
        ]
    return _done(source, before, after, now, told).tell(given)


def kid_of(text: str, kids: list[bytes]) -> bytes:
    """The one kid that begins so. Raises ConfigurationError."""
    prefix = text.strip().lower()
    if not KID_PREFIX.fullmatch(prefix):
        raise ConfigurationError("a KID is 8 hex digits, or the first 4 or more of them")
    found = [kid for kid in kids if kid.hex().startswith(prefix)]
    if len(found) > 1:
        several = ", ".join(sorted(kid.hex() for kid in found))
        raise ConfigurationError(f"{prefix} may be any of {several}")
    if not found:
        raise ConfigurationError(f"the ring has no key {prefix}; `sealedstate keys list` shows all")
    return found[0]


def _kids(ring: Ring) -> list[bytes]:
    return [key.kid for key in ring.keys]


def _refuse_lasting(ring: Ring, text: str) -> None:
    """What a lasting key has sealed would be lost with it, and for good."""
    prefix = text.strip().lower()
    if any(KID_PREFIX.fullmatch(prefix) and key.kid.hex() == prefix for key in ring.long_term):
        raise ConfigurationError(
            f"{prefix} seals what is stored for years, which would be lost with it:"
            " `sealedstate keys rotate --lasting`, and when the new key seals,"
            " `sealedstate keys reseal --destroy`"
        )


def _check_reason(reason: str) -> None:
    if len(reason) > REASON_LETTERS or not reason.isprintable():
        raise ConfigurationError(f"--reason: one line of at most {REASON_LETTERS} letters")


def _told_of_successor(before: Ring, after: Ring) -> list[str]:
    known = set(_kids(before))
    return [
        f"{key.kid.hex()} seals in its place, at once."
        for key in after.keys
        if key.kid not in known
    ]


def _window(source: RingSource, now: int, what: str) -> list[str]:
    """How long processes may still go by the old ring."""
    reload_every = source.config.reload_every
    until = exact(now + reload_every + LOADING)
    presumed = "" if source.is_configured else ", if that is what they have"
    return [
        f"Until {until}, a process that has not looked again may still {what}",
        f"(reload_every {reload_every} s + {LOADING} s{presumed}); one that can't read the ring,"
        " for longer: see `sealedstate keys check`.",
    ]


def _done(source: RingSource, before: Ring, after: Ring, now: int, told: list[str]) -> Outcome:
    facts = _facts(source, before, after, now)
    if after is not before:
        facts["in_force_by"] = iso(now + source.config.reload_every + LOADING)
    return Outcome(told, facts)


def wrap(source: RingSource, given: argparse.Namespace) -> int:
    if source.path is None:
        raise ConfigurationError("a ring in a store is always wrapped")
    if not source.is_wrapped:
        raise ConfigurationError(
            "SEALEDSTATE_KEK is not set: it holds the key that is to wrap;"
            " `sealedstate keys generate --kek` prints one"
        )
    changed(source, _anew)
    # The document before the last write stands in PATH.prev: now that, too, is wrapped.
    _, after, _ = changed(source, _anew)
    facts = {
        "where": source.home.location,
        "changed": True,
        "ring": after.ring_id,
        "sequence": after.sequence,
    }
    return Outcome(_told(source, after), facts).tell(given)


def _anew(ring: Ring, now: int) -> Ring:
    """The same ring once more; later than what anybody has, so that nobody puts that back."""
    return replace(ring, sequence=ring.sequence + 1, updated_at=now)


def _told(source: RingSource, ring: Ring) -> list[str]:
    return [
        f"The keys in {source.home.location} are wrapped, and those in {source.path}.prev.",
        "Processes without SEALEDSTATE_KEK go on with what they have loaded; start them anew with"
        f" it within {duration(ring.schedule.announce)}, before a new key can seal.",
        "Who has read the file in clear, or a backup of it, has its keys: `sealedstate keys rotate"
        " --now` begins a new one, `revoke` ends an old one.",
    ]
