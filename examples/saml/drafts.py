"""The messages that members send to one another, made with pysaml2's classes."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from saml2 import BINDING_SOAP, class_name, saml, samlp
from saml2.sigver import pre_signature_part

from sealedstate.sso import NameID, ServiceLogin

from .xml_text import strip_declaration

SUCCESS = samlp.STATUS_SUCCESS
PARTIAL_LOGOUT = samlp.STATUS_PARTIAL_LOGOUT
NO_PASSIVE = samlp.STATUS_NO_PASSIVE


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a response repeats of an AuthnRequest: its id, its sender, where the response goes."""

    request_id: str
    entity_id: str
    consumer: str


def new_id() -> str:
    """An id for a message: 128 random bits."""
    return f"_{secrets.token_hex(16)}"


# --- sign-on ------------------------------------------------------------------------------------


def draft_authn_request(
    client: Any, destination: str, answered_by: str, message_id: str, sign: bool
) -> str:
    """A service's request to identify the user. `answered_by`: the binding of the response."""
    _, message = client.create_authn_request(
        destination, binding=answered_by, message_id=message_id, sign=sign
    )
    return str(message)


def draft_authn_response(
    server: Any,
    context: RequestContext,
    login: ServiceLogin,
    person: dict[str, list[str]],
    ends_at: int,
) -> str:
    """Who the user is, for one service. Assertion and response are signed.

    `ends_at`: when the service must ask again (epoch seconds).
    """
    response = server.create_authn_response(
        person,
        context.request_id,
        context.consumer,
        context.entity_id,
        name_id=to_name_id_element(login.name_id),
        authn={"class_ref": login.method, "authn_instant": login.time},
        session_not_on_or_after=_format_instant(ends_at),
        sign_response=False,
        sign_assertion=False,
    )
    assertion = response.assertion
    assertion.authn_statement[0].session_index = login.session_index
    _strip_types(assertion)
    assertion.signature = _prepare_signature(server, assertion.id, 2)
    return str(server.sign(response, to_sign=[(class_name(assertion), assertion.id)]))


def draft_no_passive_response(server: Any, context: RequestContext) -> str:
    """The user is not signed in, and the service forbade asking."""
    why = (NO_PASSIVE, "the user is not signed in")
    response = server.create_error_response(context.request_id, context.consumer, why, sign=True)
    return str(response)


# --- artifacts ----------------------------------------------------------------------------------


def draft_artifact_resolve(client: Any, artifact: str, destination: str, message_id: str) -> str:
    """A service's request for the message behind an artifact."""
    _, message = client.create_artifact_resolve(artifact, destination, message_id, sign=True)
    return str(message)


def draft_artifact_response(server: Any, request_id: str, message: str | None) -> str:
    """The message behind an artifact; success without a message if there is none (any more)."""
    response_id = new_id()
    response = samlp.ArtifactResponse(
        id=response_id,
        version="2.0",
        issue_instant=_format_instant(time.time()),
        issuer=saml.Issuer(text=server.config.entityid),
        in_response_to=request_id,
        status=samlp.Status(status_code=samlp.StatusCode(value=SUCCESS)),
    )
    response.signature = _prepare_signature(
        server, response_id, 3
    )  # the message within has 1 and 2
    text = str(response)
    if message is not None:
        # As text: the message is signed, and another parser's prefixes would break that.
        head, end, tail = text.rpartition("</")
        text = head + strip_declaration(message) + end + tail
    name = class_name(response)
    return str(server.sec.sign_statement(text, name, node_id=response_id))


# --- logout -------------------------------------------------------------------------------------


def draft_logout_request(
    entity: Any,
    destination: str,
    name_id: NameID,
    session_index: str | None,
    message_id: str,
    sign: bool,
) -> str:
    """Ends one session of a user at one service; without an index, all of them."""
    _, message = entity.create_logout_request(
        destination,
        "",
        name_id=to_name_id_element(name_id),
        session_indexes=None if session_index is None else [session_index],
        message_id=message_id,
        sign=sign,
    )
    return str(message)


def draft_logout_response(
    entity: Any, request_id: str, asker: str, binding: str, complete: bool, sign: bool
) -> tuple[str, str]:
    """The answer to a LogoutRequest, and the address that it goes to (empty for SOAP)."""
    request = samlp.LogoutRequest(id=request_id, issuer=saml.Issuer(text=asker))
    partial = None if complete else samlp.StatusCode(value=PARTIAL_LOGOUT)
    status = samlp.Status(status_code=samlp.StatusCode(value=SUCCESS, status_code=partial))
    message = entity.create_logout_response(request, [binding], status, sign=sign)
    if binding == BINDING_SOAP:
        return str(message), ""
    return str(message), entity.response_args(request, [binding])["destination"]


# --- names --------------------------------------------------------------------------------------


def to_name_id_element(name_id: NameID) -> Any:
    """A NameID as pysaml2's object."""
    return saml.NameID(
        text=name_id.value,
        format=name_id.format,
        name_qualifier=name_id.name_qualifier,
        sp_name_qualifier=name_id.sp_name_qualifier,
    )


def read_name_id(element: Any) -> NameID | None:
    """The NameID of pysaml2's object; None if it is missing or empty."""
    if element is None or not element.text:
        return None
    return NameID(
        element.text.strip(),
        element.format or None,
        element.name_qualifier or None,
        element.sp_name_qualifier or None,
    )


def read_session_indexes(request: Any) -> list[str]:
    """The SessionIndexes of a LogoutRequest."""
    return [index.text.strip() for index in request.session_index if index.text]


def _prepare_signature(server: Any, element_id: str, number: int) -> Any:
    """A template of the signature of the element with that id, for pysaml2 to fill."""
    return pre_signature_part(
        element_id,
        server.sec.my_cert,
        number,
        sign_alg=server.signing_algorithm,
        digest_alg=server.digest_algorithm,
    )


def _strip_types(assertion: Any) -> None:
    """Remove the types of attribute values, which are text anyway.

    pysaml2 types each as xs:string, but loses the declaration of xs when it reads a message that
    is enclosed in another.
    """
    for statement in assertion.attribute_statement:
        for attribute in statement.attribute:
            for value in attribute.attribute_value:
                value.clear_type()


def _format_instant(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
