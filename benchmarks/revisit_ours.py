"""A session that arrived is opened, read, changed and saved: by us, and by the bare composition.

Knows our public door, and how the same session goes through cbor2, PyNaCl and base64 without us.
Does not know how calls are timed, or the peers. `start` takes a workload and gives a step: the
same Cookie header each time, a number to put into the session, Set-Cookie lines (for the bare
composition: one text) out.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import repeat
from typing import Any

import cbor2
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)

from benchmarks.cookie_pairs import pairs
from benchmarks.cpu_rounds import BEFORE, Step
from benchmarks.ours import STORED, WIDE, registry
from benchmarks.workloads import ENTITY_IDS, NOW, Workload, read_entity_ids
from sealedstate import Keeper, Key, Profile, Settings
from sealedstate._wire import cbor as codec
from sealedstate._wire.aead import direct_cipher, load_library
from sealedstate._wire.record import encode_record
from sealedstate.sso import LoginRecords

SEEN = "seen"
"""The one part, or key, that each step changes: a number of three digits."""

STOPPED: Callable[[], float] = repeat(NOW).__next__
"""The workload's moment, told as quickly as `time.time` tells its own: both are C."""

Start = Callable[[Workload], Step]
Cipher = Callable[[bytes, bytes, bytes, bytes], Any]


def start_bare(load: Workload) -> Step:
    """What a careful developer writes: a dict, a random nonce; no Cookie header, no policy."""
    return _start_composition(
        load,
        crypto_aead_xchacha20poly1305_ietf_encrypt,
        crypto_aead_xchacha20poly1305_ietf_decrypt,
    )


def _start_composition(load: Workload, encrypt: Cipher, decrypt: Cipher) -> Step:
    key, name = os.urandom(32), b"session"

    def save(session: object) -> str:
        nonce = os.urandom(24)
        data = encrypt(cbor2.dumps(session), name, nonce, key)
        return base64.b64encode(nonce + data).decode("ascii")

    text = save(load.plain() | {SEEN: BEFORE})
    reads = _read_key(load)

    def step(number: int) -> object:
        token = base64.b64decode(text)
        opened = decrypt(token[24:], name, token[:24], key)
        session = cbor2.loads(opened)
        session[reads]
        session[SEEN] = number
        return save(session)

    return step


def start_direct(load: Workload) -> Step:
    """The bare composition without PyNaCl's checks of arguments: C called as we call it."""
    return _start_composition(load, *direct_cipher(*load_library()))


def start_ours(load: Workload) -> Step:
    """Opened, the subject read, a part changed, saved. Login records stay as they are."""
    keeper, header = arrived(load)
    name = None if load.subject is not None else _read_key(load)

    def step(number: int) -> object:
        session = keeper.session(header)
        _ = session.subject if name is None else session[name]
        session[SEEN] = number
        return keeper.save(session)

    return step


def start_token(load: Workload) -> Step:
    """One text to a record, and a record with another part to one text: what `start_bare` does."""
    keeper, header = arrived(load)
    tokens, text = keeper.deployment.codec, keeper.deployment.cookies.find(header).core[0]

    def step(number: int) -> object:
        record = tokens.open_text(text, NOW).record
        parts = {**record.parts, SEEN: codec.encode(number)}
        return tokens.seal_core(encode_record(record.replace(parts=parts), NOW), NOW)

    return step


def start_plain(load: Workload) -> Step:
    """The same with the dicts of the peers as parts; the part with the logins is not looked at."""
    keeper = _keeper(WIDE)
    session = keeper.session()
    if load.subject is not None:
        session.subject = load.subject
    session.update(load.parts)
    session[SEEN] = BEFORE
    header = "; ".join(pairs(keeper.save(session)))

    def step(number: int) -> object:
        session = keeper.session(header)
        _ = session.subject
        session[SEEN] = number
        return keeper.save(session)

    return step


def start_all_read(load: Workload) -> Step:
    """As ours, and every service login is decoded too, as at a logout."""
    if load.subject is None:
        return start_ours(load)
    keeper, header = arrived(load)
    records = _records()

    def step(number: int) -> object:
        session = keeper.session(header)
        found = records.for_session(session).services()
        session[SEEN] = number
        return len(found) == len(load.services) and keeper.save(session)

    return step


def start_login(load: Workload) -> Step:
    """Opened, a service login renewed one minute later, saved: all columns are encoded anew."""
    if not load.services:
        return start_ours(load)
    keeper, header = arrived(load)
    records = _records()
    logins = records.for_session(keeper.session(header)).services()

    def step(number: int) -> object:
        session = keeper.session(header)
        renewed = replace(logins[number % len(logins)], time=NOW + 60 * number)
        records.for_session(session).add_service(renewed)
        return keeper.save(session)

    return step


def arrived(load: Workload) -> tuple[Keeper, str]:
    """A keeper with its defaults, and the header of a session with login records."""
    keeper = _keeper()
    session = keeper.session()
    STORED.fill(session, load, _entity_ids())
    session[SEEN] = BEFORE
    return keeper, "; ".join(pairs(keeper.save(session)))


def _read_key(load: Workload) -> str:
    return "user_id" if load.subject is None else "user"


def _records() -> LoginRecords:
    return LoginRecords(registry(_entity_ids()))


@cache
def _entity_ids() -> tuple[str, ...]:
    return tuple(read_entity_ids(ENTITY_IDS))


def _keeper(profile: str | Profile = "portable") -> Keeper:
    keys = [Key.generate(os.urandom).export()]
    return Keeper(Settings(keys=keys, profile=profile, clock=STOPPED))
