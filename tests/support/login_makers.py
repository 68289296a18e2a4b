"""What the tests of login records are made of: hostile values, registries, keys.

Knows hypothesis and the values. Does not know what is tested with them.
"""

from __future__ import annotations

from base64 import b32encode, b64encode, urlsafe_b64encode
from uuid import UUID

from hypothesis import strategies as st

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
from sealedstate.sso._codec.tables import METHODS, NAME_ID_FORMATS
from sealedstate.sso.logins import Derivation, Derived

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
    time: int = NOW,
    name: str | Derived = "_" + "5" * 32,
    index: str | Derived | None = "_" + "6" * 32,
) -> ServiceLogin:
    return ServiceLogin(entity_id, METHODS[0], NameID(name), index, time)


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
RAW = st.binary(min_size=1, max_size=70)
# What identity providers write, and what only nearly looks like it.
IDENTIFIERS = st.one_of(
    RAW.map(lambda data: "_" + data.hex()),
    RAW.map(lambda data: "_" + data.hex().upper()),
    RAW.map(lambda data: "_" + data.hex()[:-1]),
    RAW.map(lambda data: "id-" + data.hex()),
    RAW.map(lambda data: b64encode(data).decode()),
    RAW.map(lambda data: b64encode(data).decode().rstrip("=")),
    RAW.map(lambda data: b64encode(data).decode() + "="),
    RAW.map(lambda data: urlsafe_b64encode(data).decode()),
    RAW.map(lambda data: urlsafe_b64encode(data).decode().rstrip("=")),
    RAW.map(lambda data: b32encode(data).decode().lower()),
    RAW.map(lambda data: b32encode(data).decode().rstrip("=")),
    st.binary(min_size=16, max_size=16).map(lambda data: str(UUID(bytes=data))),
    st.binary(min_size=16, max_size=16).map(lambda data: str(UUID(bytes=data)).upper()),
    st.binary(min_size=16, max_size=16).map(lambda data: UUID(bytes=data).urn),
    st.from_regex(r"[A-Za-z0-9+/_=-]{16,45}", fullmatch=True),
)
TEXTS = st.one_of(ANY_TEXT, IDENTIFIERS)
MADE = st.one_of(
    st.just(Derived(Derivation.SUBJECT)),
    st.binary(min_size=4, max_size=4).map(lambda kid: Derived(Derivation.PAIRWISE, kid)),
    st.builds(
        Derived,
        st.just(Derivation.DERIVED),
        st.binary(min_size=4, max_size=4),
        st.binary(min_size=4, max_size=4),
    ),
)
ENTITIES = st.one_of(st.sampled_from(ENTITY_IDS), ANY_TEXT, st.just(SP), st.just(SP + "x" * 1024))
SOME_METHODS = st.one_of(st.sampled_from(METHODS), ANY_TEXT)
OPTIONAL = st.one_of(st.none(), ENTITIES)
NAME_IDS = st.builds(
    NameID,
    st.one_of(TEXTS, MADE),
    st.one_of(st.none(), st.sampled_from(NAME_ID_FORMATS), ANY_TEXT),
    OPTIONAL,
    OPTIONAL,
)
TIMES = st.one_of(
    st.integers(NOW - 30_000, NOW),
    st.integers(0, (1 << 40) - 1),
    st.integers(0, 100).map(lambda minutes: NOW - 60 * minutes),
)
LOGINS = st.builds(
    ServiceLogin, ENTITIES, SOME_METHODS, NAME_IDS, st.one_of(st.none(), TEXTS, MADE), TIMES
)
LOGIN_SETS = st.frozensets(LOGINS, max_size=12)
