"""Later releases read what a release wrote, and write the same again."""

from __future__ import annotations

import json

from sealedstate.sso import parse_registry
from sealedstate.sso._codec.authentications import compact, decode_head, encode_head, expand
from sealedstate.sso._codec.columns import decode_logins, encode_logins
from tests.sso.make_vectors import (
    FILE,
    NOW,
    SERVICES,
    SESSION_ID,
    heads,
    identifiers,
    registry_text,
    sets,
)

FROZEN = json.loads(FILE.read_text("utf-8"))
REGISTRY = parse_registry(FROZEN["registry"])


def test_the_registry_is_read_and_written_as_before() -> None:
    assert REGISTRY.entities == tuple(SERVICES)
    assert [version.entities for version in REGISTRY.versions] == [20, 30]
    assert registry_text() == FROZEN["registry"]


def test_columns_are_read_and_written_as_before() -> None:
    given = sets()
    assert given.keys() == FROZEN["columns"].keys()
    for name, text in FROZEN["columns"].items():
        data, logins = bytes.fromhex(text), frozenset(given[name])
        assert decode_logins(data, REGISTRY) == logins, name
        assert encode_logins(logins, REGISTRY) == data, name


def test_heads_are_read_and_written_as_before() -> None:
    given = heads()
    assert given.keys() == FROZEN["heads"].keys()
    for name, text in FROZEN["heads"].items():
        data, authentications = bytes.fromhex(text), frozenset(given[name])
        assert frozenset(expand(each, NOW) for each in decode_head(data)) == authentications, name
        assert encode_head(compact(each, NOW) for each in authentications) == data, name


def test_identifiers_are_opened_and_derived_as_before() -> None:
    ids = identifiers()
    for service, text in FROZEN["transient"].items():
        assert ids.open_name_id(text, service, NOW) == SESSION_ID
        assert ids.transient_name_id(SESSION_ID, service, NOW) == text
    for service, text in FROZEN["index"].items():
        assert ids.open_session_index(text, service, NOW) == SESSION_ID
        assert ids.session_index(SESSION_ID, service, NOW) == text
    for service, text in FROZEN["pairwise"].items():
        assert ids.pairwise_name_id("jdoe", service) == text
