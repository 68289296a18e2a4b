"""One element cut out of an XML text, or put into one, without another letter changing.

Knows namespaces. Does not know SAML or SOAP. A signature covers prefixes too: a parser that invents
its own would break it.
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
    """No XML, or XML with entities or a document type, or not what it should hold."""


def only_child(text: str | bytes, namespace: str, parent: str) -> str:
    """The one element in `parent`, which stands in the root, as a text of its own."""
    found = [node for node in _elements(_root(text)) if _is(node, namespace, parent)]
    children = _elements(found[0]) if len(found) == 1 else []
    if len(children) != 1:
        raise MalformedXML(f"not exactly one {parent} with one element")
    return _alone(children[0])


def child_named(text: str | bytes, namespace: str, name: str) -> str | None:
    """The root's child of that name as a text of its own; None where there is none."""
    found = [node for node in _elements(_root(text)) if _is(node, namespace, name)]
    if len(found) > 1:
        raise MalformedXML(f"more than one {name}")
    return _alone(found[0]) if found else None


def enveloped(element: str) -> str:
    """A SOAP envelope around an element."""
    body = without_declaration(element)
    return f'<s:Envelope xmlns:s="{SOAP}"><s:Body>{body}</s:Body></s:Envelope>'


def without_declaration(text: str) -> str:
    """The text without ``<?xml ... ?>``."""
    return text.partition("?>")[2].lstrip() if text.startswith("<?xml") else text


def _root(text: str | bytes) -> Element:
    data: Any = text.encode() if isinstance(text, str) else text  # typeshed knows of text alone
    try:
        root: Element | None = parseString(data).documentElement
    except (ExpatError, DefusedXmlException, ValueError) as error:
        raise MalformedXML("the text is no XML that is read here") from error
    if root is None:
        raise MalformedXML("the text has no element")
    return root


def _elements(node: Element) -> list[Element]:
    return [child for child in node.childNodes if isinstance(child, Element)]


def _is(node: object, namespace: str, name: str) -> bool:
    return isinstance(node, Element) and node.namespaceURI == namespace and node.localName == name


def _alone(element: Element) -> str:
    """The element with the namespaces that it had from around it."""
    around = element.parentNode
    while isinstance(around, Element):
        for name, value in around.attributes.items():
            if name.split(":")[0] == "xmlns" and not element.hasAttribute(name):
                element.setAttribute(name, value)
        around = around.parentNode
    return element.toxml()
