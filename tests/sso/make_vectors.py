"""Wrote the frozen vectors of login records, once.

``python -m tests.sso.make_vectors`` writes the file only if it is missing: what a release wrote
opens for ever. New vectors go into a new file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Key, Keyring
from sealedstate.sso import (
    Authentication,
    Identifiers,
    NameID,
    Registry,
    ServiceLogin,
    extend_registry,
    parse_registry,
)
from sealedstate.sso._codec.authentications import compact, encode_head
from sealedstate.sso._codec.columns import encode_logins
from sealedstate.sso.logins import Derivation, Derived, StoredText

FILE = Path(__file__).parents[1] / "vectors" / "sso.json"
KEYS = Path(__file__).parents[1] / "vectors" / "format1.json"
NOW = 1_790_000_000
SESSION_ID = bytes(range(16))
SERVICES = [f"https://sp{number}.example.org/shibboleth" for number in range(30)]
LITERAL = "https://Wiki.example.org/Grüße?x=1"
PASSKEY = "https://example.org/methods/passkey"
TRANSIENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"


def keys() -> tuple[Key, Key]:
    """The first two keys of the vectors of format 1."""
    one, other, *_ = (
        Key(bytes.fromhex(key["kid"]), bytes.fromhex(key["secret"]))
        for key in json.loads(KEYS.read_text("utf-8"))["keys"]
    )
    return one, other


def identifiers() -> Identifiers:
    key, pairwise = keys()
    return Identifiers(StaticKeys(Keyring((key,))), pairwise, "vectors")


def registry_text() -> str:
    return extend_registry(extend_registry("", SERVICES[:20], [PASSKEY]), SERVICES)


def login(
    service: str, name: StoredText | NameID, index: StoredText | None, time: int
) -> ServiceLogin:
    name_id = name if isinstance(name, NameID) else NameID(name)
    return ServiceLogin(service, "urn:federation:authentication:windows", name_id, index, time)


def sets() -> dict[str, list[ServiceLogin]]:
    hex_id, derived = "_" + "0123456789abcdef" * 2, Derived(Derivation.DERIVED, b"kid1", b"mark")
    several = [
        login(SERVICES[3], hex_id, hex_id, NOW),
        login(SERVICES[25], "AAECAwQFBgcICQoLDA0ODxAREhM=", hex_id, NOW - 7),
        login(SERVICES[4], Derived(Derivation.SUBJECT), None, NOW - 3600),
        login(LITERAL, "jdoe@example.edu", "", NOW),
    ]
    qualified = NameID("ID-42", "urn:x:format", SERVICES[0], SERVICES[1])
    return {
        "one": [login(SERVICES[0], hex_id, hex_id, NOW)],
        "several": several,
        "unregistered": [login(LITERAL, "Ärzte", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", NOW)],
        "minutes": [login(SERVICES[n], hex_id, f"_{n:032x}", NOW - 60 * n) for n in range(9)],
        "twice at one": [login(SERVICES[2], hex_id, f"_{n:032x}", NOW) for n in range(3)],
        "made again": [
            login(SERVICES[5], NameID(derived, TRANSIENT), derived, NOW),
            login(SERVICES[6], Derived(Derivation.PAIRWISE, b"kid2"), derived, NOW + 1),
        ],
        "qualified": [
            ServiceLogin(SERVICES[1], PASSKEY, qualified, "id-" + "0f" * 20, NOW),
            ServiceLogin(SERVICES[1], "urn:x:method", NameID("", None, "idp"), "s", 0),
        ],
    }


def heads() -> dict[str, list[Authentication]]:
    usual = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"
    mfa = "https://refeds.org/profile/mfa"
    return {
        "usual": [Authentication(usual, NOW - 100, 28_800)],
        "known": [Authentication(mfa, NOW - 9000, 1800)],
        "other": [Authentication(PASSKEY, NOW, 299)],
        "long ago": [Authentication(usual, NOW - 86_400, 999_999)],
        "two": [Authentication(usual, NOW, 28_800), Authentication(mfa, NOW - 5, 3600)],
    }


def vectors() -> dict[str, Any]:
    made, text = identifiers(), registry_text()
    known: Registry = parse_registry(text)
    return {
        "registry": text,
        "columns": {name: encode_logins(some, known).hex() for name, some in sets().items()},
        "heads": {
            name: encode_head(compact(one, NOW) for one in some).hex()
            for name, some in heads().items()
        },
        "transient": {sp: made.transient_name_id(SESSION_ID, sp, NOW) for sp in SERVICES[:2]},
        "index": {sp: made.session_index(SESSION_ID, sp, NOW) for sp in (SERVICES[0], LITERAL)},
        "pairwise": {sp: made.pairwise_name_id("jdoe", sp) for sp in (SERVICES[0], LITERAL)},
    }


if __name__ == "__main__":
    if FILE.exists():
        sys.exit(f"{FILE.name} is frozen")
    FILE.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n", "utf-8")
