"""XChaCha20-Poly1305 of libsodium. The only module that imports nacl.

Nine tenths of a short call of PyNaCl's public functions check arguments, in Python. This module
calls the C functions directly, but only if they give the published answer when it is imported. If
they do not (in another release of PyNaCl, say), it uses the public functions.

Source: draft-irtf-cfrg-xchacha-03, appendix A.3.1 (the published answer).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from nacl import bindings
from nacl.exceptions import CryptoError

_log = logging.getLogger("sealedstate")
KEY_BYTES = 32
NONCE_BYTES = 24
TAG_BYTES = 16
# Longer ciphertexts get a buffer for one call.
BUFFER_BYTES = 4096

Encrypt: TypeAlias = Callable[[bytes, bytes, bytes, bytes], bytes]
"""(message, associated data, nonce of 24 bytes, key of 32 bytes) -> ciphertext and tag."""
Decrypt: TypeAlias = Callable[[bytes, bytes, bytes, bytes], bytes | None]
"""(ciphertext and tag, associated data, nonce, key) -> message, or None if it is not authentic."""


class Cipher(NamedTuple):
    """Encryption and decryption."""

    encrypt: Encrypt
    decrypt: Decrypt


def public_cipher() -> Cipher:
    """The cipher by PyNaCl's public functions."""

    def decrypt(sealed: bytes, data: bytes, nonce: bytes, key: bytes) -> bytes | None:
        try:
            return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, data, nonce, key)
        except CryptoError:
            return None
        except ValueError:
            if len(sealed) < TAG_BYTES:
                return None  # too short to have a tag
            raise  # the caller passed a wrong nonce or key

    return Cipher(bindings.crypto_aead_xchacha20poly1305_ietf_encrypt, decrypt)


def open_secretbox(sealed: bytes, nonce: bytes, key: bytes) -> bytes | None:
    """The message of NaCl's secretbox (XSalsa20-Poly1305), or None if it is not authentic."""
    try:
        return bindings.crypto_secretbox_open(sealed, nonce, key)
    except CryptoError:
        return None


def direct_cipher(lib: Any, ffi: Any) -> Cipher:
    """The cipher by the C functions of PyNaCl's library, which check no lengths."""
    seal = lib.crypto_aead_xchacha20poly1305_ietf_encrypt
    open_ = lib.crypto_aead_xchacha20poly1305_ietf_decrypt
    null, chars, new, unpack = ffi.NULL, ffi.typeof("char[]"), ffi.new, ffi.unpack
    # Buffers that no call uses now, for ciphertexts only: making one costs as much as encrypting a
    # short message. Each thread takes its own, because a list's pop and append are atomic.
    buffers: list[Any] = []

    def encrypt(message: bytes, data: bytes, nonce: bytes, key: bytes) -> bytes:
        if len(nonce) != NONCE_BYTES or len(key) != KEY_BYTES:
            # C would read beyond the end of a shorter one.
            raise ValueError("nonce must be 24 bytes, key must be 32 bytes")
        size = len(message)
        sealed_bytes = size + TAG_BYTES
        try:
            out = buffers.pop() if sealed_bytes <= BUFFER_BYTES else new(chars, sealed_bytes)
        except IndexError:
            out = new(chars, BUFFER_BYTES)
        seal(out, null, message, size, data, len(data), null, nonce, key)
        sealed: bytes = unpack(out, sealed_bytes)
        if sealed_bytes <= BUFFER_BYTES:
            buffers.append(out)
        return sealed

    def decrypt(sealed: bytes, data: bytes, nonce: bytes, key: bytes) -> bytes | None:
        if len(nonce) != NONCE_BYTES or len(key) != KEY_BYTES:
            # C would read beyond the end of a shorter one.
            raise ValueError("nonce must be 24 bytes, key must be 32 bytes")
        size = len(sealed)
        if size < TAG_BYTES:
            return None  # too short to have a tag
        out = new(chars, size - TAG_BYTES)
        bad = open_(out, null, null, sealed, size, data, len(data), nonce, key)
        return None if bad else unpack(out, size - TAG_BYTES)

    return Cipher(encrypt, decrypt)


def choose_cipher(load: Callable[[], tuple[Any, Any]]) -> Cipher:
    """The direct cipher if `load` finds a correct library; else the public one."""
    try:
        cipher = direct_cipher(*load())
        if is_correct(cipher):
            return cipher
    except Exception as error:
        # A private name of a dependency may be missing or mean anything.
        _log.info("PyNaCl's C functions are not called directly: %s", type(error).__name__)
    return public_cipher()


def is_correct(cipher: Cipher) -> bool:
    """Whether `cipher` gives the published answer, and refuses every altered one."""
    if cipher.encrypt(_MESSAGE, _DATA, _NONCE, _KEY) != _SEALED:
        return False
    if cipher.decrypt(_SEALED, _DATA, _NONCE, _KEY) != _MESSAGE:
        return False
    altered = (
        _SEALED[:at] + bytes([_SEALED[at] ^ 1]) + _SEALED[at + 1 :] for at in range(len(_SEALED))
    )
    return all(cipher.decrypt(each, _DATA, _NONCE, _KEY) is None for each in altered)


def load_library() -> tuple[Any, Any]:
    """PyNaCl's library and its cffi interface. Raises ImportError."""
    # A private module, without types. `choose_cipher` is prepared for a PyNaCl without it.
    library = importlib.import_module("nacl._sodium")
    return library.lib, library.ffi


_MESSAGE = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future,"
    b" sunscreen would be it."
)
_DATA = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
_KEY = bytes(range(0x80, 0xA0))
_NONCE = bytes(range(0x40, 0x58))
_SEALED = bytes.fromhex(
    "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
    "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
    "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
    "21f9664c97637da9768812f615c68b13b52e"
    "c0875924c1c7987947deafd8780acf49"
)

CIPHER = choose_cipher(load_library)
encrypt, decrypt = CIPHER
