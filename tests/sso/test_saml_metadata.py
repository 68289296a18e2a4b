"""EntityIDs from metadata, and what is refused there."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO, RawIOBase

import pytest

from sealedstate.errors import MetadataUnreadable
from sealedstate.sso import read_service_entity_ids

MD = 'xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata"'


def entity(entity_id: str, role: str = "SPSSODescriptor") -> str:
    return (
        f'<md:EntityDescriptor entityID="{entity_id}"><md:{role} protocolSupportEnumeration="p">'
        f"<md:NameIDFormat>x</md:NameIDFormat></md:{role}></md:EntityDescriptor>"
    )


def metadata(*entities: str) -> bytes:
    text = f"<md:EntitiesDescriptor {MD}>{''.join(entities)}</md:EntitiesDescriptor>"
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


def test_service_providers_are_found_wherever_they_stand() -> None:
    nested = f"<md:EntitiesDescriptor>{entity('https://c')}</md:EntitiesDescriptor>"
    found = read_service_entity_ids(
        BytesIO(metadata(entity("https://a"), entity("https://b?x=1&amp;y=ü"), nested))
    )
    assert found == ["https://a", "https://b?x=1&y=ü", "https://c"]


def test_identity_providers_have_no_number_and_nobody_has_two() -> None:
    both = entity("https://both").replace("</md:EntityDescriptor>", "") + (
        "<md:IDPSSODescriptor/></md:EntityDescriptor>"
    )
    file = BytesIO(
        metadata(entity("https://idp", "IDPSSODescriptor"), both, entity("https://both"))
    )
    assert read_service_entity_ids(file) == ["https://both"]


def test_a_single_entity_is_metadata_too() -> None:
    alone = entity("https://a").replace("<md:EntityDescriptor", f"<md:EntityDescriptor {MD}", 1)
    assert read_service_entity_ids(BytesIO(alone.encode())) == ["https://a"]


def test_elements_of_another_namespace_say_nothing() -> None:
    other = metadata(entity("https://a")).replace(b"SAML:2.0:metadata", b"something:else")
    assert read_service_entity_ids(BytesIO(other)) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no xml",
        metadata(entity("https://a"))[:-5],
        metadata(entity("https://a")) + b"<more/>",
        metadata(entity("https://a")).replace(b"https://a", b"https://\xff"),
        metadata(entity("&unknown;")),
        b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
        b'<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:1/"> %a;]><x/>',
    ],
)
def test_what_is_no_plain_xml_is_refused(data: bytes) -> None:
    with pytest.raises(MetadataUnreadable):
        read_service_entity_ids(BytesIO(data))


class Pieces(RawIOBase):
    """A file that is never there as a whole."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.largest = 0

    def read(self, size: int = -1) -> bytes:
        piece = next(self._pieces, b"")
        assert len(piece) <= size
        self.largest = max(self.largest, size)
        return piece


def test_a_federation_is_read_in_pieces() -> None:
    def pieces() -> Iterator[bytes]:
        yield f"<md:EntitiesDescriptor {MD}>".encode()
        for number in range(5000):
            yield entity(f"https://sp{number}.example.org/").encode()
        yield b"</md:EntitiesDescriptor>"

    file = Pieces(pieces())
    assert len(read_service_entity_ids(file)) == 5000  # type: ignore[arg-type]
    assert file.largest <= 1 << 20
