"""Cut one element out of an XML text, or put it into one, without changing any other letter.

A signature covers prefixes too: a parser that invents new ones would break it.
"""

from __future__ import annotations

from typing import Any
from xml.dom.minidom import Element
from xml.parsers.expat import ExpatError

from defusedxml.common import DefusedXmlException
from defusedxml.minidom import parseString

SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
PROTOCOL = "urn:oasis:names:tc:SAML:2.0:protocol"


class MalformedXML(ValueError):
    """Not XML, or XML with entities or a document type, or without the expected element."""


def extract_only_child(text: str | bytes, namespace: str, parent: str) -> str:
    """The one element in `parent`, a child of the root, as a separate text."""
    found = _children(text, namespace, parent)
    children = _elements(found[0]) if len(found) == 1 else []
    if len(children) != 1:
        raise MalformedXML(f"expected exactly one {parent} with one element")
    return _serialize(children[0])


def extract_child(text: str | bytes, namespace: str, name: str) -> str | None:
    """The root's child of that name as a separate text; None if the root has none."""
    found = _children(text, namespace, name)
    if len(found) > 1:
        raise MalformedXML(f"expected at most one {name}")
    return _serialize(found[0]) if found else None


def wrap_in_envelope(element: str) -> str:
    """A SOAP envelope around an element."""
    body = strip_declaration(element)
    return f'<s:Envelope xmlns:s="{SOAP}"><s:Body>{body}</s:Body></s:Envelope>'


def strip_declaration(text: str) -> str:
    """The text without ``<?xml ... ?>``."""
    return text.partition("?>")[2].lstrip() if text.startswith("<?xml") else text


def _children(text: str | bytes, namespace: str, name: str) -> list[Element]:
    """The root's children of that name. Raises MalformedXML."""
    data: Any = text.encode() if isinstance(text, str) else text  # typeshed wants text alone
    try:
        root: Element | None = parseString(data).documentElement
    except (ExpatError, DefusedXmlException, ValueError) as error:
        raise MalformedXML("the text is not XML, or has entities or a document type") from error
    if root is None:
        raise MalformedXML("the text has no element")
    return [
        child
        for child in _elements(root)
        if child.namespaceURI == namespace and child.localName == name
    ]


def _elements(node: Element) -> list[Element]:
    return [child for child in node.childNodes if isinstance(child, Element)]


def _serialize(element: Element) -> str:
    """The element with the namespaces that elements around it declare."""
    around = element.parentNode
    while isinstance(around, Element):
        for name, value in around.attributes.items():
            if name.split(":")[0] == "xmlns" and not element.hasAttribute(name):
                element.setAttribute(name, value)
        around = around.parentNode
    return element.toxml()
