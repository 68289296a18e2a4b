"""SAML 2 artifacts of type 4: 44 bytes, each with exactly one text."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError
from sealedstate.errors import MalformedToken, UnsupportedValue
from sealedstate.sso import SAMLArtifact, compute_source_id

IDP = "https://idp.example.org/saml"
DIGESTS = st.binary(min_size=20, max_size=20)
GOOD = SAMLArtifact(compute_source_id(IDP), bytes(20), 1).export()


def is_parsed(text: Any) -> bool:
    try:
        return bool(SAMLArtifact.parse(text).export() == text)
    except MalformedToken:
        return False


def test_an_artifact_is_laid_out_as_the_bindings_say() -> None:
    artifact = SAMLArtifact(compute_source_id(IDP), bytes(range(20)), 258)
    data = base64.b64decode(artifact.export())
    assert data[:2].hex() == "0004"  # TypeCode
    assert data[2:4].hex() == "0102"  # EndpointIndex
    assert data[4:24] == hashlib.sha1(IDP.encode()).digest()  # SourceID
    assert data[24:] == bytes(range(20))  # MessageHandle
    assert artifact.is_from(IDP)
    assert not artifact.is_from(IDP + "/")


@given(DIGESTS, DIGESTS, st.integers(0, 0xFFFF))
def test_an_exported_artifact_parses(source_id: bytes, handle: bytes, index: int) -> None:
    artifact = SAMLArtifact(source_id, handle, index)
    assert SAMLArtifact.parse(artifact.export()) == artifact


def test_anything_else_than_an_artifact_of_type_4_is_refused() -> None:
    for value in (
        "",
        GOOD[:-1],
        GOOD + "=",
        GOOD + "\n",
        " " + GOOD[1:],
        "AAQ" + GOOD[3:-2] + "==",
        GOOD[:-2] + "B=",  # bits that base64 does not use
        GOOD.replace("A", "-"),
        "\u0410" + GOOD[1:],  # looks like an A
        base64.b64encode(b"\x00\x03" + bytes(42)).decode(),
        base64.b64encode(b"\x00\x04" + bytes(43)).decode(),
        None,
        5,
        GOOD.encode(),
        [*GOOD],
    ):
        assert not is_parsed(value), value


@given(st.text(max_size=70) | st.binary(min_size=44, max_size=44).map(base64.b64encode).map(str))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    is_parsed(text)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="latin-1"))
def test_an_artifact_has_exactly_one_text(place: int, letter: str) -> None:
    other = GOOD[:place] + letter + GOOD[place + 1 :]
    if is_parsed(other) and other != GOOD:
        assert SAMLArtifact.parse(other) != SAMLArtifact.parse(GOOD)


def test_values_that_no_artifact_holds_are_refused() -> None:
    digest = bytes(20)
    cases: list[tuple[type[Exception], tuple[Any, ...]]] = [
        (ConfigurationError, (b"", digest, 0)),
        (ConfigurationError, (digest, bytes(19), 0)),
        (ConfigurationError, (digest, digest, -1)),
        (ConfigurationError, (digest, digest, 1 << 16)),
        (UnsupportedValue, ("x" * 20, digest)),
        (UnsupportedValue, (digest, None)),
        (UnsupportedValue, (digest, digest, "1")),
    ]
    for error, fields in cases:
        with pytest.raises(error):
            SAMLArtifact(*fields)


def test_the_handle_stays_out_of_the_repr() -> None:
    assert "secret-handle" not in repr(SAMLArtifact(bytes(20), b"secret-handle-secret"))
