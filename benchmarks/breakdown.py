"""Where the time of opening and saving goes: ours, the bare composition's, and the C code's alone.

Knows the steps inside our product and how to call each alone. Does not know the peers. What is left
of the whole after scan, text, AEAD and CBOR is policy: the session object, expiry, the plan of
places, budgets, events and Set-Cookie lines.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import cbor2
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)

from benchmarks.cpu_rounds import BEFORE, Step, Times, looped, run
from benchmarks.dress import Progress, print_table
from benchmarks.revisit_ours import SEEN, arrived, start_bare, start_ours
from benchmarks.workloads import NOW, Workload
from sealedstate._wire import cbor as codec
from sealedstate._wire import encoding as chunking
from sealedstate._wire import record as record_codec
from sealedstate._wire import token as sealing
from sealedstate._wire.record import ID_BYTES

STEPS = ("scan", "text", "AEAD", "CBOR", "policy", "whole")
KINDS = ("sealedstate", "bare composition", "C alone")

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Microseconds by step, for each of `KINDS`; None where it has no such step."""

    cells: dict[str, dict[str, float | None]]

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        return self.cells

    def print(self, load: str) -> None:
        print_table(f"Where the microseconds go, {load}", self.cells)


def breakdown(
    load: Workload, rounds: int, milliseconds: float, progress: Progress, what: str
) -> Breakdown:
    """Each step alone, in the rounds of the whole."""
    calls = {
        **{("sealedstate", name): call for name, call in _ours(load).items()},
        **{("bare composition", name): call for name, call in _bare(load).items()},
        **{("C alone", name): call for name, call in _c_alone(load).items()},
    }
    turns = {f"{kind}/{name}": looped(_step(call)) for (kind, name), call in calls.items()}
    turns["sealedstate/whole"] = looped(start_ours(load))
    turns["bare composition/whole"] = looped(start_bare(load))
    return Breakdown(_cells(run(turns, rounds, milliseconds / 2, progress, what)))


def _step(call: Call) -> Step:
    def step(_: int) -> object:
        call()
        return True

    return step


def _cells(found: dict[str, Times]) -> dict[str, dict[str, float | None]]:
    cells: dict[str, dict[str, float | None]] = {}
    for kind in KINDS:
        steps = {
            name: found[f"{kind}/{name}"].microseconds
            for name in STEPS
            if f"{kind}/{name}" in found
        }
        parts = sum(value for name, value in steps.items() if name != "whole")
        if "whole" in steps:
            steps["policy"] = max(0.0, steps["whole"] - parts)
        else:
            steps["whole"] = parts
        cells[kind] = {name: steps.get(name) for name in STEPS}
    return cells


def _ours(load: Workload) -> dict[str, Call]:
    keeper, header = arrived(load)
    settings, deployment = keeper.settings, keeper.deployment
    name, _, text = header.partition("=")
    place = sealing.TokenContext("core", settings.realm, (name,))
    ring = deployment.keyring()
    key, token = ring.primary(NOW), chunking.from_text(text)
    payload = sealing.open_token(token, place, ring, NOW).payload
    record = record_codec.decode_record(payload, NOW)

    def aead() -> object:
        sealing.open_token(token, place, ring, NOW)
        return sealing.seal(payload, place, key, NOW, os.urandom(sealing.ENTROPY_BYTES))

    def cbor() -> object:
        record_codec.decode_record(payload, NOW)
        codec.encode(BEFORE)
        return record_codec.encode_record(record, NOW)

    return {
        "scan": lambda: deployment.cookies.find(header),
        "text": lambda: (chunking.from_text(text), chunking.to_text(token)),
        "AEAD": aead,
        "CBOR": cbor,
    }


def _bare(load: Workload) -> dict[str, Call]:
    plain, key, aad = load.plain() | {SEEN: BEFORE}, os.urandom(32), b"session"
    data, nonce = cbor2.dumps(plain), os.urandom(24)
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(data, aad, nonce, key)
    text = base64.b64encode(nonce + sealed).decode("ascii")

    def aead() -> object:
        crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, aad, nonce, key)
        return crypto_aead_xchacha20poly1305_ietf_encrypt(data, aad, os.urandom(24), key)

    return {
        "text": lambda: (base64.b64decode(text), base64.b64encode(nonce + sealed).decode("ascii")),
        "AEAD": aead,
        "CBOR": lambda: (cbor2.loads(data), cbor2.dumps(plain)),
    }


def _c_alone(load: Workload) -> dict[str, Call]:
    """libsodium's C function, binascii, cbor2 of our payload: nothing is checked or copied."""
    keeper, header = arrived(load)
    name, _, text = header.partition("=")
    place = sealing.TokenContext("core", keeper.settings.realm, (name,))
    token = chunking.from_text(text)
    opened = sealing.open_token(token, place, keeper.deployment.key_source.keyring(), NOW)
    sodium = import_module("nacl._sodium")  # libsodium as PyNaCl calls it
    ffi, lib = sodium.ffi, sodium.lib
    payload, frame = opened.payload, opened.payload[ID_BYTES:]
    row, size, key, nonce = cbor2.loads(frame), len(payload), os.urandom(32), os.urandom(24)
    sealed, plain = ffi.new("unsigned char[]", size + 16), ffi.new("unsigned char[]", size)
    encoded, aad = binascii.b2a_base64(token, newline=False), place.encoded
    encrypt = lib.crypto_aead_xchacha20poly1305_ietf_encrypt
    decrypt = lib.crypto_aead_xchacha20poly1305_ietf_decrypt

    def aead() -> object:
        encrypt(sealed, ffi.NULL, payload, size, aad, len(aad), ffi.NULL, nonce, key)
        return decrypt(plain, ffi.NULL, ffi.NULL, sealed, size + 16, aad, len(aad), nonce, key)

    return {
        "text": lambda: (binascii.a2b_base64(encoded), binascii.b2a_base64(token, newline=False)),
        "AEAD": aead,
        "CBOR": lambda: (cbor2.loads(frame), cbor2.dumps(row)),
    }
