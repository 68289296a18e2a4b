"""Later releases read what a release wrote, and write the same again.

The file is frozen: what a release wrote opens for ever. New vectors go into a new file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sealedstate._wire.record import format_id
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Key, Keyring
from sealedstate.sso import (
    Authentication,
    Identifiers,
    NameID,
    ServiceLogin,
    extend_registry,
    parse_registry,
)
from sealedstate.sso._codec.authentications import compact, decode_head, encode_head, expand
from sealedstate.sso._codec.columns import decode_logins, encode_logins
from sealedstate.sso.logins import Derivation, Derived, StoredText

VECTORS = Path(__file__).parents[1] / "vectors"
FROZEN = json.loads((VECTORS / "sso.json").read_text("utf-8"))
REGISTRY = parse_registry(FROZEN["registry"])
NOW = 1_790_000_000
SESSION_ID = bytes(range(16))
SERVICES = [f"https://sp{number}.example.org/shibboleth" for number in range(30)]
LITERAL = "https://Wiki.example.org/Grüße?x=1"
PASSKEY = "https://example.org/methods/passkey"
TRANSIENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"


def identifiers() -> Identifiers:
    """With the first two keys of the vectors of format 1."""
    key, pairwise, *_ = (
        Key(bytes.fromhex(key["kid"]), bytes.fromhex(key["secret"]))
        for key in json.loads((VECTORS / "format1.json").read_text("utf-8"))["keys"]
    )
    return Identifiers(StaticKeys(Keyring((key,))), pairwise, "vectors")


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
    """What this release writes."""
    made = identifiers()
    return {
        "registry": extend_registry(extend_registry("", SERVICES[:20], [PASSKEY]), SERVICES),
        "columns": {name: encode_logins(some, REGISTRY).hex() for name, some in sets().items()},
        "heads": {
            name: encode_head(compact(one, NOW) for one in some).hex()
            for name, some in heads().items()
        },
        "transient": {
            sp: made.transient_name_id(format_id(SESSION_ID), sp, NOW) for sp in SERVICES[:2]
        },
        "index": {
            sp: made.session_index(format_id(SESSION_ID), sp, NOW) for sp in (SERVICES[0], LITERAL)
        },
        "pairwise": {sp: made.pairwise_name_id("jdoe", sp) for sp in (SERVICES[0], LITERAL)},
    }


def test_everything_is_written_as_before() -> None:
    assert vectors() == FROZEN


def test_everything_is_read_as_before() -> None:
    assert REGISTRY.entities == tuple(SERVICES)
    assert [version.entities for version in REGISTRY.versions] == [20, 30]
    for name, text in FROZEN["columns"].items():
        assert decode_logins(bytes.fromhex(text), REGISTRY) == frozenset(sets()[name]), name
    for name, text in FROZEN["heads"].items():
        found = {expand(stored, NOW) for stored in decode_head(bytes.fromhex(text))}
        assert found == set(heads()[name]), name
    for service, text in FROZEN["transient"].items():
        assert identifiers().open_name_id(text, service, NOW) == format_id(SESSION_ID)
    for service, text in FROZEN["index"].items():
        assert identifiers().open_session_index(text, service, NOW) == format_id(SESSION_ID)
