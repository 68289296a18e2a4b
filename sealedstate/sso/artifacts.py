"""Messages that are fetched once, by exactly one asker: what SAML's artifact binding needs.

    handle = artifacts.put(response, "https://sp.example.org/shibboleth", 60, now)
    message = artifacts.take(handle, "https://sp.example.org/shibboleth", now)  # the second: None

Knows bytes, for whom they are and how long they stay. Does not know SAML: what a handle looks like
on its way is `saml_artifacts`, and who is asking has been proved before.

A row's key is a hash of the handle, which nobody can guess, so whoever reads the store can't ask
for what is in it. Its value is sealed: the recipient behind its length in 4 bytes, and the message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from dataclasses import dataclass, field
from typing import Self

from .._wire.token import OVERHEAD_BYTES
from ..deployment import Deployment
from ..errors import (
    CapacityError,
    ConfigurationError,
    MalformedToken,
    OutcomeUnknown,
    StorageUnavailable,
    UnreadableError,
    UnsupportedValue,
    VersionMismatch,
)
from ..keyring import length_prefixed
from ..storage.contract import Stored, millis, next_version, utf8
from .deployment import SsoDeployment

CONTEXT = "sealedstate.sso.artifact"
HANDLE_BYTES = 20
LONGEST = 3600
WRITE_TRIES = 3

log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class ArtifactStore:
    """The messages that wait to be fetched, on all nodes of one deployment."""

    deployment: SsoDeployment

    @classmethod
    def of(cls, deployment: Deployment) -> Self:
        """That of `settings`. Raises ConfigurationError: no store, or an unfit one."""
        return cls(SsoDeployment.of(deployment, "artifacts"))

    @property
    def message_bytes(self) -> int:
        """The largest message that the store takes, beside a recipient of 1024 bytes."""
        room = self.deployment.storage.capabilities.value_bytes
        return max(0, room - OVERHEAD_BYTES - 4 - 1024)

    def put(self, message: bytes, recipient: str, lifetime: int, now: float) -> bytes:
        """Keep a message for `recipient`, an entityID, for `lifetime` seconds; its handle.

        The handle is 20 random bytes. Raises CapacityError, before any I/O, for a message that the
        store can't take; ConfigurationError for no recipient or for a lifetime that is not 1 to
        3600; UnsupportedValue for a message that is not bytes or a recipient that is no text;
        StorageError or NoPrimaryKey.
        """
        if type(message) is not bytes:
            raise UnsupportedValue("an artifact's message", "it is bytes")
        if type(recipient) is not str:
            raise UnsupportedValue("an artifact's recipient", "it is text")
        if not recipient or not 0 < lifetime <= LONGEST:
            raise ConfigurationError(f"an artifact is for somebody, and for 1 to {LONGEST} seconds")
        data = length_prefixed(utf8(recipient)) + message
        self._check_size(data)
        handle = self.deployment.rows.random(HANDLE_BYTES)
        self._create(self._key(handle), data, millis(now + lifetime), now)
        self.deployment.answered()
        return handle

    def take(self, handle: bytes, recipient: str, now: float) -> bytes | None:
        """The message of a handle, and nobody gets it again; None where there is none for him.

        Who is not the recipient leaves it where it is. Raises StorageError: then he has not got
        it, and may ask again; where the reply got lost (OutcomeUnknown), it may be gone for good.
        """
        if type(handle) is not bytes or len(handle) != HANDLE_BYTES or type(recipient) is not str:
            return None
        key = self._key(handle)
        stored = self.deployment.storage.read(CONTEXT, key)
        message = None if stored is None else self._opened(key, stored, recipient, now)
        if stored is None or message is None or not self._consumed(key, stored.version):
            return None
        self.deployment.answered()
        return message

    def _key(self, handle: bytes) -> str:
        return self.deployment.hashed_name("artifact", handle)

    def _check_size(self, data: bytes) -> None:
        size, most = len(data), self.deployment.storage.capabilities.value_bytes - OVERHEAD_BYTES
        if size > most:
            raise CapacityError(f"an artifact of {size} bytes; the store takes {most}")

    def _create(self, key: str, data: bytes, until: int, now: float) -> None:
        at, version = self.deployment, next_version(now)
        value = at.rows.seal_row(CONTEXT, key, version, data, at.keyring(), now)
        for left in reversed(range(WRITE_TRIES)):
            try:
                # Where there is one, it is ours: nobody else knows the handle.
                at.storage.create(CONTEXT, key, value, until, version)
                return
            except OutcomeUnknown:
                if not left:
                    raise

    def _opened(self, key: str, stored: Stored, recipient: str, now: float) -> bytes | None:
        at = self.deployment
        try:
            data = at.rows.open_row(CONTEXT, key, stored, at.keyring(), now)
        except UnreadableError as error:
            if error.keeps_cookie:
                why = f"an artifact is unreadable here ({error.reason})"
                raise StorageUnavailable(why) from error
            return None
        end = 4 + int.from_bytes(data[:4], "big")
        if not hmac.compare_digest(data[4:end], recipient.encode("utf-8", "surrogatepass")):
            log.warning("an artifact was asked for by somebody whom it is not for")
            return None
        return data[end:]

    def _consumed(self, key: str, version: int) -> bool:
        """Whether it was us who deleted it."""
        try:
            return self.deployment.storage.delete(CONTEXT, key, version)
        except VersionMismatch:
            return False


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
                raise UnsupportedValue(
                    f"SAMLArtifact.{name}",
                    f"expected {kind.__name__}, got {type(value).__name__}",
                )
        if len(self.source_id) != DIGEST_BYTES or len(self.handle) != DIGEST_BYTES:
            raise ConfigurationError(
                f"SAMLArtifact.source_id, handle: must have {DIGEST_BYTES} bytes each,"
                f" got {len(self.source_id)} and {len(self.handle)}"
            )
        if not 0 <= self.endpoint_index <= MAX_INDEX:
            raise ConfigurationError(
                f"SAMLArtifact.endpoint_index: must be 0 to {MAX_INDEX}, got {self.endpoint_index}"
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
