"""Makes the frozen vectors of texts, and of what a ring means.

python -m tests.vectors.make_texts        writes the files
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sealedstate import Key
from sealedstate._wire.encoding import to_name, to_text
from sealedstate._wire.token import TokenContext, seal
from sealedstate.keyring import Keyring, export_lookup, secret_to_text
from sealedstate.rotation.document import dump_ring
from sealedstate.rotation.ring import Ring
from tests.support.ring_documents import KEK, LONG_TERM, RING, fixed_key, with_checksum
from tests.support.rings import NOW, randomness
from tests.vectors.make import HERE, bytes_of, spell

KEYS = tuple(Key(bytes_of(f"text {n}", 4), bytes_of(f"text {n}", 32)) for n in range(3))
KID, SECRET = KEYS[0].kid.hex(), secret_to_text(KEYS[0].secret)
TEXT, LOOKUP = KEYS[0].export(), export_lookup(KEYS[1].secret)
# 32 bytes that no random source makes: two values, steps of 7, printable, 15 values.
WEAK = (
    bytes(31) + b"\1",
    bytes(7 * n % 256 for n in range(32)),
    b"correct horse battery staple 32!",
    bytes(n % 15 for n in range(32)),
)


def texts() -> dict[str, Any]:
    return {
        "about": "Text forms of keys, tokens, names and ids, and texts that are refused.",
        "keys": [
            {"text": key.export(), "kid": key.kid.hex(), "secret": key.secret.hex()} for key in KEYS
        ],
        "lookups": [
            {"text": export_lookup(key.secret), "secret": key.secret.hex()} for key in KEYS
        ],
        "bad_keys": [
            *("", KID, SECRET, f"{KID}:{SECRET}", f"sealedstate-key-2:{KID}:{SECRET}"),
            *(f"sealedstate-key-1:{KID[:-1]}:{SECRET}", f"sealedstate-key-1:{KID}0:{SECRET}"),
            *(f"sealedstate-key-1:{KID.upper()}:{SECRET}", f"SEALEDSTATE-KEY-1:{KID}:{SECRET}"),
            *(f"{TEXT}=", f"{TEXT}A", TEXT[:-1], f"{TEXT[:9]} {TEXT[9:]}", f"{TEXT} {TEXT}"),
            *(TEXT[:-1] + "+", TEXT[:-1] + ".", TEXT[:-1] + another_last_letter(SECRET), LOOKUP),
            *(f"sealedstate-key-1:{KID}:{secret_to_text(secret)}" for secret in WEAK),
            *(f"\ufeff{TEXT}", f"{TEXT}\ufeff", f" \ufeff{TEXT}", f"{TEXT[:-1]}\ufeff"),
        ],
        "bad_lookups": [
            *("", SECRET, f"sealedstate-lookup-2:{SECRET}", f"{LOOKUP}=", LOOKUP[:-1], TEXT),
            *(LOOKUP[:-1] + another_last_letter(LOOKUP), f"sealedstate-lookup-1:{KID}:{SECRET}"),
            *(f"sealedstate-lookup-1:{secret_to_text(secret)}" for secret in WEAK),
            *(f"\ufeff{LOOKUP}", f"{LOOKUP}\ufeff"),
        ],
        "lists": [
            {
                "lines": [f"{KEYS[2].export()}@{date}", KEYS[1].export()],
                "activates_at": [at, 0],
            }
            for date, at in (
                ("2026-12-01T00:00:00Z", 1796083200),
                ("2026-12-01T01:00:00+01:00", 1796083200),
                ("2026-11-30T23:59:59-00:30", 1796084999),
            )
        ],
        "tokens": [{"bytes": data.hex(), "text": to_text(data)} for data in some_bytes()],
        "names": [{"bytes": data.hex(), "text": to_name(data)} for data in some_bytes()],
        "session_ids": [
            {"bytes": data.hex(), "text": secret_to_text(data)}
            for data in (bytes(16), b"\xff" * 16, bytes_of("session", 16))
        ],
        "bad_tokens": [
            "A",
            "AAAAA",
            "AB",
            "AAB",
            "AA=",
            "AA==",
            "AAA.",
            "AAA-",
            "AAA+",
            "AA A",
            "AAAÄ",
            "\ufeffAAAA",
            "AAAA\ufeff",
            "\ufeff",
        ],
        "bad_names": [
            "A",
            "AAAAA",
            "AB",
            "AAB",
            "AA=",
            "AAA*",
            "AAA-",
            "AAA+",
            "AA A",
            "\ufeffAAAA",
        ],
    }


def another_last_letter(text: str) -> str:
    """A last letter that differs in the bits that belong to no byte."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return letters[letters.index(text[-1]) ^ 1]


def some_bytes() -> Iterator[bytes]:
    yield b""
    for size in (1, 2, 3, 24, 50):
        yield bytes(size)
        yield b"\xff" * size
        yield bytes_of(f"bytes {size}", size)
    # Each of the 64 letters.
    yield b"".join(
        int(f"{n:06b}{n + 1:06b}{n + 2:06b}{n + 3:06b}", 2).to_bytes(3, "big")
        for n in range(0, 64, 4)
    )


