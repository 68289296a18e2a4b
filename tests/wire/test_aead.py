"""Both ways to the cipher give the published answer, and the direct one only where it does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import _sodium

from sealedstate._wire import aead

KEYS = st.binary(min_size=32, max_size=32)
NONCES = st.binary(min_size=24, max_size=24)


def library() -> tuple[Any, Any]:
    return _sodium.lib, _sodium.ffi


DIRECT, PUBLIC = aead.direct_cipher(*library()), aead.public_cipher()


@pytest.mark.parametrize("cipher", [DIRECT, PUBLIC, aead.CIPHER], ids=["direct", "public", "used"])
def test_the_published_answer_is_given_and_no_altered_one_taken(cipher: aead.Cipher) -> None:
    assert aead.is_correct(cipher)


def test_with_the_library_as_it_is_the_direct_way_is_taken() -> None:
    assert aead.CIPHER.encrypt.__qualname__.startswith("direct_cipher")


@given(st.binary(max_size=300), st.binary(max_size=100), NONCES, KEYS)
def test_what_one_way_encrypts_the_other_decrypts(
    message: bytes, data: bytes, nonce: bytes, key: bytes
) -> None:
    for one, other in ((DIRECT, PUBLIC), (PUBLIC, DIRECT)):
        sealed = one.encrypt(message, data, nonce, key)
        assert type(sealed) is bytes
        assert other.decrypt(sealed, data, nonce, key) == message
        assert other.decrypt(sealed, data + b"x", nonce, key) is None


@given(st.binary(max_size=40), KEYS)
def test_what_is_too_short_or_forged_is_not_authentic(sealed: bytes, key: bytes) -> None:
    for cipher in (DIRECT, PUBLIC):
        assert cipher.decrypt(sealed, b"", bytes(24), key) is None


@pytest.mark.parametrize(("nonce", "key"), [(23, 32), (25, 32), (24, 31), (24, 33), (0, 0)])
def test_a_nonce_or_key_of_another_length_never_reaches_the_library(nonce: int, key: int) -> None:
    with pytest.raises(ValueError):
        DIRECT.encrypt(b"m", b"", bytes(nonce), bytes(key))
    with pytest.raises(ValueError):
        DIRECT.decrypt(bytes(40), b"", bytes(nonce), bytes(key))


def broken(**functions: Any) -> Any:
    names = ("encrypt", "decrypt")
    prefix = "crypto_aead_xchacha20poly1305_ietf_"
    real = {prefix + name: getattr(_sodium.lib, prefix + name) for name in names}
    return SimpleNamespace(**real | {prefix + name: to for name, to in functions.items()})


def missing() -> tuple[Any, Any]:
    raise ImportError("no such module")


@pytest.mark.parametrize(
    "load",
    [
        missing,
        lambda: (SimpleNamespace(), _sodium.ffi),
        lambda: (broken(encrypt=lambda *_: 0), _sodium.ffi),
        lambda: (broken(decrypt=lambda *_: 0), _sodium.ffi),
        lambda: (broken(decrypt=lambda *_: -1), _sodium.ffi),
        lambda: (broken(encrypt=lambda only: 0), _sodium.ffi),
    ],
    ids=["gone", "renamed", "seals nothing", "opens all", "opens nothing", "other arguments"],
)
def test_a_library_that_has_changed_is_left_for_the_public_functions(load: Any) -> None:
    chosen = aead.choose_cipher(load)
    assert aead.is_correct(chosen)
    assert not chosen.encrypt.__qualname__.startswith("direct_cipher")
