"""Hypothesis strategies for login records: what services send, and what only looks like it."""

from __future__ import annotations

from base64 import b32encode, b64encode, urlsafe_b64encode
from collections.abc import Callable
from uuid import UUID

from hypothesis import strategies as st

from sealedstate.sso import NameID, ServiceLogin
from sealedstate.sso._codec.tables import METHODS, NAME_ID_FORMATS
from sealedstate.sso.logins import Derivation, Derived
from tests.support.identity_providers import ENTITY_IDS, NOW, SP

ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
SESSION_IDS = st.binary(min_size=16, max_size=16)
_KIDS = st.binary(min_size=4, max_size=4)
_SPELLINGS: tuple[Callable[[bytes], str], ...] = (
    lambda data: "_" + data.hex(),
    lambda data: "_" + data.hex().upper(),
    lambda data: "_" + data.hex()[:-1],
    lambda data: "id-" + data.hex(),
    lambda data: b64encode(data).decode(),
    lambda data: b64encode(data).decode().rstrip("="),
    lambda data: b64encode(data).decode() + "=",
    lambda data: urlsafe_b64encode(data).decode(),
    lambda data: urlsafe_b64encode(data).decode().rstrip("="),
    lambda data: b32encode(data).decode().lower(),
    lambda data: b32encode(data).decode().rstrip("="),
    lambda data: str(UUID(bytes=(data * 16)[:16])),
    lambda data: str(UUID(bytes=(data * 16)[:16])).upper(),
    lambda data: UUID(bytes=(data * 16)[:16]).urn,
)
# What identity providers write, and what nearly looks like it.
IDENTIFIERS = st.one_of(
    st.builds(
        lambda spell, data: spell(data),
        st.sampled_from(_SPELLINGS),
        st.binary(min_size=1, max_size=70),
    ),
    st.from_regex(r"[A-Za-z0-9+/_=-]{16,45}", fullmatch=True),
)
TEXTS = st.one_of(ANY_TEXT, IDENTIFIERS)
PLACEHOLDERS = st.one_of(
    st.just(Derived(Derivation.SUBJECT)),
    st.builds(Derived, st.just(Derivation.PAIRWISE), _KIDS),
    st.builds(Derived, st.just(Derivation.DERIVED), _KIDS, _KIDS),
)
AUTHENTICATION_METHODS = st.one_of(st.sampled_from(METHODS), ANY_TEXT)
_ENTITIES = st.one_of(st.sampled_from([*ENTITY_IDS, SP, SP + "x" * 1024]), ANY_TEXT)
_NAME_IDS = st.builds(
    NameID,
    st.one_of(TEXTS, PLACEHOLDERS),
    st.one_of(st.none(), st.sampled_from(NAME_ID_FORMATS), ANY_TEXT),
    st.one_of(st.none(), _ENTITIES),
    st.one_of(st.none(), _ENTITIES),
)
_TIMES = st.one_of(
    st.integers(NOW - 30_000, NOW),
    st.integers(0, (1 << 40) - 1),
    st.integers(0, 100).map(lambda minutes: NOW - 60 * minutes),
)
LOGIN_SETS = st.frozensets(
    st.builds(
        ServiceLogin,
        _ENTITIES,
        AUTHENTICATION_METHODS,
        _NAME_IDS,
        st.one_of(st.none(), TEXTS, PLACEHOLDERS),
        _TIMES,
    ),
    max_size=12,
)
