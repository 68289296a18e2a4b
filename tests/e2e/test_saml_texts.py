"""What the SAML example reads before any signature is looked at: queries and XML, strictly."""

from __future__ import annotations

import base64
import zlib
from urllib.parse import quote_plus, urlencode

import pytest

from examples.saml.signed_query import MAX_BYTES, BadQuery, inflate, read_query
from examples.saml.xml_text import (
    SOAP,
    MalformedXML,
    extract_child,
    extract_only_child,
    wrap_in_envelope,
)


def deflated(text: bytes) -> str:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(packer.compress(text) + packer.flush()).decode()


# --- queries ------------------------------------------------------------------------------------


def test_signature_covers_the_octets_as_they_were_sent() -> None:
    message = quote_plus(deflated("<é/>".encode()))
    query = f"RelayState=a%2fb&SigAlg=urn%3Ax&SAMLRequest={message}&Signature=AAAA&more=1"
    found = read_query(query)
    assert (found.parameter, found.xml, found.relay_state) == ("SAMLRequest", "<é/>", "a/b")
    assert found.signed == f"SAMLRequest={message}&RelayState=a%2fb&SigAlg=urn%3Ax".encode()
    assert found.signature == bytes(3)
    assert not found.is_signed_by([])


@pytest.mark.parametrize(
    "query",
    [
        "",
        "RelayState=x",
        "SAMLRequest=",
        "SAMLRequest=%21",
        "SAMLRequest=AAAA",
        f"SAMLRequest={quote_plus(deflated(b'<a/>')[:-8])}",
        f"SAMLRequest={quote_plus(deflated(bytes([255])))}",
        f"SAMLRequest={quote_plus(deflated(b'<a/>'))}&Signature=%C3%A9",
        urlencode({"SAMLRequest": deflated(b"<a/>"), "SAMLResponse": deflated(b"<a/>")}),
        urlencode([("SAMLRequest", deflated(b"<a/>"))] * 2),
        "SAMLRequest=%FF&&=",
    ],
)
def test_query_without_exactly_one_message_is_refused(query: str) -> None:
    with pytest.raises(BadQuery):
        read_query(query)


def test_message_that_inflates_without_bound_is_refused() -> None:
    assert len(inflate(deflated(b" " * (MAX_BYTES - 1)))) == MAX_BYTES - 1
    with pytest.raises(BadQuery, match="too long"):
        inflate(deflated(b" " * 100_000_000))


# --- XML ----------------------------------------------------------------------------------------


def test_element_is_cut_out_with_its_prefixes() -> None:
    inner = '<q:a xmlns:q="urn:1" ID="_1"{more}><w:b xmlns:w="urn:2">x</w:b></q:a>'
    enclosed = wrap_in_envelope('<?xml version="1.0"?>\n' + inner.format(more=""))
    assert extract_only_child(enclosed, SOAP, "Body") == inner.format(more=f' xmlns:s="{SOAP}"')


def test_element_is_cut_out_with_the_namespaces_of_its_parents() -> None:
    text = '<o:out xmlns:o="urn:1" xmlns="urn:3"><o:in><deep/></o:in></o:out>'
    cut = extract_child(text, "urn:1", "in")
    assert cut == '<o:in xmlns:o="urn:1" xmlns="urn:3"><deep/></o:in>'
    assert extract_child(text, "urn:3", "in") is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "plain",
        "<a/>",
        f'<s:Envelope xmlns:s="{SOAP}"/>',
        f'<s:Envelope xmlns:s="{SOAP}"><s:Body/></s:Envelope>',
        f'<s:Envelope xmlns:s="{SOAP}"><s:Body><a/><b/></s:Body></s:Envelope>',
        f'<s:Envelope xmlns:s="{SOAP}"><s:Body><a/></s:Body><s:Body><a/></s:Body></s:Envelope>',
        f'<!DOCTYPE x [<!ENTITY e "ee">]>{wrap_in_envelope("<a>&e;</a>")}',
    ],
)
def test_envelope_without_exactly_one_message_is_refused(body: str) -> None:
    with pytest.raises(MalformedXML):
        extract_only_child(body.encode(), SOAP, "Body")
