"""Keys, registries and logins for the tests of an identity provider, equal in every run."""

from __future__ import annotations

from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Key, Keyring
from sealedstate.sso import (
    Identifiers,
    NameID,
    Registry,
    ServiceLogin,
    extend_registry,
    parse_registry,
)
from sealedstate.sso._codec.tables import METHODS
from sealedstate.sso.logins import StoredText

NOW = 1_790_000_000
SESSION_ID = bytes(range(16))
OTHER_ID = bytes(range(1, 17))
SP, OTHER_SP = "https://sp.example.org/shibboleth", "https://wiki.example.org/saml/metadata"
ENTITY_IDS = [f"https://sp{number}.example.org/shibboleth" for number in range(40)]


def a_key(number: int) -> Key:
    """Key material that is the same in every run."""
    secret = bytes((number * 37 + place * place * 11 + place) % 256 for place in range(32))
    return Key(number.to_bytes(4, "big"), secret)


def identifiers(*numbers: int, pairwise: int | None = 9, realm: str = "default") -> Identifiers:
    ring = Keyring(tuple(a_key(number) for number in numbers or (1,)))
    return Identifiers(StaticKeys(ring), None if pairwise is None else a_key(pairwise), realm)


def registry(*versions: list[str], methods: tuple[str, ...] = ()) -> Registry:
    text = ""
    for entity_ids in versions or (ENTITY_IDS,):
        text = extend_registry(text, entity_ids, methods)
    return parse_registry(text)


def a_login(
    entity_id: str = SP,
    name: StoredText = "_" + "5" * 32,
    index: StoredText | None = "_" + "6" * 32,
    time: int = NOW,
    form: str | None = None,
    **qualifiers: str | None,
) -> ServiceLogin:
    return ServiceLogin(entity_id, METHODS[0], NameID(name, form, **qualifiers), index, time)
