"""Both ways to the cipher give the published answer; the direct way is used only if it does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate._wire import aead
from tests.support.tables import check_each

LIB, FFI = aead.load_library()
DIRECT, PUBLIC = aead.direct_cipher(LIB, FFI), aead.public_cipher()
KEYS = st.binary(min_size=32, max_size=32)
NONCES = st.binary(min_size=24, max_size=24)


def test_each_cipher_gives_the_published_answer_and_refuses_altered_ones() -> None:
    for cipher in (DIRECT, PUBLIC, aead.CIPHER):
        assert aead.is_correct(cipher)
    assert aead.CIPHER.encrypt.__qualname__.startswith("direct_cipher")


@given(st.binary(max_size=300), st.binary(max_size=100), NONCES, KEYS)
def test_each_cipher_decrypts_what_the_other_encrypts(
    message: bytes, data: bytes, nonce: bytes, key: bytes
) -> None:
    for one, other in ((DIRECT, PUBLIC), (PUBLIC, DIRECT)):
        sealed = one.encrypt(message, data, nonce, key)
        assert type(sealed) is bytes
        assert other.decrypt(sealed, data, nonce, key) == message
        assert other.decrypt(sealed, data + b"x", nonce, key) is None


def test_ciphertexts_around_the_size_of_a_buffer_are_those_of_the_public_functions() -> None:
    nonce, key, most = bytes(24), bytes(range(32)), aead.BUFFER_BYTES - aead.TAG_BYTES
    for size in (0, most + 1, most, 5 * most, 1, most - 1, 0):
        sealed = DIRECT.encrypt(bytes(size), b"data", nonce, key)
        assert sealed == PUBLIC.encrypt(bytes(size), b"data", nonce, key)
        assert DIRECT.decrypt(sealed, b"data", nonce, key) == bytes(size)


def test_threads_that_encrypt_at_the_same_time_share_no_buffer() -> None:
    cipher, nonce = aead.direct_cipher(LIB, FFI), bytes(24)

    def encrypt(number: int) -> bool:
        message, key = bytes([number]) * 2000, bytes([number]) * 32
        return all(
            cipher.decrypt(cipher.encrypt(message, b"", nonce, key), b"", nonce, key) == message
            for _ in range(50)
        )

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(encrypt, range(32)))


@given(st.binary(max_size=40), KEYS)
def test_short_and_forged_ciphertexts_are_not_authentic(sealed: bytes, key: bytes) -> None:
    for cipher in (DIRECT, PUBLIC):
        assert cipher.decrypt(sealed, b"", bytes(24), key) is None


def test_nonce_or_key_of_a_wrong_length_never_reaches_the_library() -> None:
    for nonce, key in ((23, 32), (25, 32), (24, 31), (24, 33), (0, 0)):
        with pytest.raises(ValueError, match="nonce must be 24 bytes"):
            DIRECT.encrypt(b"m", b"", bytes(nonce), bytes(key))
        with pytest.raises(ValueError, match="nonce must be 24 bytes"):
            DIRECT.decrypt(bytes(40), b"", bytes(nonce), bytes(key))


def library_with(**functions: Any) -> tuple[Any, Any]:
    prefix = "crypto_aead_xchacha20poly1305_ietf_"
    real = {prefix + name: getattr(LIB, prefix + name) for name in ("encrypt", "decrypt")}
    changed = {prefix + name: function for name, function in functions.items()}
    return SimpleNamespace(**real | changed), FFI


def missing() -> tuple[Any, Any]:
    raise ImportError("no such module")


def test_public_functions_replace_a_library_that_has_changed() -> None:
    def check(load: Any) -> None:
        cipher = aead.choose_cipher(load)
        assert aead.is_correct(cipher)
        assert not cipher.encrypt.__qualname__.startswith("direct_cipher")

    libraries = {
        "missing": missing,
        "renamed": lambda: (SimpleNamespace(), FFI),
        "seals nothing": lambda: library_with(encrypt=lambda *_: 0),
        "opens everything": lambda: library_with(decrypt=lambda *_: 0),
        "opens nothing": lambda: library_with(decrypt=lambda *_: -1),
        "other arguments": lambda: library_with(encrypt=lambda only: 0),
    }
    check_each(libraries, check)
