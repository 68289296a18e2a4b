"""The artifact that travels in place of a SAML 2 message, type 0x0004, and back.

Knows its 44 bytes. Does not know what a handle leads to.

    TypeCode 0x0004 (2 bytes) | EndpointIndex (2) | SourceID (20) | MessageHandle (20), in base64

SourceID is the SHA-1 digest of the issuer's entityID: whoever gets an artifact finds by it whom to
ask. Source: saml-bindings-2.0-os, 3.6.4.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Self

from ..errors import ConfigurationError, MalformedToken, UnsupportedValue

TYPE_CODE = b"\x00\x04"
DIGEST_BYTES = 20
ARTIFACT_BYTES = 44
ARTIFACT_CHARS = 60
LAST_INDEX = 0xFFFF


@dataclass(frozen=True, slots=True)
class SAMLArtifact:
    """An artifact: which endpoint of which issuer gives the message of `handle`, 20 bytes.

    Whoever has the handle may ask, so it stays out of the repr. Raises ConfigurationError for
    values that no artifact holds, UnsupportedValue for those of another type.
    """

    source_id: bytes
    handle: bytes = field(repr=False)
    endpoint_index: int = 0

    def __post_init__(self) -> None:
        if type(self.source_id) is not bytes or type(self.handle) is not bytes:
            raise UnsupportedValue("a SAML artifact", "SourceID and MessageHandle are bytes")
        if type(self.endpoint_index) is not int:
            raise UnsupportedValue("a SAML artifact", "an EndpointIndex is a whole number")
        if len(self.source_id) != DIGEST_BYTES or len(self.handle) != DIGEST_BYTES:
            raise ConfigurationError(f"SourceID and MessageHandle have {DIGEST_BYTES} bytes each")
        if not 0 <= self.endpoint_index <= LAST_INDEX:
            raise ConfigurationError(f"an EndpointIndex is 0 to {LAST_INDEX}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The artifact behind a `SAMLart` value. Raises MalformedToken for all else, None too."""
        if type(text) is not str or len(text) != ARTIFACT_CHARS or not text.isascii():
            raise MalformedToken
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            raise MalformedToken from None
        # Two texts for one artifact would differ in bits that base64 does not use.
        if data[:2] != TYPE_CODE or len(data) != ARTIFACT_BYTES or _base64(data) != text:
            raise MalformedToken
        return cls(data[4:24], data[24:], int.from_bytes(data[2:4], "big"))

    def export(self) -> str:
        """The text that `parse` reads, 60 characters. It holds the handle."""
        index = self.endpoint_index.to_bytes(2, "big")
        return _base64(TYPE_CODE + index + self.source_id + self.handle)

    def is_from(self, entity_id: str) -> bool:
        """Whether `entity_id` is its issuer's."""
        return hmac.compare_digest(self.source_id, source_id_of(entity_id))


def source_id_of(entity_id: str) -> bytes:
    """The SourceID of an issuer. Its digest identifies, and secures nothing."""
    return hashlib.sha1(entity_id.encode(), usedforsecurity=False).digest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
