"""Contexts and keys of any size as names of one size: digests, never truncations.

Knows BLAKE2b. Does not know any backend, nor what a name is put together with.

Hashed are the length of the context, the context and the key, so that ("a", "bc") and ("ab", "c")
differ. 256 bits: nobody finds two that collide. The alphabet is base64url, which has neither blanks
nor braces nor line ends: no key can speak a server's protocol or move its own hash slot.
"""

from __future__ import annotations

import base64
import functools
import hashlib

NAME_CHARS = 43


def context_digest(context: str) -> bytes:
    """The digest of a context by itself."""
    return _begun(context).digest()


def key_digest(context: str, key: str) -> bytes:
    """The digest of a key in its context."""
    hashed = _begun(context).copy()
    hashed.update(b"\1" + key.encode())
    return hashed.digest()


def printable(digest: bytes) -> bytes:
    """A digest as `NAME_CHARS` characters."""
    return base64.urlsafe_b64encode(digest)[:NAME_CHARS]


# Few contexts are in use at a time, and hashing them anew would cost each call a microsecond. No
# more are kept, because one may be 64 KiB.
@functools.lru_cache(maxsize=64)
def _begun(context: str) -> hashlib.blake2b:
    text = context.encode()
    return hashlib.blake2b(len(text).to_bytes(8, "big") + text, digest_size=32)
