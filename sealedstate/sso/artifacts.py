"""Messages that exactly one recipient fetches once, as SAML's artifact binding needs.

    handle = artifacts.put(response, "https://sp.example.org/shibboleth", 60)
    message = artifacts.take(handle, "https://sp.example.org/shibboleth")  # again: None

`SAMLArtifact` is what travels in place of the message and leads to a handle. The caller
authenticates the service that asks.

A row of the context ``sealedstate.sso.artifact`` (see docs/format.md) is named by a hash, from
which the handle cannot be computed, so reading the store does not help to fetch a message. The
value is sealed: the recipient's UTF-8 behind its length in 4 bytes, and the message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from dataclasses import dataclass, field
from typing import Self

from .._stored.table import Kind
from ..deployment import Deployment
from ..errors import CapacityError, ConfigurationError, MalformedToken, show_value
from ..keyring import length_prefixed
from ..storage.contract import millis, utf8
from .logins import check_seconds, make_type_error

__all__ = ["ArtifactStore", "SAMLArtifact", "compute_source_id"]

KIND = Kind("sealedstate.sso.artifact", "artifact", "an artifact")
HANDLE_BYTES = 20
LONGEST = 3600

log = logging.getLogger("sealedstate")


class ArtifactStore:
    """The messages of one deployment that wait to be fetched, on all its nodes.

    Raises ConfigurationError without a store, and if it falls short of the requirements of
    ``artifacts``.
    """

    def __init__(self, deployment: Deployment) -> None:
        deployment.require("artifacts")
        self._deployment, self._table = deployment, deployment.table(KIND)

    @property
    def message_bytes(self) -> int:
        """The largest message that the store takes for a recipient of 1024 bytes."""
        return max(0, self._table.value_bytes - 4 - 1024)

    def put(self, message: bytes, recipient: str, lifetime: int) -> bytes:
        """Keep a message for `recipient`, an entityID, for `lifetime` seconds.

        Returns its handle, 20 random bytes. Raises CapacityError if the message is too large
        for the store, before any I/O; ConfigurationError for an empty recipient or a lifetime
        that is not 1 to 3600; UnsupportedValue for a message that is not bytes, a recipient
        that is not text or a lifetime that is no number; StorageError or NoPrimaryKey.
        """
        if type(message) is not bytes:
            raise make_type_error("message", "bytes", message)
        if type(recipient) is not str:
            raise make_type_error("recipient", "text", recipient)
        check_seconds("lifetime", lifetime)
        if not recipient or not 0 < lifetime <= LONGEST:
            raise ConfigurationError(
                "recipient, lifetime: must not be empty, and must be 1 to"
                f" {LONGEST} seconds; got {show_value(recipient)}"
                f" and {show_value(lifetime)}"
            )
        data = length_prefixed(utf8(recipient)) + message
        if len(data) > self._table.value_bytes:
            raise CapacityError(
                f"an artifact of {len(data)} bytes; the store takes {self._table.value_bytes}"
            )
        handle = self._deployment.random(HANDLE_BYTES)
        expires_at = millis(self._deployment.now() + lifetime)
        self._table.create(self._table.key(handle), data, expires_at)
        return handle

    def take(self, handle: bytes, recipient: str) -> bytes | None:
        """The message of a handle; no later call gets it. None if there is none.

        A caller that is not the recipient gets None and leaves the message where it is.
        Raises StorageError: the message was not handed out, and the recipient may ask again;
        after OutcomeUnknown it may be gone.
        """
        if type(handle) is not bytes or len(handle) != HANDLE_BYTES or type(recipient) is not str:
            return None
        key = self._table.key(handle)
        entry = self._table.read(key)
        if entry is None:
            return None
        end = 4 + int.from_bytes(entry.value[:4], "big")
        # With a lone surrogate it equals no recipient, because `put` takes none.
        asking = recipient.encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(entry.value[4:end], asking):
            log.warning("an artifact was asked for by a service that is not its recipient")
            return None
        # Of several callers that have read the message, the caller that deletes the row gets it.
        return entry.value[end:] if self._table.delete(key, entry.version) else None


# --- SAML ---------------------------------------------------------------------------------------

TYPE_CODE = b"\x00\x04"
DIGEST_BYTES = 20
ARTIFACT_BYTES = 44
ARTIFACT_CHARS = 60
MAX_INDEX = 0xFFFF


@dataclass(frozen=True, slots=True)
class SAMLArtifact:
    """A SAML 2 artifact of type 0x0004 (saml-bindings-2.0-os, 3.6.4).

    It is base64 of 44 bytes:

        TypeCode 0x0004 (2 bytes) | EndpointIndex (2) | SourceID (20) | MessageHandle (20)

    `source_id` is the SHA-1 digest of the issuer's entityID; by it the recipient finds the issuer.
    Holding the handle is enough to ask for the message, so the repr leaves it out. Raises
    UnsupportedValue for values of another type, ConfigurationError for values of another size.
    """

    source_id: bytes
    handle: bytes = field(repr=False)
    endpoint_index: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("source_id", bytes), ("handle", bytes), ("endpoint_index", int)):
            value = getattr(self, name)
            if type(value) is not kind:
                raise make_type_error(f"SAMLArtifact.{name}", kind.__name__, value)
        if len(self.source_id) != DIGEST_BYTES or len(self.handle) != DIGEST_BYTES:
            raise ConfigurationError(
                f"SAMLArtifact.source_id, handle: must have {DIGEST_BYTES} bytes each,"
                f" got {len(self.source_id)} and {len(self.handle)}"
            )
        if not 0 <= self.endpoint_index <= MAX_INDEX:
            raise ConfigurationError(
                f"SAMLArtifact.endpoint_index: must be 0 to {MAX_INDEX}, got"
                f" {show_value(self.endpoint_index)}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a `SAMLart` value. Raises MalformedToken for everything else."""
        if type(text) is not str or len(text) != ARTIFACT_CHARS or not text.isascii():
            raise MalformedToken
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            raise MalformedToken from None
        # Encoding again refuses a second text of the same artifact, with other unused bits.
        if data[:2] != TYPE_CODE or len(data) != ARTIFACT_BYTES or _to_base64(data) != text:
            raise MalformedToken
        return cls(data[4:24], data[24:], int.from_bytes(data[2:4], "big"))

    def export(self) -> str:
        """Return the text that `parse` reads, 60 characters. It contains the handle."""
        index = self.endpoint_index.to_bytes(2, "big")
        return _to_base64(TYPE_CODE + index + self.source_id + self.handle)

    def is_from(self, entity_id: str) -> bool:
        """Whether `entity_id` is the issuer's."""
        return hmac.compare_digest(self.source_id, compute_source_id(entity_id))


def compute_source_id(entity_id: str) -> bytes:
    """Return the SourceID of an issuer, which identifies it and proves nothing."""
    return hashlib.sha1(entity_id.encode(), usedforsecurity=False).digest()


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
