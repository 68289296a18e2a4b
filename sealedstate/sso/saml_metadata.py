"""The entityIDs of the service providers in a SAML metadata file, however large it is.

Knows SAML metadata (OASIS saml-metadata-2.0-os) as far as roles. Does not know registries, and does
not check signatures: a registry only shortens what is stored, it trusts nobody.

The file is read in pieces and no tree is built. A document type declaration is refused, so there
are no entities to expand and nothing else is fetched.
"""

from __future__ import annotations

from typing import BinaryIO
from xml.parsers import expat

from .errors import MetadataUnreadable

NAMESPACE = "urn:oasis:names:tc:SAML:2.0:metadata"
ENTITY = f"{NAMESPACE} EntityDescriptor"
SERVICE_PROVIDER = f"{NAMESPACE} SPSSODescriptor"
PIECE_BYTES = 1 << 16


def read_service_entity_ids(file: BinaryIO) -> list[str]:
    """Each entityID with the role of a service provider once, in the file's order.

    Raises MetadataUnreadable.
    """
    found = _Found()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = found.start
    parser.buffer_text = True
    try:
        while piece := file.read(PIECE_BYTES):
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise MetadataUnreadable(f"the metadata is no XML: {error}") from None
    return list(found.services)


class _Found:
    """What was read until here. Entities are not nested, only groups of them are."""

    def __init__(self) -> None:
        self.services: dict[str, None] = {}
        self._entity_id: str | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == ENTITY:
            self._entity_id = attributes.get("entityID")
        elif name == SERVICE_PROVIDER and self._entity_id:
            self.services[self._entity_id] = None


def _refuse(*_declaration: object) -> None:
    raise MetadataUnreadable("the metadata has a document type declaration, which is not read")
