"""Digests of contexts and keys, for servers that limit the length or the characters of names.

The digest of a context is the BLAKE2b-256 of its length (8 bytes, big-endian) and the context. The
digest of a key continues with a byte 1 and the key. The length keeps ("a", "bc") and ("ab", "c")
apart. The printable form is base64url without padding: without blanks, braces or line ends, no key
can contain a server's commands or choose its hash slot.
"""

from __future__ import annotations

import base64
import functools
import hashlib

NAME_CHARS = 43


def context_digest(context: str) -> bytes:
    """Return the digest of a context."""
    return _hash_context(context).digest()


def key_digest(context: str, key: str) -> bytes:
    """Return the digest of a key in its context."""
    hashed = _hash_context(context).copy()
    hashed.update(b"\1" + key.encode())
    return hashed.digest()


def printable(digest: bytes) -> bytes:
    """Return a digest as `NAME_CHARS` characters."""
    return base64.urlsafe_b64encode(digest)[:NAME_CHARS]


# Few contexts are in use at a time, and hashing one costs a microsecond. No more are cached,
# because a context may be as long as 64 KiB.
@functools.lru_cache(maxsize=64)
def _hash_context(context: str) -> hashlib.blake2b:
    text = context.encode()
    return hashlib.blake2b(len(text).to_bytes(8, "big") + text, digest_size=32)