# --- rings ----------------------------------------------------------------------------------------


def meanings() -> dict[str, Any]:
    return {
        "about": "What rings mean. The key-encryption keys are a list. Times are in seconds.",
        "keks": [{"kid": key.kid.hex(), "secret": key.secret.hex()} for key in KEK.keys],
        "now": NOW,
        "rings": [
            {"name": name, "text": text, "wrapped": wrapping is not None} | meaning(ring)
            for name, ring, wrapping in (
                ("plain", RING, None),
                ("wrapped", RING, KEK),
                ("plain, with long-term keys", LONG_TERM, None),
                ("wrapped, with long-term keys", LONG_TERM, KEK),
            )
            for text in [dump_ring(ring, wrapping, randomness("nonces"))]
        ]
        + [
            {"name": name, "text": text, "wrapped": True} | meaning(RING)
            for name, text in wrapped_otherwise()
        ],
        "refused": [
            {"name": name, "text": text, "has_kek": has_kek} for name, text, has_kek in bad_rings()
        ],
    }


OTHER_KEK = Keyring(KEK.keys[1:])
FOREIGN_KEK = Keyring((fixed_key("kek of another ring"),))


def wrapped_otherwise() -> Iterator[tuple[str, str]]:
    """Documents of `RING` that no release writes in this way, but every release reads."""
    yield "wrapped by the other key", dump_ring(RING, OTHER_KEK, randomness("nonces"))
    document = json.loads(dump_ring(RING, KEK, randomness("nonces")))
    rewrapped = rewrap(document, OTHER_KEK)
    yield "one secret wrapped by the other key", with_checksum(rewrapped, KEK)
    named = {**document, "wrapped_by": OTHER_KEK.keys[0].kid.hex()}
    yield "only the checksum by the other key", with_checksum(named, OTHER_KEK)
    for name, at in (("long before", 0), ("long after", (1 << 40) - 1)):
        again = rewrap(document, KEK, at)
        yield f"one secret wrapped {name} the write", with_checksum(again, KEK)


def rewrap(
    document: dict[str, Any],
    kek: Keyring,
    at: int = NOW,
    secret: bytes = RING.keys[0].secret,
    ring_id: str = RING.ring_id,
) -> dict[str, Any]:
    """The document with the secret of its first key wrapped again, by the first key of `kek`."""
    first, *others = document["keys"]
    context = TokenContext("ring-secret", ring_id, (first["kid"],))
    token = seal(secret, context, kek.keys[0], at, bytes_of("wrapped again", 32))
    return {**document, "keys": [first | {"wrapped": to_text(token)}, *others]}


def meaning(ring: Ring) -> dict[str, Any]:
    keyring, dates = ring.keyring(), sorted({NOW, *(key.activates_at for key in ring.keys)})
    lookup = keyring.lookup
    return {
        "skew": keyring.skew,
        "announce": keyring.announce,
        "revoked_before": keyring.revoked_before,
        "removed": sorted(kid.hex() for kid in keyring.removed_kids),
        "lookup": None if lookup is None else lookup.hex(),
        "keys": [
            {
                "kid": key.kid.hex(),
                "secret": key.secret.hex(),
                "activates_at": key.activates_at,
                "retires_at": key.retires_at,
                "expires_at": key.expires_at,
                "disabled": key.disabled,
                **window(keyring, key),
            }
            for key in keyring.keys
        ],
        "long_term": [
            {
                "kid": key.kid.hex(),
                "secret": key.secret.hex(),
                "activates_at": key.activates_at,
                "may_have_sealed_from": key.activates_at - keyring.skew,
            }
            for key in keyring.long_term_keys or ()
        ],
        "primaries": [[at, keyring.primary(at).kid.hex()] for at in dates],
    }


def window(keyring: Keyring, key: Key) -> dict[str, int | None]:
    first, last = keyring.sealing_window(key, NOW)
    return {
        "may_have_sealed_from": first,
        "may_have_sealed_until": None if last == float("inf") else int(last),
    }


