"""The frozen vectors of texts and rings: what is read, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sealedstate import ConfigurationError, Key
from sealedstate._wire.encoding import from_name, from_text, to_name, to_text
from sealedstate.errors import MalformedToken
from sealedstate.key_sources import parse_keyring
from sealedstate.keyring import Keyring, export_lookup, parse_lookup, secret_to_text
from sealedstate.rotation.document import RingUnreadable, parse_ring
from tests.support import spec_decoder
from tests.support.tables import check_each
from tests.vectors import make, make_texts

TEXTS, RINGS = (
    json.loads((make.HERE / name).read_text("utf-8"))
    for name in ("texts.json", "ring-1-meaning.json")
)
KEK = Keyring(
    tuple(Key(bytes.fromhex(key["kid"]), bytes.fromhex(key["secret"])) for key in RINGS["keks"])
)
KEK_SECRETS = {key.kid: key.secret for key in KEK.keys}


def test_vectors_are_what_their_script_makes() -> None:
    for name, vectors in make_texts.files().items():
        assert make.spell(vectors) == (make.HERE / name).read_text("utf-8"), name


def test_frozen_keys_are_read_and_written_alike() -> None:
    for vector in TEXTS["keys"]:
        key = Key(bytes.fromhex(vector["kid"]), bytes.fromhex(vector["secret"]))
        assert key.export() == vector["text"]
        assert Key.parse(vector["text"]) == key
        assert spec_decoder.key_of(vector["text"]) == (key.kid, key.secret)
    for vector in TEXTS["lookups"]:
        assert export_lookup(bytes.fromhex(vector["secret"])) == vector["text"]
        assert parse_lookup(vector["text"]).hex() == vector["secret"]
        assert spec_decoder.lookup_of(vector["text"]).hex() == vector["secret"]
    for vector in TEXTS["lists"]:
        ring = parse_keyring(vector["lines"], 60)
        assert [key.activates_at for key in ring.keys] == vector["activates_at"]


def test_frozen_texts_of_bytes_are_read_and_written_alike() -> None:
    for kind, write, read in (("tokens", to_text, from_text), ("names", to_name, from_name)):
        for vector in TEXTS[kind]:
            data = bytes.fromhex(vector["bytes"])
            assert (write(data), read(vector["text"])) == (vector["text"], data)
    for vector in TEXTS["session_ids"]:
        assert secret_to_text(bytes.fromhex(vector["bytes"])) == vector["text"]


@pytest.mark.parametrize(
    ("kind", "read", "error", "specified"),
    [
        ("bad_keys", Key.parse, ConfigurationError, spec_decoder.key_of),
        ("bad_lookups", parse_lookup, ConfigurationError, spec_decoder.lookup_of),
        ("bad_tokens", from_text, MalformedToken, spec_decoder.token_of),
        ("bad_names", from_name, MalformedToken, spec_decoder.name_of),
    ],
)
def test_frozen_bad_texts_are_refused(
    kind: str,
    read: Callable[[str], object],
    error: type[Exception],
    specified: Callable[[str], object],
) -> None:
    def check(text: str) -> None:
        with pytest.raises(error):
            read(text)
        with pytest.raises(spec_decoder.Refused):
            specified(text)

    check_each(TEXTS[kind], check)


def test_frozen_rings_have_their_meaning() -> None:
    def check(vector: Mapping[str, Any]) -> None:
        ring = parse_ring(vector["text"], KEK if vector["wrapped"] else None, RINGS["now"])
        assert make_texts.meaning(ring).items() <= vector.items()
        specified = spec_decoder.open_ring(
            vector["text"], KEK_SECRETS if vector["wrapped"] else None, RINGS["now"]
        )
        for name, value in specified.items():
            if name in ("keys", "long_term"):
                for found, expected in zip(value, vector[name], strict=True):
                    assert found.items() <= expected.items()
            else:
                assert value == vector[name], name

    check_each(RINGS["rings"], check)


def test_frozen_bad_rings_are_refused() -> None:
    def check(vector: Mapping[str, Any]) -> None:
        with pytest.raises(RingUnreadable):
            parse_ring(vector["text"], KEK if vector["has_kek"] else None, RINGS["now"])
        with pytest.raises(spec_decoder.Refused):
            spec_decoder.open_ring(
                vector["text"], KEK_SECRETS if vector["has_kek"] else None, RINGS["now"]
            )

    check_each(RINGS["refused"], check)
