"""The pysaml2 objects of each member, and the metadata by which members know one another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from saml2 import BINDING_HTTP_POST, BINDING_HTTP_REDIRECT, BINDING_SOAP
from saml2.client import Saml2Client
from saml2.config import IdPConfig, SPConfig
from saml2.metadata import entity_descriptor
from saml2.s_utils import UnsupportedBinding
from saml2.saml import NAMEID_FORMAT_TRANSIENT
from saml2.server import Server
from saml2.xmldsig import DIGEST_SHA256, SIG_RSA_SHA256

from sealedstate import ConfigurationError

from .certificates import certificate_file, key_file
from .federation import Federation, Member, Service, logout_path

ASSERTION_MINUTES = 5
# pysaml2's default is SHA-1, and only a role can name another algorithm.
ALGORITHMS = {"signing_algorithm": SIG_RSA_SHA256, "digest_algorithm": DIGEST_SHA256}


def metadata_file(var: Path, name: str) -> Path:
    return var / "metadata" / f"{name}.xml"


def write_metadata(var: Path, federation: Federation) -> None:
    """Write the metadata of all members: all that they know of one another."""
    configs = {federation.idp.name: _idp_config(var, federation, {})}
    configs |= {service.name: _sp_config(var, service, {}) for service in federation.services}
    for name, config in configs.items():
        metadata_file(var, name).write_text(str(entity_descriptor(config)), "utf-8")


def make_identity_provider(var: Path, federation: Federation) -> Any:
    """The identity provider as pysaml2's Server, which has read the services' metadata."""
    return Server(config=_idp_config(var, federation, _metadata(var, federation.services)))


def make_service_provider(var: Path, federation: Federation, service: Service) -> Any:
    """A service as pysaml2's Saml2Client, which has read the identity provider's metadata."""
    return Saml2Client(config=_sp_config(var, service, _metadata(var, [federation.idp])))


def find_endpoints(entity: Any, service: str, entity_id: str, binding: str) -> list[str]:
    """The addresses where a service provider accepts `binding`, as its metadata says."""
    try:
        found = getattr(entity.metadata, service)(entity_id, binding, "spsso")
    except (KeyError, UnsupportedBinding):
        found = None
    return [str(endpoint["location"]) for endpoint in found or ()]


def _metadata(var: Path, members: Any) -> dict[str, list[str]]:
    return {"local": [str(metadata_file(var, member.name)) for member in members]}


def _idp_config(var: Path, federation: Federation, metadata: dict[str, list[str]]) -> IdPConfig:
    idp = federation.idp
    endpoints = {
        "single_sign_on_service": [
            (idp.at("/sso"), BINDING_HTTP_REDIRECT),
            (idp.at("/sso"), BINDING_HTTP_POST),
        ],
        "single_logout_service": [
            (idp.at(logout_path(binding)), binding)
            for binding in (BINDING_HTTP_REDIRECT, BINDING_SOAP)
        ],
        "artifact_resolution_service": [(idp.at("/artifacts"), BINDING_SOAP, 0)],
    }
    role = {
        "endpoints": endpoints,
        "name_id_format": [NAMEID_FORMAT_TRANSIENT],
        "want_authn_requests_signed": True,
        "policy": {"default": {"lifetime": {"minutes": ASSERTION_MINUTES}}},
    }
    return IdPConfig().load(_config(var, idp, {"idp": role}, metadata))


def _sp_config(var: Path, service: Service, metadata: dict[str, list[str]]) -> SPConfig:
    endpoints = {
        "assertion_consumer_service": [(service.consumer, service.answered_by)],
        "single_logout_service": [
            (service.at(logout_path(binding)), binding) for binding in service.logout_bindings
        ],
    }
    role = {
        "endpoints": endpoints,
        "name_id_format": [NAMEID_FORMAT_TRANSIENT],
        "authn_requests_signed": True,
        "want_response_signed": True,
        "want_assertions_signed": True,
        "allow_unsolicited": False,
    }
    return SPConfig().load(_config(var, service, {"sp": role}, metadata))


def _config(
    var: Path, member: Member, role: dict[str, Any], metadata: dict[str, list[str]]
) -> dict[str, Any]:
    return {
        "entityid": member.entity_id,
        "name": member.title,
        "service": {name: options | ALGORITHMS for name, options in role.items()},
        "key_file": str(key_file(var, member.name)),
        "cert_file": str(certificate_file(var, member.name)),
        "xmlsec_binary": _find_xmlsec(),
        "metadata": metadata,
        "only_use_keys_in_metadata": True,
        "delete_tmpfiles": True,
    }


def _find_xmlsec() -> str:
    path = shutil.which("xmlsec1")
    if path is None:
        raise ConfigurationError("xmlsec1 is not installed (Debian: apt-get install xmlsec1)")
    return path