def bad_rings() -> Iterator[tuple[str, str, bool]]:
    good = dump_ring(LONG_TERM, None, randomness("nonces"))
    wrapped = dump_ring(LONG_TERM, KEK, randomness("nonces"))
    yield "plain, with a key-encryption key", good, True
    yield "wrapped, without its key-encryption key", wrapped, False
    yield "nothing", "", False
    yield "cut", good[:-3], False
    yield "no line feed", good[:-1], False
    yield "two line feeds", good + "\n", False
    yield "carriage returns", good.replace("\n", "\r\n"), False
    yield "an indent of four", json.dumps(json.loads(good), indent=4) + "\n", False
    yield "no indent", json.dumps(json.loads(good)) + "\n", False
    yield "an escaped slash", good.replace("sealedstate-ring", "sealedstate\\u002dring"), False
    yield "a letter outside ASCII", good.replace("\\u00e9", "é"), False
    yield "an escape in upper case", good.replace("\\u00e9", "\\u00E9"), False
    yield "another sequence", good.replace('"sequence": 42', '"sequence": 43'), False
    yield "another checksum", good.replace('"checksum": "', '"checksum": "0')[:-5] + '"\n}\n', False

    def changed(name: str, value: object) -> str:
        return with_checksum({**json.loads(good), name: value}, None)

    def changed_key(**fields: object) -> str:
        document = json.loads(good)
        document["keys"][0] |= fields
        return with_checksum(document, None)

    document = json.loads(good)
    yield "an additional member", changed("more", None), False
    yield "another format", changed("format", "sealedstate-ring-2"), False
    yield "an id in upper case", changed("ring", document["ring"].upper()), False
    yield "a sequence of 0", changed("sequence", 0), False
    yield "a sequence with a fraction", changed("sequence", 42.0), False
    yield "a sequence of 2**63", changed("sequence", 1 << 63), False
    yield "a time without its zone", changed("updated_at", "2027-01-15T08:00:00"), False
    yield "a time with an offset", changed("updated_at", "2027-01-15T08:00:00+00:00"), False
    yield "a time with a fraction", changed("updated_at", "2027-01-15T08:00:00.5Z"), False
    yield "a time before 1970", changed("updated_at", "1969-12-31T23:59:59Z"), False
    yield "revoked before 1970", changed("revoked_before", "1970-01-01T00:00:00Z"), False
    yield "no keys", changed("keys", []), False
    yield "empty lasting", changed("lasting", []), False
    yield (
        "a schedule without skew",
        changed("schedule", {"rotate_every": 1, "announce": 1, "keep": 1}),
        False,
    )
    yield (
        "announced for 0 seconds",
        changed("schedule", document["schedule"] | {"announce": 0}),
        False,
    )
    yield "a kid twice", changed("keys", document["keys"][:1] * 2), False
    yield (
        "a tombstone of a key",
        changed("tombstones", [{**document["tombstones"][0], "kid": document["keys"][0]["kid"]}]),
        False,
    )
    yield "a kid in upper case", changed_key(kid=document["keys"][0]["kid"].upper()), False
    yield "a kid of 3 bytes", changed_key(kid="830edc"), False
    yield "a secret twice", changed_key(secret=document["keys"][1]["secret"]), False
    yield "a weak secret", changed_key(secret=secret_to_text(WEAK[0])), False
    yield "a secret with padding", changed_key(secret=document["keys"][0]["secret"] + "="), False
    yield "a key with another member", changed_key(reason=""), False
    first, *others = json.loads(wrapped)["keys"]
    first["wrapped"], others[0]["wrapped"] = others[0]["wrapped"], first["wrapped"]
    swapped = {**json.loads(wrapped), "keys": [first, *others]}
    yield "two wrapped secrets exchanged", with_checksum(swapped, KEK), True
    yield "an unkeyed checksum", with_checksum(json.loads(wrapped), None), True
    foreign = dump_ring(RING, FOREIGN_KEK, randomness("nonces"))
    yield "wrapped by a key that is not in the list", foreign, True
    named = {**json.loads(wrapped), "wrapped_by": OTHER_KEK.keys[0].kid.hex()}
    yield "the checksum by another key than it says", with_checksum(named, KEK), True
    yield "another key than the checksum is by", with_checksum(json.loads(wrapped), OTHER_KEK), True
    changed_wrapping: dict[str, dict[str, Any]] = {
        "a secret wrapped by a key that is not in the list": {"kek": FOREIGN_KEK},
        "a secret wrapped for another ring": {"ring_id": "5ea1ed57a7e00002"},
        "a wrapped secret of 31 bytes": {"secret": RING.keys[0].secret[:-1]},
        "a wrapped secret of 33 bytes": {"secret": RING.keys[0].secret + b"\0"},
        "a wrapped secret that is weak": {"secret": WEAK[0]},
        "a wrapped secret that is there twice": {"secret": RING.keys[1].secret},
    }
    for name, changes in changed_wrapping.items():
        again = rewrap(json.loads(wrapped), **{"kek": KEK} | changes)
        yield name, with_checksum(again, KEK), True
    clear = json.loads(wrapped)
    clear["keys"][0] = json.loads(good)["keys"][0]
    yield "one secret that is not wrapped", with_checksum(clear, KEK), True
    yield "a byte order mark before it", f"\ufeff{good}", False
    yield "a byte order mark before it, wrapped", f"\ufeff{wrapped}", True
    yield "a byte order mark before the reason", good.replace("laptop", "\ufefflaptop"), False


def files() -> dict[str, dict[str, Any]]:
    return {"texts.json": texts(), "ring-1-meaning.json": meanings()}


if __name__ == "__main__":
    for name, vectors in files().items():
        (HERE / name).write_text(spell(vectors), "utf-8")
