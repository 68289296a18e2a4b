"""What members say to one another: each message made, and where it says so, signed.

Knows pysaml2's classes of messages. Does not know how they travel, or what follows from them.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from saml2 import BINDING_SOAP, class_name, saml, samlp
from saml2.sigver import pre_signature_part

from sealedstate.sso import NameID, ServiceLogin

from .xml_text import without_declaration

SUCCESS = samlp.STATUS_SUCCESS
PARTIAL_LOGOUT = samlp.STATUS_PARTIAL_LOGOUT
NO_PASSIVE = samlp.STATUS_NO_PASSIVE


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer must repeat of an AuthnRequest: its id, who sent it, where the answer goes."""

    request_id: str
    entity_id: str
    consumer: str


def new_id() -> str:
    """An id for a message: 128 random bits."""
    return f"_{secrets.token_hex(16)}"


# --- sign-on ------------------------------------------------------------------------------------


def authn_request(
    client: Any, destination: str, answered_by: str, message_id: str, sign: bool
) -> str:
    """A service asks who somebody is, and names the binding of the answer."""
    _, message = client.create_authn_request(
        destination, binding=answered_by, message_id=message_id, sign=sign
    )
    return str(message)


def authn_response(
    server: Any, asked: Asked, login: ServiceLogin, person: dict[str, list[str]], ends_at: int
) -> str:
    """Who somebody is, for one service: assertion and response are signed.

    `ends_at` (epoch seconds): from when on the service has to ask again.
    """
    response = server.create_authn_response(
        person,
        asked.request_id,
        asked.consumer,
        asked.entity_id,
        name_id=name_id_element(login.name_id),
        authn={"class_ref": login.method, "authn_instant": login.time},
        session_not_on_or_after=_instant(ends_at),
        sign_response=False,
        sign_assertion=False,
    )
    assertion = response.assertion
    assertion.authn_statement[0].session_index = login.session_index
    _without_types(assertion)
    assertion.signature = _signature(server, assertion.id, 2)
    return str(server.sign(response, to_sign=[(class_name(assertion), assertion.id)]))


def no_passive_response(server: Any, asked: Asked) -> str:
    """Nobody is signed in, and the service did not want anybody to be asked."""
    why = (NO_PASSIVE, "nobody is signed in")
    response = server.create_error_response(asked.request_id, asked.consumer, why, sign=True)
    return str(response)


# --- artifacts ----------------------------------------------------------------------------------


def artifact_resolve(client: Any, artifact: str, destination: str, message_id: str) -> str:
    """A service asks for the message behind an artifact."""
    _, message = client.create_artifact_resolve(artifact, destination, message_id, sign=True)
    return str(message)


def artifact_response(server: Any, request_id: str, message: str | None) -> str:
    """The message behind an artifact, or success without one where there is none (any more)."""
    response_id = new_id()
    response = samlp.ArtifactResponse(
        id=response_id,
        version="2.0",
        issue_instant=_instant(time.time()),
        issuer=saml.Issuer(text=server.config.entityid),
        in_response_to=request_id,
        status=samlp.Status(status_code=samlp.StatusCode(value=SUCCESS)),
    )
    response.signature = _signature(server, response_id, 3)  # the message within has 1 and 2
    text = str(response)
    if message is not None:
        # As text: the message is signed, and another parser's prefixes would break that.
        head, end, tail = text.rpartition("</")
        text = head + without_declaration(message) + end + tail
    name = class_name(response)
    return str(server.sec.sign_statement(text, name, node_id=response_id))


# --- logout -------------------------------------------------------------------------------------


def logout_request(
    entity: Any,
    destination: str,
    name_id: NameID,
    session_index: str | None,
    message_id: str,
    sign: bool,
) -> str:
    """One session of somebody at one service is over; without an index, all of them."""
    _, message = entity.create_logout_request(
        destination,
        "",
        name_id=name_id_element(name_id),
        session_indexes=None if session_index is None else [session_index],
        message_id=message_id,
        sign=sign,
    )
    return str(message)


def logout_response(
    entity: Any, request_id: str, asker: str, binding: str, complete: bool, sign: bool
) -> tuple[str, str]:
    """The answer to a LogoutRequest, and where it goes (nowhere, by SOAP)."""
    request = samlp.LogoutRequest(id=request_id, issuer=saml.Issuer(text=asker))
    partial = None if complete else samlp.StatusCode(value=PARTIAL_LOGOUT)
    status = samlp.Status(status_code=samlp.StatusCode(value=SUCCESS, status_code=partial))
    message = entity.create_logout_response(request, [binding], status, sign=sign)
    if binding == BINDING_SOAP:
        return str(message), ""
    return str(message), entity.response_args(request, [binding])["destination"]


# --- names --------------------------------------------------------------------------------------


def name_id_element(name_id: NameID) -> Any:
    """Our NameID as pysaml2's."""
    return saml.NameID(
        text=name_id.value,
        format=name_id.format,
        name_qualifier=name_id.name_qualifier,
        sp_name_qualifier=name_id.sp_name_qualifier,
    )


def name_id_of(element: Any) -> NameID | None:
    """pysaml2's NameID as ours; None where there is none."""
    if element is None or not element.text:
        return None
    return NameID(
        element.text.strip(),
        element.format or None,
        element.name_qualifier or None,
        element.sp_name_qualifier or None,
    )


def session_indexes_of(request: Any) -> list[str]:
    """The SessionIndexes of a LogoutRequest."""
    return [index.text.strip() for index in request.session_index if index.text]


def _signature(server: Any, element_id: str, number: int) -> Any:
    """A signature yet to be made, of the element with that id."""
    return pre_signature_part(
        element_id,
        server.sec.my_cert,
        number,
        sign_alg=server.signing_algorithm,
        digest_alg=server.digest_algorithm,
    )


def _without_types(assertion: Any) -> None:
    """Attribute values as plain text, which they are anyway.

    pysaml2 says xs:string of each, but loses what xs means when it reads a message in a message.
    """
    for statement in assertion.attribute_statement:
        for attribute in statement.attribute:
            for value in attribute.attribute_value:
                value.clear_type()


def _instant(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
