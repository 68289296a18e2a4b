"""docs/format.md names what the code and the vectors have."""

from __future__ import annotations

import json
import re

from sealedstate import errors, keyring
from sealedstate._wire import cbor, encoding, record, token
from sealedstate.rotation import document, ring
from sealedstate.storage.requirements import USES
from tests.support.documents import ROOT, Document

FORMAT = " ".join(Document("format.md").text.split())
VECTORS = ROOT / "tests" / "vectors"


def test_every_file_of_vectors_is_named() -> None:
    named = set(re.findall(r"`([\w*-]+\.json)`", FORMAT))
    files = {re.sub(r"^sso.*", "sso*.json", path.name) for path in VECTORS.glob("*.json")}
    assert files == named


def test_every_outcome_is_an_error_and_every_error_of_a_vector_an_outcome() -> None:
    outcomes = set(re.findall(r"`((?:[A-Z][a-z]+){2,})`", FORMAT))
    for outcome in outcomes:
        assert issubclass(getattr(errors, outcome), errors.UnreadableError), outcome
    refused = json.loads((VECTORS / "format1-refused.json").read_text("utf-8"))
    sessions = json.loads((VECTORS / "format1.json").read_text("utf-8"))["sessions"]
    named = {vector["error"] for vector in refused["tokens"]}
    named |= {vector["outcome"] for vector in sessions} - {None}
    edges = json.loads((VECTORS / "format1-edges.json").read_text("utf-8"))
    named |= {token["outcome"] for vector in edges["windows"] for token in vector["tokens"]}
    named |= {vector["outcome"] for vector in edges["protected"]}
    assert "`too old`" in FORMAT
    assert named - {None, "too old"} <= outcomes


def test_every_context_of_a_store_is_named() -> None:
    for use in USES.values():
        for context in use.contexts:
            assert f"`{context}`" in FORMAT, context


def test_limits_are_those_of_the_code() -> None:
    assert f"at most {cbor.MAX_BYTES:,} bytes" in FORMAT
    assert f"nested at most {cbor.MAX_DEPTH} deep" in FORMAT
    assert f"at most {cbor.MAX_ODD_MEMBERS} members" in FORMAT
    assert f"less than 2^{cbor.MAX_BIG_INT_BITS}." in FORMAT
    assert f"a is from -{cbor.MAX_EXPONENT} to {cbor.MAX_EXPONENT}." in FORMAT
    assert f"take at most {record.MAX_FIELDS_BYTES} bytes" in FORMAT
    assert f"1 to {record.LAST_CRITICAL} are *critical*" in FORMAT
    assert f"names to 1 to {record.MAX_NAME_BYTES} bytes" in FORMAT
    assert f"subjects to {record.MAX_SUBJECT_BYTES} bytes" in FORMAT
    assert f"| {record.PADDING} | padding" in FORMAT
    assert f"NAME-1 to NAME-{record.MAX_CHUNKS}" in FORMAT
    assert f"{token.OVERHEAD_BYTES} bytes more than its payload" in FORMAT
    assert f"at most {document.MAX_BYTES:,} bytes" in FORMAT
    assert f"(1 to {ring.MAX_SECONDS:,} each)" in FORMAT
    assert f"`{keyring.KEY_LABEL}:`" in FORMAT
    assert f"`{keyring.LOOKUP_LABEL}:`" in FORMAT
    for word in encoding.REFUSED_WORDS:
        assert f"`{word}`" in FORMAT
