"""What a release wrote, every later one reads, and writes again."""

from __future__ import annotations

import json

import pytest

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


def test_the_registry_reads_and_is_written_as_before() -> None:
    assert REGISTRY.entities == tuple(SERVICES)
    assert [version.entities for version in REGISTRY.versions] == [20, 30]
    assert registry_text() == FROZEN["registry"]


@pytest.mark.parametrize("name", FROZEN["columns"])
def test_columns_read_and_are_written_as_before(name: str) -> None:
    data, logins = bytes.fromhex(FROZEN["columns"][name]), frozenset(sets()[name])
    assert decode_logins(data, REGISTRY) == logins
    assert encode_logins(logins, REGISTRY) == data


@pytest.mark.parametrize("name", FROZEN["heads"])
def test_heads_read_and_are_written_as_before(name: str) -> None:
    data, given = bytes.fromhex(FROZEN["heads"][name]), frozenset(heads()[name])
    assert frozenset(expand(kept, NOW) for kept in decode_head(data)) == given
    assert encode_head(compact(one, NOW) for one in given) == data


@pytest.mark.parametrize("service", FROZEN["transient"])
def test_transient_name_ids_open_and_are_made_as_before(service: str) -> None:
    text, made = FROZEN["transient"][service], identifiers()
    assert made.open_name_id(text, service, NOW) == SESSION_ID
    assert made.transient_name_id(SESSION_ID, service, NOW) == text


@pytest.mark.parametrize("service", FROZEN["index"])
def test_session_indexes_open_and_are_made_as_before(service: str) -> None:
    text, made = FROZEN["index"][service], identifiers()
    assert made.open_session_index(text, service, NOW) == SESSION_ID
    assert made.session_index(SESSION_ID, service, NOW) == text


@pytest.mark.parametrize("service", FROZEN["pairwise"])
def test_pairwise_name_ids_stay_for_ever(service: str) -> None:
    assert identifiers().pairwise_name_id("jdoe", service) == FROZEN["pairwise"][service]
