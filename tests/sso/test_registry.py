"""The registry's file grows and never changes what a number means; SAML metadata fills it."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate.errors import (
    MetadataUnreadable,
    RegistryMissing,
    RegistryUnreadable,
    UnsupportedValue,
)
from sealedstate.sso import (
    Registry,
    extend_registry,
    load_registry,
    parse_registry,
    read_service_entity_ids,
)
from sealedstate.sso.registry import FORMAT, NO_VERSION
from sealedstate.sso.registry import __doc__ as documentation

LINES = st.text(st.characters(codec="utf-8", min_codepoint=32), min_size=1, max_size=20)
GOOD = extend_registry(extend_registry("", ["a", "b"], ["m"]), ["c"])


@given(st.lists(st.lists(LINES, max_size=5), max_size=4), st.lists(LINES, max_size=3))
def test_every_version_of_a_file_is_its_beginning(
    batches: list[list[str]], methods: list[str]
) -> None:
    text, known = "", Registry()
    for batch in batches:
        longer = extend_registry(text, batch, methods)
        assert longer.startswith(text)
        registry = parse_registry(longer)
        assert registry.entities[: len(known.entities)] == known.entities
        assert registry.versions[: len(known.versions)] == known.versions
        assert set(batch) | set(known.entities) == set(registry.entities)
        text, known = longer, registry


def test_numbers_belong_to_a_version() -> None:
    text = extend_registry(extend_registry("", ["a", "b"]), ["c"], ["m"])
    registry = parse_registry(text)
    first, second = registry.versions
    assert (first.number, first.entities, first.methods) == (1, 2, 0)
    assert [registry.entity_number("c", version) for version in (first, second)] == [None, 2]
    assert [registry.method_number("m", version) for version in (first, second)] == [None, 0]
    assert registry.entity_number("z", second) is None
    assert registry.version(1, first.check) == first
    assert registry.latest == second
    for number, check in ((2, b"xx"), (0, b"xx"), (1, b"xx")):
        with pytest.raises(RegistryMissing) as missing:
            registry.version(number, check)
        assert missing.value.version == number


def test_known_entries_make_no_new_version() -> None:
    text = extend_registry("", ["a", "b", "a"])
    assert extend_registry(text, ["b", "a"]) == text
    assert parse_registry(extend_registry("", [])) == Registry()
    assert Registry().latest == NO_VERSION


def test_the_file_reads_as_documented() -> None:
    shown = re.findall(r"^    (sealed.*|entity .*|method .*|version .*)$", documentation, re.M)
    registry = parse_registry("".join(f"{line}\n" for line in shown))
    assert registry.entities == tuple(
        f"https://{sp}.example.org/shibboleth" for sp in ("sp", "another")
    )
    assert registry.methods == ("https://example.org/methods/passkey",)
    first = extend_registry("", registry.entities[:1], registry.methods)
    assert extend_registry(first, registry.entities).splitlines() == shown


def test_a_file_that_is_cut_or_edited_is_refused_and_the_line_is_named() -> None:
    for text, why in (
        ("", "does not begin with"),
        ("x", "does not begin with"),
        ("sealedstate-registry-2\n", "does not begin with"),
        (GOOD[:-1], "was cut"),
        (GOOD[:-5], "was cut"),
        (GOOD + "entity d\n", "was cut"),
        (GOOD + "version 3 " + "0" * 32 + "\n", "line 8 .*without a new entry"),
        (GOOD + "\n", "line 8 .*expected an entity"),
        (GOOD.replace("entity a", "entity A"), "line 5 .*checksum of version 1"),
        (GOOD.replace("entity a\nentity b", "entity b\nentity a"), "line 5 .*checksum"),
        (GOOD.replace("entity a\n", ""), "line 4 .*checksum"),
        (GOOD.replace("entity c", "entity b"), "line 6 .*appears twice"),
        (GOOD.replace("version 2", "version 3"), "line 7 .*expected version 2"),
        (GOOD.replace("version 1", "version 01"), "line 5 .*expected version 1"),
        (GOOD.replace("method m", "method "), "line 4 .*has no text"),
        (GOOD.replace("method m", "something m"), "line 4 .*expected an entity"),
        (FORMAT + "\nversion 1 " + "0" * 32 + "\n", "line 2 .*without a new entry"),
        # What editors and transfers change invisibly.
        (GOOD.replace("\n", "\r\n"), "line ends are CRLF"),
        (GOOD[:-1] + "\r\n", "line ends are CRLF"),
        ("\ufeff" + GOOD, "byte order mark"),
    ):
        with pytest.raises(RegistryUnreadable, match=why):
            parse_registry(text)
        if text:
            with pytest.raises(RegistryUnreadable, match=why):
                extend_registry(text, ["https://another"])


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_a_registry_or_unreadable(text: str) -> None:
    for whole in (text, f"{FORMAT}\n{text}", GOOD + text):
        try:
            parse_registry(whole)
        except RegistryUnreadable:
            continue


def test_an_entry_that_would_break_a_line_is_refused() -> None:
    for text in ("", "a\nb", "a\r", "a\tb", "\ud800"):
        with pytest.raises(UnsupportedValue):
            extend_registry("", [text])
        with pytest.raises(UnsupportedValue):
            extend_registry("", [], [text])


def test_a_registry_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "registry"
    file.write_bytes(GOOD.encode())
    assert load_registry(file).entities == ("a", "b", "c")
    file.write_bytes(GOOD.replace("\n", "\r\n").encode())
    with pytest.raises(RegistryUnreadable, match="CRLF"):
        load_registry(file)
    file.write_bytes(GOOD.encode() + b"\xff")
    for path in (file, tmp_path / "none", tmp_path):
        with pytest.raises(RegistryUnreadable, match=re.escape(str(path))):
            load_registry(path)


# --- SAML metadata ------------------------------------------------------------------------------

MD = 'xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata"'


def entity(entity_id: str, role: str = "SPSSODescriptor") -> str:
    return (
        f'<md:EntityDescriptor entityID="{entity_id}"><md:{role} protocolSupportEnumeration="p">'
        f"<md:NameIDFormat>x</md:NameIDFormat></md:{role}></md:EntityDescriptor>"
    )


def metadata(*entities: str) -> bytes:
    text = f"<md:EntitiesDescriptor {MD}>{''.join(entities)}</md:EntitiesDescriptor>"
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


def test_metadata_yields_each_service_provider_once() -> None:
    nested = f"<md:EntitiesDescriptor>{entity('https://c')}</md:EntitiesDescriptor>"
    both = entity("https://both").replace("</md:EntityDescriptor>", "") + (
        "<md:IDPSSODescriptor/></md:EntityDescriptor>"
    )
    single = entity("https://a").replace("<md:EntityDescriptor", f"<md:EntityDescriptor {MD}", 1)
    foreign = metadata(entity("https://a")).replace(b"SAML:2.0:metadata", b"something:else")
    idp = entity("https://idp", "IDPSSODescriptor")
    cases: list[tuple[bytes, list[str]]] = [
        (
            metadata(entity("https://a"), entity("https://b?x=1&amp;y=ü"), nested),
            ["https://a", "https://b?x=1&y=ü", "https://c"],
        ),
        (metadata(idp, both, entity("https://both")), ["https://both"]),
        (single.encode(), ["https://a"]),
        (foreign, []),
    ]
    for data, entity_ids in cases:
        assert read_service_entity_ids(BytesIO(data)) == entity_ids


def test_metadata_that_is_not_plain_xml_is_refused() -> None:
    good = metadata(entity("https://a"))
    for data in (
        b"",
        b"no xml",
        good[:-5],
        good + b"<more/>",
        good.replace(b"https://a", b"https://\xff"),
        metadata(entity("&unknown;")),
        b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
        b'<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:1/"> %a;]><x/>',
    ):
        with pytest.raises(MetadataUnreadable):
            read_service_entity_ids(BytesIO(data))


def test_metadata_is_read_in_pieces() -> None:
    class Pieces(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size in range(1, 1 << 18)
            return super().read(size)

    file = Pieces(metadata(*(entity(f"https://sp{number}.example.org/") for number in range(5000))))
    assert len(file.getvalue()) > 1 << 19
    assert len(read_service_entity_ids(file)) == 5000
